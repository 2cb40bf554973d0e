"""One HTTP/1.1 client connection.

Parsing is httptools'; what is ours is the life of a connection: when an answer is complete, whether the connection
may carry another one, and what each way of dying means for the caller.
"""

import asyncio
import select
import socket
from typing import Protocol, cast

import httptools

from farthing.adapters.http_reply import READ_LIMIT, Reply
from farthing.adapters.http_request import Origin
from farthing.core.errors import Overloaded, ProviderFailed, StreamBroken, TimedOut
from farthing.ports.provider import Timeouts

HEAD_LIMIT = 64 * 1024
"""Bytes of an answer's head (interim answers included), and of framing or trailers between two pieces of body."""
BUFFER_LIMIT = 256 * 1024
"""Bytes held for a consumer that lags before the socket is no longer read."""
_JOIN_LIMIT = 64 * 1024
"""Bodies up to here are copied behind their head (one small write); larger ones are written without a copy."""


class Ticker:
    """Coarse loop time in seconds: ``now`` is never ahead, and behind by ``tick`` at most."""

    __slots__ = ("now", "tick")

    def __init__(self, tick: float) -> None:
        self.now = 0.0
        self.tick = tick


class Owner(Protocol):
    """What a connection needs of the pool that holds it."""

    origin: Origin
    ticker: Ticker

    def joined(self, connection: "Connection") -> None: ...
    def idle(self, connection: "Connection") -> None: ...
    def dropped(self, connection: "Connection") -> None: ...
    def closed(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """A socket to one origin; carries one exchange at a time."""

    __slots__ = (
        "_barren",
        "_between",
        "_fed",
        "_headers",
        "_loop",
        "_parser",
        "_paused",
        "_refused",
        "_reply",
        "_reusable",
        "_surplus",
        "_ticker",
        "_transport",
        "abandoned",
        "alive",
        "holds_slot",
        "owner",
        "seen",
        "used",
    )

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.owner = owner
        self.alive = False
        """Connected, and neither end has closed."""
        self.used = False
        """Has carried an exchange before the present one."""
        self.abandoned = False
        """Whoever asked for the connection left before it was made."""
        self.holds_slot = False
        """Counts against the pool's limit."""
        self.seen = 0.0
        """When the present silence (or idleness) began, coarse loop time."""
        self._loop = loop
        self._ticker = owner.ticker
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._barren = 0  # bytes read since the last piece of body, or since the exchange began
        self._fed = False  # this read brought body
        self._between = False  # the last thing parsed was the end of a chunk
        self._surplus = False
        self._refused = False
        self._reusable = False
        self._paused = False

    @property
    def origin(self) -> Origin:
        return self.owner.origin

    def now(self) -> float:
        """Exact loop time in seconds."""
        return self._loop.time()

    # -- exchanges

    def exchange(self, method: str, head: bytes, body: bytes, timeouts: Timeouts) -> Reply:
        """Writes a request and returns its answer, of which nothing has arrived yet."""
        reply = self._reply = Reply(self, method, timeouts, self._loop)
        self._barren = 0
        self._headers = []
        self.seen = self._ticker.now
        if len(body) <= _JOIN_LIMIT:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return reply

    def resume(self, reply: Reply) -> None:
        """The consumer has caught up: read on if reading was paused for it."""
        if self._paused and reply is self._reply and self.alive:
            self._paused = False
            self.seen = self._ticker.now
            self._transport.resume_reading()

    def drop(self) -> None:
        """Closes the socket now; the upstream sees it at once."""
        if self.alive:
            self.alive = False
            self._transport.abort()
            self.owner.dropped(self)

    def speaks_unasked(self) -> bool:
        """Something has come on this idle connection, most likely its end, and the event loop has not seen it yet."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        look = select.poll()
        look.register(sock.fileno(), select.POLLIN)
        return bool(look.poll(0))

    def check(self, now: float, idle_timeout: float) -> None:
        """Called by the sweep: ends an idle connection that is too old and an exchange that is silent too long."""
        reply = self._reply
        if reply is None:
            if now - self.seen > idle_timeout:
                self.drop()
        # Silence while the consumer lags is ours. ``seen`` may be a tick too early; never time out early for it.
        elif not self._paused and now - self.seen > reply.limit_s + self._ticker.tick:
            silence = f"{reply.limit_s:g} s"
            if reply.status:
                error = TimedOut(f"{self.origin} fell silent for {silence} in the middle of its answer")
            else:
                error = TimedOut(f"{self.origin} did not begin to answer within {silence}", hint=_SLOW_HINT)
            self._end(reply, error)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = stream = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        if self.abandoned:
            stream.abort()
            return
        self.alive = True
        _keep_alive_probes(stream)
        self.owner.joined(self)
        self.seen = self._ticker.now

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:
            self.drop()  # bytes that nobody asked for: whatever they are, the next answer could not be trusted
            return
        if self._between and reply.framed is not None and reply.framed(data):
            self.seen = self._ticker.now
            return
        size = len(data)
        headless = not reply.status
        self._fed = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._garbage(reply, error)
            return
        if self._refused:
            self._end(reply, self._broken(reply, _SWITCHED))
            return
        if headless and reply.status and self._barren + size > HEAD_LIMIT and self._head_too_large(reply):
            return
        if self._reply is None:
            self._finish(reply)
            return
        if not self._fed:
            self._barren += size
            if self._barren > HEAD_LIMIT:
                self._end(reply, self._broken(reply, f"sent more than {HEAD_LIMIT} bytes of headers or framing"))
                return
            if not reply.status:
                return
        else:
            self._barren = 0
        if self._between and not data.endswith(_LINE_END):
            self._between = False  # part of the next chunk's size was read too
        self.seen = self._ticker.now
        self._deliver(reply, size)

    def eof_received(self) -> bool:
        # A half-closed connection can carry no further answer; it must not be found idle before connection_lost.
        self._lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)
        self.owner.closed(self)

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self._reply is None:
            self._surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too: bounded by HEAD_LIMIT, and never looked at.
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is None:
            return
        status = self._parser.get_status_code()
        if status >= 200:
            reply.headers = tuple(self._headers)
            reply.status = status
        elif status == 101:
            self._refused = True
        self._headers = []

    def on_body(self, body: bytes) -> None:
        reply = self._reply
        if reply is not None:
            reply.parts.append(body)
            self._fed = True

    def on_chunk_header(self) -> None:
        self._between = False

    def on_chunk_complete(self) -> None:
        self._between = True

    def on_message_complete(self) -> None:
        self._between = False
        reply = self._reply
        if reply is not None and reply.status:
            reply.complete = True
            self._reply = None
            self._reusable = self._parser.should_keep_alive()  # the parser forgets it right after this call

    # -- inside

    def _deliver(self, reply: Reply, size: int) -> None:
        if reply.method == "HEAD":
            # The parser cannot be told that no body follows, so its state is of no further use.
            reply.complete = True
            self._reply = None
            self.drop()
            reply.wake()
            return
        reply.size += size
        if reply.collecting:
            if reply.size > READ_LIMIT:
                self._end(reply, self._broken(reply, f"sent a body of more than {READ_LIMIT} bytes"))
            return
        reply.arrived()
        if reply.size > BUFFER_LIMIT and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _finish(self, reply: Reply) -> None:
        self.used = True
        if (
            self.alive
            and not self._surplus
            and reply.method != "HEAD"
            and self._reusable
            and not self._transport.get_write_buffer_size()
        ):
            self.seen = self._ticker.now
            self.owner.idle(self)
        else:
            self.drop()
        reply.wake()

    def _garbage(self, reply: Reply, error: Exception) -> None:
        if reply.complete:
            self._surplus = True  # the answer was whole; what followed it was not
            self._finish(reply)
        elif self._refused:
            self._end(reply, self._broken(reply, _SWITCHED))
        else:
            self._end(reply, self._broken(reply, f"does not speak HTTP/1.1 here: {error}"))

    def _head_too_large(self, reply: Reply) -> bool:
        if self._barren + sum(len(name) + len(value) + 4 for name, value in reply.headers) <= HEAD_LIMIT:
            return False
        reply.status = 0
        reply.complete = False
        self._end(reply, self._broken(reply, f"sent a head of more than {HEAD_LIMIT} bytes"))
        return True

    def _lost(self, exc: Exception | None) -> None:
        reply = self._reply
        if reply is not None:
            # When we dropped the connection ourselves (not alive), its end says nothing about the body.
            if reply.status and exc is None and self.alive and _ends_with_connection(reply.headers):
                reply.complete = True
                self._reply = None
                reply.wake()
            else:
                why = f"connection lost: {exc}" if exc is not None else "closed the connection"
                self._end(reply, self._broken(reply, f"{why} before the answer was complete"))
        self.drop()

    def _end(self, reply: Reply, error: ProviderFailed) -> None:
        self._reply = None
        self.drop()
        reply.fail(error)

    def _broken(self, reply: Reply, why: str) -> ProviderFailed:
        message = f"{self.origin} {why}"
        return StreamBroken(message, status=reply.status) if reply.status else Overloaded(message)


_LINE_END = b"\r\n"
_SWITCHED = "switched protocols, which was not asked for"
_SLOW_HINT = "Raise limits.first_byte_timeout for slow models, or stream."


def _ends_with_connection(headers: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether this body has no length of its own, so that the end of the connection is its end."""
    chunked = sized = False
    for name, value in headers:
        if name == b"transfer-encoding":
            chunked = value.lower().rstrip().endswith(b"chunked")
        elif name == b"content-length":
            sized = True
    return not chunked and not sized


def _keep_alive_probes(transport: asyncio.Transport) -> None:
    # Models may think for minutes without a byte; probes keep routers on the way from forgetting the connection.
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 30)
