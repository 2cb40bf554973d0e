"""The gateway as an ASGI application: the providers' paths at full speed, everything else through Starlette."""

import contextlib
import logging
from dataclasses import dataclass
from functools import partial

from starlette.types import ASGIApp

from farthing.core.errors import BadRequest, Deferred, FarthingError, TooLong
from farthing.core.types import Dialect, Endpoint, KeyRecord, PromptParts, PromptView, Request
from farthing.engine.batch_queue import BatchQueue
from farthing.engine.pipeline import handle
from farthing.engine.record import Recorder
from farthing.engine.services import Services
from farthing.ports.clock import Ids
from farthing.server.auth import Doorman, Scopes, check_model
from farthing.server.batch_answers import BatchRoom
from farthing.server.batches_deferred import accept
from farthing.server.dialects import error_answer
from farthing.server.direct import DRAIN_FACTOR, Body, Caller, Route
from farthing.server.head import Head
from farthing.server.repeating import repeating
from farthing.server.reply import AsgiReply, Message, Receive, Send
from farthing.server.strange import Strangers
from farthing.wire import anthropic, openai
from farthing.wire.complaints import complaints

_LOG = logging.getLogger("farthing.server")
_VIEWS = {**openai.VIEWS, **anthropic.VIEWS}
_READS = {"chat": openai.read_chat, "messages": anthropic.read_messages}


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the application serves with; built by ``bootstrap``."""

    services: Services
    recorder: Recorder
    doorman: Doorman
    ids: Ids
    admin: ASGIApp
    """Everything that is not a provider's path: health, metrics, models, API, pages."""
    batches: BatchRoom | None = None
    """Where calls that can wait are kept."""


class App:
    """The ASGI callable, and what direct calls are served by. One instance per process."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.body_bytes_max = gateway.services.policy.limits.body_bytes_max
        self._scopes = Scopes()
        self._strangers = Strangers()
        self._repeating = repeating(gateway.services)
        self.routes: dict[bytes, Route] = {path.encode(): ("openai", openai.PATHS[path]) for path in openai.PATHS}
        self.routes |= {path.encode(): ("anthropic", anthropic.PATHS[path]) for path in anthropic.PATHS}

    @property
    def direct(self) -> "App":
        """Where connections bring metered calls without ASGI in between."""
        return self

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self.routes.get(scope["path"].encode("utf-8", "replace"))
            if route is not None:
                body = partial(read_body, receive, self.body_bytes_max)
                await self.serve(route, Head(scope["headers"]), body, AsgiReply(scope, receive, send))
                return
        await self.gateway.admin(scope, receive, send)

    async def serve(self, route: Route, head: Head, body: Body, reply: Caller) -> None:
        """Serves one metered call. ``body`` is asked for once the key is known; OverflowError: it is too large."""
        gateway = self.gateway
        dialect = route[0]
        now_ms = gateway.services.clock.now_ms()
        request_id = gateway.ids.new(now_ms)
        queue = gateway.batches.queue if gateway.batches is not None else None
        try:
            record = gateway.doorman.key(head.secret)
            if head.strange:
                reply = self._strangers.noticed(head.strange, gateway.services.policy, reply)
            head.check_encoding()
            try:
                given = body()
                data = given if isinstance(given, bytes) else await given
            except OverflowError:
                raise self._too_long() from None
            if self._repeating is not None and await self._repeating.serve(
                record, route, head, data, request_id=request_id, at_ms=now_ms, reply=reply
            ):
                return
            request = self._request(request_id, now_ms, route, record, head, data)
            if queue is None:
                await handle(gateway.services, gateway.recorder, request, reply)
            else:
                await self._serve_or_defer(queue, request, reply)
        except FarthingError as error:
            await self._fail(reply, error, dialect, request_id)
        except Exception:  # noqa: BLE001  # the last line of defence: a caller must get an answer, a log the trace
            _LOG.exception("request %s failed inside Farthing", request_id)
            await self._fail(reply, FarthingError("Farthing failed on this request."), dialect, request_id)

    async def _serve_or_defer(self, queue: BatchQueue, request: Request, reply: Caller) -> None:
        """Calls that ask for the queue wait; so do those that may, where a budget's threshold puts them off."""
        gateway = self.gateway
        if not queue.wants(request):
            try:
                await handle(gateway.services, gateway.recorder, request, reply)
                return
            except Deferred:
                if request.view.stream:
                    raise
                with contextlib.suppress(BadRequest):  # it cannot be batched: it is put off as without a queue
                    await accept(queue, gateway.doorman, request, reply)
                    return
                raise
        await accept(queue, gateway.doorman, request, reply)

    def _request(
        self, request_id: str, now_ms: int, route: Route, record: KeyRecord, head: Head, body: bytes
    ) -> Request:
        dialect, endpoint = route
        view, parts = read_prompt(endpoint, body)
        if record.models:
            check_model(record, view.model)
        return Request(
            id=request_id,
            received_at_ms=now_ms,
            dialect=dialect,
            body=body,
            headers=head.pairs,
            view=view,
            scope=self._scopes.of(record, head, view),
            readings={},
            parts=None if parts is None else (body, parts),
        )

    def _too_long(self) -> TooLong:
        return TooLong(
            f"The request body is larger than {self.body_bytes_max:,} bytes.",
            hint="Send less, or raise [limits] body_bytes_max in farthing.toml.",
        )

    async def _fail(self, reply: Caller, error: FarthingError, dialect: Dialect, request_id: str) -> None:
        if reply.started:
            reply.abort()
            return
        status, headers, body = error_answer(error, dialect, request_id)
        if isinstance(error, TooLong):
            headers.append((b"connection", b"close"))
        await reply.whole(status, headers, body)


def read_view(endpoint: Endpoint, body: bytes) -> PromptView:
    """The view of a body. Raises :class:`BadRequest` that says all that is wrong with it."""
    return read_prompt(endpoint, body)[0]


def read_prompt(endpoint: Endpoint, body: bytes) -> tuple[PromptView, PromptParts | None]:
    """The same, and the prompt's values where reading the view has found them."""
    try:
        return _read(endpoint, body)
    except BadRequest as error:
        raise complaints(lambda mended: _read(endpoint, mended)[0], body, error) from None


def _read(endpoint: Endpoint, body: bytes) -> tuple[PromptView, PromptParts | None]:
    read = _READS.get(endpoint)
    view, parts = read(body) if read is not None else (_VIEWS[endpoint](body), None)
    if not view.model or len(view.model) > 256 or not view.model.isprintable():
        raise BadRequest("'model' must be a printable name of 1 to 256 characters.", param="model")
    return view, parts


async def read_body(receive: Receive, most: int) -> bytes:
    """The request's whole body. Raises ``OverflowError`` past ``most`` bytes, :class:`BadRequest` when cut short."""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= most * DRAIN_FACTOR:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection closed before the request body was complete.")
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size <= most:
            chunks.append(part)
    if size > most:
        raise OverflowError
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
