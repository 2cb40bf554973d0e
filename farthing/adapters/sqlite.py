"""Books in one SQLite file: holds, ledger, traffic log and keys for any number of worker processes.

Owns the asynchronous face; ``sqlite_writer`` commits, ``sqlite_desk`` decides, ``sqlite_reader`` answers questions.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, cast, get_args

from farthing.adapters.memory import CounterKey, check_settlement, counter_key
from farthing.adapters.sqlite_alike import rows_alike
from farthing.adapters.sqlite_desk import Desk
from farthing.adapters.sqlite_group import Account, Group, Reserve, Settle, Task, logged_in
from farthing.adapters.sqlite_inserts import entry_to_sqlite, exchange_to_sqlite
from farthing.adapters.sqlite_journal import HoldJournal, read_journal
from farthing.adapters.sqlite_keeping import note_company, others_of
from farthing.adapters.sqlite_keys import SqliteKeys
from farthing.adapters.sqlite_known import KnownCounters
from farthing.adapters.sqlite_reader import SqliteLedger, open_read
from farthing.adapters.sqlite_recovery import OnLost, Recovery
from farthing.adapters.sqlite_rows import (
    RESERVATION_COLUMNS,
    held_record,
    quoted,
    reservation_from_row,
)
from farthing.adapters.sqlite_runs import USUAL, Sizes, in_runs_by_unit
from farthing.adapters.sqlite_schema import BUSY_TIMEOUT_MS, Durability, connect, connect_read, migrate, store_error
from farthing.adapters.sqlite_workers import WorkerLock, WorkerLocks
from farthing.adapters.sqlite_writer import Writer
from farthing.core.errors import StoreUnavailable
from farthing.core.types import (
    Denied,
    Exchange,
    Held,
    LedgerEntry,
    LedgerQuery,
    LimitUnit,
    Reservation,
    Totals,
)
from farthing.ports.books import Balance, Settlement

__all__ = ["SqliteBooks", "SqliteKeys", "SqliteLedger", "open_read"]

UNWRITTEN_MAX: Final = 10_000
"""Relaxed durability: settlements that may be answered before they are on disk; beyond that callers wait."""

PRUNE_PAGE: Final = 1_000
"""Exchanges deleted per transaction, so that calls never wait long behind a retention run."""


_SELECT_POSTED: Final = """
    SELECT unit, sum(posted) FROM shares WHERE counter = ? AND "window" = ? AND worker <> ? GROUP BY unit
