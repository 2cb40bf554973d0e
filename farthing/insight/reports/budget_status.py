"""Budgets now: what each counter has spent, holds, and has left until when."""

from collections.abc import Iterable
from typing import Final

from farthing.core.budget_keys import splits
from farthing.core.budget_limits import SINGLE_UNITS
from farthing.core.budget_windows import Window
from farthing.core.money import round_half_even
from farthing.core.policy import Budget
from farthing.insight.budget_counters import BudgetCounter, by_key, left_of
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
    Column(name="per_day", title="per day", kind="quantity"),
    Column(name="resets", title="resets (UTC)", unknown="never"),
    Column(name="state", title="state"),
)


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
