"""What the model says: text, tool calls and hidden reasoning, fixed by a digest of what it was asked.

Counts here are *raw*, in tokens of the card's base encoding; ``Card.tokens`` turns them into model tokens. An answer
that is cut short keeps whole tokens, so a stream's text so far is always a whole number of tokens.
"""

from hashlib import blake2b
from random import Random
from typing import Any

import msgspec

from farthing.sim import prose
from farthing.sim.catalog import Card
from farthing.sim.tokens import encode, encoding

TOOL_OVERHEAD = 7
"""Raw tokens that open and close a tool call beside its name and arguments."""
EFFORT = {"none": 0, "minimal": 16, "low": 96, "medium": 320, "high": 900, "xhigh": 2_000, "max": 3_000}
"""Median hidden reasoning tokens by effort."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is made from."""

    digest: bytes
    """Prompt content, seed and nonce."""
    ask: str
    prompt_tokens: int
    cap: int
    """Raw tokens at most, reasoning included."""
    stops: tuple[str, ...] = ()
    tools: tuple[tuple[str, Any], ...] = ()
    """(name, JSON schema of the arguments) of the tools to call."""
    schema: Any = None
    """JSON schema of a structured answer."""
    effort: str = "none"
    thinking_text: bool = False
    say: str = ""
    """A directive: the answer's text, word for word; empty: the model's own words."""
    exact_tokens: int = 0
    """A directive: exactly this many visible raw tokens; 0: natural length."""


class Part(msgspec.Struct, frozen=True):
    """A run of output: ``kind`` is ``thinking``, ``text`` or ``tool``; ``name`` is the tool's."""

    kind: str
    text: str
    ids: list[int]
    name: str = ""
    call_id: str = ""
    overhead: int = 0
    """Raw tokens billed beside ``ids``: hidden reasoning, or a tool call's frame and name."""

    @property
    def raw(self) -> int:
        """Raw tokens of the part."""
        return len(self.ids) + self.overhead


class Answer(msgspec.Struct, frozen=True):
    """A finished answer."""

    parts: tuple[Part, ...]
    finish: str
    """``stop``, ``length``, ``tool`` or ``stop_sequence``."""
    stop_sequence: str | None = None

    @property
    def raw_reasoning(self) -> int:
        """Raw tokens of hidden or visible thinking."""
        return sum(part.raw for part in self.parts if part.kind == "thinking")

    @property
    def raw(self) -> int:
        """Raw tokens of everything generated."""
        return sum(part.raw for part in self.parts)

    @property
    def text(self) -> str:
        """The visible text."""
        return "".join(part.text for part in self.parts if part.kind == "text")


def answer_seed(prompt_digest: bytes, card: Card, *extra: object) -> bytes:
    """Identifies an answer: same prompt, model, seed and nonce give the same words."""
    text = repr((card.id, *extra)).encode("utf-8", "replace")
    return blake2b(prompt_digest + text, digest_size=16).digest()


def pick_tools(
    found: list[tuple[str, Any]], wanted: int, parallel: bool, digest: bytes
) -> tuple[tuple[str, Any], ...]:
    """Which of ``found`` are called, drawn from ``digest``."""
    random = Random(int.from_bytes(digest, "big") ^ 0x7001)
    number = wanted or (2 if parallel and len(found) > 1 and random.random() < 0.35 else 1)
    start = random.randrange(len(found))
    return tuple(found[(start + index) % len(found)] for index in range(number if parallel else 1))


def compose(ask: Ask, card: Card) -> Answer:
    """The answer to ``ask``; pure."""
    random = Random(int.from_bytes(ask.digest, "big"))
    parts: list[Part] = []
    if ask.effort != "none":
        parts.append(_thinking(ask, card, random))
    stop = None
    if ask.tools:
        parts.extend(_tool_call(name, schema, index, ask, card) for index, (name, schema) in enumerate(ask.tools))
        finish = "tool"
    else:
        text = _text(ask, card, random)
        finish = "stop"
        cut, stop = _first_stop(text, ask.stops)
        if stop is not None:
            text, finish = text[:cut], "stop_sequence"
        parts.append(Part("text", text, encode(text, card.encoding)))
    kept, whole = _within(parts, ask.cap, card)
    return Answer(kept, finish, stop) if whole else Answer(kept, "length")


def _thinking(ask: Ask, card: Card, random: Random) -> Part:
    tokens = max(1, round(EFFORT[ask.effort] * random.lognormvariate(0.0, 0.6)))
    if not ask.thinking_text:
        return Part("thinking", "", [], overhead=tokens)
    text = prose.paragraphs(random, tokens)
    return Part("thinking", text, encode(text, card.encoding))


def _tool_call(name: str, schema: Any, index: int, ask: Ask, card: Card) -> Part:
    seed = blake2b(ask.digest + f"{index}/{name}".encode(), digest_size=12).digest()
    value = prose.value_for(schema, Random(int.from_bytes(seed, "big")))
    text = msgspec.json.encode(value if isinstance(value, dict) else {}).decode()
    frame = TOOL_OVERHEAD + len(encode(name, card.encoding))
    return Part("tool", text, encode(text, card.encoding), name, seed.hex(), frame)


def _text(ask: Ask, card: Card, random: Random) -> str:
    if ask.say:
        return ask.say
    if ask.schema is not None:
        return msgspec.json.encode(prose.value_for(ask.schema, random)).decode()
    if ask.exact_tokens:
        text = prose.paragraphs(random, ask.exact_tokens + 40)
        while len(ids := encode(text, card.encoding)) < ask.exact_tokens:
            text += " " + prose.paragraphs(random, 60)
        return encoding(card.encoding).decode(ids[: ask.exact_tokens]) or ""
    return prose.paragraphs(random, prose.answer_length(random, card.answer_median, ask.ask, ask.prompt_tokens))


def _first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str | None]:
    found = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    return min(found) if found else (0, None)


def _within(parts: list[Part], cap: int, card: Card) -> tuple[tuple[Part, ...], bool]:
    """The parts that fit into ``cap`` raw tokens, the last one cut; False when something was cut."""
    kept: list[Part] = []
    left = cap
    for part in parts:
        if part.raw <= left:
            kept.append(part)
            left -= part.raw
            continue
        if part.kind == "thinking" and not part.ids:
            kept.append(msgspec.structs.replace(part, overhead=left))
        elif left > part.overhead:
            kept.append(_cut(part, left - part.overhead, card))
        return tuple(kept), False
    return tuple(kept), True


def _cut(part: Part, size: int, card: Card) -> Part:
    codec = encoding(card.encoding)
    while size and (text := codec.decode(part.ids[:size])) is None:
        size -= 1
    ids = part.ids[:size]
    return msgspec.structs.replace(part, ids=ids, text=(text or "") if size else "")
