"""Budgets: which limits bind a call, on which counters and in which windows, and what a call counts on each.

Owns the canonical names of counters. It decides nothing about money already spent: the books do, under the holds
that are made here.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from farthing.core.budget_check import problems_of
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
_said = attrgetter(*SCOPE_DIMENSIONS)


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
        self.reads = _read_by(budgets)
        """The fields of a scope that any budget looks at: calls that are equal in these count alike."""
        self._project = _projection(budgets, self.reads)
        self._memo_max = memo_max
        self._memo: dict[object, _Bound] = {}
        self._older: dict[object, _Bound] = {}

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
            places = bound.places = _places(bound.spots, at_ms)
        return places

    def violation(self, scope: Scope, *, provider: str, model: str, need: Need) -> Violation | None:
        """The first hard limit on single calls that this call alone would cross, if any."""
        single = self._bound(scope, provider, model).single
        amounts = amounts_of(need) if single else {}
        for budget, limits in single:
            for unit, limit in limits:
                if budget.hard and amounts[unit] > limit:
                    return Violation(budget=budget, unit=unit, limit=limit, needed=amounts[unit])
        return None

    def hard_usd(self, scope: Scope, *, provider: str, model: str) -> Budget | None:
        """The first hard budget in USD that binds this call: where there is one, an unknown price matters."""
        bound = self._bound(scope, provider, model)
        everything = (*(budget for budget, _ in bound.single), *(spot.rule.budget for spot in bound.spots))
        return next((one for one in everything if one.hard and "usd" in units_of(one)), None)

    def binding(self, scope: Scope, *, provider: str, model: str) -> tuple[tuple[Budget, str], ...]:
        """The budgets that bind a call, each with its counter; "" for limits that bind single calls only."""
        bound = self._bound(scope, provider, model)
        counted = {spot.rule.budget.name for spot in bound.spots}
        single = tuple((budget, "") for budget, _ in bound.single if budget.name not in counted)
        return (*single, *((spot.rule.budget, spot.counter) for spot in bound.spots))

    def _add(self, rule: "_Rule") -> None:
        """Index by the names matched, then by their values.

        Rules that need a tag are looked at only for calls that carry it, so that thousands of tag names cost nothing.
        """
        match = sorted((dim, value) for dim, value in rule.budget.match if not _is_pattern(dim, value))
        gate = next((dim for dim, value in match if value and dim.startswith("tag:")), "")
        by_value = self._index.setdefault(gate, {}).setdefault(tuple(dim for dim, _ in match), {})
        by_value.setdefault(tuple(value for _, value in match), []).append(rule)

    def _bound(self, scope: Scope, provider: str, model: str) -> "_Bound":
        key = self._project(scope, provider, model)
        found = self._memo.get(key)
        if found is None:
            found = self._older.get(key) or self._find(scope, provider, model)
            if len(self._memo) >= self._memo_max // 2:  # two generations: what is still in use survives the turn
                self._older, self._memo = self._memo, {}
            self._memo[key] = found
        return found

    def _find(self, scope: Scope, provider: str, model: str) -> "_Bound":
        values = call_values(scope, provider, model)
        found: list[_Rule] = []
        for gate in ("", *["tag:" + name for name, _ in scope.tags]):
            for dims, by_value in self._index.get(gate, {}).items():
                found += by_value.get(tuple([values.get(dim, "") for dim in dims]), ())
        rules = [rule for rule in found if rule.binds(scope, model)]
        rules.sort(key=_position)
        return _Bound(
            tuple([rule.spot(values) for rule in rules if rule.windows is not None]),
            tuple([(rule.budget, rule.single) for rule in rules if rule.single]),
        )


class Places(NamedTuple):
    """The counters of a call, each with its window and its limit, for instants in [from_ms, until_ms)."""

    holds: tuple[Hold, ...]
    """In the policy's order, of nothing."""
    keys: tuple[Key, ...]
    """Of each."""
    from_ms: int
    until_ms: int


class _Rule:
    """A budget in the index; ``windows`` is None when nothing of it is counted."""

    __slots__ = (
        "_each", "_fixed", "_frames", "_models", "_spots", "_valid", "budget", "position", "single", "windows",
    )  # fmt: skip

    def __init__(self, position: int, budget: Budget, windows: Windows | None) -> None:
        self.position = position
        self.budget = budget
        self.single = _single_limits(budget)
        self._fixed: Limits | None = None
        if not budget.credits and not budget.raises:
            self._fixed = limits_at(budget, 0)
        self.windows = windows if budget.credits or self._fixed or budget.raises else None
        self._models = tuple(value for dim, value in budget.match if _is_pattern(dim, value))
        self._each = splits(budget)
        self._spots: dict[tuple[str, ...], _Spot] = {}
        self._frames: tuple[Frame, ...] = ()
        self._valid = (0, 0)
        """From when until when a credit's frames stay the same."""

    def binds(self, scope: Scope, model: str) -> bool:
        """What the index does not decide: a session budget needs a session, patterns must match."""
        if self.budget.per == "session" and not scope.session:
            return False
        return not self._models or all(fnmatchcase(model, pattern) for pattern in self._models)

    def frames(self, at_ms: int) -> tuple[Frame, ...]:
        """The windows that a call at an instant needs room in."""
        windows = self.windows
        assert windows is not None
        if self._fixed is not None:
            return ((windows.window(at_ms), self._fixed),)
        if not self.budget.credits:
            return ((windows.window(at_ms), limits_at(self.budget, at_ms)),)
        if not self._valid[0] <= at_ms < self._valid[1]:
            changes = changes_of(self.budget)
            self._frames = frames_at(self.budget, windows, at_ms)
            self._valid = (
                max((at for at in changes if at <= at_ms), default=-(2**62)),
                min((at for at in changes if at > at_ms), default=2**62),
            )
        return self._frames

    def steady(self, at_ms: int) -> tuple[int, int]:
        """(from, until): instants in between have the same :meth:`frames` as ``at_ms``."""
        windows = self.windows
        assert windows is not None
        if self._fixed is not None:
            return windows.steady(at_ms)
        if not self.budget.credits:
            return at_ms, at_ms + 1
        self.frames(at_ms)
        return self._valid

    def spot(self, values: dict[str, str]) -> "_Spot":
        """Where this budget counts a call with these dimension values."""
        key = tuple([values.get(dim, "") for dim in self._each])
        found = self._spots.get(key)
        if found is None:
            if len(self._spots) >= MEMO_MAX:
                self._spots.clear()
            found = self._spots[key] = _Spot(self, counter_name(self.budget.name, zip(self._each, key, strict=True)))
        return found


