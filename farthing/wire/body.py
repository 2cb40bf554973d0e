"""Reading and editing JSON request bodies without re-modelling them.

A body stays the bytes that came; what Farthing must know is read beside it, and an edit replaces one top-level
value while every other value keeps its exact bytes.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from farthing.core.errors import BadRequest
from farthing.core.types import NOT_SAID, PromptParts
from farthing.wire.duplicates import repeated, without

_Shape = TypeVar("_Shape")
_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PATH = re.compile(r" - at `\$\.?([^`]*)`")
TOKENS_MAX = 10_000_000
"""No model answers more; a larger ``max_tokens`` is a mistake in the caller's arithmetic."""
NULL = NOT_SAID
"""Default of optional raw values; msgspec cannot tell ``Raw | None`` apart and would refuse every value."""


def given(raw: msgspec.Raw) -> bool:
    """The body has this value, and it is not null."""
    return raw is not NULL and bytes(raw) != b"null"


def decode(
    decoder: msgspec.json.Decoder[_Shape], body: bytes, rest: Callable[[bytes, _Shape], bytes] | None = None
) -> _Shape:
    """The decoded view of a body. Raises :class:`BadRequest` that says what is wrong and where.

    ``rest`` leaves out of a body the value that most of it is: names within that are not those of the body.
    """
    try:
        if not body.isascii():
            body.decode()  # values that are kept raw are not looked into by the decoder
        read = decoder.decode(body)
        twice = repeated(body if rest is None else rest(body, read))
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        param = found.group(1) if found else None
        missing = re.search(r"missing required field `([^`]*)`", text)
        if missing:
            param = missing.group(1)
            raise BadRequest(f"The request body has no '{param}'.", hint="Add it.", param=param) from None
        plain = _PATH.sub("", text)
        where = f"'{param}'" if param else "The request body"
        raise BadRequest(f"{where} has the wrong type: {plain}.", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise BadRequest(
            f"The request body is not valid JSON: {reason}.", hint="Send one JSON object encoded as UTF-8."
        ) from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.", hint="Flatten it.") from None
    if twice is not None:
        raise BadRequest(f"The request body has '{twice}' more than once.", hint="Send it once.", param=twice)
    return read


def settings_of(body: bytes, read: PromptParts) -> bytes:
    """A body without its messages: how they are to be answered, most often the same for all of an application."""
    return without(body, b'"messages":', bytes(read.messages))


def has_key(body: bytes, key: str) -> bool:
    """The body has this top-level key; names inside tools or text do not count."""
    return key in _RAW_OBJECT.decode(body)


def set_value(body: bytes, key: str, value: bytes) -> bytes:
    """The body with one top-level key set to ``value`` (JSON); all other values keep their bytes and order."""
    fields = _RAW_OBJECT.decode(body)
    fields[key] = msgspec.Raw(value)
    pairs = (msgspec.json.encode(name) + b":" + bytes(raw) for name, raw in fields.items())
    return b"{" + b",".join(pairs) + b"}"


def insert_value(body: bytes, key: bytes, value: bytes) -> bytes:
    """The body with a top-level key that it does not have yet, put first; everything else is untouched."""
    start = body.index(b"{") + 1
    rest = body[start:]
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return body[:start] + b'"' + key + b'":' + value + comma + rest


def output_cap(value: int | None, param: str) -> int | None:
    """A caller's cap on output tokens, checked. Raises :class:`BadRequest` outside 0 to 10,000,000."""
    if value is None:
        return None
    if not 0 <= value <= TOKENS_MAX:
        raise BadRequest(
            f"'{param}' is {value}; it must be between 0 and {TOKENS_MAX}.",
            hint="Use the number of tokens the answer may have.",
            param=param,
        )
    return value


def choices(value: int | None, param: str) -> int:
    """The number of answers asked for, checked. Raises :class:`BadRequest` outside 1 to 128."""
    if value is None:
        return 1
    if not 1 <= value <= 128:
        raise BadRequest(f"'{param}' is {value}; it must be between 1 and 128.", param=param)
    return value


_TEXT_KEYS = frozenset(
    {"text", "thinking", "content", "reasoning", "reasoning_content", "refusal", "arguments", "name", "input"}
)


def answer_text(body: bytes) -> bytes:
    """What a complete JSON answer says, without its frame; the body itself when it cannot be read."""
    try:
        pending: list[object] = [msgspec.json.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body
    found: list[bytes] = []
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            for key, value in item.items():
                if isinstance(value, str) and key in _TEXT_KEYS:
                    found.append(value.encode("utf-8", "replace"))
                elif key == "input":
                    found.append(msgspec.json.encode(value))
                elif isinstance(value, dict | list):
                    pending.append(value)
    return b"\n".join(found)


def text_pairs(raw: msgspec.Raw) -> tuple[tuple[str, str], ...]:
    """The string values of a JSON object such as ``metadata``, sorted by name; anything else is left out."""
    if raw is NULL or not given(raw):
        return ()
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    if not isinstance(value, dict):
        return ()
    pairs = ((str(name)[:64], text[:256]) for name, text in value.items() if isinstance(text, str))
    return tuple(sorted(pairs))[:32]
