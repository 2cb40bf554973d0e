"""Reading the fields of a price file: text that is text, dates that are dates, and a problem for everything else."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

import yaml

from farthing.core.errors import PriceBookError
from farthing.core.money import Pusd, exact_decimal, price_per_million
from farthing.core.units import TOKEN_UNITS

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_HOUR_MS: Final = 3_600_000
_PER_THOUSAND: Final = 1_000
_ZERO: Final = Decimal(0)
_PER_MILLION_MIN: Final = Decimal("0.0001")
_PER_MILLION_MAX: Final = 10_000
"""The base list's dearest token costs $600 a million, its cheapest a tenth of a cent."""
_PER_THOUSAND_MAX: Final = 100_000
_PER_HOUR_MAX: Final = 100_000


class Fields:
    """What every part of a price file is read with; problems are collected, not raised."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []

    def documents(self, text: str) -> Iterator[dict[str, Any]]:
        """The YAML documents of a file, every scalar as text. Raises :class:`PriceBookError` for what is no YAML."""
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        try:
            documents = list(yaml.load_all(text, Loader=loader))
        except yaml.YAMLError as error:
            raise PriceBookError([f"not YAML: {error}"], source=self.name) from error
        for document in documents:
            if isinstance(document, dict):
                yield document
            elif document not in (None, ""):
                self.problems.append("a price file is a mapping (provider:, models:, …)")

    def instant(self, body: dict[str, Any], key: str, path: str) -> int | None:
        """A date or UTC instant in milliseconds; None when it is not there."""
        text = self.text(body, key)
        if not text:
            return None
        try:
            return instant_ms(text)
        except ValueError:
            self.problems.append(f"{path}.{key}: {text!r} is neither a date nor a UTC instant (2026-08-16T16:00:00Z)")
            return None

    def days(self, dates: Any, path: str) -> Iterator[int]:
        """Dates as days since 1970-01-01."""
        for text in dates if isinstance(dates, list) else [dates]:
            try:
                yield date.fromisoformat(text).toordinal() - _EPOCH_DAY
            except (TypeError, ValueError):
                self.problems.append(f"{path}: {text!r} is not a date (2026-10-01)")

    def mapping(self, body: dict[str, Any], key: str, path: str) -> dict[str, Any]:
        """A mapping with text keys; empty when it is not there."""
        value = body.get(key) or {}
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            return value
        self.problems.append(f"{path}.{key}: is a mapping")
        return {}

    def pairs(self, body: dict[str, Any], key: str, path: str) -> tuple[tuple[str, str], ...]:
        """A mapping of text to text, in the file's order."""
        value = self.mapping(body, key, path)
        if all(isinstance(text, str) for text in value.values()):
            return tuple(value.items())
        self.problems.append(f"{path}.{key}: is a mapping of text to text")
        return ()

    def items(self, body: dict[str, Any], key: str, path: str) -> list[Any]:
        """A list of anything; empty when it is not there."""
        value = body.get(key) or []
        if isinstance(value, list):
            return value
        self.problems.append(f"{path}.{key}: is a list")
        return []

    def texts(self, body: dict[str, Any], key: str, path: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.items(body, key, path)
        if all(isinstance(text, str) for text in value):
            return tuple(value)
        self.problems.append(f"{path}.{key}: is a list of texts")
        return ()

    def text(self, body: dict[str, Any], key: str) -> str:
        """A scalar, stripped; "" when it is not there."""
        value = body.get(key, "")
        if isinstance(value, str):
            return value.strip()
        self.problems.append(f"{key}: is plain text, not {value!r}")
        return ""

    def flag(self, body: dict[str, Any], key: str, path: str) -> bool:
        """``true`` or ``false``; false when it is not there."""
        value = self.text(body, key).lower()
        if value not in ("", "true", "false"):
            self.problems.append(f"{path}.{key}: is true or false, not {value!r}")
        return value == "true"

    def unknown(self, body: dict[str, Any], known: set[str], path: str) -> None:
        """Report keys that mean nothing here: a misspelt price must not be silently left out."""
        self.problems += [
            f"{path or 'top'}: unknown key {key!r}; known: {', '.join(sorted(known))}"
            for key in body
            if key not in known
        ]


def instant_ms(text: str) -> int:
    """A date (its first instant in UTC) or an ISO instant with a time zone, in UTC milliseconds. ``ValueError``."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if len(text) > 10 and moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def day_minutes(text: str) -> int:
    """``HH:MM`` as minutes of the day, 24:00 included. ``ValueError``."""
    hours, minutes = text.strip().split(":")
    if not (0 <= int(hours) <= 24 and 0 <= int(minutes) < 60):
        raise ValueError("no such time")
    return int(hours) * 60 + int(minutes)


def stated_price(unit: str, text: str) -> Pusd:
    """Tokens, characters and stored tokens per million; milliseconds per hour; everything else per thousand.

    ``ValueError`` for what is no price, and for one that nobody asks: it was meant for another number of units.
    """
    value = exact_decimal(text)
    if value < 0:
        raise ValueError(f"{text} is negative")
    if unit.endswith("_ms"):
        _believable(text, value, "an hour", most=_PER_HOUR_MAX)
        return price_per_million(value * 1_000_000 / _HOUR_MS, quantize=True)
    if unit in TOKEN_UNITS or unit in ("character", "cache_storage_token_hour"):
        _believable(text, value, "a million", most=_PER_MILLION_MAX, least=_PER_MILLION_MIN)
        return price_per_million(value)
    _believable(text, value, "a thousand", most=_PER_THOUSAND_MAX)
    return price_per_million(value * _PER_THOUSAND)


def _believable(text: str, value: Decimal, per: str, *, most: int, least: Decimal = _ZERO) -> None:
    if value > most:
        raise ValueError(f"${text} {per} is more than anybody asks (${most}): prices here are dollars {per}")
    if 0 < value < least:
        raise ValueError(
            f"${text} {per} is less than anybody asks (${least}): is it dollars for one? Write dollars {per}"
        )
