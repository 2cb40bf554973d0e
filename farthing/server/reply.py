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
        connection = scope.get("farthing.connection")
        self._connection = connection if isinstance(connection, GatewayProtocol) else None
        self._cycle: RequestResponseCycle | None = None

    @property
    def gone(self) -> bool:
        if self._connection is None:
            return False
        if self._cycle is None:
            self._cycle = self._connection.cycle
        return bool(self._cycle.disconnected)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.started = True
        if self._connection is not None and self._connection.send_whole(status, headers, body):
            return
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data})

    async def wait_gone(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            await asyncio.sleep(0)

    def abort(self) -> None:
        """Drops the connection in mid-answer."""
        if self._connection is not None:
            self._connection.abort()
