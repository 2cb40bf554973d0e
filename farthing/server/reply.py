"""The caller's side of a connection, as ASGI gives it."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from farthing.ports.reply import Fixed, Headers
from farthing.server.protocol import GatewayProtocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(slots=True)
class _Whole:
    """A stream for a caller of HTTP/1.0, which knows no chunks: it is collected and sent as one answer."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)


class AsgiReply:
    """One answer; implements ``farthing.ports.reply.Reply``."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.started = False
        self._receive = receive
        self._send = send
        self._connection: GatewayProtocol | None = scope.get("farthing.connection")
        self._cycle: RequestResponseCycle | None = scope.get("farthing.cycle")
        self._whole: _Whole | None = _Whole() if scope.get("http_version") == "1.0" else None

    @property
    def gone(self) -> bool:
        connection, cycle = self._connection, self._cycle
        if connection is None or cycle is None:
            return False
        if connection.transport.is_closing():  # uvicorn tells only the newest of several pipelined requests
            cycle.disconnected = True
        return bool(cycle.disconnected)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = True
        if self.gone:
            return
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        if self._whole is not None:
            self._whole.status, self._whole.headers = status, headers
        elif not self.gone:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        if self._whole is not None:
            self._whole.parts.append(data)
            return
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        if self._whole is not None:
            await self.whole(self._whole.status, self._whole.headers, b"".join([*self._whole.parts, data]))
        elif not self.gone:
            await self._send({"type": "http.response.body", "body": data})

    async def wait_gone(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            await asyncio.sleep(0)

    def again(self, headers: Headers, fixed: Fixed) -> bool:
        """Never: ASGI takes heads and bodies apart."""
        return False

    def abort(self) -> None:
        """Drops the connection in mid-answer."""
        if self._connection is not None and self._cycle is not None:
            self._connection.abort(self._cycle)
