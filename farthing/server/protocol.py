"""The HTTP protocol of the gateway: uvicorn's, with a bound on request heads and a way to drop a broken answer."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 128


class HeadTooLarge(ValueError):
    """Raised inside the parser; the connection answers 400 and closes."""


class GatewayProtocol(HttpToolsProtocol):
    """Adds what the gateway needs to know of its connection, under one key of the ASGI scope."""

    _head_bytes = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        scope: Any = self.scope
        scope["farthing.connection"] = self

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= HEADERS_MAX:
            raise HeadTooLarge
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            raise HeadTooLarge

    def abort(self) -> None:
        """Ends the connection where the answer stands, so that the caller sees it cut and not complete."""
        self.cycle.disconnected = True
        self.transport.close()
