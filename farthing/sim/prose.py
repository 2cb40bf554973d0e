"""Deterministic, lifelike words: sentences with a natural length, and JSON values that satisfy a schema."""

import json
from random import Random
from typing import Any

_SUBJECTS = (
    "The first step", "A careful reader", "Most of the cost", "The usual answer", "This approach", "A short pause",
    "The second option", "Every measurement", "The simplest design", "An honest estimate", "The team's schedule",
    "A small sample", "The older method", "That difference", "The main reason", "A clear boundary",
    "The next request", "Nothing in the record", "The remaining work", "A good default",
)  # fmt: skip
_VERBS = (
    "depends on", "follows from", "comes before", "rests on", "explains", "reduces", "changes", "leads to",
    "is limited by", "works well with", "should be compared with", "rarely improves", "usually precedes", "hides",
    "makes room for", "is measured against",
)  # fmt: skip
_OBJECTS = (
    "the quality of the input", "the way the data was collected", "a budget agreed in advance", "the slowest stage",
    "what the user asked for", "the order of the operations", "the number of repeated calls", "an earlier decision",
    "the season and the hour", "a tested assumption", "the length of the document", "the price of a mistake",
    "the share of idle time", "a list of known exceptions", "the memory that is left", "the shape of the demand",
)  # fmt: skip
_TAILS = (
    "", "", "", ", and that is easy to check", ", at least in the common case", ", as the table shows",
    ", which is why the order matters", " when the load is steady", " until the next review",
    ", within a few percent",
    " for small teams and large ones alike", ", so it is worth writing down", " once the numbers settle",
)  # fmt: skip
_WORDS = (
    "amber", "basin", "cedar", "delta", "ember", "field", "grove", "harbor", "island", "juniper", "kettle", "lantern",
    "meadow", "north", "orchard", "pebble", "quarry", "river", "saddle", "timber", "upland", "valley", "willow",
)  # fmt: skip
_FORMATS = {
    "date": "2026-03-14",
    "date-time": "2026-03-14T09:26:53Z",
    "time": "09:26:53Z",
    "email": "reader@example.com",
    "uri": "https://example.com/item",
    "uuid": "3f2b8c1e-4d5a-4e6f-8a7b-9c0d1e2f3a4b",
    "ipv4": "192.0.2.7",
}
SHALLOW = 4
"""Below this depth optional parts are left out."""
DEPTH_MAX = 40
"""A schema that requires itself without end gets a null here."""


def sentence(random: Random) -> str:
    """One plain sentence, about 14 tokens."""
    choice = random.choice
    return f"{choice(_SUBJECTS)} {choice(_VERBS)} {choice(_OBJECTS)}{choice(_TAILS)}."


def paragraphs(random: Random, tokens: int) -> str:
    """Sentences for roughly ``tokens`` tokens, in paragraphs of four to six."""
    if tokens <= 6:
        return random.choice(("Yes.", "No.", "It depends.", "Agreed.", "Not yet.", "Around forty.", "Both of them."))
    out: list[str] = []
    for index in range(max(1, round(tokens / 14))):
        if index:
            out.append("\n\n" if index % 5 == 0 else " ")
        out.append(sentence(random))
    return "".join(out)


def answer_length(random: Random, median: int, ask: str, prompt_tokens: int) -> int:
    """Tokens a model of this verbosity would write: log-normal around ``median``, steered by the question."""
    lowered = ask[-2_000:].lower()
    if any(hint in lowered for hint in ("one word", "yes or no", "only the number", "single word")):
        return random.randint(1, 6)
    factor = 1.0
    if any(hint in lowered for hint in ("briefly", "in short", "one sentence", "concise")):
        factor = 0.2
    elif any(hint in lowered for hint in ("in detail", "essay", "step by step", "comprehensive", "explain")):
        factor = 2.0
    if prompt_tokens < 40:
        factor *= 0.6
    return max(1, min(4_000, round(median * factor * random.lognormvariate(0.0, 0.55))))


def value_for(schema: Any, random: Random, root: Any = None, depth: int = 0) -> Any:
    """A value that satisfies ``schema`` (the subset of JSON Schema that the providers accept)."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > DEPTH_MAX:
        return None
    if "$ref" in schema:
        return value_for(_resolve(schema["$ref"], root), random, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return random.choice(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            branch = _flattest(schema[key]) if depth > SHALLOW else random.choice(schema[key])
            return value_for(branch, random, root, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            value = value_for(part, random, root, depth + 1)
            merged.update(value if isinstance(value, dict) else {})
        return merged
    return _typed(schema, random, root, depth)


def _typed(schema: dict[str, Any], random: Random, root: Any, depth: int) -> Any:
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if kind == "object":
        names = schema.get("properties") or {}
        wanted = names if depth <= SHALLOW else [name for name in names if name in schema.get("required", ())]
        return {name: value_for(names[name], random, root, depth + 1) for name in wanted}
    if kind == "array":
        low = int(schema.get("minItems", 0))
        # Deep down as little as is allowed, so that recursive schemas end.
        high = low if depth > SHALLOW else max(low, min(int(schema.get("maxItems", low + 3)), low + 3))
        low = max(low, min(1, high))
        return [value_for(schema.get("items", {}), random, root, depth + 1) for _ in range(random.randint(low, high))]
    if kind in ("integer", "number"):
        return _number(schema, random, whole=kind == "integer")
    if kind == "boolean":
        return random.random() < 0.5
    return None if kind == "null" else _string(schema, random)


def _number(schema: dict[str, Any], random: Random, *, whole: bool) -> int | float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    low = (high - 100 if high is not None else 1) if low is None else low
    high = low + 100 if high is None else high
    if whole:
        first = int(-(-low // 1)) + ("exclusiveMinimum" in schema)
        last = int(high // 1) - ("exclusiveMaximum" in schema)
        step = int(schema.get("multipleOf", 1)) or 1
        return (
            -(-random.randint(first, max(first, last)) // step) * step
            if step > 1
            else random.randint(first, max(first, last))
        )
    return round(low + (high - low) * random.uniform(0.05, 0.95), 6)


def _string(schema: dict[str, Any], random: Random) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = " ".join(random.choice(_WORDS) for _ in range(random.randint(1, 4)))
    low, high = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1_000_000))
    while len(text) < low:
        text += " " + random.choice(_WORDS)
    return text[:high]


def _resolve(reference: str, root: Any) -> Any:
    node = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            node = node.get(part, {}) if isinstance(node, dict) else {}
    return node


def _flattest(branches: list[Any]) -> Any:
    return min(branches, key=lambda branch: len(json.dumps(branch)))
