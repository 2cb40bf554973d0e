"""How much answer text an event holds, in bytes of UTF-8: what an estimate of unreported output rests on."""

from typing import Final

import msgspec

from farthing.wire.usage.reading import EMPTY, UNREADABLE

_TEXT: Final = msgspec.json.Decoder(str)
_ANY: Final = msgspec.json.Decoder()
_TEXT_KEYS: Final = frozenset(
    {"text", "thinking", "content", "reasoning", "refusal", "arguments", "name", "function"}
)


def text_size(raw: msgspec.Raw) -> int:
    """Bytes of text in a JSON string, or in the text parts of a list of content blocks; 0 for anything else."""
    if raw is EMPTY:
        return 0
    data = bytes(raw)
    if len(data) <= 2 or data == b"null":
        return 0
    if data[0] == 0x22:
        if 0x5C not in data:
            return len(data) - 2
        try:
            return len(_TEXT.decode(data).encode("utf-8", "replace"))
        except UNREADABLE:
            return len(data) - 2
    try:
        return _in_blocks(_ANY.decode(data))
    except UNREADABLE:
        return 0


def _in_blocks(value: object) -> int:
    if isinstance(value, list):
        return sum(_in_blocks(item) for item in value)
    if isinstance(value, dict):
        return sum(_in_member(item) for key, item in value.items() if key in _TEXT_KEYS)
    return 0


def _in_member(value: object) -> int:
    return len(value.encode("utf-8", "replace")) if isinstance(value, str) else _in_blocks(value)
