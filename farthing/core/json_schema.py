"""Does a value satisfy a JSON schema: the keywords that structured output and tool definitions use.

Understood: type, enum, const, properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
uniqueItems, minLength, maxLength, pattern, minimum, maximum, exclusive bounds, multipleOf, anyOf, oneOf, allOf, not,
$ref within the document. Other keywords are not checked: no answer is refused for a rule that is not understood.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_DEPTH_MAX = 64
_TYPES: Mapping[str, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
}


def schema_problem(value: Any, schema: Any) -> str:
    """The first way in which the value breaks the schema, with its place; empty when it does not."""
    return _problem(value, schema, schema, "$", 0)


def _problem(value: Any, schema: Any, root: Any, place: str, depth: int) -> str:
    if schema is False:
        return f"{place} is not allowed"
    if not isinstance(schema, dict) or depth > _DEPTH_MAX:
        return ""
    if "$ref" in schema:
        target = _resolved(str(schema["$ref"]), root)
        found = _problem(value, target, root, place, depth + 1)
        if found:
            return found
    return (
        _own(value, schema, place)
        or _bounds(value, schema, place)
        or _inside(value, schema, root, place, depth)
        or _combined(value, schema, root, place, depth)
    )


def _own(value: Any, schema: Mapping[str, Any], place: str) -> str:
    kinds = schema.get("type")
    names = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    if names and not any(_TYPES[name](value) for name in names if name in _TYPES):
        return f"{place} is not of type {' or '.join(map(str, names))}"
    if "enum" in schema and not any(_equal(value, one) for one in schema["enum"]):
        return f"{place} is none of the allowed values"
    if "const" in schema and not _equal(value, schema["const"]):
        return f"{place} is not the only allowed value"
    return ""


def _bounds(value: Any, schema: Mapping[str, Any], place: str) -> str:
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            return f"{place} has a wrong length"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return f"{place} does not match {schema['pattern']}"
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{place} has a wrong number of items"
        if schema.get("uniqueItems") and len({json.dumps(one, sort_keys=True) for one in value}) < len(value):
            return f"{place} says the same thing twice"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            return f"{place} is out of bounds"
        if value <= schema.get("exclusiveMinimum", value - 1) or value >= schema.get("exclusiveMaximum", value + 1):
            return f"{place} is out of bounds"
        step = schema.get("multipleOf")
        if step and abs(value / step - round(value / step)) > 1e-9:
            return f"{place} is no multiple of {step}"
    return ""


def _inside(value: Any, schema: Mapping[str, Any], root: Any, place: str, depth: int) -> str:
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                return f"{place}.{name} is missing"
        for name, one in value.items():
            rule = known[name] if name in known else schema.get("additionalProperties", True)
            found = _problem(one, rule, root, f"{place}.{name}", depth + 1)
            if found:
                return found
    elif isinstance(value, list):
        first = schema.get("prefixItems", ())
        for spot, one in enumerate(value):
            rule = first[spot] if spot < len(first) else schema.get("items", True)
            found = _problem(one, rule, root, f"{place}[{spot}]", depth + 1)
            if found:
                return found
    return ""


def _combined(value: Any, schema: Mapping[str, Any], root: Any, place: str, depth: int) -> str:
    for rule in schema.get("allOf", ()):
        found = _problem(value, rule, root, place, depth + 1)
        if found:
            return found
    for word, few, many in (("anyOf", 1, None), ("oneOf", 1, 1)):
        if word in schema:
            fits = sum(not _problem(value, rule, root, place, depth + 1) for rule in schema[word])
            if fits < few or (many is not None and fits > many):
                return f"{place} fits {fits} of {word}"
    if "not" in schema and not _problem(value, schema["not"], root, place, depth + 1):
        return f"{place} is of a shape that is not allowed"
    return ""


def _resolved(ref: str, root: Any) -> Any:
    """The part of the document that a reference names; True (anything) for one that leads nowhere."""
    if not ref.startswith("#"):
        return True
    found = root
    for part in ref[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return True
        found = found[name]
    return found


def _equal(one: Any, other: Any) -> bool:
    """JSON equality: true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
