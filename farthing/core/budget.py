"""Budgets: which limits bind a call, on which counters and in which windows, and what a call counts on each.

Owns the canonical names of counters. It decides nothing about money already spent: the books do, under the holds
that are made here.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Final

import msgspec

from farthing.core.budget_check import problems_of
from farthing.core.budget_keys import (
    Sightings,
    call_values,
    is_pattern,
    projection,
    read_by,
    sorting,
    split_by,
    splits,
)
from farthing.core.budget_limits import SINGLE_UNITS, Frame, Limits, changes_of, frames_at, limits_at
from farthing.core.budget_windows import Windows, start_of, windows_of
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.errors import PolicyError
from farthing.core.policy import Budget
from farthing.core.types import Hold, LimitUnit, Scope

TURN_UNITS: Final = ("tool_calls", "turns_without_human")

MEMO_MAX: Final = 16_384
"""Scopes whose budgets are remembered; the memory stays bounded with any number of users."""

_ESCAPES: Final = str.maketrans({"%": "%25", "|": "%7C", ",": "%2C", "=": "%3D"})


Key = tuple[str, str, LimitUnit]
"""(counter, window, unit)."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What one call may consume at most."""

    usd: int | None
    """Nano-USD; None when no price is known: then USD limits count nothing (see ``Budgets.hard_usd``)."""
    input_tokens: int
    output_tokens: int
    requests: int = 1
    tool_calls: int = 0
    """Tool calls whose results this call brings."""
    turns_without_human: int = 0
    """The model's turns since a human last spoke, this call included; 0: not known."""


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A call that by itself passes a limit on single calls."""

    budget: Budget
    unit: LimitUnit
    limit: int
    needed: int


_position = attrgetter("position")
_EVER: Final = 2**62


class Budgets:
    """The budgets of a policy, indexed: finding those of a call takes the same time with ten or ten thousand.

    A dimension the call does not say counts as the empty value: a budget per ``user`` gives all calls without a user
    one shared counter, ``user=``. Raises ``PolicyError`` with every problem found.
    """

    def __init__(self, budgets: tuple[Budget, ...], *, memo_max: int = MEMO_MAX) -> None:
        """``memo_max``: scopes whose budgets are remembered."""
        problems = problems_of(budgets)
        if problems:
            raise PolicyError(problems, source="policy.budgets")
        self._index: dict[str, dict[tuple[str, ...], dict[tuple[str, ...], list[_Rule]]]] = {}
        shared: dict[object, Windows | None] = {}
        for position, budget in enumerate(budgets):
            key = (budget.per, budget.timezone, start_of(budget), budget.length_ms)
            if key not in shared:
                shared[key] = windows_of(budget)
            self._add(_Rule(position, budget, shared[key]))
        self.counts_turns = any(unit in TURN_UNITS for budget in budgets for unit, _ in budget.limits)
        """Some limit counts tool calls or turns: only then is the conversation in a body looked at."""
        self.single = any(_single_limits(budget) for budget in budgets)
        """Some limit binds single calls: only then need ``violation`` be asked."""
        self.reads = read_by(budgets)
        """The fields of a scope that any budget looks at: calls that are equal in these count alike."""
        self._project = projection(budgets, self.reads)
        self._sort = sorting(budgets)
        self._memo_max = memo_max
        self._kinds: dict[object, _Kind] = {}
        """By what matches ask for: users that no match names are of one kind, and a new one is looked up at once."""
        self._memo: dict[object, _Bound] = {}
        self._older: dict[object, _Bound] = {}
        self._seen = Sightings()
        self._last: tuple[object, _Bound] | None = None
        """The last that was seen for the first time: one call asks several things of it."""

    def holds(self, scope: Scope, *, provider: str, model: str, need: Need, at_ms: int) -> tuple[Hold, ...]:
        """The holds that this call needs, in the policy's order; windows are those of ``at_ms`` and stay fixed."""
        amounts = amounts_of(need)
        return tuple(
            [
                Hold(
                    counter=place.counter,
                    window=place.window,
                    unit=place.unit,
                    limit=place.limit,
                    amount=amounts[place.unit],
                    budget=place.budget,
                    resets_at_ms=place.resets_at_ms,
                    hard=place.hard,
                    also=place.also,
                )
                for place in self.places(scope, provider=provider, model=model, at_ms=at_ms).holds
            ]
        )

    def places(self, scope: Scope, *, provider: str, model: str, at_ms: int) -> "Places":
        """Where a call counts at an instant: what :meth:`holds` holds, without the amounts."""
        bound = self._bound(scope, provider, model)
        places = bound.places
        if places is None or not places.from_ms <= at_ms < places.until_ms:
            places = bound.places = _places(bound, at_ms)
        return places

    def violation(self, scope: Scope, *, provider: str, model: str, need: Need) -> Violation | None:
        """The first hard limit on single calls that this call alone would cross, if any."""
        single = self._bound(scope, provider, model).kind.single
        amounts = amounts_of(need) if single else {}
        for budget, limits in single:
            for unit, limit in limits:
                if budget.hard and amounts[unit] > limit:
                    return Violation(budget=budget, unit=unit, limit=limit, needed=amounts[unit])
        return None

    def hard_usd(self, scope: Scope, *, provider: str, model: str) -> Budget | None:
        """The first hard budget in USD that binds this call: where there is one, an unknown price matters."""
        bound = self._bound(scope, provider, model)
        everything = (*(budget for budget, _ in bound.kind.single), *(rule.budget for rule in bound.kind.rules))
        return next((one for one in everything if one.hard and "usd" in units_of(one)), None)

    def binding(self, scope: Scope, *, provider: str, model: str) -> tuple[tuple[Budget, str], ...]:
        """The budgets that bind a call, each with its counter; "" for limits that bind single calls only."""
        bound = self._bound(scope, provider, model)
        rules = bound.kind.rules
        counted = {rule.budget.name for rule in rules}
        single = tuple((budget, "") for budget, _ in bound.kind.single if budget.name not in counted)
        counters = ((rule.budget, spot.counter) for rule, spot in zip(rules, bound.spots, strict=True))
        return (*single, *counters)

    def _add(self, rule: "_Rule") -> None:
        """Index by the names matched, then by their values.

        Rules that need a tag are looked at only for calls that carry it, so that thousands of tag names cost nothing.
        """
        match = sorted((dim, value) for dim, value in rule.budget.match if not is_pattern(dim, value))
        gate = next((dim for dim, value in match if value and dim.startswith("tag:")), "")
        by_value = self._index.setdefault(gate, {}).setdefault(tuple(dim for dim, _ in match), {})
        by_value.setdefault(tuple(value for _, value in match), []).append(rule)

    def _bound(self, scope: Scope, provider: str, model: str) -> "_Bound":
        key = self._project(scope, provider, model)
        found = self._memo.get(key)
        if found is not None:
            return found
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        found = self._older.get(key)
        if found is None:
            found = self._find(scope, provider, model)
            if not self._seen.again(hash(key)):
                self._last = key, found
                return found
        if len(self._memo) >= self._memo_max // 2:  # two generations: what is still in use survives the turn
            self._older, self._memo = self._memo, {}
        self._memo[key] = found
        return found

    def _find(self, scope: Scope, provider: str, model: str) -> "_Bound":
        key = self._sort(scope, provider, model)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= self._memo_max:
                self._kinds.clear()
            kind = self._kinds[key] = self._kind(scope, provider, model)
        spots = []
        for rule in kind.rules:  # new users are looked up here: nothing is called that need not be
            read = rule.read
            value = rule.values(scope, provider, model) if read is None else read(scope)
            spot = rule.spots.get(value)
            spots.append(rule.spot(value, self._seen) if spot is None else spot)
        return _Bound(kind, tuple(spots))

    def _kind(self, scope: Scope, provider: str, model: str) -> "_Kind":
        values = call_values(scope, provider, model)
        found: list[_Rule] = []
        for gate in ("", *["tag:" + name for name, _ in scope.tags]):
            for dims, by_value in self._index.get(gate, {}).items():
                found += by_value.get(tuple([values.get(dim, "") for dim in dims]), ())
        rules = [rule for rule in found if rule.binds(scope, model)]
        rules.sort(key=_position)
        return _Kind(
            tuple([rule for rule in rules if rule.windows is not None]),
            tuple([(rule.budget, rule.single) for rule in rules if rule.single]),
        )


