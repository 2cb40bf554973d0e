"""Budgets: which limits bind a call, on which counters and in which windows, and what a call counts on each.

Owns the canonical names of counters and windows. It decides nothing about money already spent: the books do, under
the holds that are made here. ``zoneinfo`` reads the time zone database when a policy is loaded; a call reads nothing.
"""

import datetime
from collections import Counter
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.errors import PolicyError
from farthing.core.policy import Budget, Period
from farthing.core.types import Hold, LimitUnit, Scope

MEMO_MAX: Final = 16_384
"""Scopes whose budgets are remembered; the memory stays bounded with any number of users."""

_ESCAPES: Final = str.maketrans({"%": "%25", "|": "%7C", ",": "%2C", "=": "%3D"})
_DAY: Final = datetime.timedelta(days=1)


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What one call may consume at most."""

    usd: int | None
    """Nano-USD; None when no price is known: then USD limits count nothing (see ``Budgets.hard_usd``)."""
    input_tokens: int
    output_tokens: int
    requests: int = 1


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A call that is by itself larger than a ``per = "request"`` limit."""

    budget: Budget
    unit: LimitUnit
    limit: int
    needed: int


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One period of a budget: ``starts_at_ms`` ≤ t < ``ends_at_ms``; ``total`` has no end (None)."""

    name: str
    starts_at_ms: int
    ends_at_ms: int | None


class Calendar:
    """The windows of one period in one time zone. Remembers the last window only."""

    def __init__(self, period: Period, zone: datetime.tzinfo) -> None:
        self._period = period
        self._zone = zone
        self._last = Window(name="", starts_at_ms=0, ends_at_ms=0)

    def window(self, at_ms: int) -> Window:
        """The window that holds an instant."""
        last = self._last
        if last.starts_at_ms <= at_ms and (last.ends_at_ms is None or at_ms < last.ends_at_ms):
            return last
        self._last = found = self._find(at_ms)
        return found

    def _find(self, at_ms: int) -> Window:
        if self._period == "total":
            return Window(name="all", starts_at_ms=-(2**62), ends_at_ms=None)
        first = self._first_day(datetime.datetime.fromtimestamp(at_ms // 1000, self._zone).date())
        # Where clocks go back over midnight, the local date of an instant is not monotonic: the bounds decide.
        if at_ms >= self._starts(self._next(first)):
            first = self._next(first)
        elif at_ms < self._starts(first):
            first = self._first_day(first - _DAY)
        return Window(
            name=self._name(first), starts_at_ms=self._starts(first), ends_at_ms=self._starts(self._next(first))
        )

    def _starts(self, day: datetime.date) -> int:
        """The first instant of a local day; midnight skipped by a clock change is the instant of that change."""
        midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=self._zone)
        return int(midnight.timestamp()) * 1000

    def _first_day(self, day: datetime.date) -> datetime.date:
        if self._period == "month":
            return day.replace(day=1)
        return day - _DAY * day.weekday() if self._period == "week" else day

    def _next(self, first: datetime.date) -> datetime.date:
        if self._period == "month":
            return (first + _DAY * 31).replace(day=1)
        return first + _DAY * (7 if self._period == "week" else 1)

    def _name(self, first: datetime.date) -> str:
        if self._period == "month":
            return f"{first.year:04}-{first.month:02}"
        if self._period == "week":
            year, week, _ = first.isocalendar()
            return f"{year:04}-W{week:02}"
        return first.isoformat()


class Budgets:
    """The budgets of a policy, indexed: finding those of a call takes the same time with ten or ten thousand.

    A dimension the call does not say counts as the empty value: a budget per ``user`` gives all calls without a user
    one shared counter, ``user=``. Raises ``PolicyError`` with every problem found.
    """

    def __init__(self, budgets: tuple[Budget, ...]) -> None:
        problems = [problem for budget in budgets for problem in _problems(budget)]
        problems += [f"budget {name!r} is defined twice" for name in _repeated(budget.name for budget in budgets)]
        if problems:
            raise PolicyError(problems, source="policy.budgets")
        self._index: dict[str, dict[tuple[str, ...], dict[tuple[str, ...], list[_Rule]]]] = {}
        calendars: dict[tuple[Period, str], Calendar] = {}
        for position, budget in enumerate(budgets):
            calendar = None
            if budget.per != "request":
                key = (budget.per, budget.timezone)
                calendar = calendars.setdefault(key, Calendar(budget.per, _zone(budget.timezone)))
            self._add(_Rule(position, budget, calendar))
        self._project = _projection(budgets)
        self._memo: dict[object, _Bound] = {}
        self._older: dict[object, _Bound] = {}

    def holds(self, scope: Scope, *, provider: str, model: str, need: Need, at_ms: int) -> tuple[Hold, ...]:
        """The holds that this call needs, in the policy's order; windows are those of ``at_ms`` and stay fixed."""
        amounts = {
            "usd": need.usd or 0,
            "tokens": need.input_tokens + need.output_tokens,
            "input_tokens": need.input_tokens,
            "output_tokens": need.output_tokens,
            "requests": need.requests,
        }
        holds = []
        for calendar, counter, budget in self._bound(scope, provider, model).counted:
            window = calendar.window(at_ms)
            for unit, limit in budget.limits:
                holds.append(
                    Hold(
                        counter=counter,
                        window=window.name,
                        unit=unit,
                        limit=limit,
                        amount=amounts[unit],
                        budget=budget.name,
                        resets_at_ms=window.ends_at_ms,
                        hard=budget.hard,
                    )
                )
        return tuple(holds)

    def violation(self, scope: Scope, *, provider: str, model: str, need: Need) -> Violation | None:
        """The first hard ``per = "request"`` limit that this call alone would cross, if any."""
        for budget in self._bound(scope, provider, model).single:
            for unit, limit in budget.limits:
                needed = _quantity(unit, need.usd, need.input_tokens, need.output_tokens, need.requests)
                if budget.hard and needed > limit:
                    return Violation(budget=budget, unit=unit, limit=limit, needed=needed)
        return None

    def hard_usd(self, scope: Scope, *, provider: str, model: str) -> Budget | None:
        """The first hard budget in USD that binds this call: where there is one, an unknown price matters."""
        bound = self._bound(scope, provider, model)
        everything = (*bound.single, *(budget for _, _, budget in bound.counted))
        return next((b for b in everything if b.hard and any(unit == "usd" for unit, _ in b.limits)), None)

    def _add(self, rule: "_Rule") -> None:
        """Index by the names matched, then by their values.

        Rules that need a tag are looked at only for calls that carry it, so that thousands of tag names cost nothing.
        """
        match = sorted(rule.budget.match)
        gate = next((dim for dim, value in match if value and dim.startswith("tag:")), "")
        by_value = self._index.setdefault(gate, {}).setdefault(tuple(dim for dim, _ in match), {})
        by_value.setdefault(tuple(value for _, value in match), []).append(rule)

    def _bound(self, scope: Scope, provider: str, model: str) -> "_Bound":
        key = self._project(scope, provider, model)
        found = self._memo.get(key)
        if found is None:
            found = self._older.get(key) or self._find(scope, provider, model)
            if len(self._memo) >= MEMO_MAX // 2:  # two generations: what is still in use survives the turn
                self._older, self._memo = self._memo, {}
            self._memo[key] = found
        return found

    def _find(self, scope: Scope, provider: str, model: str) -> "_Bound":
        values = call_values(scope, provider, model)
        rules: list[_Rule] = []
        for gate in ("", *("tag:" + name for name, _ in scope.tags)):
            for dims, by_value in self._index.get(gate, {}).items():
                rules += by_value.get(tuple([values.get(dim, "") for dim in dims]), ())
        rules.sort(key=attrgetter("position"))
        counted = tuple(
            (rule.calendar, rule.counter(values), rule.budget) for rule in rules if rule.calendar is not None
        )
        return _Bound(counted, tuple(rule.budget for rule in rules if rule.calendar is None))


