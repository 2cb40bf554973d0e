"""Figures for people who look at pages: few digits, the exact ones behind them."""

from farthing.insight.render import cell, usd
from farthing.insight.table import Column, Money, Value


def dollars(nusd: int) -> str:
    """``$1,234.57``; small amounts keep the digits that say something: ``$0.0042``."""
    size = abs(nusd)
    sign = "-" if nusd < 0 else ""
    if size >= 1_000_000_000 or size == 0:
        cents = (size + 5_000_000) // 10_000_000
        return f"{sign}${cents // 100:,}.{cents % 100:02}"
    if size >= 1_000_000:
        return f"{sign}$0.{(size + 50_000) // 100_000:04}"
    digits = max(0, len(str(size)) - 3)
    return usd((-1 if nusd < 0 else 1) * (size + 10**digits // 2) // 10**digits * 10**digits)


def shown(column: Column, value: Value) -> str:
    """A cell of a page's table."""
    if isinstance(value, Money):
        return dollars(value.nusd)
    if column.kind == "usd" and isinstance(value, int):
        return dollars(value)
    return cell(column, value)


def drawn(column: Column, value: Value) -> tuple[str, str]:
    """(a cell, :func:`exact`): tables have thousands."""
    text = shown(column, value)
    if not (isinstance(value, Money) or (column.kind == "usd" and isinstance(value, int))):
        return text, ""
    full = cell(column, value)
    return text, full if full != text else ""


def exact(column: Column, value: Value) -> str:
    """All digits of an amount, for whoever points at it; "" where a cell shows them already."""
    return drawn(column, value)[1]
