"""What replaying shares over the dialects: events as bytes, text in pieces, reading JSON with care."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

Json = dict[str, Any]

encode = msgspec.json.Encoder().encode
_PIECE_CHARS: Final = 40
_PIECES_MAX: Final = 64


class Unreplayable(ValueError):
    """A stream that does not add up to one answer, or an answer that no stream can carry; the message is the slug."""


def pieces(text: str) -> Iterator[str]:
    """The text as a stream brings it: a few words at a time, at most 64 times."""
    size = max(_PIECE_CHARS, -(-len(text) // _PIECES_MAX))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def is_text(value: object) -> bool:
    """Text that says something, or a list of parts."""
    return bool(value) and isinstance(value, str | list)


def data(payload: object) -> bytes:
    """One event without a name."""
    return b"data: " + encode(payload) + b"\n\n"


def named(payload: Json) -> bytes:
    """One event under the name that is its type."""
    return b"event: " + str(payload["type"]).encode() + b"\ndata: " + encode(payload) + b"\n\n"


def whole(events: Iterable[bytes]) -> tuple[bytes, bytes]:
    """(all events but the last, the last)."""
    made = list(events)
    return b"".join(made[:-1]), made[-1]


def objects(value: object) -> list[Json]:
    """A list of JSON objects. Raises :class:`Unreplayable` for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unreplayable("unreadable")
    return value


def joined(into: Json, name: str, text: object) -> None:
    """Adds a piece of text to a field. Raises :class:`Unreplayable` when either is no text."""
    before = into.get(name)
    if not isinstance(text, str) or not (before is None or isinstance(before, str)):
        raise Unreplayable("unreadable")
    into[name] = (before or "") + text
