"""What of a call tells its budgets and counters: keys to look them up by, made of no more than budgets ask for."""

from array import array
from collections.abc import Callable
from operator import attrgetter
from typing import Final

from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.policy import Budget
from farthing.core.types import Scope

Values = Callable[[Scope, str, str], object]
"""Something of a call's scope, provider and model, to look things up by."""

SIGHTINGS: Final = 32_768
"""Keys that are known to have been seen, at most; later ones take the places of earlier ones."""

_said = attrgetter(*SCOPE_DIMENSIONS)


class Sightings:
    """What was seen lately, by hash. What is seen once, as most of a million users are, is not worth remembering:
    it costs the more memory, and the more misses of the cache, the less it is used."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places = array("q", bytes(8 * SIGHTINGS))

    def again(self, number: int) -> bool:
        """Whether this hash was seen lately; from now on it was. What is not the same hardly ever passes for it."""
        place = number % SIGHTINGS
        if self._places[place] == number:
            return True
        self._places[place] = number
        return False


def splits(budget: Budget) -> tuple[str, ...]:
    """The dimensions that split a budget into counters, sorted; a session budget is split by session."""
    return tuple(sorted({*budget.each, *(("session",) if budget.per == "session" else ())}))


def call_values(scope: Scope, provider: str, model: str) -> dict[str, str]:
    """Every dimension value that budgets can match or split by."""
    values: dict[str, str] = dict(zip(SCOPE_DIMENSIONS, _said(scope), strict=True))
    values["provider"] = provider
    values["model"] = model
    for name, value in scope.tags:
        values["tag:" + name] = value
    return values


def is_pattern(dimension: str, value: str) -> bool:
    """A match of models by wildcards."""
    return dimension == "model" and ("*" in value or "?" in value)


def _used_by(budgets: tuple[Budget, ...]) -> set[str]:
    return {name for budget in budgets for name in (*splits(budget), *(dim for dim, _ in budget.match))}


def read_by(budgets: tuple[Budget, ...]) -> tuple[str, ...]:
    """The fields of a scope that any budget looks at."""
    used = _used_by(budgets)
    fields: list[str] = [name for name in SCOPE_DIMENSIONS if name in used]
    if any(name.startswith("tag:") for name in used):
        fields.append("tags")
    return tuple(fields)


def projection(budgets: tuple[Budget, ...], fields: tuple[str, ...]) -> Values:
    """A function from a call to a key made of just the values that any budget looks at."""
    used = _used_by(budgets)
    read = attrgetter(*fields) if fields else lambda scope: None
    if "provider" in used or "model" in used:
        return lambda scope, provider, model: (read(scope), provider, model)
    return lambda scope, provider, model: read(scope)


def split_by(dims: tuple[str, ...]) -> Values:
    """A function from a call to its values of some dimensions: the value of one, or a tuple of several or none."""
    if not dims:
        return _nothing
    if dims == ("model",):
        return _model

    def several(scope: Scope, provider: str, model: str) -> object:
        values = call_values(scope, provider, model)
        return tuple([values.get(dim, "") for dim in dims])

    return several


def _nothing(scope: Scope, provider: str, model: str) -> object:
    return ()


def _model(scope: Scope, provider: str, model: str) -> object:
    return model


def sorting(budgets: tuple[Budget, ...]) -> Values:
    """A function from a call to its kind: calls of one kind are bound by the same budgets.

    Of a value it asks only whether a match names it, so that any number of users that none names are of one kind.
    """
    named: dict[str, set[str]] = {}
    for budget in budgets:
        for dim, value in budget.match:
            named.setdefault(dim, set()).add(value)
    asked = [(attrgetter(dim), named[dim]) for dim in SCOPE_DIMENSIONS if dim in named]
    providers = named.get("provider", frozenset[str]())
    models = named.get("model", frozenset[str]())
    patterns = any(is_pattern("model", value) for value in models)
    sessions = any(budget.per == "session" for budget in budgets)
    tags = {dim.removeprefix("tag:"): values for dim, values in named.items() if dim.startswith("tag:")}

    def kind(scope: Scope, provider: str, model: str) -> object:
        key: list[object] = [
            provider if provider in providers else None,
            model if patterns or model in models else None,
            sessions and not scope.session,
        ]
        for read, values in asked:
            value = read(scope)
            key.append(value if value in values else None)
        if tags:
            key += [(name, value if value in tags[name] else None) for name, value in scope.tags if name in tags]
        return tuple(key)

    return kind
