"""What a budget's thresholds do to a call: one function from levels to actions. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from farthing.core.policy import Threshold
from farthing.core.types import Decision

_ACTS: Final = ("degrade", "queue", "throttle", "block")
"""The actions that change a call before it is held; ``cap`` acts where a hold does not fit, ``notify`` on none."""


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """How far one counter is used: booked and held, in its unit, against its limit."""

    budget: str
    counter: str
    window: str
    unit: str
    limit: int
    used: int
    hard: bool = True
    resets_at_ms: int | None = None


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold that a level has reached."""

    level: Level
    threshold: Threshold


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to a call. Of several ``degrade``, ``block`` or ``queue`` the furthest crossing counts."""

    block: Crossing | None = None
    queue: Crossing | None = None
    degrade: Crossing | None = None
    throttle: tuple[Crossing, ...] = ()
    """Every counter that slows down, at the strictest rate that it has reached."""
    notes: tuple[Decision, ...] = ()
    """What was done, and what soft budgets would have done."""


NOTHING: Final = Verdict()


def assess(levels: Iterable[Level], thresholds: Mapping[str, tuple[Threshold, ...]]) -> Verdict:
    """The verdict on a call whose counters stand at ``levels``; ``thresholds`` by the budget's name.

    A threshold acts from ``used × 100 ≥ percent × limit`` on. Those of soft budgets change nothing: they are noted
    as ``would_…`` (shadow mode), so that a rule can be watched before it is made hard.
    """
    reached: list[Crossing] = []
    for level in levels:
        for threshold in thresholds.get(level.budget, ()):
            if threshold.action in _ACTS and level.used * 100 >= threshold.percent * level.limit:
                reached.append(Crossing(level=level, threshold=threshold))
    if not reached:
        return NOTHING
    real = [one for one in reached if one.level.hard]
    shadow = [one for one in reached if not one.level.hard]
    degrade = _furthest(real, "degrade")
    notes = [_note(one, "would_" + one.threshold.action) for one in _each(shadow)]
    return Verdict(
        block=_furthest(real, "block"),
        queue=_furthest(real, "queue"),
        degrade=degrade,
        throttle=_slowest(real),
        notes=tuple(notes),
    )


def acts_from(limit: int, thresholds: Iterable[Threshold]) -> int | None:
    """The least use of a counter at which :func:`assess` says anything about calls on it; None: it never does."""
    least = [-(-one.percent * limit // 100) for one in thresholds if one.action in _ACTS]
    return min(least, default=None)


def note_of(crossing: Crossing) -> Decision:
    """The decision to record for an action that was taken."""
    return _note(crossing, crossing.threshold.action)


def _note(one: Crossing, action: str) -> Decision:
    level, threshold = one.level, one.threshold
    evidence = [
        ("budget", level.budget),
        ("counter", level.counter),
        ("used", f"{level.used}/{level.limit} {level.unit}"),
        ("percent", str(threshold.percent)),
    ]
    if threshold.to:
        evidence.append(("to", threshold.to))
    return Decision(stage="threshold", action=action, reason="threshold_reached", evidence=tuple(evidence))


def _each(crossings: list[Crossing]) -> list[Crossing]:
    """One per budget and action, the furthest: several units of one budget tell the same thing."""
    best: dict[tuple[str, str], Crossing] = {}
    for one in crossings:
        key = (one.level.budget, one.threshold.action)
        if key not in best or _rank(one) > _rank(best[key]):
            best[key] = one
    return [best[key] for key in sorted(best)]


def _furthest(crossings: list[Crossing], action: str) -> Crossing | None:
    return max((one for one in crossings if one.threshold.action == action), key=_rank, default=None)


def _slowest(crossings: list[Crossing]) -> tuple[Crossing, ...]:
    best: dict[str, Crossing] = {}
    for one in crossings:
        if one.threshold.action != "throttle":
            continue
        counter = one.level.counter
        if counter not in best or one.threshold.per_minute < best[counter].threshold.per_minute:
            best[counter] = one
    return tuple(best[counter] for counter in sorted(best))


def _rank(one: Crossing) -> tuple[int, int, str, str]:
    """The highest threshold first, then the fullest level; names make ties the same everywhere."""
    level = one.level
    share = level.used * 1_000_000 // level.limit if level.limit > 0 else 2**62
    return (one.threshold.percent, share, level.counter, level.unit)
