"""What is wrong with budgets, all of it at once, in words that say how to put it right."""

from collections import Counter
from collections.abc import Iterable, Iterator

from farthing.core.budget_windows import ROLLING_MS_MAX, ROLLING_MS_MIN, zone_of
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.policy import Budget, Grant, Threshold


def problems_of(budgets: Iterable[Budget]) -> list[str]:
    """Every problem of a policy's budgets."""
    budgets = tuple(budgets)
    found = [problem for budget in budgets for problem in _problems(budget)]
    return found + [f"budget {name!r} is defined twice" for name in _repeated(one.name for one in budgets)]


def is_budget_dimension(name: str) -> bool:
    """True for what is known before a call: scope dimensions, ``tag:<name>``, ``provider`` and ``model``."""
    return name in SCOPE_DIMENSIONS or name in ("provider", "model") or (name.startswith("tag:") and len(name) > 4)


def period_problems(budget: Budget) -> list[str]:
    """What does not fit together in a budget's period, fiscal start, credits, raises and thresholds."""
    return [
        *_period(budget),
        *_grants(budget),
        *(problem for one in budget.thresholds for problem in threshold_problems(one)),
    ]


def _problems(budget: Budget) -> list[str]:
    where = f"budget {budget.name!r}"
    found = [] if budget.name else ["a budget has no name"]
    found += [] if budget.limits or budget.credits else [f"{where} has no limit"]
    found += [f"{where} limits {unit!r} twice" for unit in _repeated(unit for unit, _ in budget.limits)]
    found += [f"{where} has a negative limit: {unit} = {limit}" for unit, limit in budget.limits if limit < 0]
    for place, names in (("each", budget.each), ("match", tuple(name for name, _ in budget.match))):
        allowed = f"budgets know {', '.join(SCOPE_DIMENSIONS)}, provider, model and tag:<name>"
        found += [f"{where} has {name!r} in {place}; {allowed}" for name in names if not is_budget_dimension(name)]
        found += [f"{where} names {name!r} twice in {place}" for name in _repeated(names)]
    try:
        zone_of(budget.timezone)
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found + [f"{where}: {problem}" for problem in period_problems(budget)]


def _period(budget: Budget) -> Iterator[str]:
    per = budget.per
    if per == "rolling" and budget.length_ms is None:
        yield 'length is missing; say how far back it counts, such as length = "24h"'
    elif per != "rolling" and budget.length_ms is not None:
        yield f'length belongs to per = "rolling", not to per = "{per}"'
    elif budget.length_ms is not None and not ROLLING_MS_MIN <= budget.length_ms <= ROLLING_MS_MAX:
        yield "length is 1m to 366d"
    for name, low, high, usual, periods in (
        ("day_hour", 0, 23, 0, ("day", "week", "month", "quarter", "year")),
        ("month_day", 1, 31, 1, ("month", "quarter", "year")),
        ("year_month", 1, 12, 1, ("quarter", "year")),
    ):
        value = getattr(budget, name)
        if not low <= value <= high:
            yield f"{name} is {value}; allowed is {low} to {high}"
        elif value != usual and per not in periods:
            yield f'{name} means nothing with per = "{per}"; it belongs to {", ".join(periods)}'
    if budget.week_starts != "monday" and per != "week":
        yield f'week_starts means nothing with per = "{per}"; it belongs to week'
    units = {unit for unit, _ in budget.limits}
    if "turns_without_human" in units and per not in ("request", "session"):
        yield 'turns_without_human binds each call by itself; use per = "session" or "request"'
    if "tool_calls" in units and per == "request":
        yield 'tool_calls are counted over calls; use per = "session" or a window of time'


def _grants(budget: Budget) -> Iterator[str]:
    if budget.credits and budget.per != "total":
        yield f'credits belong to per = "total", not to per = "{budget.per}"'
    if budget.credits and budget.raises:
        yield "has credits and raises; add another credit instead of a raise"
    units = {unit for unit, _ in budget.limits}
    for name, grants in (("credits", budget.credits), ("raises", budget.raises)):
        for place, one in enumerate(grants):
            yield from (f"{name}[{place}]: {problem}" for problem in _grant(one))
            if name == "raises" and one.unit not in units:
                yield f"raises[{place}]: raises {one.unit}, which this budget does not limit"
            if name == "raises" and one.until_ms is None:
                yield f"raises[{place}]: until is missing; for good, change the limit itself"
    if any(one.unit in ("turns_without_human", "tool_calls") for one in budget.credits):
        yield "credits are usd, tokens, input_tokens, output_tokens or requests"


def _grant(one: Grant) -> Iterator[str]:
    if one.amount <= 0:
        yield "must be more than nothing"
    if one.from_ms is not None and one.until_ms is not None and one.until_ms <= one.from_ms:
        yield "until is not after from"


def threshold_problems(one: Threshold) -> Iterator[str]:
    """What does not fit together in one threshold."""
    where = f"thresholds: {one.percent} %"
    if one.percent < 1:
        yield f"{where}: a threshold is 1 or more"
    if one.action == "degrade" and not one.to:
        yield f'{where}: degrade needs a model to go to: to = "…"'
    if one.action == "throttle" and one.per_minute < 1:
        yield f"{where}: throttle needs per_minute = 1 or more"
    if one.to and one.action != "degrade":
        yield f'{where}: to belongs to do = "degrade"'
    if one.per_minute and one.action != "throttle":
        yield f'{where}: per_minute belongs to do = "throttle"'


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
