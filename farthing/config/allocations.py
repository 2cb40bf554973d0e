"""``[allocation]``: whose cost it is, in rules and shared pools. ``core.allocation`` checks them as a whole."""

from typing import Final, get_args

from farthing.config import values
from farthing.config.values import Reader, Wrong, did_you_mean, shown
from farthing.core.allocation import Basis
from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS, is_dimension


def _dimension(value: object) -> object:
    name = str(values.text(value))
    if is_dimension(name):
        return name
    known = (*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS)
    hint = did_you_mean(name, known)
    raise Wrong(f"is {shown(value)}, no dimension; allowed: {', '.join(known)}, tag:<name>{hint}")


def _pattern(value: object) -> object:
    """Any text; "" stands for "not said"."""
    if not isinstance(value, str):
        raise Wrong(f"is {shown(value)}; a pattern in quotes is expected")
    return value


def _owner(value: object) -> object:
    """A name, or ``{dimension}`` for the dimension's own value."""
    name = str(values.text(value))
    if name.startswith("{") and name.endswith("}"):
        _dimension(name[1:-1])
    return name


_MATCH: Final = values.pairs(_dimension, _pattern)
_RULE: Final[dict[str, Reader]] = {"owner": _owner, "match": _MATCH}
_POOL: Final[dict[str, Reader]] = {
    "name": values.text,
    "match": _MATCH,
    "basis": values.choice(*get_args(Basis)),
    "shares": values.pairs(values.text, values.whole(0)),
}


def rules(value: object) -> object:
    """``[[allocation.rules]]``: the first that matches decides."""
    return _listed(value, "allocation.rules", _RULE, ("owner",))


def pools(value: object) -> object:
    """``[[allocation.pools]]``: what many share."""
    return _listed(value, "allocation.pools", _POOL, ("name", "match"))


def _listed(value: object, name: str, known: dict[str, Reader], needed: tuple[str, ...]) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Wrong(f"is {shown(value)}; sections with double brackets are expected: [[{name}]]")
    return [_one(place, item, known, needed) for place, item in enumerate(value)]


def _one(place: int, item: dict[str, object], known: dict[str, Reader], needed: tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    problems = [f"{key} is missing" for key in needed if key not in item]
    for key, value in item.items():
        if key not in known:
            problems.append(f"{key} is unknown{did_you_mean(key, known)}; allowed: {', '.join(known)}")
            continue
        try:
            found[key] = known[key](value)
        except Wrong as wrong:
            problems.append(f"{key} {wrong}")
    if problems:
        raise Wrong(f"[{place}]: {'; '.join(problems)}")
    return found
