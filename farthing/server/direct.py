"""A metered call straight on its connection: uvicorn parses and keeps the connection, no ASGI messages in between.

``docs/decisions/0002-http-stack.md`` has what this saves. Anything unusual (HTTP/1.0, pipelining, ``Expect``) takes
the ASGI way, which answers the same bytes.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from farthing.core.types import Dialect, Endpoint
from farthing.ports.reply import Fixed, Headers, Reply
from farthing.server.head import Head

if TYPE_CHECKING:
    from farthing.server.protocol import GatewayProtocol

Route = tuple[Dialect, Endpoint]
Body = Callable[[], bytes | Awaitable[bytes]]
"""Gives a request's whole body, which may be here already. Raises ``OverflowError`` when it is too large."""
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Bytes that would end a header early; a provider's header that carries one is left out."""
_BLANKED: Final = _FORBIDDEN.sub(b" ", bytes(range(256)))
"""A table that changes the same bytes, and no others."""
_COLON: Final = b": "
DRAIN_FACTOR: Final = 4
"""How much of a body that is too large is read and thrown away, so that its sender gets to see the answer."""


class Caller(Reply, Protocol):
    """A reply that can also be dropped in mid-answer."""

    started: bool

    def abort(self) -> None: ...

    def again(self, headers: Headers, fixed: Fixed) -> bool: ...


class DirectApp(Protocol):
    """What serves direct calls."""

    body_bytes_max: int
    routes: dict[bytes, Route]

    async def serve(self, route: Route, head: Head, body: Body, reply: Caller) -> None: ...


def head_of(status: int, headers: Headers, *, keep_alive: bool) -> tuple[bytes, bool]:
    """(the status line and headers, whether the connection stays open)."""
    if b"connection" in [name for name, _ in headers]:
        keep_alive = False
        headers = [pair for pair in headers if pair[0] != b"connection"]
    lines = [*map(_COLON.join, headers)]
    text = b"".join(lines)
    if text.translate(_BLANKED) != text:  # what is not changed is not copied, and equal at a glance
        lines = [_COLON.join(pair) for pair in headers if not _unsafe(pair)]
    if not keep_alive:
        lines.append(b"connection: close")
    lines.append(b"")
    return STATUS_LINE[status] + b"\r\n".join(lines), keep_alive


def _unsafe(pair: tuple[bytes, bytes]) -> bool:
    return _FORBIDDEN.search(pair[0]) is not None or _FORBIDDEN.search(pair[1]) is not None


def wire_of(fixed: Fixed) -> bytes:
    """The end of an answer from the fixed headers on, for a connection that stays open."""
    head = head_of(fixed.status, fixed.headers, keep_alive=True)[0].removeprefix(STATUS_LINE[fixed.status])
    if fixed.events is None:
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(fixed.body), fixed.body)
    chunks = [b"%x\r\n%b\r\n" % (len(data), data) for data in fixed.events if data]
    return b"".join([head, b"transfer-encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"])


class DirectExchange:
    """One request and its answer. To uvicorn it is the connection's present cycle, to the engine a ``Reply``."""

    def __init__(
        self, protocol: "GatewayProtocol", app: DirectApp, route: Route, head: Head, *, keep_alive: bool
    ) -> None:
        self.response_started = False
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = keep_alive
        self.message_event = self
        self.started = False
        self.task: asyncio.Task[None] | None = None
        """What serves it."""
        self._protocol = protocol
        self._transport = protocol.transport
        self._app = app
        self.route = route
        self._head = head
        self._parts: list[bytes] = []
        self.size = 0
        """Bytes of the request's body that have come."""
        self._watcher: asyncio.Future[None] | None = None

    # -- uvicorn's side

    def set(self) -> None:
        """The connection's way of saying that something happened to it."""
        if self.disconnected and self._watcher is not None and not self._watcher.done():
            self._watcher.set_result(None)

    def add(self, data: bytes) -> None:
        """A piece of the request's body; what is past the limit is counted and thrown away."""
        self.size += len(data)
        if self.size <= self._app.body_bytes_max:
            self._parts.append(data)
        elif self.size > self._app.body_bytes_max * DRAIN_FACTOR:
            self._transport.close()

    async def run(self) -> None:
        """Serves the call; the connection is dropped if that ends without an answer."""
        try:
            await self._app.serve(self.route, self._head, self._body, self)
        finally:
            if not self.response_complete:
                self.abort()
            if self.task is not None:
                self._protocol.tasks.discard(self.task)

    def _body(self) -> bytes:
        if self.size > self._app.body_bytes_max:
            raise OverflowError
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # -- the engine's side

    @property
    def gone(self) -> bool:
        if self._transport.is_closing():  # uvicorn tells only the newest of several pipelined requests
            self.disconnected = True
        return self.disconnected

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = self.response_started = True
        if self.gone:
            return
        head, self.keep_alive = head_of(status, headers, keep_alive=self.keep_alive)
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        self._finish()

    def again(self, headers: Headers, fixed: Fixed) -> bool:
        """Gives at once what was given before; False on a connection that ends with this answer, or that lags."""
        if not self.keep_alive or self._protocol.flow.write_paused:
            return False
        self.started = self.response_started = True
        if self.gone:
            return True
        if fixed.wire is None:
            fixed.wire = wire_of(fixed)
        (name, value), (other, amount) = headers
        line = b"%b%b: %b\r\n%b: %b\r\n" % (STATUS_LINE[fixed.status], name, value, other, amount)
        self._transport.write(line + fixed.wire)
        self._finish()
        return True

    async def start(self, status: int, headers: Headers) -> None:
        self.started = self.response_started = True
        if self.gone:
            return
        head, self.keep_alive = head_of(status, headers, keep_alive=self.keep_alive)
        self._transport.write(head + b"transfer-encoding: chunked\r\n\r\n")

    def write_now(self, data: bytes) -> bool:
        if self.disconnected:
            return True
        if self._protocol.flow.write_paused:
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def write_chunk(self, chunk: bytes) -> bool:
        if self.disconnected or self._protocol.flow.write_paused or self._transport.is_closing():
            return False
        self._transport.write(chunk)
        return True

    async def write(self, data: bytes) -> None:
        if self._protocol.flow.write_paused and not self.disconnected:
            await self._protocol.flow.drain()
        if not self.disconnected:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, data: bytes) -> None:
        if self.gone:
            return
        last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._transport.write(last)
        self._finish()

    async def wait_gone(self) -> None:
        if not self.disconnected:
            self._watcher = self._protocol.loop.create_future()
            await self._watcher

    def abort(self) -> None:
        """Ends the connection where the answer stands, so that the caller sees it cut and not complete."""
        self.disconnected = True
        self._transport.close()

    def _finish(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._protocol.on_response_complete()