class _Rule:
    """A budget in the index; ``calendar`` is None for ``per = "request"``."""

    __slots__ = ("_each", "budget", "calendar", "position")

    def __init__(self, position: int, budget: Budget, calendar: Calendar | None) -> None:
        self.position = position
        self.budget = budget
        self.calendar = calendar
        self._each = tuple(sorted(budget.each))

    def counter(self, values: dict[str, str]) -> str:
        return counter_name(self.budget.name, [(dim, values.get(dim, "")) for dim in self._each])


class _Bound:
    """The budgets that bind one combination of dimension values."""

    __slots__ = ("counted", "single")

    def __init__(self, counted: tuple[tuple[Calendar, str, Budget], ...], single: tuple[Budget, ...]) -> None:
        self.counted = counted
        self.single = single


def spent(holds: Iterable[Hold], *, usd: int | None, input_tokens: int, output_tokens: int) -> tuple[int, ...]:
    """What each hold really cost, in its own unit: nano-USD, tokens, or the requests that it held.

    An unknown price (None) counts nothing on USD counters; the tokens still count.
    """
    return tuple([_quantity(hold.unit, usd, input_tokens, output_tokens, hold.amount) for hold in holds])


def counter_name(budget: str, values: Iterable[tuple[str, str]] = ()) -> str:
    """``<budget>|<dimension>=<value>,…``, or just the budget's name when nothing splits it.

    ``%``, ``|``, ``,`` and ``=`` inside names and values are percent-escaped, so that no two counters share a name.
    """
    parts = [f"{dim.translate(_ESCAPES)}={value.translate(_ESCAPES)}" for dim, value in values]
    name = budget.translate(_ESCAPES)
    return f"{name}|{','.join(parts)}" if parts else name


