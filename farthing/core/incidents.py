"""From scores to incidents: one for each run of a series above its expectation, however many slots it lasts."""

from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

from farthing.core.series import Detector, Kind, Point, detect

HOT_Z: Final = 2.0
"""Score above which a slot after an alert still belongs to the incident."""
GAP_MAX: Final = 1
"""Calm slots that do not end an incident."""

Grain = Literal["day", "hour"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One incident of one series."""

    first: int
    """Slot where it began: for steps and leaks, where the CUSUM left zero."""
    alert: int
    """Slot where it was first said."""
    last: int
    kind: Kind
    excess: float
    """Sum over its slots of value less expectation, in the unit of the series."""
    expected: float
    """Sum of the expectations of its slots."""
    open: bool
    """It reaches the end of the series."""

    @property
    def slots(self) -> int:
        """How many slots it covers."""
        return self.last - self.first + 1


def incidents(values: Sequence[float], rule: Detector, expected_slots: Collection[int] = ()) -> list[Run]:
    """Every incident of a gapless series, in order.

    Slots that somebody said to expect something in are judged as if they had been as one season before: they neither
    alert nor teach the detector anything.
    """
    points = detect(calm(values, rule.season, expected_slots), rule)
    runs: list[Run] = []
    at = 0
    while at < len(points):
        if points[at].kind is None:
            at += 1
            continue
        run = _run(points, at)
        runs.append(run)
        at = run.last + 1
    return runs


def calm(values: Sequence[float], season: int, expected_slots: Collection[int]) -> list[float]:
    """The series with expected slots replaced by those a season earlier (or the slot before, at the beginning)."""
    known = frozenset(expected_slots)
    found: list[float] = []
    for at, value in enumerate(values):
        if at in known:
            value = found[at - season] if at >= season else found[at - 1] if at else 0.0
        found.append(value)
    return found


def _run(points: Sequence[Point], alert: int) -> Run:
    kind = points[alert].kind
    assert kind is not None
    first = alert
    while kind in ("step", "leak") and first > 0 and points[first - 1].cusum > 0 and points[first - 1].excess > 0:
        first -= 1
    sign = -1.0 if kind == "drop" else 1.0
    last = alert
    for at in range(alert + 1, len(points)):
        point = points[at]
        if point.kind is not None or (sign * point.z > HOT_Z and sign * point.excess > 0):
            last = at
        elif at - last > GAP_MAX:
            break
    whole = points[first : last + 1]
    return Run(
        first=first,
        alert=alert,
        last=last,
        kind=kind,
        excess=sum(point.excess for point in whole),
        expected=sum(point.expected or 0.0 for point in whole),
        open=last >= len(points) - 1 - GAP_MAX,
    )
