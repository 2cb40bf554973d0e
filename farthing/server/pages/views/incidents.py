"""Incidents as pages show them: the same detector and the same marks as ``farthing anomalies``."""

from collections.abc import Iterable, Mapping

from farthing.core.types import Totals
from farthing.insight.anomalies import RULES
from farthing.insight.incident_list import Incidents, Judged, read
from farthing.insight.reports import incidents as listing
from farthing.server.pages.ask import OFFICE, Ask
from farthing.server.pages.blocks import RowAction, TableBlock
from farthing.server.pages.views.anomaly_rule import requests_of

LEARNING_DAYS = RULES["day"].learning * RULES["day"].season


def found_in(ask: Ask, rows: Mapping[str, Iterable[Totals]]) -> Incidents:
    """``rows``: dimension to the answer grouped by day and it. What shows under several is told by the first."""
    practice = ask.sources.practice()
    try:
        judged = Judged.of(practice)
    finally:
        practice.close()
    return read(rows, judged, now_ms=ask.now_ms)


def incident_table(ask: Ask, found: Incidents, *, id: str = "anomalies") -> TableBlock:
    """Every incident with its requests behind it, and a button for whoever takes care of it."""
    table = listing.build(found.found, found.marks, {})
    mine = ask.person.role in OFFICE
    waiting = {one.id for one in found.waiting}
    return TableBlock(
        id=id,
        compact=True,
        table=table,
        hide=("id", "over", "top", "examples"),
        links={
            "slice": tuple(requests_of(ask, one) for one in found.found),
            "kind": tuple(f"/anomalies/{one.id}" if mine else "" for one in found.found),
        },
        actions=(
            RowAction(
                label="Acknowledge",
                path="/anomalies/acknowledge",
                ids=tuple(one.id if one.id in waiting and mine else "" for one in found.found),
            ),
        ),
        empty="Nothing unusual in the last 30 days.",
    )
