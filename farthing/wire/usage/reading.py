"""Reading provider JSON: typed and fast when it is well formed, field by field when it is not.

A provider's numbers are facts to be booked, so one wrong type must cost neither the answer nor the other numbers:
what cannot be read is left out, what can be read is read, and each such place becomes an anomaly slug with its
figures. Nothing in this module raises on any bytes.
"""

import json
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import inspect

QUANTITY_MAX: Final = 1_000_000_000_000
"""No single call consumes more of any unit; larger numbers are noise, not usage."""

Count = Annotated[int, msgspec.Meta(ge=0, le=QUANTITY_MAX)]
"""A quantity as providers state it."""

EMPTY: Final = msgspec.Raw(b"")
"""A JSON value that was not there."""

FIGURE_CHARS: Final = 32
"""Longest piece of a provider's text quoted in an anomaly."""

UNREADABLE: Final = (ValueError, RecursionError)
"""What decoding arbitrary bytes can raise: bad syntax, bad UTF-8, absurd numbers, absurd nesting."""

Notes = list[str]
"""Anomaly slugs collected while one answer is read."""

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_BOM: Final = b"\xef\xbb\xbf"
_STRING_OR_CONSTANT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|NaN|-?Infinity', re.DOTALL)
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


def read(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw, notes: Notes, where: str = "") -> T | None:
    """The record in ``data``; None when it is no JSON object at all. ``where`` prefixes the names in ``notes``."""
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return _read_fields(decoder.type, data, notes, where)


def decoded(decoder: msgspec.json.Decoder[V], data: bytes | msgspec.Raw) -> V | None:
    """The value in ``data``, which may break the rules that servers do break; None when it is no such JSON."""
    try:
        return decoder.decode(data)
    except UNREADABLE:
        try:
            return decoder.decode(strict_json(bytes(data)))
        except UNREADABLE:
            return None


def strict_json(data: bytes) -> bytes:
    """The same text without what JSON forbids but Python and JavaScript servers write.

    Those are half surrogate pairs in strings (an emoji cut between two tokens), ``NaN`` and ``Infinity`` (log
    probabilities), and a byte order mark. Everything else stays byte for byte.
    """
    return _STRING_OR_CONSTANT.sub(_strict_token, data.removeprefix(_BOM))


def _strict_token(found: re.Match[bytes]) -> bytes:
    token = found[0]
    if not token.startswith(b'"'):
        return b"null"
    return _ESCAPE.sub(lambda escape: b"\\ufffd" if escape[1] else escape[0], token) if b"\\u" in token else token


def is_given(raw: msgspec.Raw) -> bool:
    """True when a raw JSON value was there and is not ``null``."""
    if raw is EMPTY:
        return False
    size = len(memoryview(raw))
    return size > 0 and (size != 4 or bytes(raw) != b"null")


def as_json(value: Mapping[str, object], notes: Notes) -> bytes:
    """A Python mapping as JSON bytes, so that bare usage objects are read like bodies; ``{}`` if that cannot be."""
    try:
        return json.dumps(dict(value), default=str, separators=(",", ":")).encode("utf-8", "replace")
    except UNREADABLE:
        notes.append("usage_unreadable")
        return b"{}"


def count_of(raw: bytes, where: str, notes: Notes) -> int | None:
    """The quantity a JSON value states, read as honestly as it allows; None when it states none."""
    if raw == b"null":
        return None
    figure = raw[:FIGURE_CHARS].decode("ascii", "replace")
    value = _decimal(raw)
    if value is None:
        notes.append(f"not_a_number:{where}={figure}")
        return None
    if value < 0:
        notes.append(f"negative:{where}={figure}")
        return None
    if value > QUANTITY_MAX:
        notes.append(f"absurd:{where}={figure}")
        return None
    whole = int(value.to_integral_value(rounding=ROUND_CEILING))
    if raw != b"%d" % whole:
        notes.append(f"not_an_integer:{where}={figure}")
    return whole


def _decimal(raw: bytes) -> Decimal | None:
    """A JSON number, or a number in a JSON string; None for everything else."""
    text = raw.strip(b'"')
    if not text or not set(text) <= set(b"0123456789+-.eE"):
        return None
    try:
        value = Decimal(text.decode("ascii"))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


@lru_cache(maxsize=256)
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, inspect.Type], ...]:
    """(attribute, JSON name, type) of a record, with ``| None`` taken off."""
    described = inspect.type_info(kind)
    if not isinstance(described, inspect.StructType):
        raise TypeError(f"{kind!r} is not a record")
    return tuple((field.name, field.encode_name, _not_none(field.type)) for field in described.fields)


def _not_none(kind: inspect.Type) -> inspect.Type:
    if isinstance(kind, inspect.UnionType):
        return next(option for option in kind.types if not isinstance(option, inspect.NoneType))
    return kind


def _read_fields(kind: type[T], data: bytes | msgspec.Raw, notes: Notes, where: str) -> T | None:
    given = decoded(_OBJECT, data)
    if given is None:
        return None
    values: dict[str, Any] = {}
    for attribute, name, expected in _fields(kind):
        raw = given.get(name)
        if raw is None:
            continue
        value = _value(expected, raw, notes, f"{where}.{name}" if where else name)
        if value is not None:
            values[attribute] = value
    return kind(**values)


def _value(expected: inspect.Type, raw: msgspec.Raw, notes: Notes, where: str) -> object:
    """One field's value; None (its default) when it is null or cannot be read."""
    data = bytes(raw)
    if data == b"null":
        return None
    match expected:
        case inspect.RawType():
            return raw
        case inspect.IntType():
            return count_of(data, where, notes)
        case inspect.DecimalType():
            return _amount(data, where, notes)
        case inspect.StrType():
            return _text(data, where, notes)
        case inspect.BoolType():
            return data == b"true"
        case inspect.StructType():
            record = _read_fields(expected.cls, raw, notes, where)
            if record is None:
                notes.append(f"not_an_object:{where}")
            return record
        case inspect.ListType():
            return _items(expected.item_type, raw, notes, where)
    raise TypeError(f"field {where}: no lenient reading of {expected!r}")


def _amount(data: bytes, where: str, notes: Notes) -> Decimal | None:
    value = _decimal(data)
    if value is None:
        notes.append(f"not_a_number:{where}={data[:FIGURE_CHARS].decode('ascii', 'replace')}")
    return value


def _text(data: bytes, where: str, notes: Notes) -> str | None:
    try:
        return _TEXT.decode(data)
    except UNREADABLE:
        notes.append(f"not_text:{where}")
        return None


def _items(kind: inspect.Type, raw: msgspec.Raw, notes: Notes, where: str) -> list[object] | None:
    try:
        given = _ARRAY.decode(raw)
    except UNREADABLE:
        notes.append(f"not_a_list:{where}")
        return None
    read_items = [_value(kind, item, notes, f"{where}[{place}]") for place, item in enumerate(given)]
    return [item for item in read_items if item is not None]
