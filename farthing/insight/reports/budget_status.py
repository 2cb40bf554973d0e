"""Budgets now: what each counter has spent, holds, and has left until when."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from farthing.core.budget import counter_name, splits
from farthing.core.budget_limits import SINGLE_UNITS, Frame, frames_at
from farthing.core.budget_windows import Window, windows_of
from farthing.core.money import round_half_even
from farthing.core.policy import Budget
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.moments import shown
from farthing.insight.table import Column, Money, Row, Table, Value, share
from farthing.ports.books import Balance

Balances = Mapping[tuple[str, str, str], Balance]

TITLE: Final = "Budgets"

COLUMNS: Final = (
    Column(name="budget", title="budget"),
    Column(name="applies_to", title="applies to"),
    Column(name="window", title="window"),
    Column(name="unit", title="unit"),
    Column(name="used", title="used", kind="quantity"),
    Column(name="held", title="held", kind="quantity"),
    Column(name="limit", title="limit", kind="quantity"),
    Column(name="left", title="left", kind="quantity"),
    Column(name="used_share", title="used %", kind="percent"),
    Column(name="per_day", title="per day", kind="quantity"),
    Column(name="resets", title="resets (UTC)", unknown="never"),
    Column(name="state", title="state"),
)


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


def build(
    found: Iterable[BudgetCounter], balances: Iterable[Balance], single: Iterable[Budget] = (), *, now_ms: int = 0
) -> Table:
    """Fullest first. ``single``: budgets that bind single calls, listed with their limit only."""
    known = by_key(balances)
    rows: list[tuple[int, Row]] = []
    for one in found:
        for unit in dict.fromkeys(unit for _, limits in one.frames for unit, _ in limits):
            amounts = left_of(one, unit, known)
            if amounts is not None:
                rows.append(_row(one, unit, amounts, now_ms))
    rows.sort(key=lambda pair: (-pair[0], pair[1][0], pair[1][1], pair[1][3]))
    lines = [row for _, row in rows]
    for budget in single:
        limits = [pair for pair in budget.limits if budget.per == "request" or pair[0] in SINGLE_UNITS]
        lines += [
            (budget.name, _applies(budget, ()), "request", unit, None, None, _in(unit, limit), *[None] * 4, "")
            for unit, limit in limits
        ]
    notes = (
        () if lines else ("No budgets are configured: add [[budgets]] to farthing.toml; nothing limits spending.",)
    )
    return Table(title=TITLE, columns=COLUMNS, rows=tuple(lines), notes=notes)


def _parts(window: Window) -> tuple[str, ...]:
    return (window.name, *window.also)


def _row(one: BudgetCounter, unit: str, amounts: tuple[int, int, int, int], now_ms: int) -> tuple[int, Row]:
    used, held, limit, left = amounts
    part = share(used, limit)
    ends = one.window.ends_at_ms
    return (
        part if part is not None else 10_000,
        (
            one.budget.name,
            _applies(one.budget, one.values),
            one.window.name,
            unit,
            _in(unit, used),
            _in(unit, held),
            _in(unit, limit),
            _in(unit, left),
            part,
            _per_day(one.window, unit, used, now_ms),
            None if ends is None else shown(ends),
            _state(left, hard=one.budget.hard),
        ),
    )


def _per_day(window: Window, unit: str, used: int, now_ms: int) -> Value:
    """The run rate: what was used in the window so far, for a day; unknown where the beginning is."""
    elapsed_ms = now_ms - window.starts_at_ms
    if window.starts_at_ms < 0 or elapsed_ms <= 0:
        return None
    return _in(unit, round_half_even(used * 86_400_000, elapsed_ms))


def _state(left: int, *, hard: bool) -> str:
    if left > 0:
        return "open" if hard else "open (soft)"
    return "used up" if hard else "passed (soft)"


def _in(unit: str, value: int) -> Value:
    return Money(value) if unit == "usd" else value


def _applies(budget: Budget, values: tuple[tuple[str, str], ...]) -> str:
    said = dict(budget.match) | dict(values)
    if not said and splits(budget):
        return f"each {', '.join(splits(budget))}"
    return ", ".join(f"{name}={value or '(none)'}" for name, value in said.items()) or "everything"
