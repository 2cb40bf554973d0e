"""The little HTTP that the simulator needs on top of ASGI: bodies, answers, streams, and breaking connections."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from farthing.sim.errors import ApiError, ConnectionDropped

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

TRANSPORT = "farthing.sim.transport"
"""Key in the ASGI scope under which the simulator's own server passes the connection's transport."""
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
EVENT_STREAM: tuple[bytes, bytes] = (b"content-type", b"text/event-stream; charset=utf-8")
BODY_MAX = 64 * 1024 * 1024


class Wire:
    """One HTTP exchange."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self._transport = scope.get(TRANSPORT)

    def header(self, name: bytes, default: str = "") -> str:
        """A request header by its lower-case name."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")

    async def body(self) -> bytes:
        """The whole request body; raises a 413 above 64 MiB."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > BODY_MAX:
                raise ApiError(413, f"Request body is larger than {BODY_MAX} bytes.", kind="request_too_large")
            chunks.append(chunk)
            if not message.get("more_body"):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def gone(self) -> bool:
        """The client has closed the connection (only known on the simulator's own server)."""
        return self._transport is not None and bool(self._transport.is_closing())

    async def reply(self, status: int, payload: bytes, headers: Headers) -> None:
        """A whole answer."""
        head = [*headers, (b"content-length", str(len(payload)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": payload})

    async def start(self, status: int, headers: Headers) -> None:
        """Status and headers of a streamed or cut answer."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        """Body bytes; more follow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """The last body bytes."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def left(self, seconds: float) -> None:
        """Wait until the client leaves, ``seconds`` at most."""
        try:
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return

    async def close(self) -> None:
        """Close the connection after what was written so far, without ending the answer properly."""
        if self._transport is None:
            raise ConnectionDropped("simulated: connection closed in the middle of an answer")
        self._transport.close()
        await self.left(5.0)

    async def reset(self) -> None:
        """Close the connection with a TCP reset; nothing more reaches the client."""
        if self._transport is None:
            raise ConnectionDropped("simulated: connection reset before an answer")
        shown = self._transport.get_extra_info("socket")
        if shown is not None and shown.fileno() >= 0:
            with socket.socket(fileno=os.dup(shown.fileno())) as own:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        await self.left(5.0)
