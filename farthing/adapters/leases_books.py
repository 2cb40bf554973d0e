"""Books for many workers on many hosts: leases for what may be spent, a local journal for what was spent.

A call is held in memory, within authority that the lease store gave; it is settled when this worker's journal has
it on disk. The journal is shipped to PostgreSQL, which is the ledger; only then the store of leases learns that the
money is booked. A crash between two steps can leave money held, never unbooked.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from farthing.adapters.journal import EntryJournal, JournalThread, remove_entries
from farthing.adapters.leases import LEASE_S, LeaseStore
from farthing.adapters.leases_shipping import Shipping
from farthing.adapters.leases_state import (
    RETRY_S,
    LedgerReader,
    log,
)
from farthing.adapters.postgres_shelf import Shelf
from farthing.adapters.sqlite_journal import HoldJournal
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Denied, Exchange, Held, LedgerEntry, LedgerQuery, Reservation, Totals
from farthing.ports.books import Balance, Settlement


def _not_open() -> StoreUnavailable:
    return StoreUnavailable("The books are not open.", hint="Call start() first.")


async def _refused() -> NoReturn:
    raise _not_open()


class LeasedBooks:
    """``Books`` and ``Ledger`` over a shelf (PostgreSQL), a store of leases, and a journal in ``home``.

    ``allowance`` is what may be held, in nano-USD of ceilings, while the lease store is away; None: nothing.
    """

    def __init__(
        self,
        home: Path,
        *,
        worker: str,
        shelf: Callable[[str], Shelf],
        leases: Callable[[str, Shelf], LeaseStore],
        reader: LedgerReader,
        durability: Literal["strict", "relaxed"] = "strict",
        on_lost: Literal["ceiling", "release"] = "ceiling",
        allowance: int | None = None,
    ) -> None:
        self._home = home
        self._folder = home / "workers"
        self._name = f"{worker[:55]}-{secrets.token_hex(4)}"
        self._shelf = shelf(self._name)
        self._leases = leases(self._name, self._shelf)
        self._reader = reader
        self._strict = durability == "strict"
        self._on_lost = on_lost
        self._allowance = allowance
        self._running: _Running | None = None
        self.allowance_held = 0
        """Nano-USD of ceilings let through in this outage."""

    async def start(self) -> None:
        """Join: make the schema, take over from workers of this host that died. Raises ``StoreUnavailable``."""
        if self._running is None:
            running = _Running(self)
            await running.start()
            self._running = running

    def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Coroutine[None, None, Held | Denied]:
        running = self._running
        return _refused() if running is None else running.reserve(reservation, now_ms, stub)

    def settle(self, settlement: Settlement, *, now_ms: int) -> Coroutine[None, None, None]:
        running = self._running
        return _refused() if running is None else running.settle(settlement, now_ms)

    async def prune(self, before_ms: int) -> int:
        """Delete exchanges received before ``before_ms``; the number deleted. Ledger entries are never deleted."""
        running = self._require()
        await running.caught_up()
        deleted = 0
        while True:
            count = await running.on_shelf(lambda: self._shelf.prune(before_ms, 1_000))
            deleted += count
            if count < 1_000:
                return deleted

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """Exact for this worker; other workers' figures are as old as their last shipment, some 30 ms."""
        return self._require().balances(counters)

    def open_reservations(self) -> tuple[Reservation, ...]:
        """This worker's, those of other workers of this host, and lasting ones of other hosts."""
        return self._require().open_reservations()

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        self.catch_up()
        return self._reader.totals(query)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        self.catch_up()
        return self._reader.entries(request_id=request_id, since_ms=since_ms, after=after)

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        self.catch_up()
        return self._reader.exchanges(since_ms=since_ms, after=after)

    def catch_up(self) -> None:
        """Ship everything now; blocks. For reads that must see all that this worker has settled."""
        self._require().ship_now()

    def gauges(self) -> Mapping[str, float]:
        """The present state, for ``/metrics``."""
        return {} if self._running is None else self._running.gauges()

    async def close(self) -> None:
        """Ship everything, give all authority back, leave. May be called twice."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    def _require(self) -> "_Running":
        if self._running is None:
            raise _not_open()
        return self._running


class _Running(Shipping):
    """What exists between start and close."""

    async def start(self) -> None:
        self._holds = HoldJournal(self._folder, self._name)
        self._journal = EntryJournal(self._folder, self._name)
        self._disk = JournalThread(self._journal, self._loop, self._group_done)
        try:
            await self.on_shelf(self._shelf.start)
            await self._bury_dead_here()
            await self._join()
        except BaseException:
            self._close_files(clean=True)
            raise
        for work in (self._ship_loop, self._pump_loop, self._tick_loop, self._beat_loop):
            self._tasks.append(self._loop.create_task(work()))

    async def close(self) -> None:
        self._closing = True
        failure: StoreUnavailable | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while self._writing:
                    await asyncio.sleep(0.002)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closed = StoreUnavailable("The books were closed.", hint="Restart Farthing.")
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(closed)
        clean = False
        try:
            await self.caught_up()
            if self.desk.open:
                await self.on_shelf(lambda: self._shelf.ship([], begun=self._lasting(everything=True)))
            async with self._lease_lock:
                await self._tell()
            if not self.desk.open:
                await self._leases.leave()
                remove_entries(self._folder, self._name)  # first: see ``_bury``
                await self.on_shelf(lambda: self._shelf.forget(self._name))
                clean = True
        except StoreUnavailable as error:
            failure = error
        self._close_files(clean=clean)
        if failure is not None and self._journal.waiting:
            log.warning("The journal keeps what the ledger has not got yet; the next start ships it. %s", failure)

    def _close_files(self, *, clean: bool) -> None:
        self._disk.stop()
        self._note_over()
        self._db.shutdown(wait=True)
        self._shelf.close()
        self._leases.close()
        self.books._reader.close()
        self._journal.close(remove=clean)
        if clean:
            self._holds.close()
        if self._lock is not None:
            self._lock.remove() if clean else self._lock.release()

    async def _join(self) -> None:
        """Declare what is in use. While a rebuild runs, this waits for it for a while."""
        deadline = time.monotonic() + 2 * LEASE_S
        while not await self._declare():
            if time.monotonic() > deadline:
                raise StoreUnavailable("The store of leases cannot be joined.", hint="See the log.")
            await asyncio.sleep(RETRY_S)
