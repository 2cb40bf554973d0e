"""The incidents of an installation as people are told of them: over several dimensions, each once."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final

import msgspec

from farthing.core.errors import BadRequest
from farthing.core.series import Detector
from farthing.core.types import LedgerQuery, Totals
from farthing.insight import anomalies
from farthing.insight.anomalies import DAY_MS, RULES, Incident
from farthing.insight.daily import slot_name
from farthing.ports.incidents import ExpectedDays, IncidentMarks, Mark

DIMENSIONS: Final = ("feature", "model", "team")
"""What is judged; what shows under several is told by the first of them."""
DAYS: Final = 30
TEXT_MAX: Final = 200


class Incidents(msgspec.Struct, frozen=True, kw_only=True):
    """The incidents of a stretch of days, and who takes care of which."""

    found: tuple[Incident, ...]
    marks: Mapping[str, Mark]
    days_known: int

    @property
    def waiting(self) -> tuple[Incident, ...]:
        """Those that nobody has acknowledged."""
        return tuple(one for one in self.found if one.id not in self.marks)


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What incidents are judged by: the rule that applies, the calendar of expected days, and the marks."""

    rule: Detector
    expected: Sequence[ExpectedDays]
    marks: Mapping[str, Mark]

    @classmethod
    def of(cls, practice: IncidentMarks) -> "Judged":
        """As it stands in the installation's records."""
        return cls(rule=practice.rule("day") or RULES["day"], expected=practice.expected(), marks=practice.marks())


def query(dimension: str, now_ms: int, *, days: int = DAYS) -> LedgerQuery:
    """The days that are judged and those that the detector learns from, in whole days."""
    since = now_ms - now_ms % DAY_MS - (days + anomalies.PAST_DAYS["day"]) * DAY_MS
    return LedgerQuery(group_by=("day", dimension), since_ms=since)


def read(rows: Mapping[str, Iterable[Totals]], judged: Judged, *, now_ms: int, days: int = DAYS) -> Incidents:
    """``rows``: dimension -> the answer grouped by day and it, further back is left out."""
    since = now_ms - days * DAY_MS
    first = slot_name(since - anomalies.PAST_DAYS["day"] * DAY_MS, "day")
    found: list[Incident] = []
    expected: list[Incident] = []
    known: set[str] = set()
    for dimension, answer in rows.items():
        recent = [row for row in answer if row.group[0] >= first]
        known |= {row.group[0] for row in recent}

        def judge(
            calendar: Sequence[ExpectedDays], recent: list[Totals] = recent, dimension: str = dimension
        ) -> tuple[Incident, ...]:
            return anomalies.find(
                recent, (dimension,), "day", judged.rule, since_ms=since, until_ms=now_ms, expected=calendar
            )

        of_it = judge(judged.expected)
        found += [one for one in of_it if one.slice or not found]
        if judged.expected:  # what is expected of one slice is no news under another
            said = {one.id for one in of_it}
            expected += [one for one in judge(()) if one.id not in said]
    kept: list[Incident] = []
    for one in found:
        if not any(same_money(one, other) for other in (*kept, *expected)):
            kept.append(one)
    kept.sort(key=lambda one: (one.id in judged.marks, not one.open, -abs(one.so_far_nusd), one.id))
    return Incidents(found=tuple(kept), marks=judged.marks, days_known=max(0, len(known) - 1))


def same_money(one: Incident, other: Incident) -> bool:
    """Another dimension shows the same money at the same time: the smaller part of it need not be told again."""
    overlap = one.began_ms < other.until_ms and other.began_ms < one.until_ms
    return overlap and is_part(one, other.slice, other.so_far_nusd)


def is_part(one: Incident, slice: tuple[tuple[str, str], ...], so_far_nusd: int) -> bool:
    """No more money than that of a slice of other dimensions; two slices of the same dimension share none."""
    names, others = ([name for name, _ in pairs] for pairs in (one.slice, slice))
    return names != others and abs(one.so_far_nusd) <= abs(so_far_nusd) * 11 // 10


def expected_days(first: str, last: str, slice_name: str, why: str, *, by: str, at_ms: int) -> ExpectedDays:
    """An entry of the calendar; the same days and slice are the same entry. Raises ``BadRequest``, all at once."""
    problems = [
        f'"{day[:40]}" is no day such as 2026-11-27' for day in dict.fromkeys((first, last)) if not _is_day(day)
    ]
    if not problems and last < first:
        problems.append("the last day is before the first")
    if not why or len(why) > TEXT_MAX or not why.isprintable():
        problems.append(f"why: say what is expected, in at most {TEXT_MAX} printable characters")
    if len(slice_name) > TEXT_MAX or not slice_name.isprintable():
        problems.append(f"slice: at most {TEXT_MAX} printable characters")
    if problems:
        raise BadRequest("; ".join(problems))
    name = hashlib.sha256("|".join((first, last, slice_name)).encode()).hexdigest()[:8]
    return ExpectedDays(id=name, first=first, last=last, slice=slice_name, why=why, by=by, at_ms=at_ms)


def _is_day(text: str) -> bool:
    try:
        return len(text) == 10 and bool(date.fromisoformat(text))
    except ValueError:
        return False
