"""What both batch APIs share on the caller's side: who asks, what came, and answers in the caller's dialect."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request as HttpAsk
from starlette.responses import Response

from farthing.core.errors import BadRequest, FarthingError, TooLong
from farthing.core.types import Dialect, KeyRecord, PromptView
from farthing.engine.batch_asks import Caller
from farthing.engine.batch_desk import BatchDesk
from farthing.engine.batch_queue import BatchQueue
from farthing.server.auth import Doorman, check_model, scope_of, secret_of
from farthing.server.dialects import error_answer
from farthing.wire import body as bodies

PAGE_MAX: Final = 100
_NOBODY: Final = PromptView(endpoint="chat", model="")


class BatchRoom:
    """What the routes of batches serve with; ``desk`` is there once the gateway has started."""

    def __init__(self, doorman: Doorman, *, bytes_max: int) -> None:
        self.doorman = doorman
        self.bytes_max = bytes_max
        self._desk: BatchDesk | None = None
        self.queue: BatchQueue | None = None

    @property
    def desk(self) -> BatchDesk:
        """Raises :class:`BadRequest` while batches are not served."""
        if self._desk is None:
            raise BadRequest("Batches are not served at the moment.", hint="Is the gateway starting or stopping?")
        return self._desk

    def open(self, desk: BatchDesk | None, queue: BatchQueue | None) -> None:
        """Serve with these from now on."""
        self._desk, self.queue = desk, queue

    def owner(self, ask: HttpAsk) -> str:
        """The id of the caller's key. Raises :class:`Unauthorized`."""
        return self.doorman.key(secret_of(ask.headers.raw)).id

    def caller(self, ask: HttpAsk, metadata: msgspec.Raw = bodies.NULL) -> Caller:
        """Who brings a batch. Raises :class:`Unauthorized`, :class:`Forbidden`."""
        record = self.doorman.key(secret_of(ask.headers.raw))
        view = msgspec.structs.replace(_NOBODY, metadata=bodies.text_pairs(metadata))
        return caller_of(record, ask.headers.raw, view)


def caller_of(record: KeyRecord, headers: list[tuple[bytes, bytes]], view: PromptView) -> Caller:
    """A caller by key and headers."""
    return Caller(owner=record.id, scope=scope_of(record, headers, view), may=partial(check_model, record))


async def whole_body(ask: HttpAsk, most: int) -> bytes:
    """Raises :class:`TooLong`."""
    parts: list[bytes] = []
    size = 0
    async for part in ask.stream():
        size += len(part)
        if size > most:
            raise TooLong(
                f"The body is larger than {most:,} bytes.",
                hint="Send smaller batches, or raise [batches] file_bytes_max in farthing.toml.",
            )
        parts.append(part)
    return b"".join(parts)


def page_of(query: str, ids: list[str], *, after: str, before: str = "") -> tuple[int, int]:
    """(first, one past the last) place of the page that is asked for. Raises :class:`BadRequest`."""
    said = {name: values[0] for name, values in parse_qs(query).items()}
    limit = said.get("limit", "20")
    if not limit.isdigit() or not 1 <= int(limit) <= PAGE_MAX:
        raise BadRequest(f"'limit' is {limit[:20]!r}; 1 to {PAGE_MAX} are given at a time.", param="limit")
    first, last = 0, len(ids)
    if said.get(after):
        if said[after] not in ids:
            raise BadRequest(f"'{after}' names nothing that is here.", param=after)
        first = ids.index(said[after]) + 1
    elif before and said.get(before):
        if said[before] not in ids:
            raise BadRequest(f"'{before}' names nothing that is here.", param=before)
        last = ids.index(said[before])
        return max(0, last - int(limit)), last
    return first, min(last, first + int(limit))


def json_answer(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer as it came."""
    return Response(body, status, headers=headers, media_type="application/json")


Handler = Callable[[HttpAsk], Awaitable[Response]]


def spoken(dialect: Dialect, handler: Handler) -> Handler:
    """The handler with its errors in a dialect."""

    async def serve(ask: HttpAsk) -> Response:
        try:
            return await handler(ask)
        except FarthingError as error:
            status, headers, body = error_answer(error, dialect, "")
            answer = Response(body, status)
            for name, value in headers:
                answer.headers[name.decode()] = value.decode("latin-1")
            return answer

    return serve
