"""Work that outlives a request: entries the store could not take yet, and requests past their deadline."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable

from farthing.core.errors import StoreFailed
from farthing.core.types import Exchange
from farthing.ports.books import Books, Settlement
from farthing.ports.clock import Clock

_LOG = logging.getLogger("farthing.background")
_PENDING_MAX = 100_000
_UNLOGGED_MAX = 10_000
_LOG_BATCH = 500
_LOG_PAUSE_S = 0.02
_SWEEP_S = 1.0


class Background:
    """Owns every task that no request awaits. ``start`` and ``close`` are called by the server's lifespan."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock
        self._unbooked: deque[Settlement] = deque()
        self._deadlines: dict[asyncio.Task[object], float] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._logger: asyncio.Task[None] | None = None
        self._unlogged: deque[Exchange] = deque()
        self._wake = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where requests are served, once it is known: asking asyncio for it costs a system call."""
        self.dropped = 0
        """Exchanges lost because the queue was full; ledger entries are never dropped."""

    @property
    def unbooked(self) -> int:
        """Settlements that wait for the store to come back."""
        return len(self._unbooked)

    @property
    def in_flight(self) -> int:
        """Requests being served."""
        return len(self._deadlines)

    def start(self) -> None:
        loop = self.loop = asyncio.get_running_loop()
        self._sweeper = loop.create_task(self._sweep())
        self._logger = loop.create_task(self._log())

    def book_later(self, settlement: Settlement) -> None:
        """Keeps a settlement that the store refused and books it as soon as the store works again."""
        if len(self._unbooked) >= _PENDING_MAX:
            _LOG.critical("the ledger has been away too long: %d settlements wait, one is lost", len(self._unbooked))
            return
        self._unbooked.append(settlement)

    def log(self, exchange: Exchange) -> None:
        """Queues an exchange that no entry goes with; never blocks, drops and counts when the queue is full."""
        if len(self._unlogged) >= _UNLOGGED_MAX:
            self.dropped += 1
            return
        self._unlogged.append(exchange)
        self._wake.set()

    def take_unlogged(self) -> list[Exchange]:
        """The exchanges that wait to be written, for whoever keeps them without the tasks of a running gateway."""
        taken = list(self._unlogged)
        self._unlogged.clear()
        return taken

    def watch(self, task: asyncio.Task[object], timeout_ms: int) -> None:
        """Cancels ``task`` after ``timeout_ms`` (to the second) unless it is forgotten before."""
        loop = self.loop or asyncio.get_running_loop()
        self._deadlines[task] = loop.time() + timeout_ms / 1000

    def forget(self, task: asyncio.Task[object]) -> None:
        self._deadlines.pop(task, None)

    def expired(self, task: asyncio.Task[object]) -> bool:
        """True once ``task`` ran past its deadline; tells a time-out from a shutdown."""
        due = self._deadlines.get(task)
        return due is not None and asyncio.get_running_loop().time() >= due

    async def close(self, grace_ms: int) -> None:
        """Waits for requests in flight, then cancels the rest (they settle), then books what waits."""
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_ms / 1000
        while self._deadlines and loop.time() < end:
            await asyncio.sleep(0.02)
        for task in list(self._deadlines):
            task.cancel()
        if self._deadlines:
            await asyncio.wait(list(self._deadlines), timeout=5)
        tasks = [task for task in (self._sweeper, self._logger) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._drain()
        await self._write(list(self._unlogged))
        if self._unbooked:
            _LOG.critical("%d settlements could not be booked before shutdown", len(self._unbooked))

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = loop.time()
            for task, due in list(self._deadlines.items()):
                if now >= due:
                    task.cancel()
            if self._unbooked:
                await self._drain()

    async def _log(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_LOG_PAUSE_S)
            self._wake.clear()
            batch = list(self._unlogged)
            self._unlogged.clear()
            await self._write(batch)

    async def _write(self, batch: list[Exchange]) -> None:
        """Many at once, so that the store commits them as one group."""
        now_ms = self._clock.now_ms()
        for start in range(0, len(batch), _LOG_BATCH):
            part = batch[start : start + _LOG_BATCH]
            writes = [self._books.settle(Settlement(reservation=None, exchange=one), now_ms=now_ms) for one in part]
            results = await asyncio.gather(*writes, return_exceptions=True)
            self.dropped += sum(isinstance(result, StoreFailed) for result in results)

    async def _drain(self) -> None:
        while self._unbooked:
            try:
                await self._books.settle(self._unbooked[0], now_ms=self._clock.now_ms())
            except StoreFailed as error:
                if error.code == "conflict":
                    _LOG.error("a late settlement is refused: %s", error)
                else:
                    return
            self._unbooked.popleft()


async def outlived(work: Awaitable[None], what: str, *, trace: bool = True) -> str:
    """Awaits work whose defects must not end its task: they are logged. The defect's kind; empty: it went well.

    Without ``trace`` only the kind is logged, for work whose errors may quote secrets. ``StoreFailed`` is one line.
    """
    try:
        await work
    except StoreFailed as error:
        _LOG.warning("%s: %s", what, error)
        return error.code
    except Exception as error:  # noqa: BLE001  # calls are served without it, and it is tried again
        _LOG.error("%s has a defect: %s", what, type(error).__name__, exc_info=trace)
        return type(error).__name__
    return ""
