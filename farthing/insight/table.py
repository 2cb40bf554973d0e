"""The table every report returns: columns that know their kind, rows of exact values, notes. No formatting here."""

from typing import Literal

import msgspec

from farthing.core.money import round_half_even

Kind = Literal["text", "int", "usd", "percent", "quantity"]
"""How a column's values are held and shown.

``text``: str. ``int``: int. ``usd``: int nano-USD. ``percent``: int hundredths of a percent. ``quantity``: money in
some rows (``Money``), a count in others. Any of them may be None: not known, which is never shown as zero.
"""


class Money(msgspec.Struct, frozen=True):
    """Nano-USD where a column holds money and counts."""

    nusd: int


Value = str | int | Money | None
Row = tuple[Value, ...]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column: ``name`` for programs, ``title`` for people."""

    name: str
    title: str
    kind: Kind = "text"
    unknown: str = "-"
    """What people see where the value is None."""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A report's answer. ``total`` is one more row under the others, or None."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: Row | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know to use the numbers: what is estimated, unpriced, left out."""


def share(part: int, whole: int) -> int | None:
    """``part / whole`` in hundredths of a percent, half-even; None when there is nothing to share."""
    if whole == 0:
        return None
    return round_half_even(part * 10_000, whole) if whole > 0 else -round_half_even(part * 10_000, -whole)


def per(amount: int | None, count: int) -> int | None:
    """``amount / count`` in nano-USD, half-even; None when either is not there."""
    return None if amount is None or count <= 0 else round_half_even(amount, count)
