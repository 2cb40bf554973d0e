"""Budgets now: what each counter has spent, holds, and has left until when."""

from collections.abc import Iterable
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from farthing.core.budget import Calendar, Window, counter_name
from farthing.core.policy import Budget
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.moments import shown
from farthing.insight.table import Column, Money, Row, Table, Value, share
from farthing.ports.books import Balance

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
    Column(name="resets", title="resets (UTC)", unknown="never"),
    Column(name="state", title="state"),
)


class BudgetCounter(msgspec.Struct, frozen=True, kw_only=True):
    """One counter of a budget in the window that holds now."""

    budget: Budget
    window: Window
    counter: str
    values: tuple[tuple[str, str], ...] = ()


def queries(budget: Budget, window: Window) -> tuple[LedgerQuery, ...]:
    """Which counters may exist: asked of the ledger, because a budget per user has one for every user seen.

    A model goes by the name that was asked for and the name that served, so both are asked.
    """
    if not budget.each:
        return ()
    names = tuple(sorted(budget.each))
    where = tuple((name, value) for name, value in budget.match if name != "model")
    since = max(window.starts_at_ms, 0)
    groupings = {names, tuple("model_requested" if name == "model" else name for name in names)}
    return tuple(LedgerQuery(group_by=by, since_ms=since, where=where) for by in sorted(groupings))


def counters(budget: Budget, window: Window, answers: Iterable[Totals]) -> tuple[BudgetCounter, ...]:
    """The counters of a budget, from the answers to :func:`queries`."""
    if not budget.each:
        return (BudgetCounter(budget=budget, window=window, counter=counter_name(budget.name)),)
    names = tuple(sorted(budget.each))
    groups = sorted({answer.group for answer in answers})
    pairs = [tuple(zip(names, group, strict=True)) for group in groups]
    return tuple(
        BudgetCounter(budget=budget, window=window, counter=counter_name(budget.name, values), values=values)
        for values in pairs
    )


def window_of(budget: Budget, at_ms: int) -> Window | None:
    """The budget's window at an instant; None for limits per request, which need no counter."""
    if budget.per == "request":
        return None
    return Calendar(budget.per, ZoneInfo(budget.timezone)).window(at_ms)


def build(found: Iterable[BudgetCounter], balances: Iterable[Balance], single: Iterable[Budget] = ()) -> Table:
    """Fullest first. ``single``: budgets per request, listed with their limit only."""
    known = {(balance.counter, balance.window, balance.unit): balance for balance in balances}
    rows: list[tuple[int, Row]] = []
    for one in found:
        for unit, limit in one.budget.limits:
            balance = known.get((one.counter, one.window.name, unit))
            if balance is None and one.values:
                continue
            rows.append(_row(one, unit, limit, balance))
    rows.sort(key=lambda pair: (-pair[0], pair[1][0], pair[1][1], pair[1][3]))
    lines = [row for _, row in rows]
    for budget in single:
        lines += [
            (budget.name, _applies(budget, ()), "request", unit, None, None, _in(unit, limit), None, None, None, "")
            for unit, limit in budget.limits
        ]
    notes = (
        () if lines else ("No budgets are configured: add [[budgets]] to farthing.toml; nothing limits spending.",)
    )
    return Table(title=TITLE, columns=COLUMNS, rows=tuple(lines), notes=notes)


def _row(one: BudgetCounter, unit: str, limit: int, balance: Balance | None) -> tuple[int, Row]:
    used, held = (balance.posted, balance.held) if balance else (0, 0)
    left = limit - used - held
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
            None if ends is None else shown(ends),
            _state(left, hard=one.budget.hard),
        ),
    )


def _state(left: int, *, hard: bool) -> str:
    if left > 0:
        return "open" if hard else "open (soft)"
    return "used up" if hard else "passed (soft)"


def _in(unit: str, value: int) -> Value:
    return Money(value) if unit == "usd" else value


def _applies(budget: Budget, values: tuple[tuple[str, str], ...]) -> str:
    said = dict(budget.match) | dict(values)
    if not said and budget.each:
        return f"each {', '.join(budget.each)}"
    return ", ".join(f"{name}={value or '(none)'}" for name, value in said.items()) or "everything"
