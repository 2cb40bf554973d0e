"""The objects of both batch APIs, as far as Farthing looks into them, and the bodies it sends to them."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from farthing.core.types import Dialect
from farthing.wire import body as bodies

_FINAL: Final = ("completed", "failed", "expired", "cancelled")
_BOUNDARY: Final = "farthing-8f14e45fceea167a5a36dedd4bea2543"
_QUOTED: Final = re.compile(r'[\r\n"\\]')


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says of a batch."""

    id: str
    ended: bool
    ended_ms: int
    """When, as the provider says; 0: it does not."""
    results: tuple[str, ...] = ()
    """OpenAI: ids of the files that hold the results."""


class _OpenAI(msgspec.Struct):
    id: str
    status: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelled_at: int | None = None


class _Anthropic(msgspec.Struct):
    id: str
    processing_status: str = ""
    ended_at: str | None = None


class _Object(msgspec.Struct):
    id: str


class _Reply(msgspec.Struct):
    status_code: int | None = None
    body: msgspec.Raw = bodies.NULL


class _Result(msgspec.Struct):
    type: str = ""
    message: msgspec.Raw = bodies.NULL
    error: msgspec.Raw = bodies.NULL


class _ResultLine(msgspec.Struct):
    custom_id: str = ""
    response: _Reply | None = None
    result: _Result | None = None
    error: msgspec.Raw = bodies.NULL


_ERRORS: Final = {
    "invalid_request_error": 400, "authentication_error": 401, "permission_error": 403, "not_found_error": 404,
    "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "overloaded_error": 529,
}  # fmt: skip
_KIND: Final = re.compile(rb'"type"\s*:\s*"([a-z_]+_error|request_too_large)"')


def seen(dialect: Dialect, shown: bytes) -> Seen:
    """Reads a batch object. Raises ``ValueError`` for anything else."""
    if dialect == "anthropic":
        ours = msgspec.json.decode(shown, type=_Anthropic)
        at = datetime.fromisoformat(ours.ended_at) if ours.ended_at else None
        ended_ms = int(at.timestamp() * 1000) if at is not None else 0
        return Seen(id=ours.id, ended=ours.processing_status == "ended", ended_ms=ended_ms)
    batch = msgspec.json.decode(shown, type=_OpenAI)
    at_s = batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at or 0
    files = tuple(one for one in (batch.output_file_id, batch.error_file_id) if one)
    return Seen(id=batch.id, ended=batch.status in _FINAL, ended_ms=at_s * 1000, results=files)


def id_of(shown: bytes) -> str:
    """The ``id`` of any object. Raises ``ValueError``."""
    return msgspec.json.decode(shown, type=_Object).id


def answer_of(line: bytes) -> tuple[str, int, bytes]:
    """(custom id, HTTP status, body) of one line of results. A line that was never run is a 504."""
    read = msgspec.json.decode(line, type=_ResultLine)
    if read.response is not None:
        return read.custom_id, read.response.status_code or 200, bytes(read.response.body)
    result = read.result
    if result is None:
        return read.custom_id, 504, msgspec.json.encode({"error": read.error})
    if result.type == "succeeded":
        return read.custom_id, 200, bytes(result.message)
    if result.type == "errored":
        kind = _KIND.search(bytes(result.error))
        return read.custom_id, _ERRORS.get(kind[1].decode() if kind else "", 500), bytes(result.error)
    error = {"type": "timeout_error", "message": f"The request was not run: {result.type}."}
    return read.custom_id, 504, msgspec.json.encode({"type": "error", "error": error})


def requests_body(parts: Iterable[bytes], top: dict[str, msgspec.Raw] | None = None) -> bytes:
    """Anthropic's body of requests, with what else stood at its top."""
    rest = {name: raw for name, raw in (top or {}).items() if name != "requests"}
    return msgspec.json.encode({"requests": msgspec.Raw(b"[" + b",".join(parts) + b"]"), **rest})


def form(fields: Iterable[tuple[str, str]], file_name: str, data: bytes) -> tuple[str, bytes]:
    """(content type, body) of an upload."""
    parts = []
    for name, value in fields:
        head = f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="{_plain(name)}"\r\n\r\n'
        parts += [head.encode(), value.encode(), b"\r\n"]
    head = (
        f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="{_plain(file_name)}"\r\n'
        "content-type: application/octet-stream\r\n\r\n"
    )
    parts += [head.encode(), data, f"\r\n--{_BOUNDARY}--\r\n".encode()]
    return f"multipart/form-data; boundary={_BOUNDARY}", b"".join(parts)


def _plain(text: str) -> str:
    return _QUOTED.sub("_", text)[:255]
