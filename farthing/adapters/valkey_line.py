"""One connection to Valkey on the event loop: scripts are asked and answered without a thread.

valkey-py makes the connection (addresses, TLS, passwords, databases). What is said on it then goes straight to the
transport: a question with its answer costs a fifth of what it costs by a thread, or by the client's own streams.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Final, cast

import libvalkey
from valkey.asyncio import ConnectionPool
from valkey.exceptions import ConnectionError, TimeoutError

TIMEOUT_S: Final = 2.0


def _told(length: int) -> str:
    return f"\r\n${length}\r\n"


_SHORT: Final = 256
_LENGTHS: Final = tuple(map(_told, range(_SHORT)))
"""What stands before words of these lengths."""


class ValkeyLine:
    """Commands that may be repeated, one answer each. Connects when it is first used, and anew when it was cut."""

    def __init__(self, url: str) -> None:
        """Raises ``ValueError`` for a URL that is none."""
        self._pool = ConnectionPool.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, client_name="farthing"
        )
        self._talk: _Talk | None = None
        self._connecting: asyncio.Task[None] | None = None

    async def say(self, command: Callable[[], bytes]) -> object:
        """The answer; once more on a new connection where an old one was closed meanwhile.

        ``command`` is called for each sending: what was sent in vain may still be acted upon, later than that.
        An error that Valkey answers is returned, not raised. Raises ``ValkeyError`` and ``OSError``.
        """
        if self._talk is not None and self._talk.open:
            try:
                return await self._talk.ask(command())
            except ConnectionError:
                pass
        # A task of its own: who waits for it may be cancelled, and the client would take that for a failure.
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        await asyncio.shield(self._connecting)
        assert self._talk is not None
        return await self._talk.ask(command())

    async def _connect(self) -> None:
        self._talk = await _Talk.begin(self._pool)

    def close(self) -> None:
        """Hang up."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._talk is not None:
            self._talk.end(ConnectionError("the connection was closed"))


class _Talk(asyncio.Protocol):
    """One connection; answers come in the order of the questions."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        """Kept, because it closes its transport when nobody knows it any more."""
        self._transport = cast(asyncio.Transport, writer.transport)
        self._loop = asyncio.get_running_loop()
        self._reader = libvalkey.Reader(encoding="utf-8")
        self._asked: collections.deque[asyncio.Future[object]] = collections.deque()
        self.open = True

    @classmethod
    async def begin(cls, pool: ConnectionPool) -> "_Talk":
        connection = pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        writer = cast(asyncio.StreamWriter, connection._writer)
        # The client's streams are not used any more; they would take the end of the connection for an oversight.
        connection._writer = connection._reader = None
        talk = cls(writer)
        writer.transport.set_protocol(talk)
        return talk

    async def ask(self, command: bytes) -> object:
        answer = self._loop.create_future()
        self._asked.append(answer)
        late = self._loop.call_later(TIMEOUT_S, self.end, TimeoutError("no answer came in time"))
        self._transport.write(command)
        try:
            return await answer
        finally:
            late.cancel()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                asked = self._asked.popleft()
                if not asked.done():
                    asked.set_result(answer)
        except (libvalkey.ProtocolError, IndexError):
            self.end(ConnectionError("the answer was not understood"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(ConnectionError("the connection was closed"))

    def end(self, error: Exception) -> None:
        """Nothing that was asked will be answered."""
        self.open = False
        self._transport.abort()
        asked, self._asked = self._asked, collections.deque()
        for answer in asked:
            if not answer.done():
                answer.set_exception(error)


def words(texts: Sequence[str]) -> str:
    """Words of a command as they travel."""
    told = "".join([(_LENGTHS[size] if (size := len(text)) < _SHORT else _told(size)) + text for text in texts])
    if told.isascii():
        return told
    return "".join([_told(len(text.encode())) + text for text in texts])


def packed(count: int, text: str) -> bytes:
    """A command of so many ``words``."""
    return f"*{count}{text}\r\n".encode()