def parse_counter(counter: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The budget's name and the dimension values of a counter: the inverse of :func:`counter_name`."""
    name, _, rest = counter.partition("|")
    pairs = [part.partition("=") for part in rest.split(",")] if rest else []
    return _unescape(name), tuple((_unescape(dim), _unescape(value)) for dim, _, value in pairs)


def call_values(scope: Scope, provider: str, model: str) -> dict[str, str]:
    """Every dimension value that budgets can match or split by."""
    values = {name: getattr(scope, name) for name in SCOPE_DIMENSIONS}
    values["provider"] = provider
    values["model"] = model
    for name, value in scope.tags:
        values["tag:" + name] = value
    return values


def is_budget_dimension(name: str) -> bool:
    """True for what is known before a call: scope dimensions, ``tag:<name>``, ``provider`` and ``model``."""
    return name in SCOPE_DIMENSIONS or name in ("provider", "model") or (name.startswith("tag:") and len(name) > 4)


def _quantity(unit: LimitUnit, usd: int | None, input_tokens: int, output_tokens: int, requests: int) -> int:
    match unit:
        case "usd":
            return usd or 0
        case "tokens":
            return input_tokens + output_tokens
        case "input_tokens":
            return input_tokens
        case "output_tokens":
            return output_tokens
        case "requests":
            return requests


def _unescape(text: str) -> str:
    return text.replace("%3D", "=").replace("%2C", ",").replace("%7C", "|").replace("%25", "%")


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _projection(budgets: tuple[Budget, ...]) -> Callable[[Scope, str, str], object]:
    """A function from a call to a key made of just the values that any budget looks at."""
    used = {name for budget in budgets for name in (*budget.each, *(dim for dim, _ in budget.match))}
    fields: list[str] = [name for name in SCOPE_DIMENSIONS if name in used]
    if any(name.startswith("tag:") for name in used):
        fields.append("tags")
    read = attrgetter(*fields) if fields else lambda scope: None
    if "provider" in used or "model" in used:
        return lambda scope, provider, model: (read(scope), provider, model)
    return lambda scope, provider, model: read(scope)


def _zone(name: str) -> datetime.tzinfo:
    """Raises ``ValueError`` for a name that the time zone database does not have."""
    if name == "UTC":
        return datetime.UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}; use an IANA name such as 'Europe/Berlin'") from error


def _problems(budget: Budget) -> list[str]:
    where = f"budget {budget.name!r}"
    found = [] if budget.name else ["a budget has no name"]
    found += [] if budget.limits else [f"{where} has no limit"]
    found += [f"{where} limits {unit!r} twice" for unit in _repeated(unit for unit, _ in budget.limits)]
    found += [f"{where} has a negative limit: {unit} = {limit}" for unit, limit in budget.limits if limit < 0]
    for place, names in (("each", budget.each), ("match", tuple(name for name, _ in budget.match))):
        allowed = f"budgets know {', '.join(SCOPE_DIMENSIONS)}, provider, model and tag:<name>"
        found += [f"{where} has {name!r} in {place}; {allowed}" for name in names if not is_budget_dimension(name)]
        found += [f"{where} names {name!r} twice in {place}" for name in _repeated(names)]
    try:
        _zone(budget.timezone)
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found
