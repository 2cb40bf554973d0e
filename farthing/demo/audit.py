"""What the referee asks of the running gateway: no hold left open, no hard budget passed, no request in flight."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from farthing.core.policy import Budget
from farthing.core.types import Reservation
from farthing.insight import budget_counters
from farthing.insight.render import cell
from farthing.insight.reports import budget_status
from farthing.insight.table import Column, Money, Table
from farthing.ports.books import Balance, Books, Ledger

ROWS_PER_BUDGET: Final = 8


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The state of budgets and holds after the day."""

    table: Table
    hard: int
    """Hard limits in use: one per counter and unit."""
    open_holds: int
    problems: tuple[str, ...]


def audit(ledger: Ledger, books: Books, budgets: tuple[Budget, ...], at_ms: int) -> Audit:
    """Reads the counters of the windows that hold at ``at_ms``; blocking, on the thread that owns ``books``."""
    found: list[budget_counters.BudgetCounter] = []
    for budget in budgets:
        frames = budget_counters.frames_of(budget, at_ms)
        if frames:
            asked = budget_counters.queries(budget, frames[0][0])
            answers = [row for query in asked for row in ledger.totals(query)]
            found += budget_counters.counters(budget, frames, answers)
    balances = books.balances(budget_counters.wanted(found))
    reservations = books.open_reservations()
    single = [budget for budget in budgets if budget.per == "request"]
    hard, problems = _passed(found, balances)
    return Audit(
        table=_fullest(budget_status.build(found, balances, single, now_ms=at_ms)),
        hard=hard,
        open_holds=len(reservations),
        problems=(*problems, *(_left_open(one) for one in reservations), *_still_held(balances)),
    )


def _fullest(table: Table) -> Table:
    """The fullest rows of each budget; a budget per user has one for every user."""
    seen: Counter[object] = Counter()
    kept = []
    for row in table.rows:
        seen[row[0]] += 1
        if seen[row[0]] <= ROWS_PER_BUDGET:
            kept.append(row)
    left = [f"{name}: {count - ROWS_PER_BUDGET:,}" for name, count in seen.items() if count > ROWS_PER_BUDGET]
    notes = (f"Emptier counters that are not listed: {', '.join(left)} (see: farthing budget status).",)
    return msgspec.structs.replace(table, rows=tuple(kept), notes=(*table.notes, *(notes if left else ())))


def _passed(
    found: Iterable[budget_counters.BudgetCounter], balances: Iterable[Balance]
) -> tuple[int, tuple[str, ...]]:
    """(hard limits that anything was booked on, sentences on those that were passed)."""
    known = {(balance.counter, balance.window, balance.unit): balance for balance in balances}
    used, problems = 0, []
    for one in found:
        for unit, limit in one.budget.limits if one.budget.hard else ():
            balance = known.get((one.counter, one.window.name, unit))
            if balance is None:
                continue
            used += 1
            if balance.posted > limit:
                problems.append(
                    f"budget passed: {one.counter} in {one.window.name} has {_shown(unit, balance.posted)} of "
                    f"{_shown(unit, limit)} {unit}"
                )
    return used, tuple(problems)


def _shown(unit: str, value: int) -> str:
    return cell(Column(name=unit, title=unit, kind="quantity"), Money(value) if unit == "usd" else value)


def _left_open(reservation: Reservation) -> str:
    return f"hold left open: reservation {reservation.id} of request {reservation.request_id}"


def _still_held(balances: Iterable[Balance]) -> tuple[str, ...]:
    return tuple(
        f"amount still held: {_shown(balance.unit, balance.held)} {balance.unit} on {balance.counter}"
        for balance in balances
        if balance.held
    )