"""
_SELECT_POSTS: Final = "SELECT body FROM posts WHERE worker <> ?"


class SqliteBooks:
    """``Books`` and ``Ledger`` over one file.

    ``worker`` names this process among those that share the file; it must be unique among living ones. ``strict``
    durability answers when the act is on disk, ``relaxed`` at most 100 ms before. ``on_lost`` says what is booked for
    calls in flight whose worker died: their ``ceiling``, so that a crash never overspends a budget, or nothing.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        worker: str,
        durability: Durability = "strict",
        on_lost: OnLost = "ceiling",
        unwritten_max: int = UNWRITTEN_MAX,
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        sizes: Sizes = USUAL,
    ) -> None:
        self.path = Path(path)
        self._sizes = sizes
        self._worker = worker
        self._durability: Durability = durability
        self._on_lost: OnLost = on_lost
        self._unwritten_max = unwritten_max
        self._busy_timeout_ms = busy_timeout_ms
        self._ledger = SqliteLedger(self.path)
        self._running: _Running | None = None

    async def start(self) -> None:
        """Open or create the file, recover workers that died, start writing. Raises ``StoreUnavailable``."""
        if self._running is None:
            self._running = _Running(
                self.path, self._worker, self._durability, self._on_lost, self._busy_timeout_ms, self._sizes
            )
            self._running.writer.start()

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        running = self._require()
        row = held_record(reservation, worker=self._worker, now_ms=now_ms, stub=stub)
        if running.writer.hold(reservation, row, now_ms):
            return Held(id=reservation.id)
        future = running.loop.create_future()
        try:
            return await running.writer.ask(Reserve(reservation, row, now_ms, future), future)
        except asyncio.CancelledError:
            # The caller is gone and may never settle: whatever was or will be held is given back.
            with contextlib.suppress(StoreUnavailable):
                running.writer.submit(Settle(Settlement(reservation=reservation), (), None, now_ms, None))
            raise

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        running = self._require()
        check_settlement(settlement)
        rows = None if settlement.alike is None else rows_alike(settlement, settlement.alike)
        if rows is None:
            entry_rows = [entry_to_sqlite(entry) for entry in settlement.entries]
            exchange_row = None if settlement.exchange is None else exchange_to_sqlite(settlement.exchange)
        else:
            entry_rows, exchange_row = [rows[0]], rows[1]
        waits = self._durability == "strict" or running.writer.unwritten >= self._unwritten_max
        future = running.loop.create_future() if waits else None
        running.writer.submit(Settle(settlement, entry_rows, exchange_row, now_ms, future))
        if future is not None:
            await future

    async def flush(self) -> None:
        """Return when everything settled so far is on disk (at once under strict durability)."""
        await self._task(lambda connection: None)

    async def prune(self, before_ms: int) -> int:
        """Delete exchanges received before ``before_ms``; the number deleted. Ledger entries are never deleted.

        Imported traces (``imp-…``) stay: their dates are the past's, and their owner brought them here on purpose.
        """
        deleted = 0
        while True:
            count = cast(int, await self._task(lambda connection: _prune_page(connection, before_ms)))
            deleted += count
            if count < PRUNE_PAGE:
                return deleted

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        running = self._require()
        try:
            with running.writer.lock:
                return tuple(running.balances(counters))
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    def open_reservations(self) -> tuple[Reservation, ...]:
        running = self._require()
        try:
            with running.writer.lock:
                found = [*(flight.reservation for flight in running.desk.open.values()), *running.others()]
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        return tuple(sorted(found, key=lambda reservation: reservation.id))

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return self._ledger.totals(query)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        return self._ledger.entries(request_id=request_id, since_ms=since_ms, after=after)

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return self._ledger.exchanges(since_ms=since_ms, after=after)

    async def close(self) -> None:
        """Write everything, give unused authority back, free the worker's name. May be called twice."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    async def _task(self, run: Callable[[sqlite3.Connection], object]) -> object:
        running = self._require()
        future = running.loop.create_future()
        running.writer.submit(Task(run, future))
        return await future

    def _require(self) -> "_Running":
        if self._running is None:
            raise StoreUnavailable(f"The ledger {self.path} is not open.", hint="Call start() first.")
        return self._running


class _Running:
    """What exists between start and close."""

    def __init__(
        self,
        path: Path,
        worker: str,
        durability: Durability,
        on_lost: OnLost,
        busy_timeout_ms: int,
        sizes: Sizes,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._path = path
        self._worker = worker
        locks = WorkerLocks(path.parent / "workers")
        self._lock = _take(locks, worker)
        try:
            self._connection = connect(path, durability=durability, busy_timeout_ms=busy_timeout_ms)
        except StoreUnavailable:
            self._lock.release()
            raise
        try:
            migrate(path, self._connection)
            folder = path.parent / "workers"
            recovery = Recovery(locks, on_lost, folder)
            self.desk = Desk(worker, recovery, sizes)
            self.desk.room.known = KnownCounters(lambda: connect_read(path), worker)
            self._register(recovery)
            self._journal = HoldJournal(folder, worker)
            self.desk.room.reader = self._reader = connect_read(path)
        except (StoreUnavailable, sqlite3.Error, OSError) as error:
            self._connection.close()
            self._lock.release()
            if isinstance(error, sqlite3.Error):
                raise store_error(path, error) from error
            raise
        self.writer = Writer(path, self._connection, self.desk, self._journal, durability=durability, name=worker)

    def balances(self, counters: Sequence[tuple[str, str]]) -> Iterator[Balance]:
        """This worker's counters as they are in memory, plus what other workers have written."""
        held: dict[CounterKey, int] = {}
        for hold in (hold for reservation in self.others() for hold in reservation.holds):
            held[counter_key(hold)] = held.get(counter_key(hold), 0) + hold.amount
        alone = self.desk.room.alone  # nobody else has anything logged then, and the own log need not be read through
        logged = {} if alone else logged_in(self._reader.execute(_SELECT_POSTS, (self._worker,)))
        for counter, window in sorted(set(counters)):
            posted = dict(self._reader.execute(_SELECT_POSTED, (counter, window, self._worker)).fetchall())
            in_runs = in_runs_by_unit(self._reader, counter, window)
            for unit in sorted(get_args(LimitUnit)):
                key = counter, window, unit
                mine = self.desk.account(key)
                balance = Balance(
                    counter=counter,
                    window=window,
                    unit=unit,
                    posted=self._posted(mine, posted.get(unit, 0) + in_runs.get(unit, 0) + logged.get(key, 0)),
                    held=(mine.held if mine else 0) + held.get(key, 0),
                )
                if balance.posted or balance.held:
                    yield balance

    def _posted(self, mine: Account | None, others: int) -> int:
        """Alone, memory knows it all, while some of it may be on its way to the common share."""
        if mine is None:
            return others
        known = mine.others if self.desk.room.alone and not mine.exact else None
        return mine.posted + (others if known is None else known)

    def others(self) -> list[Reservation]:
        """Open reservations of other workers: those in the file, and those that only their journals have yet."""
        sql = f"SELECT {quoted(RESERVATION_COLUMNS)} FROM reservations WHERE worker <> ?"
        rows = {str(row[0]): row for row in self._reader.execute(sql, (self._worker,))}
        names = self._reader.execute("SELECT worker FROM workers WHERE worker <> ?", (self._worker,)).fetchall()
        for (name,) in names:
            rows |= {str(row[0]): row for row in read_journal(self._path.parent / "workers", name)}
        return [reservation_from_row(row) for row in rows.values()]

    async def close(self) -> None:
        try:
            await self.writer.stop()
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        clean = not self.desk.open
        try:
            self.desk.close(lambda: Group(self._connection), clean=clean)
        except sqlite3.Error:
            clean = False  # the next start recovers what could not be given back
        finally:
            self._reader.close()
            self._connection.close()
        if clean:
            self._journal.close()
            self._lock.remove()
        else:
            self._lock.release()

    def _register(self, recovery: Recovery) -> None:
        group = Group(self._connection)
        group.begin()
        try:
            recovery.recover(self._worker, group)
            recovery.of_all_dead(group)
            self.desk.keeper.company_version = note_company(self._connection)
            alone = not others_of(self._connection, self._worker)
            if alone:
                self._connection.execute("INSERT OR REPLACE INTO alone VALUES (1, ?)", (self._worker,))
            self._connection.execute(
                "INSERT INTO workers VALUES (?, ?, ?)", (self._worker, os.getpid(), time.time_ns() // 1_000_000)
            )
            group.commit()
            group.settled()
            if alone:
                self.desk.keeper.stay_alone()
        except (sqlite3.Error, StoreUnavailable):
            group.roll_back()
            raise


def _take(locks: WorkerLocks, worker: str) -> WorkerLock:
    lock = locks.take(worker)
    if lock is None:
        raise StoreUnavailable(
            f"A worker named {worker!r} is running on this ledger already.",
            hint="Stop the other gateway, or give this one another FARTHING_HOME.",
        )
    return lock


def _prune_page(connection: sqlite3.Connection, before_ms: int) -> int:
    """Exchanges may hold text: what is deleted of them is overwritten, whatever the library's habit."""
    connection.execute("PRAGMA secure_delete = ON")
    try:
        return connection.execute(
            "DELETE FROM exchanges WHERE seq IN (SELECT seq FROM exchanges"
            " WHERE received_at_ms < ? AND request_id NOT LIKE 'imp-%' LIMIT ?)",
            (before_ms, PRUNE_PAGE),
        ).rowcount
    finally:
        connection.execute("PRAGMA secure_delete = FAST")
