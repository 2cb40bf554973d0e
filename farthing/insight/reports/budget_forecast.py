"""When limits will be reached: the rate of the last days, carried on, with what their scatter leaves open.

The method is simple on purpose and said in the table: the mean use of the last whole days (UTC, up to 14, from the
first day with any use), and an 80 % interval from their standard deviation. Forecasts may be floats; money is not.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from statistics import fmean, stdev
from typing import Final

import msgspec

from farthing.core.budget import counter_name
from farthing.core.budget_keys import splits
from farthing.core.budget_limits import Frame
from farthing.core.policy import Budget
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.budget_counters import BudgetCounter, by_key, left_of
from farthing.insight.moments import shown
from farthing.insight.table import Column, Money, Row, Table, Value
from farthing.ports.books import Balance

DAYS: Final = 14
DAY_MS: Final = 86_400_000
_Z80: Final = 1.2816
"""Standard normal deviations that hold 80 % between them."""

COLUMNS: Final = (
    Column(name="budget", title="budget"),
    Column(name="counter", title="counter"),
    Column(name="unit", title="unit"),
    Column(name="left", title="left", kind="quantity"),
    Column(name="per_day", title="per day", kind="quantity"),
    Column(name="days", title="days seen", kind="int"),
    Column(name="reached", title="reached (UTC)", unknown="not at this rate"),
    Column(name="earliest", title="80 %: earliest"),
    Column(name="latest", title="latest"),
    Column(name="resets", title="resets (UTC)", unknown="never"),
    Column(name="outlook", title="outlook"),
)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """What a counter's scope used on each of the last whole days, by unit."""

    counter: BudgetCounter
    days: tuple[tuple[int, ...], ...]
    """One tuple a day, oldest first, in the order of ``units``."""
    units: tuple[str, ...]


def query(budget: Budget, now_ms: int) -> LedgerQuery:
    """Use by day and by what splits the budget; model names are filtered afterwards, because of patterns."""
    today = now_ms - now_ms % DAY_MS
    where = tuple((name, value) for name, value in budget.match if name != "model")
    names = ("model_requested" if name == "model" else name for name in splits(budget))
    return LedgerQuery(
        group_by=("day", "model_requested", *(name for name in names if name != "model_requested")),
        since_ms=today - DAYS * DAY_MS,
        until_ms=today,
        where=where,
    )


def series(budget: Budget, frames: tuple[Frame, ...], answers: Iterable[Totals], now_ms: int) -> list[Series]:
    """One series for each counter with any use."""
    patterns = [value for name, value in budget.match if name == "model"]
    units = tuple(dict.fromkeys(unit for _, limits in frames for unit, _ in limits))
    today = now_ms - now_ms % DAY_MS
    names = [f"{datetime.fromtimestamp((today - n * DAY_MS) / 1000, UTC):%Y-%m-%d}" for n in range(DAYS, 0, -1)]
    rows: dict[tuple[str, ...], dict[str, list[int]]] = {} if splits(budget) else {(): {}}
    for answer in answers:
        day, model, *rest = answer.group
        if all(fnmatchcase(model, pattern) for pattern in patterns):
            left = iter(rest)
            group = tuple(model if name == "model" else next(left) for name in splits(budget))
            sums = rows.setdefault(group, {}).setdefault(day, [0] * len(units))
            for place, unit in enumerate(units):
                sums[place] += _used(unit, answer)
    found = []
    for group, days in sorted(rows.items()):
        values = tuple(zip(splits(budget), group, strict=True))
        counter = BudgetCounter(
            budget=budget, frames=frames, counter=counter_name(budget.name, values), values=values
        )
        first = min(days, default=names[-1])
        seen = [name for name in names if name >= first]
        zeros = [0] * len(units)
        found.append(Series(counter=counter, units=units, days=tuple(tuple(days.get(n, zeros)) for n in seen)))
    return found


def build(found: Iterable[Series], balances: Iterable[Balance], now_ms: int) -> Table:
    """Soonest first."""
    known = by_key(balances)
    rows: list[tuple[float, Row]] = []
    for one in found:
        for place, unit in enumerate(one.units):
            amounts = left_of(one.counter, unit, known)
            if amounts is not None and unit != "tool_calls":
                rows.append(_row(one, unit, [day[place] for day in one.days], amounts[3], now_ms))
    rows.sort(key=lambda pair: (pair[0], pair[1][:3]))
    notes = (
        f"Method: mean use of up to {DAYS} whole days (UTC) from the first with any use, carried on from now; "
        "the interval is that of the mean over the days to come, from the days' standard deviation.",
    )
    return Table(
        title="When limits will be reached", columns=COLUMNS, rows=tuple(row for _, row in rows), notes=notes
    )


def _row(one: Series, unit: str, days: list[int], left: int, now_ms: int) -> tuple[float, Row]:
    mean = fmean(days) if days else 0.0
    spread = stdev(days) if len(days) > 1 else math.nan
    reached = days_until(left, mean, 0.0)
    earliest, latest = days_until(left, mean, spread), days_until(left, mean, -spread)
    ends = one.counter.window.ends_at_ms
    return (
        math.inf if reached is None else reached,
        (
            one.counter.budget.name,
            one.counter.counter,
            unit,
            _in(unit, left),
            _in(unit, round(mean)),
            len(days),
            _at(reached, now_ms),
            _at(earliest, now_ms) if math.isfinite(spread) else None,
            _at(latest, now_ms) if math.isfinite(spread) else None,
            None if ends is None else shown(ends),
            _outlook(reached, earliest if math.isfinite(spread) else None, ends, now_ms),
        ),
    )


def days_until(left: int, mean: float, spread: float) -> float | None:
    """Days until ``left`` is used at ``mean`` a day plus the 80 % quantile of its scatter; None: not in ten years.

    Use over d days is about normal, with mean·d and spread·√d: the d at which that reaches ``left``.
    """
    if left <= 0:
        return 0.0
    if not math.isfinite(spread):
        spread = 0.0
    if mean <= 0:
        return None
    half = _Z80 * spread
    root = (-half + math.sqrt(half * half + 4 * mean * left)) / (2 * mean)
    days = root * root
    return days if days < 3_650 else None


def _outlook(reached: float | None, earliest: float | None, ends: int | None, now_ms: int) -> str:
    until = math.inf if ends is None else (ends - now_ms) / DAY_MS
    if reached is not None and reached == 0:
        return "used up"
    if reached is not None and reached < until:
        return "will be reached"
    if earliest is not None and earliest < until:
        return "may be reached"
    return "holds"


def _used(unit: str, totals: Totals) -> int:
    match unit:
        case "usd":
            return totals.amount
        case "tokens":
            return totals.input_tokens + totals.output_tokens
        case "input_tokens":
            return totals.input_tokens
        case "output_tokens":
            return totals.output_tokens
        case "requests":
            return totals.requests
        case _:
            return 0


def _at(days: float | None, now_ms: int) -> str | None:
    return None if days is None else shown(now_ms - now_ms % 60_000 + round(days * 1440) * 60_000)


def _in(unit: str, value: int) -> Value:
    return Money(value) if unit == "usd" else value
