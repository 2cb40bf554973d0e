"""What one worker of the scaled books knows, and how it reaches its stores. All state is the event loop's."""

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

from farthing.adapters.journal import EntryJournal
from farthing.adapters.leases import LEASE_S, LeaseLost, LeaseStore, Posted
from farthing.adapters.leases_desk import Desk, Waiting
from farthing.adapters.memory import CounterKey
from farthing.adapters.postgres_shelf import Shelf
from farthing.adapters.sqlite_journal import HoldJournal
from farthing.adapters.sqlite_rows import Row
from farthing.adapters.sqlite_workers import WorkerLocks
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Reservation, Totals
from farthing.ports.books import Balance

TICK_S: Final = 0.02
"""How often a worker looks for recalls and tells what has changed."""

RECALL_WAIT_S: Final = 1.0
"""How long a call waits for other living workers to give back what they do not use, before it is refused."""

STORE_WAIT_S: Final = 2.0
"""How long a call waits for a store that is away or being rebuilt."""

NEWS_S: Final = 0.2
"""How long news that can only make room for others may wait, while nobody asks for it."""

SHIP_LINGER_S: Final = 0.03
BEAT_S: Final = LEASE_S / 4
LASTING_S: Final = 0.2
"""A call in flight for longer gets a row in the database, which survives the death of this machine."""

RECENT_MAX: Final = 16_384
RETRY_S: Final = 0.25
log: Final = logging.getLogger("farthing.books")
Answer = TypeVar("Answer")


class LedgerReader(Protocol):
    """Reading what was booked."""

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]: ...

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]: ...

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]: ...

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]: ...

    def reservations(self, *, without: Sequence[str]) -> tuple[Reservation, ...]: ...

    def posted(self, counters: Sequence[tuple[str, str]]) -> dict[CounterKey, int]: ...

    def close(self) -> None: ...


class Owner(Protocol):
    """The face that a worker works for, as far as its parts look at it."""

    _name: str
    _folder: Path
    _shelf: Shelf
    _leases: LeaseStore
    _reader: LedgerReader
    _strict: bool
    _on_lost: Literal["ceiling", "release"]
    _allowance: int | None
    allowance_held: int


class State:
    """Between start and close. Three threads do what blocks: the journal, the ledger, the leases."""

    _holds: HoldJournal
    _journal: EntryJournal

    def __init__(self, books: Owner) -> None:
        self.books = books
        self.desk = Desk()
        self._name = books._name
        self._shelf, self._leases = books._shelf, books._leases
        self._folder = books._folder
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, "farthing-journal")
        self._db = ThreadPoolExecutor(1, "farthing-ledger")
        self._lease_thread = ThreadPoolExecutor(1, "farthing-leases")
        self._locks = WorkerLocks(self._folder)
        self._lock = self._locks.take(self._name)
        self._tasks: list[asyncio.Task[None]] = []
        self._lines: list[tuple[bytes, asyncio.Future[None] | None]] = []
        self._written = asyncio.Event()
        self._to_ship = asyncio.Event()
        self._pump_kick = asyncio.Event()
        self._waiting: list[Waiting] = []
        self._lease_lock = asyncio.Lock()
        self._settling: dict[str, asyncio.Future[None]] = {}
        self._recent: dict[str, bytes] = {}
        self._acts = 0
        self._now_ms = 0
        """The latest time that a caller has told."""
        self._seq = 0
        self._shipped_seq = 0
        self._booked: collections.deque[tuple[dict[CounterKey, int], Sequence[Posted]]] = collections.deque()
        """What the ledger has and the lease store does not know; filled by the ledger's thread."""
        self._unwritten: dict[str, tuple[Row, float]] = {}
        self._rows_written: set[str] = set()
        self._ended_rows: list[str] = []
        self._renewed_s = 0.0
        self._news_due_s = 0.0
        self._joined = False
        self._ledger_ok = True
        self._leases_ok = True
        self._first_waiting_s: float | None = None
        self._outages = 0
        self._closing = False

    async def on_shelf(self, act: Callable[[], Answer]) -> Answer:
        """Run on the ledger's thread."""
        return await self._loop.run_in_executor(self._db, act)

    async def _on_leases(self, act: Callable[[], Answer]) -> Answer:
        return await self._loop.run_in_executor(self._lease_thread, act)

    async def _declare(self) -> bool:
        """Tell what is in use, after the store has forgotten it; False: not possible yet."""
        async with self._lease_lock:
            asked_s = time.monotonic()
            shares = self.desk.in_use()
            try:
                await self._on_leases(lambda: self._leases.declare(shares))
            except LeaseLost:
                return False
            except StoreUnavailable as error:
                if self._leases_ok and not self._joined:
                    log.warning("%s", error)
                return False
            self._renewed_s = asked_s
            self._joined = self._leases_ok = True
            self.books.allowance_held = 0
            return True
