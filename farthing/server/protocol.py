"""The HTTP protocol of the gateway: uvicorn's, with a bound on request heads and a way to drop a broken answer.

What uvicorn does for every request and a metered call does not need is put off until somebody needs it: the ASGI
scope, and a timer for each pause between two requests. A head that came byte for byte before is not parsed again.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from farthing.server.direct import DirectApp, DirectExchange, Route
from farthing.server.head import Head
from farthing.server.head_bytes import HeadBytes

HEAD_BYTES_MAX = 64 * 1024
HEADERS_MAX = 128
PIPELINE_MAX = 16
"""Requests that may wait behind one another on a connection before it is read no further."""
_BUSY = -1.0


class HeadTooLarge(ValueError):
    """Raised inside the parser; the connection answers 400 and closes."""


class GatewayProtocol(HttpToolsProtocol):
    """Adds what the gateway needs to know of its connection to the ASGI scope.

    ``farthing.connection`` is this protocol, ``farthing.cycle`` the exchange of this request: with pipelining the
    protocol's own ``cycle`` is that of the newest request, not of the one being answered.
    """

    _head_bytes = 0
    _direct: DirectExchange | None = None
    _head: Head | None = None
    """The last metered call's: the next one most likely has the same."""
    _length: tuple[bytes, bytes] | None = None
    _between = True
    """The parser is between two requests."""
    _begun = 0
    """Requests that began in the present piece of data."""
    _same_head = False
    """The request that began last has the head of the one before it."""
    _repeated: tuple[HeadBytes, Route, Head] | None = None
    """A head that came twice, what it asks for, and its headers."""
    _idle_since = _BUSY
    """Loop time in seconds since when nothing was under way."""
    _idle_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._idle_since = _BUSY
        between = self._between
        repeated = self._repeated
        if repeated is not None and between and not self._is_busy():
            app: DirectApp | None = getattr(self.app, "direct", None)
            body = repeated[0].body_of(data)
            if body is not None and app is not None:
                _, route, head = repeated
                cycle: Any = DirectExchange(self, app, route, head, keep_alive=True)
                cycle.add(body)
                self.cycle = cycle
                self._serve(cycle)
                return
        self._begun = 0
        super().data_received(data)
        if between and self._same_head and self._begun == 1 and self._between:
            self._learn(data)

    def _learn(self, data: bytes) -> None:
        """Keeps the head of a metered call that was all of ``data``."""
        cycle: object = self.cycle
        if isinstance(cycle, DirectExchange) and cycle.keep_alive and self._head is not None:
            made = HeadBytes.of(data, cycle.size)
            self._repeated = (made, cycle.route, self._head) if made is not None else None

    def _serve(self, direct: DirectExchange) -> None:
        direct.task = task = self.loop.create_task(direct.run())
        self.tasks.add(task)

    def _is_busy(self) -> bool:
        """Something on this connection is not answered yet."""
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def on_message_begin(self) -> None:
        self._between = False
        self._begun += 1
        self._same_head = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._length = None
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._direct = None
        app: DirectApp | None = getattr(self.app, "direct", None)
        route = app.routes.get(self.url) if app is not None else None
        if app is not None and route is not None and self._is_plain():
            keep_alive = self.parser.should_keep_alive()
            cycle: Any = DirectExchange(self, app, route, self._known_head(), keep_alive=keep_alive)
            self.cycle = self._direct = cycle
            return
        self._begin_scope()
        super().on_headers_complete()
        scope: Any = self.scope
        scope["farthing.cycle"] = self.cycle
        if 0 < len(self.pipeline) <= PIPELINE_MAX:
            self.flow.resume_reading()  # a caller that hangs up is only seen while its connection is read

    def _known_head(self) -> Head:
        head = self._head
        self._same_head = head is not None and head.listed == self.headers
        if head is None or not self._same_head:
            head = self._head = Head(self.headers)
        return head

    def _begin_scope(self) -> None:
        """What uvicorn makes when a request begins, made once its head is known."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        if self._length is not None:
            headers.append(self._length)
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        scope: Any = self.scope
        scope["headers"] = headers
        scope["farthing.connection"] = self

    def _is_plain(self) -> bool:
        """A POST by HTTP/1.1 that nothing else on this connection is in front of."""
        parser = self.parser
        return (
            not self._is_busy()
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
        self._between = True
        direct = self._direct
        if direct is None:
            super().on_message_complete()
            return
        self._direct = None
        self._serve(direct)

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES_MAX:
            raise HeadTooLarge
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self.headers
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX or len(headers) >= HEADERS_MAX:
            raise HeadTooLarge
        name = name.lower()
        if name == b"content-length":
            self._length = (name, value)  # kept apart: but for it, a caller's requests have the same head
            return
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        headers.append((name, value))

    def abort(self, cycle: RequestResponseCycle) -> None:
        """Ends the connection where the answer stands, so that the caller sees it cut and not complete."""
        cycle.disconnected = True
        self.transport.close()

    # -- pauses between requests: one timer that looks how long the present pause is, instead of one for each of them

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = _BUSY

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._idle_since = _BUSY
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since == _BUSY:
            return  # the end of what is under way begins the next pause
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._look_idle)
        else:
            self.timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)