class _Bound:
    """The budgets that bind one combination of dimension values."""

    __slots__ = ("places", "single", "spots")

    def __init__(self, spots: tuple["_Spot", ...], single: tuple[tuple[Budget, Limits], ...]) -> None:
        self.spots = spots
        self.single = single
        self.places: Places | None = None
        """The last that were asked for."""


class _Spot:
    """One counter of a budget."""

    __slots__ = ("_places", "counter", "rule")

    def __init__(self, rule: _Rule, counter: str) -> None:
        self.rule = rule
        self.counter = counter
        self._places = Places((), (), 0, 0)

    def places(self, at_ms: int) -> Places:
        """Where a call counts on it at an instant."""
        found = self._places
        if not found.from_ms <= at_ms < found.until_ms:
            holds = self._holds(at_ms)
            keys = tuple([(one.counter, one.window, one.unit) for one in holds])
            found = self._places = Places(holds, keys, *self.rule.steady(at_ms))
        return found

    def _holds(self, at_ms: int) -> tuple[Hold, ...]:
        budget = self.rule.budget
        return tuple(
            [
                Hold(
                    counter=self.counter,
                    window=window.name,
                    unit=unit,
                    limit=limit,
                    amount=0,
                    budget=budget.name,
                    resets_at_ms=window.ends_at_ms,
                    hard=budget.hard,
                    also=window.also,
                )
                for window, limits in self.rule.frames(at_ms)
                for unit, limit in limits
            ]
        )


def _places(spots: tuple[_Spot, ...], at_ms: int) -> Places:
    """The places of several counters as one."""
    holds: tuple[Hold, ...] = ()
    keys: tuple[Key, ...] = ()
    from_ms, until_ms = -(2**62), 2**62
    for spot in spots:
        found = spot.places(at_ms)
        holds, keys = holds + found.holds, keys + found.keys
        from_ms, until_ms = max(from_ms, found.from_ms), min(until_ms, found.until_ms)
    return Places(holds, keys, from_ms, until_ms)


def units_of(budget: Budget) -> tuple[LimitUnit, ...]:
    """The units that a budget limits."""
    return tuple(dict.fromkeys([*(unit for unit, _ in budget.limits), *(one.unit for one in budget.credits)]))


def splits(budget: Budget) -> tuple[str, ...]:
    """The dimensions that split a budget into counters, sorted; a session budget is split by session."""
    return tuple(sorted({*budget.each, *(("session",) if budget.per == "session" else ())}))


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


def _is_pattern(dimension: str, value: str) -> bool:
    return dimension == "model" and ("*" in value or "?" in value)


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


def call_values(scope: Scope, provider: str, model: str) -> dict[str, str]:
    """Every dimension value that budgets can match or split by."""
    values: dict[str, str] = dict(zip(SCOPE_DIMENSIONS, _said(scope), strict=True))
    values["provider"] = provider
    values["model"] = model
    for name, value in scope.tags:
        values["tag:" + name] = value
    return values


def _unescape(text: str) -> str:
    return text.replace("%3D", "=").replace("%2C", ",").replace("%7C", "|").replace("%25", "%")


def _used_by(budgets: tuple[Budget, ...]) -> set[str]:
    return {name for budget in budgets for name in (*splits(budget), *(dim for dim, _ in budget.match))}


def _read_by(budgets: tuple[Budget, ...]) -> tuple[str, ...]:
    used = _used_by(budgets)
    fields: list[str] = [name for name in SCOPE_DIMENSIONS if name in used]
    if any(name.startswith("tag:") for name in used):
        fields.append("tags")
    return tuple(fields)


def _projection(budgets: tuple[Budget, ...], fields: tuple[str, ...]) -> Callable[[Scope, str, str], object]:
    """A function from a call to a key made of just the values that any budget looks at."""
    used = _used_by(budgets)
    read = attrgetter(*fields) if fields else lambda scope: None
    if "provider" in used or "model" in used:
        return lambda scope, provider, model: (read(scope), provider, model)
    return lambda scope, provider, model: read(scope)
