"""One group commit: the acts it carries, the rows it writes, and how to undo it in memory when the write fails."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Final

import msgspec

from farthing.adapters.memory import CounterKey
from farthing.adapters.sqlite_inserts import ROWS_MAX, ShapedRow, insert, insert_in_order
from farthing.adapters.sqlite_rows import RESERVATION_COLUMNS, Row, quoted, record_to_row
from farthing.core.types import LimitUnit, Reservation
from farthing.ports.books import Settlement

FOLD_ROWS: Final = 64
"""Counters brought into ``shares`` with one statement."""

_encode = msgspec.json.Encoder().encode
_posts = msgspec.json.Decoder(list[tuple[str, str, LimitUnit, int]])


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
        entry_rows: Sequence[ShapedRow],
        exchange_row: ShapedRow | None,
        now_ms: int,
        future: asyncio.Future[object] | None,
    ) -> None:
        self.future = future
        self.answered = future is None
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

    Among others, ``authority`` is what this worker may spend or has promised to ``held``; 0 while no hard limit is
    known. Alone, authority means nothing: what is left of a limit is known exactly.
    """

    __slots__ = (
        "authority", "dropped", "exact", "folding", "group", "held", "key", "limit", "logged", "moving", "others",
        "posted", "written",
    )  # fmt: skip

    def __init__(self, key: CounterKey) -> None:
        self.key = key
        self.posted = 0
        """Booked here, and not in anybody else's row."""
        self.logged = 0
        """The part of ``posted`` that stands in ``posts`` and not in this worker's row of ``shares``."""
        self.held = 0
        self.authority = 0
        self.limit: int | None = None
        self.others: int | None = None
        """Alone: what all others have ever booked; None: not looked up yet."""
        self.written: tuple[int, int, bool] | None = None
        """(posted, authority, tight) as they stand in the file; None: no row."""
        self.group: Group | None = None
        self.exact = False
        """A part of a limit over several windows: authority is never more than what is held."""
        self.folding = False
        """On its way to the common share: nothing more may be held on it."""
        self.moving = False
        """Some of what was logged is going to be brought into ``shares`` with one of the next groups."""
        self.dropped = False
        """Forgotten; a call that held nothing on it may still know it."""

    def fits(self, need: int) -> bool:
        """What this worker knows of leaves room. Authority does not say so for soft limits: they are passed."""
        return self.limit is None or self.posted + self.held + need <= self.limit

    def sure(self) -> int:
        """Authority that stands in the file and is not promised to any call yet: safe to promise at once."""
        written = self.written
        if written is None or self.folding:
            return 0
        return min(self.authority, written[0] + written[1] - self.posted) - self.held

    def row(self, more: int, recalled: set[CounterKey]) -> tuple[int, int, bool]:
        """This worker's row: what it booked and did not log, what it may have in use beyond that, and whether all of
        that is in use. ``more`` is what the present group logs."""
        tight = self.authority == self.held and (self.exact or self.key in recalled)
        logged = self.logged + more
        return self.posted - logged, self.authority + logged, tight


class Flight:
    """A reservation in flight, with its accounts by hold."""

    __slots__ = ("accounts", "expires_at_ms", "id", "reservation", "row", "since")

    def __init__(
        self, reservation: Reservation, accounts: tuple[Account, ...], row: Row | None, since: float
    ) -> None:
        self.id = reservation.id
        self.expires_at_ms = reservation.expires_at_ms
        self.reservation = reservation
        self.accounts = accounts
        self.row = row
        """What its row in the file will be; None: it has one (or gets it with the group that holds it)."""
        self.since = since
        """Monotonic time of the hold."""

    def hold(self) -> None:
        """Set its amounts aside."""
        for account, hold in zip(self.accounts, self.reservation.holds, strict=True):
            account.held += hold.amount

    def release(self) -> None:
        """Set them aside no more."""
        for account, hold in zip(self.accounts, self.reservation.holds, strict=True):
            account.held -= hold.amount


class Tombstone(msgspec.Struct, frozen=True):
    """A reservation that is held no more; ``entry_ids`` is None while it has expired but was never settled."""

    reservation: Reservation
    amounts: tuple[int, ...]
    entry_ids: tuple[str, ...] | None


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
        self.entry_rows: list[ShapedRow] = []
        self.several_rows: list[ShapedRow] = []
        """Entries of acts that book more than one: their order is told."""
        self.exchange_rows: list[ShapedRow] = []
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
        self.logged: list[tuple[Account, int]] = []
        """What this group adds to ``posts``."""
        self.opened: list[Flight] = []
        self.closed: list[Flight] = []
        self.unwritten: list[Flight] = []
        """Those of ``closed`` that had no row in the file."""
        self.buried: list[tuple[str, Tombstone | None]] = []
        """Ended reservations, with how they had ended before."""
        self.tracked = False

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

    def write(self, worker: str, recalled: set[CounterKey], *, alone: bool) -> None:
        """All rows, in as few statements as possible."""
        execute = self.connection.execute
        held = [record_to_row(row) for row in self.reservation_rows.values()]
        _in_parts(self.connection, _INSERT_RESERVATIONS, held)
        insert(execute, self.entry_rows)
        insert_in_order(execute, self.several_rows)
        insert(execute, self.exchange_rows)
        for start in range(0, len(self.ended), ROWS_MAX):
            ids = self.ended[start : start + ROWS_MAX]
            execute(_DELETE_RESERVATIONS[len(ids)], ids)
        self._write_posts(worker)
        self._write_shares(worker, recalled, alone)

    def _write_posts(self, worker: str) -> None:
        """What was booked on counters, in one row; a row of ``shares`` would be a page of its own for each."""
        posts: list[tuple[str, str, str, int]] = []
        for account, before, _, _ in self._before:
            amount = account.posted - before
            if amount and not account.exact:
                posts.append((*account.key, amount))
                self.logged.append((account, amount))
        if posts:
            insert_post(self.connection, worker, posts)

    def _write_shares(self, worker: str, recalled: set[CounterKey], alone: bool) -> None:
        """The rows that others must see changed: more authority, or exactly as much as is held."""
        accounts = [account for account in self.accounts if account.exact] if alone else self.accounts
        if not accounts:
            return
        logged = dict(self.logged)
        shares = []
        for account in accounts:
            state = account.row(logged.get(account, 0), recalled)
            if not _told(account, state):
                continue
            self._states.append((account, state))
            shares.append((*account.key, worker, state[0], state[1], +state[2]))
        replace_shares(self.connection, shares)

    def commit(self) -> None:
        """COMMIT in the file; ``settled`` follows in memory."""
        if self.began:
            self.connection.execute("COMMIT")

    def settled(self) -> None:
        """Remember what the file holds now. Others who look at accounts must be kept away."""
        for account in self.accounts:
            account.group = None
        for account, amount in self.logged:
            account.logged += amount
        for account, state in self._states:
            account.written = state
        for call in self.after:
            call(True)
        self.undo.clear()  # it refers to this group: a cycle that only the collector would find

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
        self.undo.clear()
        for call in self.after:
            call(False)


