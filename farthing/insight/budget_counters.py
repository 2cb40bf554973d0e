"""Which counters a budget has, and how full they are: what reports and pages about budgets share."""

from collections.abc import Iterable, Mapping

import msgspec

from farthing.core.budget import counter_name
from farthing.core.budget_keys import splits
from farthing.core.budget_limits import Frame, frames_at
from farthing.core.budget_windows import Window, windows_of
from farthing.core.policy import Budget
from farthing.core.types import LedgerQuery, Totals
from farthing.ports.books import Balance

Balances = Mapping[tuple[str, str, str], Balance]


class BudgetCounter(msgspec.Struct, frozen=True, kw_only=True):
    """One counter of a budget with the windows that hold now."""

    budget: Budget
    frames: tuple[Frame, ...]
    """Each window with its limits; credits have several, and the one with least left decides."""
    counter: str
    values: tuple[tuple[str, str], ...] = ()

    @property
    def window(self) -> Window:
        """The window that says when the budget begins anew."""
        return self.frames[0][0]


def queries(budget: Budget, window: Window) -> tuple[LedgerQuery, ...]:
    """Which counters may exist: asked of the ledger, because a budget per user has one for every user seen.

    A model goes by the name that was asked for and the name that served, so both are asked.
    """
    names = splits(budget)
    if not names:
        return ()
    where = tuple((name, value) for name, value in budget.match if name != "model")
    since = max(window.starts_at_ms, 0)
    groupings = {names, tuple("model_requested" if name == "model" else name for name in names)}
    return tuple(LedgerQuery(group_by=by, since_ms=since, where=where) for by in sorted(groupings))


def counters(budget: Budget, frames: tuple[Frame, ...], answers: Iterable[Totals]) -> tuple[BudgetCounter, ...]:
    """The counters of a budget, from the answers to :func:`queries`."""
    names = splits(budget)
    if not names:
        return (BudgetCounter(budget=budget, frames=frames, counter=counter_name(budget.name)),)
    groups = sorted({answer.group for answer in answers})
    pairs = [tuple(zip(names, group, strict=True)) for group in groups]
    return tuple(
        BudgetCounter(budget=budget, frames=frames, counter=counter_name(budget.name, values), values=values)
        for values in pairs
    )


def frames_of(budget: Budget, at_ms: int) -> tuple[Frame, ...]:
    """The budget's windows and limits at an instant; none for limits per request, which need no counter."""
    windows = windows_of(budget)
    return () if windows is None else frames_at(budget, windows, at_ms)


def wanted(found: Iterable[BudgetCounter]) -> list[tuple[str, str]]:
    """The (counter, window) pairs whose balances :func:`build` needs."""
    pairs = {(one.counter, name): None for one in found for window, _ in one.frames for name in _parts(window)}
    return list(pairs)


def left_of(one: BudgetCounter, unit: str, balances: Balances) -> tuple[int, int, int, int] | None:
    """(used, held, limit, left) of a counter in one unit, where least is left; None when nothing was ever counted."""
    rows = []
    for window, limits in one.frames:
        found = [balances[key] for name in _parts(window) if (key := (one.counter, name, unit)) in balances]
        used, held = sum(one.posted for one in found), sum(one.held for one in found)
        rows += [(used, held, limit, limit - used - held) for limited, limit in limits if limited == unit]
    counted = any((one.counter, name, unit) in balances for window, _ in one.frames for name in _parts(window))
    return min(rows, key=lambda row: row[3]) if rows and (counted or not one.values) else None


def by_key(balances: Iterable[Balance]) -> Balances:
    """Balances by counter, window and unit."""
    return {(balance.counter, balance.window, balance.unit): balance for balance in balances}


def _parts(window: Window) -> tuple[str, ...]:
    return (window.name, *window.also)
