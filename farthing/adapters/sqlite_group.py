"""One group commit: the acts it carries, the rows it writes, and how to undo it in memory when the write fails."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final

from farthing.adapters.memory import CounterKey
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, EXCHANGE_COLUMNS, RESERVATION_COLUMNS, Row, record_to_row
from farthing.core.types import Reservation
from farthing.ports.books import Settlement

ROWS_MAX: Final = 32
"""Rows per INSERT: one statement per table keeps the writer from handing the GIL back and forth for every row."""


class Act:
    """Something that a caller wants of the books, with the future that tells how it went (None: nobody waits)."""

    __slots__ = ("answered", "future")

    def __init__(self, future: asyncio.Future[object] | None) -> None:
        self.future = future
        self.answered = future is None
        """The caller was told that it is done: it must be booked, whatever happens."""


class Reserve(Act):
    """Hold a reservation's amounts, all or none."""

    __slots__ = ("deadline", "now_ms", "reservation", "row")

    def __init__(self, reservation: Reservation, row: Row, now_ms: int, future: asyncio.Future[object]) -> None:
        super().__init__(future)
        self.reservation = reservation
        self.row = row
        self.now_ms = now_ms
        self.deadline = 0.0
        """Monotonic time until which other workers may still give authority back; 0: nobody was asked yet."""


class Settle(Act):
    """End a reservation and book its entries."""

    __slots__ = ("entry_rows", "exchange_row", "now_ms", "settlement")

    def __init__(
        self,
        settlement: Settlement,
        entry_rows: Sequence[Row],
        exchange_row: Row | None,
        now_ms: int,
        future: asyncio.Future[object] | None,
    ) -> None:
        super().__init__(future)
        self.settlement = settlement
        self.entry_rows = entry_rows
        self.exchange_row = exchange_row
        self.now_ms = now_ms