def _told(account: Account, state: tuple[int, int, bool]) -> bool:
    """Others must be told: authority has grown, or is exactly what is held and that is less."""
    written = account.written
    if written is None:
        return state[0] != 0 or state[1] != 0
    if account.exact or state[2] != written[2]:
        return state != written
    more = state[0] + state[1] - written[0] - written[1]
    return more > 0 or (more < 0 and state[2])


def insert_post(connection: sqlite3.Connection, worker: str, amounts: Sequence[tuple[str, str, str, int]]) -> int:
    """Log what is added to counters: (counter, window, unit, amount); the number of the row."""
    number = connection.execute(_INSERT_POST, (worker, _encode(amounts).decode())).lastrowid
    assert number is not None
    return number


def logged_in(rows: Iterable[tuple[str]]) -> dict[CounterKey, int]:
    """What rows of ``posts`` (their bodies) add to counters, in sum."""
    found: dict[CounterKey, int] = {}
    for (body,) in rows:
        for counter, window, unit, amount in _posts.decode(body):
            key = counter, window, unit
            found[key] = found.get(key, 0) + amount
    return found


def replace_shares(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Write rows of ``shares``: (counter, window, unit, worker, posted, authority, tight)."""
    _in_parts(connection, _REPLACE_SHARES, rows)


def fold_shares(connection: sqlite3.Connection, rows: Iterable[tuple[str, str, str, int]]) -> None:
    """Add to the common shares of counters: (counter, window, unit, amount), those of a window in their order."""
    by_place: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for counter, window, unit, amount in rows:
        place = window, unit
        cells = by_place.get(place)
        if cells is None:
            cells = by_place[place] = []
        cells.append((counter, amount))
    for place, cells in by_place.items():
        for start in range(0, len(cells), FOLD_ROWS):
            part = cells[start : start + FOLD_ROWS]
            connection.execute(_fold_shares(len(part)), [*place, *chain.from_iterable(part)])


def _in_parts(connection: sqlite3.Connection, sql: Sequence[str], rows: Sequence[Row]) -> None:
    for start in range(0, len(rows), ROWS_MAX):
        part = rows[start : start + ROWS_MAX]
        connection.execute(sql[len(part)], list(chain.from_iterable(part)))


@cache
def _fold_shares(rows: int) -> str:
    """Counters and amounts, two parameters a row, after those that all rows have in common."""
    marks = ", ".join(f"(?{2 * row + 3}, ?1, ?2, '', ?{2 * row + 4}, 0, 1)" for row in range(rows))
    return f"INSERT INTO shares ({quoted(_SHARE_COLUMNS)}) VALUES {marks}{_ON_CONFLICT}posted + excluded.posted"


def _inserts(head: str, columns: Iterable[str], *, tail: str = "") -> tuple[str, ...]:
    """``head`` for 0 to ROWS_MAX rows, by number of rows."""
    names = [f'"{name}"' for name in columns]
    marks = f"({', '.join('?' * len(names))})"
    return tuple(
        f"{head} ({', '.join(names)}) VALUES {', '.join([marks] * rows)}{tail}" for rows in range(ROWS_MAX + 1)
    )


_SHARE_COLUMNS: Final = ("counter", "window", "unit", "worker", "posted", "authority", "tight")
_INSERT_RESERVATIONS: Final = _inserts("INSERT INTO reservations", RESERVATION_COLUMNS)
_INSERT_POST: Final = "INSERT INTO posts (worker, body) VALUES (?, ?)"
_ON_CONFLICT: Final = ' ON CONFLICT ("window", counter, unit, worker) DO UPDATE SET posted = '
_REPLACE_SHARES: Final = _inserts(
    "INSERT INTO shares",
    _SHARE_COLUMNS,
    tail=f"{_ON_CONFLICT}excluded.posted, authority = excluded.authority, tight = excluded.tight",
)
_DELETE_RESERVATIONS: Final = tuple(
    f"DELETE FROM reservations WHERE id IN ({', '.join('?' * ids)})" for ids in range(ROWS_MAX + 1)
)
