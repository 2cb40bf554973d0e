"""Reading and editing JSON request bodies without re-modelling them.

A body stays the bytes that came; what Farthing must know is read beside it, and an edit replaces one top-level
value while every other value keeps its exact bytes.
"""

import re
from collections.abc import Container
from typing import Final, TypeVar

import msgspec

from farthing.core.errors import BadRequest
from farthing.core.types import NOT_SAID, PromptParts
from farthing.wire.duplicates import SHORT, repeated, without

_Shape = TypeVar("_Shape")
_Prompt = TypeVar("_Prompt", bound=PromptParts)
_RAW_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PATH = re.compile(r" - at `\$\.?([^`]*)`")
TOKENS_MAX = 10_000_000
"""No model answers more; a larger ``max_tokens`` is a mistake in the caller's arithmetic."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
NULL = NOT_SAID
"""Default of optional raw values; msgspec cannot tell ``Raw | None`` apart and would refuse every value."""


def given(raw: msgspec.Raw) -> bool:
    """The body has this value, and it is not null."""
    return raw is not NULL and bytes(raw) != b"null"


def decode(decoder: msgspec.json.Decoder[_Shape], body: bytes) -> _Shape:
    """The decoded view of a body. Raises :class:`BadRequest` that says what is wrong and where."""
    try:
        if not body.isascii():
            body.decode()  # values that are kept raw are not looked into by the decoder
        read = decoder.decode(body)
        twice = repeated(body)
    except _UNREADABLE as error:
        raise _refusal(error) from None
    if twice is not None:
        raise _said_twice(twice)
    return read


def decode_prompt(
    decoder: msgspec.json.Decoder[_Prompt], body: bytes, known: Container[bytes]
) -> tuple[_Prompt, bytes]:
    """The same of a body with messages, and the body without them: how they are to be answered.

    That is most often the same for all of an application; ``known``: some that were found to be right. Empty where
    it is long, or where the messages could not be left out. Names within messages are not those of the body.
    """
    try:
        if not body.isascii():
            body.decode()
        read = decoder.decode(body)
        settings = without(body, b'"messages":', bytes(read.messages))
        short = settings is not body and len(settings) <= SHORT
        if short and settings in known:
            return read, settings
        twice = repeated(settings)
    except _UNREADABLE as error:
        raise _refusal(error) from None
    if twice is not None:
        raise _said_twice(twice)
    return read, settings if short else b""


def _said_twice(name: str) -> BadRequest:
    return BadRequest(f"The request body has '{name}' more than once.", hint="Send it once.", param=name)


def _refusal(error: Exception) -> BadRequest:
    """What is wrong with a body, and where."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        found = _PATH.search(text)
        param = found.group(1) if found else None
        missing = re.search(r"missing required field `([^`]*)`", text)
        if missing:
            param = missing.group(1)
            return BadRequest(f"The request body has no '{param}'.", hint="Add it.", param=param)
        plain = _PATH.sub("", text)
        where = f"'{param}'" if param else "The request body"
        return BadRequest(f"{where} has the wrong type: {plain}.", param=param)
    if isinstance(error, RecursionError):
        return BadRequest("The request body is nested too deeply.", hint="Flatten it.")
    reason = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    return BadRequest(f"The request body is not valid JSON: {reason}.", hint="Send one JSON object encoded as UTF-8.")


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
