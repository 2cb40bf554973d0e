"""Prices as people write them: dollars per million tokens, per thousand calls, per hour. Exact, no floats."""

from typing import Final

from farthing.core.units import TOKEN_UNITS

_SCALE: Final = {"1M": 1_000_000, "1k": 1_000, "hour": 3_600_000}


def priced_per(unit: str) -> str:
    """What a price of this unit is stated per: ``1M``, ``1k`` or ``hour`` (of milliseconds)."""
    if unit in TOKEN_UNITS or unit in ("character", "cache_storage_token_hour"):
        return "1M"
    return "hour" if unit.endswith("_ms") else "1k"


def price_text(unit: str, pusd: int) -> str:
    """Pico-USD per unit as exact dollars per :func:`priced_per`, two decimals at least."""
    return _decimal(pusd * _SCALE[priced_per(unit)], 12, 2)


def factor_text(basis_points: int) -> str:
    """A multiplier as a decimal: 11000 is ``1.1``."""
    return _decimal(basis_points, 4, 0)


def _decimal(value: int, places: int, places_min: int) -> str:
    whole, fraction = divmod(value, 10**places)
    digits = f"{fraction:0{places}d}".rstrip("0").ljust(places_min, "0")
    return f"{whole}.{digits}" if digits else str(whole)