class Places(msgspec.Struct, frozen=True, gc=False):
    """The counters of a call, each with its window and its limit, for instants in [from_ms, until_ms)."""

    holds: tuple[Hold, ...]
    """In the policy's order, of nothing."""
    keys: tuple[Key, ...]
    """Of each."""
    from_ms: int
    until_ms: int


_NOWHERE: Final = Places((), (), 0, 0)


class _Spot(msgspec.Struct, gc=False):
    """One counter of a budget."""

    counter: str
    places: Places = _NOWHERE
    """Where a call counts on it; the last that were asked for."""


class _Rule:
    """A budget in the index; ``windows`` is None when nothing of it is counted."""

    __slots__ = (
        "_each", "_fixed", "_frames", "_models", "_named", "_steady", "budget", "position", "read", "single", "spots",
        "values", "windows",
    )  # fmt: skip

    def __init__(self, position: int, budget: Budget, windows: Windows | None) -> None:
        self.position = position
        self.budget = budget
        self.single = _single_limits(budget)
        self._fixed: Limits | None = None
        if not budget.credits and not budget.raises:
            self._fixed = limits_at(budget, 0)
        self.windows = windows if budget.credits or self._fixed or budget.raises else None
        self._models = tuple(value for dim, value in budget.match if is_pattern(dim, value))
        self._each = splits(budget)
        self.read: Callable[[Scope], object] | None = None
        """Reads what tells its counter, where the scope alone does."""
        if self._each and all(dim in SCOPE_DIMENSIONS for dim in self._each):
            self.read = attrgetter(*self._each)
        self.values = split_by(self._each)
        """Reads the same of any call: one value, or a tuple of several or none."""
        self._named = counter_name(budget.name, ((dim, "") for dim in self._each[:1]))
        """The counter of the empty value, where one dimension splits it."""
        self.spots: dict[object, _Spot] = {}
        """Its counters, by what tells them."""
        self._frames: tuple[Frame, ...] = ()
        self._steady = (0, 0)
        """From when until when the frames stay the same."""

    def binds(self, scope: Scope, model: str) -> bool:
        """What the index does not decide: a session budget needs a session, patterns must match."""
        if self.budget.per == "session" and not scope.session:
            return False
        return not self._models or all(fnmatchcase(model, pattern) for pattern in self._models)

    def spot(self, key: object, seen: Sightings) -> _Spot:
        """A counter that is not remembered; from its second use on it is."""
        found = _Spot(self._counter(key))
        if seen.again(hash(key) ^ ~self.position):  # not the number of a call whose key is the same
            if len(self.spots) >= MEMO_MAX:
                self.spots.clear()
            self.spots[key] = found
        return found

    def _counter(self, key: object) -> str:
        if isinstance(key, str):
            return self._named + (key if key.isalnum() else key.translate(_ESCAPES))
        values = key if isinstance(key, tuple) else ()
        return counter_name(self.budget.name, zip(self._each, values, strict=True))

    def places(self, spot: _Spot, at_ms: int) -> Places:
        """Where a call counts on a counter at an instant."""
        if not self._steady[0] <= at_ms < self._steady[1]:
            self._frames, self._steady = self._frames_at(at_ms), self._steady_at(at_ms)
        counter, budget = spot.counter, self.budget
        holds = tuple(
            [
                Hold(
                    counter=counter,
                    window=window.name,
                    unit=unit,
                    limit=limit,
                    amount=0,
                    budget=budget.name,
                    resets_at_ms=window.ends_at_ms,
                    hard=budget.hard,
                    also=window.also,
                )
                for window, limits in self._frames
                for unit, limit in limits
            ]
        )
        keys = tuple([(counter, one.window, one.unit) for one in holds])
        found = spot.places = Places(holds, keys, *self._steady)
        return found

    def _frames_at(self, at_ms: int) -> tuple[Frame, ...]:
        """The windows that a call at an instant needs room in."""
        windows = self.windows
        assert windows is not None
        if self._fixed is not None:
            return ((windows.window(at_ms), self._fixed),)
        return frames_at(self.budget, windows, at_ms)

    def _steady_at(self, at_ms: int) -> tuple[int, int]:
        """(from, until): instants in between have the same frames as ``at_ms``."""
        windows = self.windows
        assert windows is not None
        if self._fixed is not None:
            return windows.steady(at_ms)
        if not self.budget.credits:
            return at_ms, at_ms + 1
        changes = changes_of(self.budget)
        return (
            max((at for at in changes if at <= at_ms), default=-_EVER),
            min((at for at in changes if at > at_ms), default=_EVER),
        )


