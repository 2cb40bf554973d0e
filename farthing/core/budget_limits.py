"""What a budget allows at an instant: its limits, temporary raises, and prepaid credits that begin and expire."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Final

from farthing.core.budget_windows import Window, Windows
from farthing.core.policy import Budget, Grant
from farthing.core.types import LimitUnit

Limits = tuple[tuple[LimitUnit, int], ...]
Frame = tuple[Window, Limits]
"""A window and what may be used in it."""

SINGLE_UNITS: Final = ("turns_without_human",)
"""Units that bind each call by itself, whatever the period: nothing is counted."""


def limits_at(budget: Budget, at_ms: int) -> Limits:
    """The counted limits with the raises that hold at an instant."""
    raised = {unit: _sum(one for one in budget.raises if one.unit == unit and _runs(one, at_ms))
              for unit, _ in budget.limits}  # fmt: skip
    return tuple([(unit, limit + raised[unit]) for unit, limit in budget.limits if unit not in SINGLE_UNITS])


def frames_at(budget: Budget, windows: Windows, at_ms: int) -> tuple[Frame, ...]:
    """Every window of a budget that a call at an instant must have room in, with its limits."""
    if budget.credits:
        return _credit_frames(budget, at_ms)
    return ((windows.window(at_ms), limits_at(budget, at_ms)),)


def changes_of(budget: Budget) -> tuple[int, ...]:
    """The instants at which the limits change, in order."""
    grants = (*budget.credits, *budget.raises)
    return tuple(sorted({at for one in grants for at in (one.from_ms, one.until_ms) if at is not None}))


def _credit_frames(budget: Budget, at_ms: int) -> tuple[Frame, ...]:
    """All use stays within all grants so far, and the use since any expiry within the grants that outlast it.

    That is exactly when every use can be paid from a grant that had not expired when the use was made, the next to
    expire paying first (Hall's theorem; a grant pays for use before it began as well). So what expires unused is
    gone, and what it had paid for is not charged again. An expiry that no grant spans makes earlier ones irrelevant.
    """
    found: dict[Window, list[tuple[LimitUnit, int]]] = {}
    grants = (*budget.credits, *(Grant(unit=unit, amount=limit) for unit, limit in budget.limits))
    more = [one.from_ms for one in grants if one.from_ms is not None and one.from_ms > at_ms]
    ends = min(more, default=None)
    for unit in dict.fromkeys(one.unit for one in grants):
        begun = [one for one in grants if one.unit == unit and (one.from_ms is None or one.from_ms <= at_ms)]
        everything = Window(name="all", starts_at_ms=-(2**62), ends_at_ms=ends)
        found.setdefault(everything, []).append((unit, _sum(begun)))
        for expiry in _expiries(begun, at_ms):
            since = Window(name=f"since {_instant(expiry)}", starts_at_ms=expiry, ends_at_ms=ends)
            running = _sum(one for one in begun if one.until_ms is None or one.until_ms > expiry)
            found.setdefault(since, []).append((unit, running))
    return tuple((window, tuple(limits)) for window, limits in found.items())


def _expiries(begun: Sequence[Grant], at_ms: int) -> list[int]:
    """Expiries that still matter, newest first."""
    found = []
    past = {one.until_ms for one in begun if one.until_ms is not None and one.until_ms <= at_ms}
    for expiry in sorted(past, reverse=True):
        found.append(expiry)
        if not any((one.from_ms is None or one.from_ms < expiry) and _after(one, expiry) for one in begun):
            break
    return found


def _after(grant: Grant, at_ms: int) -> bool:
    return grant.until_ms is None or grant.until_ms > at_ms


def _runs(grant: Grant, at_ms: int) -> bool:
    return (grant.from_ms is None or grant.from_ms <= at_ms) and _after(grant, at_ms)


def _sum(grants: Iterable[Grant]) -> int:
    return sum(one.amount for one in grants)


def _instant(at_ms: int) -> str:
    at = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}" + (f".{at_ms % 1000:03}Z" if at_ms % 1000 else "Z")
