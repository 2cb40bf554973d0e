"""The caller's side of a connection, as ASGI gives it."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from farthing.ports.reply import Headers
from farthing.server.protocol import GatewayProtocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiReply:
    """One answer; implements ``farthing.ports.reply.Reply``."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.started = False
        self._receive = receive
        self._send = send
        self._connection: GatewayProtocol | None = scope.get("farthing.connection")
        self._cycle: RequestResponseCycle | None = scope.get("farthing.cycle")

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
        if not self.gone:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        if not self.gone:
            await self._send({"type": "http.response.body", "body": data})

    async def wait_gone(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            await asyncio.sleep(0)

    def abort(self) -> None:
        """Drops the connection in mid-answer."""
        if self._connection is not None and self._cycle is not None:
            self._connection.abort(self._cycle)