class _Kind(msgspec.Struct, frozen=True):
    """The budgets that bind calls of one kind, in the policy's order."""

    rules: tuple[_Rule, ...]
    """Those that count something."""
    single: tuple[tuple[Budget, Limits], ...]
    """Those that bind each call by itself."""


class _Bound(msgspec.Struct, gc=False):
    """The budgets that bind one combination of dimension values, with the counter of each."""

    kind: _Kind
    spots: tuple[_Spot, ...]
    """One of each rule."""
    places: Places | None = None
    """The last that were asked for."""


def _places(bound: _Bound, at_ms: int) -> Places:
    """The places of several counters as one."""
    holds: list[Hold] = []
    keys: list[Key] = []
    from_ms, until_ms = -_EVER, _EVER
    for rule, spot in zip(bound.kind.rules, bound.spots, strict=True):
        found = spot.places
        if not found.from_ms <= at_ms < found.until_ms:
            found = rule.places(spot, at_ms)
        holds += found.holds
        keys += found.keys
        if found.from_ms > from_ms:
            from_ms = found.from_ms
        if found.until_ms < until_ms:
            until_ms = found.until_ms
    return Places(tuple(holds), tuple(keys), from_ms, until_ms)


def units_of(budget: Budget) -> tuple[LimitUnit, ...]:
    """The units that a budget limits."""
    return tuple(dict.fromkeys([*(unit for unit, _ in budget.limits), *(one.unit for one in budget.credits)]))


