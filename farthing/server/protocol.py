"""The HTTP protocol of the gateway: uvicorn's, with a bound on request heads and a way to drop a broken answer."""

import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from farthing.ports.reply import Headers

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 128
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Bytes that would end a header early; a provider's header that carries one is left out."""


class HeadTooLarge(ValueError):
    """Raised inside the parser; the connection answers 400 and closes."""


class GatewayProtocol(HttpToolsProtocol):
    """Adds what the gateway needs to know of its connection to the ASGI scope.

    ``farthing.connection`` is this protocol, ``farthing.cycle`` the exchange of this request: with pipelining the
    protocol's own ``cycle`` is that of the newest request, not of the one being answered.
    """

    _head_bytes = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        scope: Any = self.scope
        scope["farthing.connection"] = self

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        scope: Any = self.scope
        scope["farthing.cycle"] = self.cycle

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

    def send_whole(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> bool:
        """Writes head and body of a complete answer in one go; False when the slower way must be taken.

        The same bytes and the same end of the cycle as uvicorn's ``send`` twice, at half its system calls.
        """
        if cycle.response_started or self.flow.write_paused:
            return False
        if cycle.disconnected or self.transport.is_closing():
            cycle.disconnected = True
            return True
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            if _FORBIDDEN.search(name) or _FORBIDDEN.search(value):
                continue
            if name == b"connection":
                cycle.keep_alive = False
                continue
            parts += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"content-length: ", str(len(body)).encode(), b"\r\n\r\n", body)
        self.transport.write(b"".join(parts))
        cycle.response_started = True
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def abort(self, cycle: RequestResponseCycle) -> None:
        """Ends the connection where the answer stands, so that the caller sees it cut and not complete."""
        cycle.disconnected = True
        self.transport.close()
