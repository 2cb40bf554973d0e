"""What becomes of a dead worker's share of the books: nothing it held may be spent twice, nothing stays blocked."""

import time
from functools import partial
from pathlib import Path
from typing import Literal

from farthing.adapters.memory import counter_key
from farthing.adapters.sqlite_group import Group, fold_shares, logged_in
from farthing.adapters.sqlite_journal import read_journal, remove_journal
from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    RESERVATION_COLUMNS,
    Row,
    entry_to_row,
    lost_entry,
    quoted,
    reservation_from_row,
)
from farthing.adapters.sqlite_workers import WorkerLock, WorkerLocks

OnLost = Literal["ceiling", "release"]
"""What is booked for a call in flight whose worker died: the most it can have cost, or nothing."""


class Recovery:
    """Takes over from workers that are gone."""

    def __init__(self, locks: WorkerLocks, on_lost: OnLost, folder: Path) -> None:
        """``folder`` holds the workers' hold journals."""
        self._locks = locks
        self._on_lost = on_lost
        self._folder = folder

    def of_dead(self, workers: set[str], group: Group) -> bool:
        """Recover those of ``workers`` that live no more, inside the group's transaction; True if there were any."""
        found = False
        for worker in sorted(workers):
            lock = self._locks.take(worker)
            if lock is not None:
                group.begin()
                group.after.append(partial(_free, lock))
                self.recover(worker, group)
                found = True
        return found

    def of_all_dead(self, group: Group) -> bool:
        """Recover every registered worker that lives no more."""
        group.begin()
        rows = group.connection.execute(
            "SELECT worker FROM workers UNION SELECT DISTINCT worker FROM reservations"
            " UNION SELECT DISTINCT worker FROM shares WHERE worker <> ''"
        ).fetchall()
        return self.of_dead({worker for (worker,) in rows}, group)

    def recover(self, worker: str, group: Group) -> None:
        """Settle what ``worker`` left behind. Only call this while holding its lock."""
        connection = group.connection
        group.begin()
        connection.execute(
            "INSERT INTO shares SELECT counter, \"window\", unit, '', posted, 0, 1 FROM shares"
            " WHERE worker = ? AND worker <> ''"
            ' ON CONFLICT ("window", counter, unit, worker) DO UPDATE SET posted = posted + excluded.posted',
            (worker,),
        )
        connection.execute("DELETE FROM shares WHERE worker = ? AND worker <> ''", (worker,))
        posted = logged_in(connection.execute("SELECT body FROM posts WHERE worker = ?", (worker,)))
        fold_shares(connection, sorted((*key, amount) for key, amount in posted.items()))
        rows = connection.execute(
            f"SELECT {quoted(RESERVATION_COLUMNS)} FROM reservations WHERE worker = ?", (worker,)
        ).fetchall()
        rows += self._journaled(worker, {str(row[0]) for row in rows}, group)
        if self._on_lost == "ceiling":
            self._book(rows, group)
        group.after.append(lambda committed: remove_journal(self._folder, worker) if committed else None)
        for table in ("reservations", "recalls", "workers", "posts", "alone"):
            connection.execute(f"DELETE FROM {table} WHERE worker = ?", (worker,))

    def _journaled(self, worker: str, known: set[str], group: Group) -> list[Row]:
        """Calls in flight that stand in the dead worker's journal only, and were not booked just before it died."""
        found = []
        for row in read_journal(self._folder, worker):
            id = str(row[0])
            booked = group.connection.execute("SELECT 1 FROM entries WHERE id = ?", (id,)).fetchone()
            if id not in known and booked is None:
                found.append(row)
        return found

    def _book(self, rows: list[Row], group: Group) -> None:
        """The ceilings of calls in flight become entries that a reconciliation can correct."""
        now_ms = time.time_ns() // 1_000_000
        marks = ", ".join("?" * len(ENTRY_COLUMNS))
        group.connection.executemany(
            f"INSERT OR IGNORE INTO entries ({quoted(ENTRY_COLUMNS)}) VALUES ({marks})",
            [entry_to_row(lost_entry(row, now_ms=now_ms)) for row in rows],
        )
        holds = [hold for row in rows for hold in reservation_from_row(row).holds]
        fold_shares(group.connection, [(*counter_key(hold), hold.amount) for hold in holds])


def _free(lock: WorkerLock, committed: bool) -> None:
    if committed:
        lock.remove()
    else:
        lock.release()
