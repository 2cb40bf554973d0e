"""Statements of a month: what each owner is charged, line by line."""

from collections.abc import Mapping, Sequence
from typing import Final

from farthing.insight.honesty import known
from farthing.insight.ownership import Charged
from farthing.insight.table import Column, Row, Table

TITLE: Final = "Chargeback"

COLUMNS: Final = (
    Column(name="owner", title="owner"),
    Column(name="kind", title="kind"),
    Column(name="model", title="model", unknown=""),
    Column(name="tokens", title="tokens", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="unpriced", title="unpriced", kind="int"),
)


def build(found: Mapping[str, Sequence[Charged]], *, title: str = TITLE, notes: tuple[str, ...] = ()) -> Table:
    """Every line of the statements given; the total is what they sum to."""
    lines = [line for statement in found.values() for line in statement]
    rows: tuple[Row, ...] = tuple(
        (
            line.owner or "(unallocated)", line.kind, line.what or None, line.tokens,
            known(line.amount, line.unpriced), line.unpriced,
        )
        for line in lines
    )  # fmt: skip
    missing = sum(one.unpriced for one in lines)
    cost = known(sum(one.amount for one in lines), missing)
    total = ("total", "", None, sum(one.tokens for one in lines), cost, missing)
    return Table(title=title, columns=COLUMNS, rows=rows, total=total, notes=notes)
