"""Days that cost more than they should have: every feature, team and model against its own past."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from farthing.core.alerts import alert_id
from farthing.core.series import Detector, Kind, detect
from farthing.core.types import Totals
from farthing.insight.moments import shown
from farthing.insight.series import DAY_MS, by_day, days, only
from farthing.insight.table import Column, Row, Table

NUSD: Final = 10**9
SLICES_MAX: Final = 40
"""Slices of a dimension that are judged, largest first."""
SHOWN_DAYS: Final = 30

COLUMNS: Final = (
    Column(name="day", title="day (UTC)"),
    Column(name="where", title="where"),
    Column(name="kind", title="kind"),
    Column(name="cost", title="spend", kind="usd"),
    Column(name="expected", title="expected", kind="usd"),
    Column(name="excess", title="too much", kind="usd"),
    Column(name="score", title="score"),
    Column(name="acknowledged", title="acknowledged", unknown="no"),
    Column(name="id", title="id"),
)


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """One day of one slice on which an incident began."""

    id: str
    key: str
    """What an alert about it is claimed by."""
    dimension: str
    value: str
    day: str
    kind: Kind
    cost: int
    """Nano-USD."""
    expected: int
    score: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and what could be judged at all."""

    found: tuple[Anomaly, ...]
    days_known: int
    days_needed: int


def find(
    answers: Mapping[str, Iterable[Totals]],
    now_ms: int,
    rule: Detector | None = None,
    *,
    shown_days: int = SHOWN_DAYS,
) -> Verdict:
    """Anomalies of the last days, newest and largest first. ``answers``: dimension → rows grouped by (day, it).

    Today is judged as far as it has gone: what is too much already will not become less.
    """
    rule = rule or Detector()
    found: list[Anomaly] = []
    known = 0
    for dimension, rows in answers.items():
        all_rows = tuple(rows)
        first = min((row.group[0] for row in all_rows), default="")
        if not first:
            continue
        names = [name for name in days(now_ms - now_ms % DAY_MS - 400 * DAY_MS, now_ms + 1) if name >= first]
        known = max(known, len(names) - 1)
        sums: dict[str, int] = {}
        for row in all_rows:
            sums[row.group[1]] = sums.get(row.group[1], 0) + row.amount
        for value in sorted(sums, key=lambda one: (-sums[one], one))[:SLICES_MAX]:
            found += _judge(dimension, value, by_day(only(all_rows, value), names), names, rule, shown_days)
    found.sort(key=lambda one: (one.day, one.cost - one.expected), reverse=True)
    return Verdict(found=tuple(found), days_known=known, days_needed=rule.learning * rule.season)


def _judge(
    dimension: str, value: str, amounts: list[int], names: list[str], rule: Detector, shown_days: int
) -> list[Anomaly]:
    found = []
    for point in detect([max(0, amount) / NUSD for amount in amounts], rule):
        if point.kind is not None and point.expected is not None and point.index >= len(names) - shown_days:
            key = f"anomaly|{dimension}|{value}|{names[point.index]}"
            found.append(
                Anomaly(
                    id=alert_id(key),
                    key=key,
                    dimension=dimension,
                    value=value,
                    day=names[point.index],
                    kind=point.kind,
                    cost=amounts[point.index],
                    expected=round(point.expected * NUSD),
                    score=point.z,
                )
            )
    return found


def build(verdict: Verdict, acknowledged: Mapping[str, tuple[str, int]]) -> Table:
    """``acknowledged``: id → (by whom, when)."""
    rows: list[Row] = []
    for one in verdict.found:
        ack = acknowledged.get(one.id)
        rows.append(
            (
                one.day,
                f"{one.dimension} {one.value or '(none)'}",
                one.kind,
                one.cost,
                one.expected,
                one.cost - one.expected,
                f"{one.score:.1f}",
                None if ack is None else f"{ack[0]} {shown(ack[1])}",
                one.id,
            )
        )
    notes = [
        "Each slice against the same weekdays of its own past (median and MAD of the logarithm), and a CUSUM for "
        "steps and leaks."
    ]
    if verdict.days_known < verdict.days_needed:
        notes.append(
            f"Learning: {verdict.days_known} of {verdict.days_needed} days are known; nothing is judged before."
        )
    return Table(title="Anomalies", columns=COLUMNS, rows=tuple(rows), notes=tuple(notes))
