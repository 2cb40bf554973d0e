"""The HTTP protocol of the gateway: uvicorn's, with a bound on request heads and a way to drop a broken answer."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from farthing.server.direct import DirectApp, DirectExchange

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 128
PIPELINE_MAX = 16
"""Requests that may wait behind one another on a connection before it is read no further."""


class HeadTooLarge(ValueError):
    """Raised inside the parser; the connection answers 400 and closes."""


class GatewayProtocol(HttpToolsProtocol):
    """Adds what the gateway needs to know of its connection to the ASGI scope.

    ``farthing.connection`` is this protocol, ``farthing.cycle`` the exchange of this request: with pipelining the
    protocol's own ``cycle`` is that of the newest request, not of the one being answered.
    """

    _head_bytes = 0
    _direct: DirectExchange | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        scope: Any = self.scope
        scope["farthing.connection"] = self

    def on_headers_complete(self) -> None:
        self._direct = None
        app: DirectApp | None = getattr(self.app, "direct", None)
        route = app.routes.get(self.url) if app is not None else None
        if app is not None and route is not None and self._is_plain():
            cycle: Any = DirectExchange(self, app, route, self.headers, keep_alive=self.parser.should_keep_alive())
            self.cycle = self._direct = cycle
            return
        super().on_headers_complete()
        scope: Any = self.scope
        scope["farthing.cycle"] = self.cycle
        if 0 < len(self.pipeline) <= PIPELINE_MAX:
            self.flow.resume_reading()  # a caller that hangs up is only seen while its connection is read

    def _is_plain(self) -> bool:
        """A POST by HTTP/1.1 that nothing else on this connection is in front of."""
        parser = self.parser
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.expect_100_continue
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        )

    def on_body(self, body: bytes) -> None:
        if self._direct is not None:
            self._direct.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._direct is None:
            super().on_message_complete()
            return
        task = self.loop.create_task(self._direct.run())
        self._direct = None
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

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

    def abort(self, cycle: RequestResponseCycle) -> None:
        """Ends the connection where the answer stands, so that the caller sees it cut and not complete."""
        cycle.disconnected = True
        self.transport.close()
