"""The audit log as a table: who changed policy, prices, keys, rules and allocation, newest first."""

from collections.abc import Sequence
from typing import Final

from farthing.insight.moments import shown
from farthing.insight.table import Column, Table
from farthing.ports.audit import Changed

TITLE: Final = "Audit log"
COLUMNS: Final = (
    Column(name="seq", title="no", kind="int"),
    Column(name="at", title="noticed (UTC)"),
    Column(name="subject", title="subject"),
    Column(name="name", title="name", unknown=""),
    Column(name="before", title="before", unknown="(first seen)"),
    Column(name="after", title="after"),
    Column(name="by", title="by", unknown="not known"),
    Column(name="detail", title="detail", unknown=""),
)


def build(found: Sequence[Changed], *, title: str = TITLE) -> Table:
    """As the log answers."""
    rows = tuple(
        (one.seq, shown(one.at_ms), one.subject, one.name or None, one.before or None, one.after, one.by or None,
         one.detail or None)
        for one in found
    )  # fmt: skip
    return Table(title=title, columns=COLUMNS, rows=rows)
