"""Incidents as pages show them: the same detector and the same marks as ``farthing anomalies``."""

from collections.abc import Iterable, Mapping

import msgspec

from farthing.core.types import Totals
from farthing.insight import anomalies
from farthing.insight.anomalies import RULES, Incident
from farthing.insight.daily import slot_name
from farthing.insight.reports import incidents as listing
from farthing.insight.series import DAY_MS
from farthing.ports.incidents import Mark
from farthing.server.pages.ask import OFFICE, Ask
from farthing.server.pages.blocks import RowAction, TableBlock

DAYS = 30
LEARNING_DAYS = RULES["day"].learning * RULES["day"].season


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The incidents of the last days, and who takes care of which."""

    incidents: tuple[Incident, ...]
    marks: Mapping[str, Mark]
    days_known: int

    @property
    def waiting(self) -> tuple[Incident, ...]:
        """Those that nobody has acknowledged."""
        return tuple(one for one in self.incidents if one.id not in self.marks)

    @classmethod
    def of(cls, ask: Ask, rows: Mapping[str, Iterable[Totals]]) -> "Found":
        """``rows``: dimension → the answer grouped by day and it. What is found twice is told by its feature."""
        practice = ask.sources.practice()
        try:
            rule = practice.rule("day") or RULES["day"]
            expected, marks = practice.expected(), practice.marks()
        finally:
            practice.close()
        since = ask.now_ms - DAYS * DAY_MS
        first = slot_name(since - anomalies.PAST_DAYS["day"] * DAY_MS, "day")
        found: list[Incident] = []
        days: set[str] = set()
        for dimension, answer in rows.items():
            recent = [row for row in answer if row.group[0] >= first]
            days |= {row.group[0] for row in recent}
            of_it = anomalies.find(
                recent, (dimension,), "day", rule, since_ms=since, until_ms=ask.now_ms, expected=expected
            )
            found += [one for one in of_it if one.slice or not found]
        kept: list[Incident] = []
        for one in found:
            if not any(_same(one, other) for other in kept):
                kept.append(one)
        kept.sort(key=lambda one: (one.id in marks, not one.open, -abs(one.so_far_nusd), one.id))
        return cls(incidents=tuple(kept), marks=marks, days_known=max(0, len(days) - 1))


def _same(one: Incident, other: Incident) -> bool:
    """Another dimension shows the same money at the same time: the smaller part of it need not be told again."""
    overlap = one.began_ms < other.until_ms and other.began_ms < one.until_ms
    return overlap and one.slice[:1] != other.slice[:1] and abs(one.so_far_nusd) <= abs(other.so_far_nusd) * 11 // 10


def incident_table(ask: Ask, found: Found, *, id: str = "anomalies") -> TableBlock:
    """Every incident with its requests behind it, and a button for whoever takes care of it."""
    table = listing.build(found.incidents, found.marks, {})
    mine = ask.person.role in OFFICE
    waiting = {one.id for one in found.waiting}
    return TableBlock(
        id=id,
        table=table,
        hide=("id", "over", "top", "examples"),
        links={"slice": tuple(_requests(ask, one) for one in found.incidents)},
        actions=(
            RowAction(
                label="Acknowledge",
                path="/anomalies/acknowledge",
                ids=tuple(one.id if one.id in waiting and mine else "" for one in found.incidents),
            ),
        ),
        empty="Nothing unusual in the last 30 days.",
    )


def _requests(ask: Ask, one: Incident) -> str:
    """The requests of its days, of its slice."""
    ends = slot_name(one.until_ms, "day")
    if not one.slice:
        return ask.state.href("/requests", since=slot_name(one.began_ms, "day"), until=ends)
    return ask.state.href("/requests", since=slot_name(one.began_ms, "day"), until=ends, where=one.slice)
