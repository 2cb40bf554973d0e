"""What one worker of the scaled books knows, and how it reaches its stores. All state is the event loop's."""

import asyncio
import collections
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, Protocol, TypeVar

from farthing.adapters.journal import EntryJournal, JournalThread, Line, Post, Record
from farthing.adapters.leases import LEASE_S, LeaseLost, LeaseStore, Posted
from farthing.adapters.leases_calls import Flight, Tombstone, Waiting
from farthing.adapters.leases_desk import Desk
from farthing.adapters.memory import CounterKey
from farthing.adapters.postgres_shelf import Shelf
from farthing.adapters.sqlite_journal import HoldJournal
from farthing.adapters.sqlite_rows import Row
from farthing.adapters.sqlite_workers import WorkerLocks
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Reservation, Totals
from farthing.ports.books import Balance

TICK_S: Final = 0.02
"""How often a worker looks for recalls and tells what has changed, while somebody is short."""

QUIET_TICK_S: Final = 0.06
"""The same when nobody was short for ``QUIET_AFTER_S``; well within what a call waits for an answer to its recall."""

QUIET_AFTER_S: Final = 10.0

RECALL_WAIT_S: Final = 4.0
"""How long a call waits for other living workers to give back what they do not use, before it is refused."""

STORE_WAIT_S: Final = 2.0
"""How long a call waits for a store that is away or being rebuilt."""

NEWS_S: Final = 1.0
"""How long news that can only make room for others may wait, while nobody asks for it."""

IDLE_TICK_S: Final = 3.0
"""How often a worker looks which authority it does not use, while it has little."""

SHIP_LINGER_S: Final = 0.03
GATHER_S: Final = 0.001
"""How long settlements wait, at most, for an answer of the lease store that calls wait for: who settles at once is
written with them. Else callers fall into two halves, each waiting for the other's disk or question."""

BEAT_S: Final = LEASE_S / 4
LASTING_S: Final = 0.2
"""A call in flight for longer gets a row in the database, which survives the death of this machine."""

RECENT_MAX: Final = 16_384
RETRY_S: Final = 0.25
log: Final = logging.getLogger("farthing.books")
Answer = TypeVar("Answer")


class Written:
    """A settlement on its way to the journal."""

    __slots__ = ("flight", "future", "line", "number", "posts", "record", "rows", "tombstone")

    def __init__(
        self,
        line: Line,
        record: Record,
        rows: dict[str, bytes],
        posts: tuple[Post, ...],
        flight: Flight | None,
        tombstone: Tombstone | None,
        future: asyncio.Future[None] | None,
        number: int,
    ) -> None:
        self.line = line
        self.record = record
        self.rows = rows
        self.posts = posts
        self.flight = flight
        self.tombstone = tombstone
        self.future = future
        self.number = number
        """How many acts had come when this one was given to the journal."""


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
    """Between start and close. Threads do what blocks: the journal, the ledger, and some stores of leases."""

    _holds: HoldJournal
    _journal: EntryJournal
    _disk: JournalThread

    def __init__(self, books: Owner) -> None:
        self.books = books
        self.desk = Desk()
        self._name = books._name
        self._shelf, self._leases = books._shelf, books._leases
        self._folder = books._folder
        self._loop = asyncio.get_running_loop()
        self._db = ThreadPoolExecutor(1, "farthing-ledger")
        self._locks = WorkerLocks(self._folder)
        self._lock = self._locks.take(self._name)
        self._tasks: list[asyncio.Task[None]] = []
        self._lines: list[Written] = []
        self._group: list[Written] = []
        """What the journal's thread is writing."""
        self._writing = False
        self._asking = False
        """Calls wait for the lease store's answer."""
        self._gathering: asyncio.TimerHandle | None = None
        """Settlements wait for that answer too, see ``GATHER_S``."""
        self._to_ship = asyncio.Event()
        self._pump_kick = asyncio.Event()
        self._waiting: dict[Waiting, None] = {}
        """In the order in which they came."""
        self._soon: dict[CounterKey, int] | None = None
        """Counters of settlements that are being written, with when the first of each came; None: not looked yet."""
        self._lease_lock = asyncio.Lock()
        self._settling: dict[str, asyncio.Future[None] | None] = {}
        self._unfinished: set[str] = set()
        """Reservations whose callers left while the journal was written."""
        self._recent: dict[str, bytes] = {}
        self._less_recent: dict[str, bytes] = {}
        """Two generations: the older one is forgotten as a whole."""
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
        self._over_ids: list[str] = []
        """What the hold journal learns at the end of this turn of the loop."""
        self._renewed_s = 0.0
        self._news_due_s = 0.0
        self._hurry_seq = 0
        """A record whose booking may make room for others: the lease store is told as soon as it is shipped."""
        self._short_s = 0.0
        """When somebody was short the last time."""
        self._joined = False
        self._ledger_ok = True
        self._leases_ok = True
        self._first_waiting_s: float | None = None
        self._outages = 0
        self._closing = False

    async def on_shelf(self, act: Callable[[], Answer]) -> Answer:
        """Run on the ledger's thread."""
        return await self._loop.run_in_executor(self._db, act)

    def _write_next(self) -> None:
        """Give the journal's thread all that has gathered; settlements of one turn of the loop share a group."""
        if self._asking and self._gathering is None:
            self._gathering = self._loop.call_later(GATHER_S, self._gathered)
            return
        self._gathering = None
        self._group, self._lines = self._lines, []
        self._disk.write([one.line for one in self._group], [one.record for one in self._group])

    def _gathered(self) -> None:
        """The lease store has answered, or takes its time."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._write_next()

    async def _declare(self) -> bool:
        """Tell what is in use, after the store has forgotten it; False: not possible yet."""
        async with self._lease_lock:
            asked_s = time.monotonic()
            shares = self.desk.in_use()
            try:
                await self._leases.declare(shares)
            except LeaseLost:
                return False
            except StoreUnavailable as error:
                if self._leases_ok and not self._joined:
                    log.warning("%s", error)
                return False
            self._renewed_s = asked_s
            self._joined = self._leases_ok = True
            self._news_due_s = 0.0  # a store that was rebuilt counts what is booked and was not told yet
            self.books.allowance_held = 0
            return True
