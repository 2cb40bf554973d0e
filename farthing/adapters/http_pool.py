"""Keep-alive connections of one origin: reuse, limit, and a fair queue."""

import asyncio
import ssl
from collections import deque
from typing import Protocol

from farthing.adapters.http_connection import Connection, Ticker
from farthing.adapters.http_request import Origin
from farthing.core.errors import Overloaded


class Sweeper(Protocol):
    """What a pool needs of the transport."""

    ticker: Ticker
    closed: bool

    def watch(self, connection: Connection) -> None: ...
    def forget(self, connection: Connection) -> None: ...
    def tls(self) -> ssl.SSLContext: ...


class Pool:
    """Hands out connections, the most recently used first.

    While somebody queues, every slot is taken and nothing is idle: a freed connection (or slot) goes to the first in
    the queue, so that nobody can overtake.
    """

    def __init__(
        self, origin: Origin, sweeper: Sweeper, loop: asyncio.AbstractEventLoop, *, limit: int, max_idle: int
    ) -> None:
        self.origin = origin
        self.ticker = sweeper.ticker
        self._sweeper = sweeper
        self._loop = loop
        self._limit = limit
        self._max_idle = max_idle
        self._open = 0
        """Slots taken: connections that live, are being made, or are promised to someone in the queue."""
        self._idle: list[Connection] = []
        self._queue: deque[asyncio.Future[Connection | None]] = deque()

    def take(self) -> Connection | None:
        """An idle connection, if there is one."""
        return self._idle.pop() if self._idle else None

    async def acquire(self, connect_ms: int) -> Connection:
        """A connection, made or waited for.

        Raises ``Overloaded(sent=False)`` when there is none within ``connect_ms``.
        """
        place = "connecting"
        try:
            async with asyncio.timeout(connect_ms / 1000):
                while True:
                    connection = self.take()
                    if connection is None and self._open >= self._limit:
                        place = f"waiting for one of its {self._limit} connections"
                        connection = await self._turn()
                        place = "connecting"
                    elif connection is None:
                        self._open += 1
                    if connection is None:
                        return await self._connect()
                    if connection.alive:
                        return connection
        except TimeoutError:
            raise Overloaded(
                f"no connection to {self.origin}: gave up after {connect_ms} ms {place}", hint=_REACH, sent=False
            ) from None

    # -- Owner

    def joined(self, connection: Connection) -> None:
        self._sweeper.watch(connection)

    def closed(self, connection: Connection) -> None:
        self._sweeper.forget(connection)

    def idle(self, connection: Connection) -> None:
        if self._sweeper.closed:
            connection.drop()
        elif not self._promise(connection):
            if len(self._idle) < self._max_idle:
                self._idle.append(connection)
            else:
                connection.drop()

    def dropped(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.holds_slot:
            self._free()

    # -- inside

    async def _turn(self) -> Connection | None:
        """Waits in the queue for a connection, or for a slot to make one in (None)."""
        turn: asyncio.Future[Connection | None] = self._loop.create_future()
        self._queue.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was granted while we were being cancelled
                connection = turn.result()
                if connection is None:
                    self._free()
                elif connection.alive:
                    self.idle(connection)
            raise

    def _promise(self, grant: Connection | None) -> bool:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(grant)
                return True
        return False

    def _free(self) -> None:
        if not self._promise(None):
            self._open -= 1

    async def _connect(self) -> Connection:
        """Makes a connection in a slot that is already taken."""
        if self._sweeper.closed:
            self._free()
            raise self._refused("the transport was closed")
        connection = Connection(self, self._loop)
        secure = self.origin.scheme == "https"
        try:
            await self._loop.create_connection(
                lambda: connection,
                self.origin.host,
                self.origin.port,
                ssl=self._sweeper.tls() if secure else None,
                server_hostname=self.origin.host if secure else None,
            )
            connection.holds_slot = connection.alive and not self._sweeper.closed
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            raise Overloaded(f"no TLS connection to {self.origin}: {error}", hint=_TRUST, sent=False) from None
        except (OSError, UnicodeError) as error:
            raise Overloaded(f"no connection to {self.origin}: {error}", hint=_REACH, sent=False) from None
        finally:
            if not connection.holds_slot:
                connection.abandoned = True
                connection.drop()
                self._free()
                # uvloop closes the socket of a cancelled connect without ever calling connection_lost.
                self._sweeper.forget(connection)
        if not connection.holds_slot:
            raise self._refused("the transport was closed" if self._sweeper.closed else "it was closed at once")
        return connection

    def _refused(self, why: str) -> Overloaded:
        return Overloaded(f"no connection to {self.origin}: {why}", hint=_REACH, sent=False)


_REACH = "Check the provider's base_url and that this host can reach it."
_TRUST = "Check the certificate; for a private authority set SSL_CERT_FILE to its PEM file."