def amounts_of(need: Need) -> dict[LimitUnit, int]:
    """What a call needs, in each unit."""
    return {
        "usd": need.usd or 0,
        "tokens": need.input_tokens + need.output_tokens,
        "input_tokens": need.input_tokens,
        "output_tokens": need.output_tokens,
        "requests": need.requests,
        "tool_calls": need.tool_calls,
        "turns_without_human": need.turns_without_human,
    }


def _single_limits(budget: Budget) -> Limits:
    """The limits of a budget that bind each call by itself."""
    if budget.per == "request":
        return budget.limits
    return tuple((unit, limit) for unit, limit in budget.limits if unit in SINGLE_UNITS)


def spent(holds: Iterable[Hold], *, usd: int | None, input_tokens: int, output_tokens: int) -> tuple[int, ...]:
    """What each hold really cost, in its own unit: nano-USD, tokens, or the requests and tool calls that it held.

    An unknown price (None) counts nothing on USD counters; the tokens still count.
    """
    used = used_in(usd=usd, input_tokens=input_tokens, output_tokens=output_tokens)
    return tuple([used.get(hold.unit, hold.amount) for hold in holds])


def used_in(*, usd: int | None, input_tokens: int, output_tokens: int) -> dict[LimitUnit, int]:
    """What a call really cost in the units that its answer decides; of any other it cost what was held."""
    return {
        "usd": usd or 0,
        "tokens": input_tokens + output_tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
    }


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


def _unescape(text: str) -> str:
    return text.replace("%3D", "=").replace("%2C", ",").replace("%7C", "|").replace("%25", "%")
