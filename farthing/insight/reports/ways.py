"""Savings that nobody measured: exact ones, modelled ones and what saving cost, each in a table of its own."""

from collections.abc import Sequence

from farthing.insight.table import Column, Table, share
from farthing.insight.ways import Way


def build(ways: Sequence[Way], *, title: str, amount: str, spend: int, notes: tuple[str, ...] = ()) -> Table:
    """``amount`` names what is summed; ``spend`` is the period's bill, for shares."""
    return Table(
        title=title,
        columns=(
            Column(name="way", title="way"),
            Column(name="calls", title="calls", kind="int"),
            Column(name="amount", title=amount, kind="usd"),
            Column(name="share", title="beside the bill", kind="percent"),
        ),
        rows=tuple((one.title, one.calls, one.amount, share(one.amount, spend)) for one in ways),
        notes=notes,
    )
