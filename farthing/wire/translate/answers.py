"""What readers and writers of answers share: forgiving look-ups, and what an answer is framed with."""

from typing import Final

import msgspec

from farthing.core.errors import StreamBroken
from farthing.wire.canonical import Failure
from farthing.wire.translate.fields import Fields

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in an answer where the provider's own says nothing."""

    id: str
    model: str
    now_s: int
    """Seconds since the epoch."""


def answer_fields(body: bytes) -> Fields:
    """A provider's answer as an object. Raises :class:`StreamBroken`: a provider that says no JSON is broken."""
    try:
        value = msgspec.json.decode(body)
    except UNREADABLE as error:
        raise StreamBroken(f"The provider's answer cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise StreamBroken("The provider's answer is no JSON object.")
    return value


def event_fields(data: bytes) -> Fields:
    """The payload of one event; empty when it is no object, which says nothing."""
    try:
        value = msgspec.json.decode(data)
    except UNREADABLE:
        raise StreamBroken("The provider's stream holds an event that cannot be read.") from None
    return value if isinstance(value, dict) else {}


def as_obj(value: object) -> Fields:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[object]:
    """The list, or an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The string, or an empty one."""
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int:
    """The count, or 0."""
    return value if isinstance(value, int) and value > 0 else 0


def sse(data: bytes, name: bytes = b"") -> bytes:
    """One event."""
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + data + b"\n\n"


def failure_of(status: int, body: bytes) -> Failure:
    """A provider's error in any dialect: an ``error`` object, or Amazon's bare ``message``."""
    try:
        fields = as_obj(msgspec.json.decode(body))
    except UNREADABLE:
        fields = {}
    return failure_from(fields, status) or Failure(status=status, message=f"The provider answered {status}.")


def failure_from(fields: Fields, status: int = 500) -> Failure | None:
    """The failure an object tells; None when it tells none."""
    error = fields.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        return Failure(
            status=status,
            message=as_text(error.get("message")) or f"The provider answered {status}.",
            kind=as_text(error.get("type")) or as_text(error.get("status")),
            code=as_text(code),
            param=as_text(error.get("param")),
        )
    message = as_text(fields.get("message")) or as_text(fields.get("Message")) or as_text(error)
    if message:
        return Failure(status=status, message=message, kind=as_text(fields.get("__type")).rpartition("#")[2])
    return None
