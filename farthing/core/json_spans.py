"""Where values stand in JSON text, so that one can be changed while every other byte stays.

Positions are (start, end) byte offsets. What is not the asked-for shape, or names a member twice, gives ``None``:
whoever edits then leaves the text alone.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

Span = tuple[int, int]
Edit = tuple[int, int, bytes]

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_STRING: Final = msgspec.json.Decoder(str)
_KEY: Final = re.compile(rb'[\s,{]*"(?:[^"\\]|\\.)*"\s*:\s*')
_OPEN: Final = re.compile(rb"\[\s*")
_COMMA: Final = re.compile(rb"\s*,\s*")
_REFUSED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def members(data: bytes, span: Span | None = None) -> dict[str, Span] | None:
    """The spans of an object's values by name."""
    start, end = span or (0, len(data))
    try:
        found = _OBJECT.decode(data[start:end])
    except _REFUSED:
        return None
    spans: dict[str, Span] = {}
    at = data.index(b"{", start)
    for name, raw in found.items():
        key = _KEY.match(data, at)
        if key is None or not data.startswith(bytes(raw), key.end()):
            return None  # a name that stands twice: the decoder keeps its first place and its last value
        at = key.end() + len(bytes(raw))
        spans[name] = (key.end(), at)
    return spans if data[at:end].strip(b" \t\r\n,{") == b"}" else None


def elements(data: bytes, span: Span | None = None) -> list[Span] | None:
    """The spans of a list's elements."""
    start, end = span or (0, len(data))
    try:
        found = _LIST.decode(data[start:end])
    except _REFUSED:
        return None
    spans: list[Span] = []
    at = data.index(b"[", start)
    for raw in found:
        gap = (_COMMA if spans else _OPEN).match(data, at)
        if gap is None or not data.startswith(bytes(raw), gap.end()):
            return None
        at = gap.end() + len(bytes(raw))
        spans.append((gap.end(), at))
    return spans


def text(data: bytes, span: Span | None) -> str | None:
    """The string at a span."""
    if span is None or data[span[0] : span[0] + 1] != b'"':
        return None
    try:
        return _STRING.decode(data[span[0] : span[1]])
    except _REFUSED:
        return None


def quoted(value: str) -> bytes:
    """A string as JSON."""
    return msgspec.json.encode(value)


def spliced(data: bytes, edits: Iterable[Edit]) -> bytes:
    """The text with parts replaced; the very same object where there are none. Edits must not overlap."""
    ordered = sorted(edits)
    if not ordered:
        return data
    parts: list[bytes] = []
    at = 0
    for start, end, value in ordered:
        parts += [data[at:start], value]
        at = end
    return b"".join([*parts, data[at:]])


def without(data: bytes, outer: Span, spans: list[Span], gone: set[int]) -> list[Edit]:
    """The edits that take elements out of a list, with their commas; the others keep their bytes."""
    kept = [data[start:end] for place, (start, end) in enumerate(spans) if place not in gone]
    return [(outer[0], outer[1], b"[" + b",".join(kept) + b"]")] if gone else []


def set_member(data: bytes, spans: dict[str, Span], name: str, value: bytes) -> Edit:
    """The edit that gives a whole object's member a value: in its place, or after the last member."""
    if name in spans:
        return (*spans[name], value)
    last = max((end for _, end in spans.values()), default=data.index(b"{") + 1)
    return (last, last, (b"," if spans else b"") + quoted(name) + b":" + value)
