"""Marks what providers may keep of a prompt, for callers that mark nothing themselves.

Anthropic caches a prompt only up to marks, and charges for writing them: a mark pays when what it covers is read
again. So only prefixes are marked that were sent before while the cache lives: the tools and the system prompt that
another call had too, and a conversation that goes on. A mark is a field beside the content; no content moves.
"""

from hashlib import blake2b
from typing import Final, Literal

import msgspec

from farthing.core.json_spans import Edit, Span, elements, members, set_member, spliced, text
from farthing.core.lever import BYTES_PER_TOKEN, Facts, Lever, Prefix
from farthing.core.turn_spans import Turn, turns

PREFIX: Final[Prefix] = "kept"
TTL_MS: Final = {"5m": 300_000, "1h": 3_600_000}
_MARKS: Final = {"5m": b'{"type":"ephemeral"}', "1h": b'{"type":"ephemeral","ttl":"1h"}'}
_MARKABLE: Final = frozenset({"text", "image", "document", "tool_use", "tool_result"})


class CacheBreakpoints(
    Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="cache_breakpoints"
):
    """``kind = "cache_breakpoints"``."""

    ttl: Literal["5m", "1h"] = "5m"
    """How long what is written lives; an hour costs twice the input's price to write, five minutes a quarter more."""
    reuse: Literal["seen", "always"] = "seen"
    """Mark what was sent before, or everything from the first call on."""


Where = Literal["tools", "system", "earlier", "last"]
_HEADS: Final[tuple[Where, ...]] = ("tools", "system")


class Point(msgspec.Struct, frozen=True):
    """A place that can be marked."""

    where: Where
    size: int
    """Bytes of the prompt up to here."""
    name: str
    """Names all of the prompt up to here."""
    edit: Edit


def points(body: bytes, ttl: str = "5m") -> tuple[Point, ...]:
    """The places of a Messages body that can be marked, in order; none where its caller has marked any."""
    top = None if b'"cache_control"' in body else members(body)
    said = None if top is None else turns(body, top, "messages")
    if top is None or not said:
        return ()
    mark = _MARKS[ttl]
    chain = blake2b(digest_size=12)
    size = 0
    found: list[Point] = []
    for where in _HEADS:
        span = top.get(where)
        if span is None:
            continue
        chain.update(where.encode() + body[span[0] : span[1]])
        size += span[1] - span[0]
        edit = _in_list(body, span, mark)
        if edit is not None:
            found.append(Point(where, size, chain.hexdigest(), edit))
    earlier = _before_answer(said)
    for place, turn in enumerate(said):
        chain.update(_content(body, turn))
        size += turn.span[1] - turn.span[0]
        if place == len(said) - 1 or place == earlier:
            edit = _in_turn(body, turn, mark)
            if edit is not None:
                found.append(Point("earlier" if place == earlier else "last", size, chain.hexdigest(), edit))
    return tuple(found)


def apply(lever: CacheBreakpoints, body: bytes, facts: Facts) -> bytes:
    """The body with its marks: at most four."""
    if facts.form != "messages":
        return body
    found = points(body, lever.ttl)
    long = [one for one in found if one.size >= facts.cache_min_tokens * BYTES_PER_TOKEN]
    if lever.reuse == "always":
        return spliced(body, [one.edit for one in long])
    seen = {one.where for one in found if one.name in facts.seen}
    if "earlier" in seen or "last" in seen:
        seen |= {"earlier", "last"}  # the conversation goes on: what is new will be read by its next call
    return spliced(body, [one.edit for one in long if one.where in seen])


def _before_answer(said: list[Turn]) -> int:
    """The place of the last message before the model's last answer: where the call before this one ended; or -1."""
    places = [place for place, turn in enumerate(said) if turn.role == "assistant"]
    return places[-1] - 1 if places and places[-1] < len(said) - 1 else -1


def _content(body: bytes, turn: Turn) -> bytes:
    start, end = turn.fields.get("content", turn.span)
    return turn.role.encode() + b"\x00" + body[start:end]


def _in_turn(body: bytes, turn: Turn, mark: bytes) -> Edit | None:
    span = turn.fields.get("content")
    return None if span is None or turn.role != "user" else _in_list(body, span, mark)


def _in_list(body: bytes, span: Span, mark: bytes) -> Edit | None:
    """The edit that marks the last element of a list, or a string as the one block it stands for."""
    said = text(body, span)
    if said is not None:
        head = b'[{"type":"text","text":'
        return (*span, head + body[span[0] : span[1]] + b',"cache_control":' + mark + b"}]") if said.strip() else None
    from_list = _last(body, span)
    if from_list is None:
        return None
    fields, kind = from_list
    empty = kind == "text" and not text(body, fields.get("text"))
    if "defer_loading" in fields or empty or (kind not in _MARKABLE and "input_schema" not in fields):
        return None
    return set_member(body, fields, "cache_control", mark)


def _last(body: bytes, span: Span) -> tuple[dict[str, Span], str] | None:
    spans = elements(body, span)
    fields = members(body, spans[-1]) if spans else None
    return None if fields is None else (fields, text(body, fields.get("type")) or "")
