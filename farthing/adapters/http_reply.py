"""An answer on its way from a connection to its consumer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from farthing.adapters.http_request import Origin
from farthing.core.errors import ProviderFailed, StreamBroken
from farthing.ports.provider import Sink, Timeouts

READ_LIMIT = 256 * 1024 * 1024
"""Bytes that ``read`` collects before the answer is given up."""


class Line(Protocol):
    """What a reply needs of its connection."""

    @property
    def origin(self) -> Origin: ...
    def resume(self, reply: "Reply") -> None: ...
    def drop(self) -> None: ...


class Reply:
    """An answer whose body is still arriving, or complete in memory. Implements ``ports.provider.HttpReply``."""

    __slots__ = (
        "_line",
        "_loop",
        "_raised",
        "_sink",
        "_stopped",
        "_timeouts",
        "_waiter",
        "collecting",
        "complete",
        "error",
        "framed",
        "headers",
        "method",
        "parts",
        "size",
        "status",
    )

    def __init__(self, line: Line, method: str, timeouts: Timeouts, loop: asyncio.AbstractEventLoop) -> None:
        self._line = line
        self._loop = loop
        self._timeouts = timeouts
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self.framed: Sink | None = None
        """Is shown what was read between two chunks, while nothing waits to be taken before it."""
        self._stopped = False
        self._raised: Exception | None = None
        self.method = method
        self.status = 0
        """0 until the head is complete."""
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.parts: list[bytes] = []
        """Body that the consumer has not taken yet."""
        self.size = 0
        """Bytes read from the socket since the consumer last took something (framing included)."""
        self.collecting = False
        """The consumer wants the whole body and need not be woken before its end."""
        self.complete = False
        self.error: ProviderFailed | None = None

    # -- for the consumer

    def awaited(self) -> "asyncio.Future[None]":
        """Is done at the next news: the head is complete, or the exchange has failed (then ``error`` is set).

        Whoever leaves before that must ``close``: the connection is of no use to others.
        """
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def read_now(self) -> bytes | None:
        return self._take() if self.complete and self.error is None else None

    async def read(self) -> bytes:
        self.collecting = True
        self._line.resume(self)
        while not self.complete and self.error is None:
            try:
                await self._wait()
            except asyncio.CancelledError:
                self.close()
                raise
        if self.error is not None:
            raise self.error
        return self._take()

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        # What arrived before a failure is still delivered; then the failure is raised.
        while not self.parts:
            if self.error is not None:
                raise self.error
            if self.complete:
                raise StopAsyncIteration
            await self._wait()
        data = self._take()
        self._line.resume(self)
        return data

    async def pass_on(self, sink: Sink, framed: Sink | None = None) -> bool:
        while True:
            if self.parts:
                data = self._take()
                self._line.resume(self)
                if not sink(data):
                    return True
            elif self.error is not None:
                raise self.error
            elif self.complete:
                return False
            else:
                self._sink = sink
                self.framed = framed
                try:
                    await self._wait()
                finally:
                    self._sink = self.framed = None
                if self._raised is not None:
                    raise self._raised
                if self._stopped:
                    self._stopped = False
                    return True

    def close(self) -> None:
        if self.complete or self.error is not None:
            return
        origin = self._line.origin
        self.fail(StreamBroken(f"the answer from {origin} was closed before its end"))
        self.parts.clear()
        self._line.drop()

    # -- for the connection

    @property
    def limit_s(self) -> float:
        """The silence that is now allowed, in seconds."""
        return (self._timeouts.idle_ms if self.status else self._timeouts.first_byte_ms) / 1000

    def fail(self, error: ProviderFailed) -> None:
        if not self.complete and self.error is None:
            self.error = error
            self.wake()

    def arrived(self) -> None:
        """Something was read: it goes to the sink at once, or the consumer is woken."""
        sink = self._sink
        if sink is None:
            self.wake()
        elif self.parts:
            try:
                goes_on = sink(self._take())
            except Exception as error:  # noqa: BLE001  # it is the consumer's, and is raised there
                self._raised = error
                goes_on = False
            if not goes_on:
                self._sink = self.framed = None
                self._stopped = True
                self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _take(self) -> bytes:
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.size = 0
        return data

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None
