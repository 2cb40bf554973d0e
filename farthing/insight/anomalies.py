"""Incidents of an installation: the detector over the cost of every slice, one incident for what belongs together."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from farthing.core.incidents import Run, incidents
from farthing.core.series import Detector, Kind
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.daily import NUSD, SLOT_MS, Grain, Series, series, slot_ms
from farthing.ports.incidents import ExpectedDays

DAY_MS: Final = 86_400_000
PAST_DAYS: Final[dict[Grain, int]] = {"day": 120, "hour": 98}
"""What the detector learns from, before the first slot that is judged."""
RULES: Final[dict[Grain, Detector]] = {
    "day": Detector(),
    "hour": Detector(season=168, z=4.5, sigma_floor=0.15),
}
"""Defaults; single hours scatter more than days."""
AHEAD_DAYS: Final = 7


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One alert's worth of anomaly."""

    id: str
    grain: Grain
    slice: tuple[tuple[str, str], ...]
    """(dimension, value) pairs; empty: everything together."""
    kind: Kind
    began_ms: int
    until_ms: int
    """The end of its last slot."""
    said: str
    """The slot in which it was first visible."""
    so_far_nusd: int
    """Cost above the expectation; negative for a drop."""
    expected_nusd: int
    projected_nusd: int
    """What another week of it would add; 0 once it is over."""
    open: bool

    @property
    def name(self) -> str:
        """The slice for people."""
        return ", ".join(value or "(none)" for _, value in self.slice) or "everything"


def query(
    by: tuple[str, ...], grain: Grain, *, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...] = ()
) -> LedgerQuery:
    """Cost by slot and slice, with the past that the detector learns from."""
    since = max(0, since_ms - PAST_DAYS[grain] * DAY_MS)
    since -= since % SLOT_MS[grain]
    return LedgerQuery(group_by=(grain, *by), since_ms=since, until_ms=until_ms, where=where)


def find(
    rows: Iterable[Totals],
    by: tuple[str, ...],
    grain: Grain,
    rule: Detector,
    *,
    since_ms: int,
    until_ms: int,
    expected: Sequence[ExpectedDays] = (),
) -> tuple[Incident, ...]:
    """Incidents that reach into the period, largest first.

    Every slice is judged by itself, then everything together: an incident of the whole that one of its slices
    explains is not told a second time.
    """
    found = series(rows, grain, until_ms=until_ms)
    own = [
        incident
        for key, values in sorted(found.by_slice.items())
        if by
        for incident in _of(found, tuple(zip(by, key, strict=True)), values, rule, expected)
    ]
    whole = [sum(values[at] for values in found.by_slice.values()) for at in range(found.slots)]
    alone = [one for one in _of(found, (), whole, rule, expected) if not any(_overlap(one, other) for other in own)]
    # A slot that is not over has most of its cost still to come: nothing fell yet.
    wanted = [
        one
        for one in (*own, *alone)
        if one.until_ms > since_ms
        and not (one.kind == "drop" and slot_ms(one.said, grain) + SLOT_MS[grain] > until_ms)
    ]
    return tuple(sorted(wanted, key=lambda one: (not one.open, -abs(one.so_far_nusd), one.id)))


def _of(
    found: Series,
    name: tuple[tuple[str, str], ...],
    values: Sequence[int],
    rule: Detector,
    expected: Sequence[ExpectedDays],
) -> list[Incident]:
    slots = _expected_slots(found, name, expected)
    runs = incidents([value / NUSD for value in values], rule, slots)
    return [_incident(found, name, run) for run in runs]


def _incident(found: Series, name: tuple[tuple[str, str], ...], run: Run) -> Incident:
    size = SLOT_MS[found.grain]
    so_far = round(run.excess * NUSD)
    ahead = AHEAD_DAYS * DAY_MS // size
    key = "|".join((found.grain, *(f"{dimension}={value}" for dimension, value in name), found.name(run.alert)))
    return Incident(
        id="an-" + hashlib.sha256(key.encode()).hexdigest()[:12],
        grain=found.grain,
        slice=name,
        kind=run.kind,
        began_ms=found.at_ms(run.first),
        until_ms=found.at_ms(run.last + 1),
        said=found.name(run.alert),
        so_far_nusd=so_far,
        expected_nusd=round(run.expected * NUSD),
        projected_nusd=so_far * ahead // run.slots if run.open else 0,
        open=run.open,
    )


def _expected_slots(
    found: Series, name: tuple[tuple[str, str], ...], expected: Sequence[ExpectedDays]
) -> frozenset[int]:
    label = ", ".join(value for _, value in name)
    wanted = [days for days in expected if days.slice in ("", label)]
    return frozenset(
        slot for slot in range(found.slots) for days in wanted if days.first <= found.name(slot)[:10] <= days.last
    )


def _overlap(one: Incident, other: Incident) -> bool:
    return one.began_ms < other.until_ms and other.began_ms < one.until_ms
