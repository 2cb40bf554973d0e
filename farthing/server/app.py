"""The gateway as an ASGI application: the providers' paths at full speed, everything else through Starlette."""

import logging
from dataclasses import dataclass

from starlette.types import ASGIApp

from farthing.core.errors import BadRequest, FarthingError, TooLong
from farthing.core.types import Dialect, Endpoint, PromptView, Request
from farthing.engine.pipeline import handle
from farthing.engine.record import Recorder
from farthing.engine.services import Services
from farthing.ports.clock import Ids
from farthing.server.auth import Doorman, check_model, scope_of, secret_of
from farthing.server.dialects import error_answer
from farthing.server.reply import AsgiReply, Message, Receive, Send
from farthing.wire import anthropic, openai

_LOG = logging.getLogger("farthing.server")
_VIEWS = {**openai.VIEWS, **anthropic.VIEWS}
_DRAIN_FACTOR = 4
"""How much of a body that is too large is read and thrown away, so that its sender gets to see the answer."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the application serves with; built by ``bootstrap``."""

    services: Services
    recorder: Recorder
    doorman: Doorman
    ids: Ids
    admin: ASGIApp
    """Everything that is not a provider's path: health, metrics, models, API, pages."""


class App:
    """The ASGI callable. One instance per process."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._paths: dict[str, tuple[Dialect, Endpoint]] = {}
        for path in openai.PATHS:
            self._paths[path] = ("openai", openai.PATHS[path])
        for path in anthropic.PATHS:
            self._paths[path] = ("anthropic", anthropic.PATHS[path])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            found = self._paths.get(scope["path"])
            if found is not None:
                await self._serve(found[0], found[1], scope, receive, send)
                return
        await self.gateway.admin(scope, receive, send)

    async def _serve(
        self, dialect: Dialect, endpoint: Endpoint, scope: Message, receive: Receive, send: Send
    ) -> None:
        gateway = self.gateway
        now_ms = gateway.services.clock.now_ms()
        request_id = gateway.ids.new(now_ms)
        reply = AsgiReply(scope, receive, send)
        try:
            request = await self._request(request_id, now_ms, dialect, endpoint, scope, receive)
            await handle(gateway.services, gateway.recorder, request, reply)
        except FarthingError as error:
            await self._fail(reply, error, dialect, request_id)
        except Exception:  # noqa: BLE001  # the last line of defence: a caller must get an answer, a log the trace
            _LOG.exception("request %s failed inside Farthing", request_id)
            await self._fail(reply, FarthingError("Farthing failed on this request."), dialect, request_id)

    async def _request(
        self,
        request_id: str,
        now_ms: int,
        dialect: Dialect,
        endpoint: Endpoint,
        scope: Message,
        receive: Receive,
    ) -> Request:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        record = self.gateway.doorman.key(secret_of(headers))
        body = await read_body(headers, receive, self.gateway.services.policy.limits.body_bytes_max)
        view = read_view(endpoint, body)
        check_model(record, view.model)
        return Request(
            id=request_id,
            received_at_ms=now_ms,
            dialect=dialect,
            body=body,
            headers=tuple(headers),
            view=view,
            scope=scope_of(record, headers, view),
        )

    async def _fail(self, reply: AsgiReply, error: FarthingError, dialect: Dialect, request_id: str) -> None:
        if reply.started:
            reply.abort()
            return
        status, headers, body = error_answer(error, dialect, request_id)
        if isinstance(error, TooLong):
            headers.append((b"connection", b"close"))
        await reply.whole(status, headers, body)


def read_view(endpoint: Endpoint, body: bytes) -> PromptView:
    """The view of a body. Raises :class:`BadRequest`."""
    view: PromptView = _VIEWS[endpoint](body)
    if not view.model or len(view.model) > 256 or not view.model.isprintable():
        raise BadRequest("'model' must be a printable name of 1 to 256 characters.", param="model")
    return view


async def read_body(headers: list[tuple[bytes, bytes]], receive: Receive, most: int) -> bytes:
    """The request's whole body. Raises :class:`TooLong` past ``most`` bytes, :class:`BadRequest` when cut short."""
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise BadRequest(
                f"The request body is compressed ({value[:20].decode('ascii', 'replace')}).",
                hint="Send it without Content-Encoding.",
            )
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(body) <= most:
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection closed before the request body was complete.")
        return body
    chunks = [body]
    size = len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The connection closed before the request body was complete.")
        size += len(message.get("body", b""))
        if size <= most:
            chunks.append(message.get("body", b""))
        elif size > most * _DRAIN_FACTOR:
            break
    if size > most:
        raise TooLong(
            f"The request body is larger than {most:,} bytes.",
            hint="Send less, or raise [limits] body_bytes_max in farthing.toml.",
        )
    return b"".join(chunks)
