"""The transport: every socket to an upstream.

``HttpTransport`` is a small HTTP/1.1 keep-alive client on httptools, because the client is what a gateway's
CPU time is spent on (``docs/decisions/0002-http-stack.md``). Upstreams that need HTTP/2 or a proxy get
``LibraryTransport``.

Bodies are passed on as they come: no encoding is asked for, none is undone here (``engine.unpacking`` does that for
servers that compress unasked), no redirect is followed.

Nothing is ever sent twice. A server may close a connection that has been idle while a request is on its way to it;
and a provider, or a proxy on the way, may die when it has just begun to work. From here the two look the same, so a
connection that ends before its answer is always ``Overloaded`` with ``sent=True``: the request may have been billed,
and the caller decides. Connections that have been idle for ``stale_idle_ms`` are looked at before they are used.
"""

import asyncio
import ssl

from farthing.adapters.http_connection import Connection, Ticker
from farthing.adapters.http_library import LibraryTransport
from farthing.adapters.http_pool import Pool
from farthing.adapters.http_request import HeadWriter, Origin
from farthing.adapters.http_tls import client_tls
from farthing.core.errors import Overloaded
from farthing.ports.provider import HttpReply, HttpRequest, Timeouts, Transport

__all__ = ["HttpTransport", "LibraryTransport", "open_transport"]

TICK_S = 0.1
"""How often time-outs are looked at: they fire up to two ticks late, never early."""


class HttpTransport:
    """Keep-alive HTTP/1.1 to any number of origins, on one event loop. Implements ``ports.provider.Transport``."""

    def __init__(
        self,
        *,
        ca_file: str = "",
        max_connections: int = 1024,
        max_idle: int = 128,
        idle_timeout_ms: int = 50_000,
        stale_idle_ms: int = 1_000,
    ) -> None:
        """``max_connections`` and ``max_idle`` are per origin; ``ca_file`` replaces the system's authorities.

        No server closes a connection for idleness before it was idle for ``stale_idle_ms``.

        Raises ``ConfigError`` when ``ca_file`` cannot be read.
        """
        self.ticker = Ticker(TICK_S)
        self.closed = False
        self._tls: ssl.SSLContext | None = client_tls(ca_file) if ca_file else None
        self._max_connections = max_connections
        self._max_idle = max_idle
        self._idle_timeout = idle_timeout_ms / 1000
        self._stale_idle = stale_idle_ms / 1000
        self._writer = HeadWriter()
        self._pools: dict[Origin, Pool] = {}
        self._connections: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def send(self, request: HttpRequest, *, timeouts: Timeouts) -> HttpReply:
        origin, start = self._writer.start(request.method, request.url)
        head = self._writer.head(start, request)
        if self.closed:
            raise Overloaded(f"no connection to {origin}: the transport is closed", sent=False)
        pool = self._pools.get(origin) or self._open_pool(origin)
        connection = pool.take() or await pool.acquire(timeouts.connect_ms)
        while (
            connection.used and self.ticker.now - connection.seen >= self._stale_idle and connection.speaks_unasked()
        ):
            connection.drop()
            connection = pool.take() or await pool.acquire(timeouts.connect_ms)
        reply = connection.exchange(request.method, head, request.body, timeouts)
        try:
            while not reply.status and reply.error is None:
                await reply.awaited()
        except asyncio.CancelledError:
            reply.close()
            raise
        if reply.error is not None and not reply.status:
            raise reply.error
        return reply

    async def close(self) -> None:
        """Drops every connection; exchanges under way fail. May be called more than once."""
        self.closed = True
        for connection in tuple(self._connections):
            connection.drop()
        if self._connections:
            if self._emptied is None:
                self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._emptied)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- Sweeper

    def watch(self, connection: Connection) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self.ticker.now = loop.time()
            self._timer = loop.call_later(TICK_S, self._sweep)
        self._connections.add(connection)

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = client_tls()
        return self._tls

    # -- inside

    def _sweep(self) -> None:
        """The one timer: all long limits are checked here, so that a read costs no timer of its own."""
        loop = asyncio.get_running_loop()
        now = self.ticker.now = loop.time()
        for connection in tuple(self._connections):
            connection.check(now, self._idle_timeout)
        self._timer = loop.call_later(TICK_S, self._sweep) if self._connections else None

    def _open_pool(self, origin: Origin) -> Pool:
        loop = asyncio.get_running_loop()
        pool = Pool(origin, self, loop, limit=self._max_connections, max_idle=self._max_idle)
        self._pools[origin] = pool
        return pool


def open_transport(*, http: str = "1.1", proxy: str = "", ca_file: str = "") -> Transport:
    """The transport for one provider's settings (``http``, ``proxy``). Raises ``ConfigError`` for a bad proxy."""
    if http == "1.1" and not proxy:
        return HttpTransport(ca_file=ca_file)
    return LibraryTransport(http2=http == "2", proxy=proxy, ca_file=ca_file)