class Task(Act):
    """Any other write; ``run`` gets the connection inside the group's transaction."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[sqlite3.Connection], object], future: asyncio.Future[object]) -> None:
        super().__init__(future)
        self.run = run


class Account:
    """This worker's share of one counter.

    ``authority`` is what this worker may spend or has promised to ``held``; 0 while no hard limit is known.
    """

    __slots__ = ("authority", "exact", "folding", "group", "held", "key", "limit", "posted", "written")

    def __init__(self, key: CounterKey) -> None:
        self.key = key
        self.posted = 0
        self.held = 0
        self.authority = 0
        self.limit: int | None = None
        self.written: tuple[int, int, bool] | None = None
        """(posted, authority, tight) as they stand in the file; None: no row."""
        self.group: Group | None = None
        self.exact = False
        """A part of a limit over several windows: authority is never more than what is held."""
        self.folding = False
        """On its way to the common share: nothing more may be held on it."""

    def release(self, amount: int) -> None:
        """Hold less by ``amount``."""
        self.held -= amount

    def fits(self, need: int) -> bool:
        """What this worker knows of leaves room. Authority does not say so for soft limits: they are passed."""
        return self.limit is None or self.posted + self.held + need <= self.limit

    def sure(self) -> int:
        """Authority that stands in the file and is not promised to any call yet: safe to promise at once."""
        if self.written is None or self.folding:
            return 0
        return min(self.authority, self.written[1]) - self.held


class Group:
    """What the next COMMIT writes."""

    def __init__(self, connection: sqlite3.Connection, *, careful: bool = False) -> None:
        self.connection = connection
        self.careful = careful
        """Look before each booking; used one act at a time after a group failed over its content."""
        self.began = False
        self.acts: list[Act] = []
        self.answers: list[tuple[Act, object]] = []
        self.reservation_rows: dict[str, Row] = {}
        self.ended: list[str] = []
        self.entry_rows: list[Row] = []
        self.exchange_rows: list[Row] = []
        self.accounts: list[Account] = []
        self.undo: list[Callable[[], object]] = []
        self.after: list[Callable[[bool], object]] = []
        """Called once with True after COMMIT, with False after ROLLBACK."""
        self.over: list[str] = []
        """Reservations whose end the hold journal learns once this group is on disk."""
        self.voided: list[str] = []
        """Reservations that end with nothing booked; the journal learns it first, so that a crash books nothing."""
        self._states: list[tuple[Account, tuple[int, int, bool]]] = []
        self._before: list[tuple[Account, int, int, int | None]] = []

    def begin(self) -> None:
        """Start the transaction if it has not started: reads from here on see what other workers committed."""
        if not self.began:
            self.connection.execute("BEGIN IMMEDIATE")
            self.began = True

    def touch(self, account: Account) -> None:
        """Call before changing an account. ``held`` is undone by difference: calls are held between groups too."""
        if account.group is not self:
            account.group = self
            self._before.append((account, account.posted, account.authority, account.limit))
            self.accounts.append(account)

    def hold(self, account: Account, amount: int) -> None:
        """Change what an account holds by ``amount``."""
        self.touch(account)
        account.held += amount
        self.undo.append(lambda: account.release(amount))

    def write(self, worker: str, recalled: set[CounterKey]) -> None:
        """All rows, in as few statements as possible."""
        shares = []
        for account in self.accounts:
            tight = account.authority == account.held and (account.exact or account.key in recalled)
            self._states.append((account, (account.posted, account.authority, tight)))
            if account.written != (account.posted, account.authority, tight) and _counts(account):
                shares.append((*account.key, worker, account.posted, account.authority, +tight))
        execute = self.connection.execute
        for sql, rows in (
            (_INSERT_RESERVATIONS, [record_to_row(row) for row in self.reservation_rows.values()]),
            (_INSERT_ENTRIES, self.entry_rows),
            (_INSERT_EXCHANGES, self.exchange_rows),
            (_REPLACE_SHARES, shares),
        ):
            for start in range(0, len(rows), ROWS_MAX):
                part = rows[start : start + ROWS_MAX]
                execute(sql[len(part)], list(chain.from_iterable(part)))
        for start in range(0, len(self.ended), ROWS_MAX):
            ids = self.ended[start : start + ROWS_MAX]
            execute(_DELETE_RESERVATIONS[len(ids)], ids)

    def commit(self) -> None:
        """COMMIT, then remember what the file holds now."""
        if self.began:
            self.connection.execute("COMMIT")
        for account in self.accounts:
            account.group = None
        for account, state in self._states:
            if account.written is not None or _counts(account):
                account.written = state
        for call in self.after:
            call(True)

    def roll_back(self) -> None:
        """Undo everything, in memory and in the file."""
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        finally:
            self._undo_in_memory()

    def _undo_in_memory(self) -> None:
        for account, posted, authority, limit in self._before:
            account.posted, account.authority, account.limit = posted, authority, limit
            account.group = None
        for revert in reversed(self.undo):
            revert()
        for call in self.after:
            call(False)


def _counts(account: Account) -> bool:
    return account.written is not None or account.posted != 0 or account.authority != 0


def _inserts(head: str, columns: Iterable[str]) -> tuple[str, ...]:
    """``head`` for 0 to ROWS_MAX rows, by number of rows."""
    names = [f'"{name}"' for name in columns]
    marks = f"({', '.join('?' * len(names))})"
    return tuple(f"{head} ({', '.join(names)}) VALUES {', '.join([marks] * rows)}" for rows in range(ROWS_MAX + 1))


_INSERT_RESERVATIONS: Final = _inserts("INSERT INTO reservations", RESERVATION_COLUMNS)
_INSERT_ENTRIES: Final = _inserts("INSERT INTO entries", ENTRY_COLUMNS)
_INSERT_EXCHANGES: Final = _inserts("INSERT OR IGNORE INTO exchanges", EXCHANGE_COLUMNS)
_REPLACE_SHARES: Final = _inserts(
    "INSERT OR REPLACE INTO shares", ("counter", "window", "unit", "worker", "posted", "authority", "tight")
)
_DELETE_RESERVATIONS: Final = tuple(
    f"DELETE FROM reservations WHERE id IN ({', '.join('?' * ids)})" for ids in range(ROWS_MAX + 1)
)
