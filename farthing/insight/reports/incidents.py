"""The list of incidents, and one of them opened: what grew, why, and which requests show it."""

from collections.abc import Mapping, Sequence

from farthing.core.types import LedgerEntry
from farthing.insight.anomalies import Incident
from farthing.insight.moments import shown
from farthing.insight.table import Column, Row, Table, share
from farthing.ports.incidents import Mark

TITLE = "Anomalies"

COLUMNS = (
    Column(name="id", title="id"),
    Column(name="state", title="state"),
    Column(name="kind", title="kind"),
    Column(name="slice", title="slice"),
    Column(name="began", title="began (UTC)"),
    Column(name="until", title="until"),
    Column(name="so_far", title="above expected", kind="usd"),
    Column(name="over", title="over expected", kind="percent"),
    Column(name="projected", title="7 more days of it", kind="usd"),
    Column(name="top", title="grew most", unknown=""),
    Column(name="examples", title="example requests", unknown=""),
    Column(name="acknowledged", title="acknowledged", unknown="no"),
)


def build(
    found: Sequence[Incident],
    marks: Mapping[str, Mark],
    details: Mapping[str, tuple[str, tuple[str, ...]]],
    *,
    title: str = TITLE,
    notes: tuple[str, ...] = (),
) -> Table:
    """Open ones first. ``details``: (what grew most, example requests) by incident."""
    rows: list[Row] = []
    for one in found:
        mark = marks.get(one.id)
        top, examples = details.get(one.id, ("", ()))
        rows.append(
            (
                one.id,
                "goes on" if one.open else "over",
                one.kind,
                one.name,
                shown(one.began_ms),
                shown(one.until_ms),
                one.so_far_nusd,
                share(one.so_far_nusd, one.expected_nusd),
                one.projected_nusd,
                top or None,
                ", ".join(examples) or None,
                None if mark is None else f"{mark.by} {shown(mark.at_ms)}{f': {mark.note}' if mark.note else ''}",
            )
        )
    return Table(title=title, columns=COLUMNS, rows=tuple(rows), notes=notes)


def examples(entries: Sequence[LedgerEntry], most: int = 3) -> tuple[str, ...]:
    """The dearest requests among the entries."""
    sums: dict[str, int] = {}
    for entry in entries:
        sums[entry.request_id] = sums.get(entry.request_id, 0) + (entry.charge.total or 0)
    return tuple(sorted(sums, key=lambda name: (-sums[name], name))[:most])
