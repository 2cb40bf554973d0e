"""The desk: where the writer thread decides each act in memory, against the authority this worker holds durably.

A worker may promise calls only what it has authority for. It takes slices of a counter's free room inside its own
transactions, so the sum over all workers never passes a hard limit; when the room is used up but other workers hold
slices they do not need, it recalls those before it refuses anything.
"""

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from farthing.adapters.memory import CounterKey, Expiries, amount_deltas, counter_key
from farthing.adapters.sqlite_group import Account, Group, Reserve, Settle
from farthing.adapters.sqlite_recovery import FOLD, Recovery
from farthing.adapters.sqlite_room import Room
from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    RESERVATION_COLUMNS,
    WORKER_LOST,
    Row,
    entry_from_row,
    entry_to_row,
    lost_reversal,
    quoted,
    reservation_from_row,
)
from farthing.core.errors import Conflict
from farthing.core.types import Denied, Held, LedgerEntry, Reservation

TOMBSTONES_MAX: Final = 8_192
"""Ended reservations remembered, so that a repeated act is recognised without asking the file."""

ACCOUNTS_MAX: Final = 50_000
"""Counters kept in memory; idle ones beyond that give their authority back."""

EVICT: Final = 4_096
LASTING_S: Final = 0.2
"""A call in flight for longer gets a row in the ledger's file; most of an LLM's calls do."""

_SELECT_ENTRY: Final = f"SELECT {quoted(ENTRY_COLUMNS)} FROM entries WHERE id = ?"
_SELECT_RESERVATION: Final = f"SELECT {quoted(RESERVATION_COLUMNS)} FROM reservations WHERE id = ?"


class Tombstone(msgspec.Struct, frozen=True):
    """A reservation that is held no more; ``entry_ids`` is None while it has expired but was never settled."""

    reservation: Reservation
    amounts: tuple[int, ...]
    entry_ids: tuple[str, ...] | None


class Desk:
    """All of this worker's open reservations and accounts. Owned by the writer thread."""

    def __init__(self, worker: str, recovery: Recovery) -> None:
        self.worker = worker
        self.open: dict[str, Reservation] = {}
        self._accounts: dict[CounterKey, Account] = {}
        self._tombstones: OrderedDict[str, Tombstone] = OrderedDict()  # a dict finds its oldest ever more slowly
        self._expiries = Expiries()
        self._unwritten: dict[str, tuple[Row, float]] = {}
        """Holds that stand in the journal only, oldest first: (row for the file, monotonic time of the hold)."""
        self.room = Room(worker, self._accounts, recovery)

    # Reserving

    def reserve(self, act: Reserve, group: Group) -> Held | Denied | None:
        """Hold all or nothing; None: ask again later, other workers were asked to give authority back."""
        reservation = act.reservation
        self.expire(act.now_ms, group)
        over = self.room.parts_over(act.now_ms, EVICT)
        if over:
            self._remove(over, group)
        if self._known(reservation) is not None:
            return Held(id=reservation.id)
        needed: dict[Account, int] = {}
        passed: list[Denied] = []
        for hold in reservation.holds:
            account = self._account(counter_key(hold))
            left = None if act.answered else self.room.make(account, hold, needed, group)
            if left is not None:
                if hold.hard and self.room.recall(hold, act, group):
                    return None
                denied = Denied(id=reservation.id, hold=hold, left=max(0, left))
                if hold.hard:
                    return denied
                passed.append(denied)
            needed[account] = needed.get(account, 0) + hold.amount
        for account, amount in needed.items():
            group.hold(account, amount)
            if account.limit is not None:
                account.authority = max(account.authority, account.held)
        self._open(reservation, group)
        group.reservation_rows[reservation.id] = act.row
        return Held(id=reservation.id, over=tuple(passed))

    def hold_at_once(self, reservation: Reservation, row: Row, now_ms: int) -> bool:
        """Hold without a transaction where authority that is surely this worker's covers it; False: take the queue.

        Called on the event loop under the writer's lock. The caller writes the hold journal before anything is sent.
        """
        if reservation.id in self.open or reservation.id in self._tombstones or self._expiries.any_due(now_ms):
            return False
        needed: dict[Account, int] = {}
        for hold in reservation.holds:
            account = self._account((hold.counter, hold.window, hold.unit))
            needed[account] = need = needed.get(account, 0) + hold.amount
            sure = account.sure()
            if hold.also or hold.limit != account.limit or need > sure or sure <= 0:
                return False
            if not hold.hard and not account.fits(need):
                return False
        for account, amount in needed.items():
            account.held += amount
        self.open[reservation.id] = reservation
        self._expiries.add(reservation, self.open)
        self._unwritten[reservation.id] = (row, time.monotonic())
        return True

    def take_back(self, reservation: Reservation) -> None:
        """Undo ``hold_at_once``: its journal could not be written."""
        del self.open[reservation.id]
        del self._unwritten[reservation.id]
        for hold in reservation.holds:
            self._account(counter_key(hold)).release(hold.amount)

    def write_lasting(self, group: Group) -> None:
        """Give holds that have lasted a moment their row in the file: it outlives the machine, unlike the journal."""
        due = time.monotonic() - LASTING_S
        for reservation_id, waiting in list(self._unwritten.items()):
            row, since = waiting
            if since > due:
                break
            group.begin()
            del self._unwritten[reservation_id]
            group.reservation_rows[reservation_id] = row
            group.undo.append(partial(self._unwritten.__setitem__, reservation_id, waiting))

    # Settling

    def settle(self, act: Settle, group: Group) -> None:
        """End the reservation, count its amounts, book its entries. Raises ``Conflict`` before anything changed."""
        settlement = act.settlement
        reservation = settlement.reservation
        self.expire(act.now_ms, group)
        rows = self._unbooked(act, group) if group.careful else act.entry_rows
        if reservation is not None:
            known = self.open.get(reservation.id)
            if known is None:
                late = self._settle_late(act, reservation, group)
                if late is None:
                    return
                rows = late
            elif known is not reservation and known != reservation:
                raise _conflict(reservation)
            else:
                accounts = self._close(reservation, group)
                if not settlement.entries:
                    group.voided.append(reservation.id)
                self._count(accounts, settlement.amounts or (0,) * len(accounts), group)
            ids = tuple([entry.id for entry in settlement.entries])
            self._bury(Tombstone(reservation, settlement.amounts, ids), group)
        group.entry_rows += rows
        if act.exchange_row is not None:
            group.exchange_rows.append(act.exchange_row)

    def _settle_late(self, act: Settle, reservation: Reservation, group: Group) -> Sequence[Row] | None:
        """Settle what is not open here: voided, expired, of a dead worker, never reserved. None: was done before."""
        settlement = act.settlement
        self._known(reservation)
        rows = self._unbooked(act, group)
        ids = tuple(entry.id for entry in settlement.entries)
        counted: Sequence[int] = ()
        before = self._tombstones.get(reservation.id)
        if before is not None and before.entry_ids is not None:
            if (before.amounts, before.entry_ids) == (settlement.amounts, ids):
                return None
            if before.entry_ids or not ids:
                raise Conflict(f"Reservation {reservation.id} is already settled with other content.")
            counted = before.amounts
        elif before is None:
            group.begin()
            row = group.connection.execute(_SELECT_RESERVATION, (reservation.id,)).fetchone()
            if row is not None and reservation_from_row(row) != reservation:
                raise _conflict(reservation)
            lost = _entry(group.connection, reservation.id)
            if lost is not None and lost.error == WORKER_LOST:
                reversal = lost_reversal(lost, now_ms=act.now_ms)
                if _entry(group.connection, reversal.id) is not None:
                    return None
                rows = [*rows, entry_to_row(reversal)]
                counted = tuple(hold.amount for hold in reservation.holds)
            elif ids and not rows:
                return None
        accounts = [self._account(counter_key(hold)) for hold in reservation.holds]
        self._count(accounts, amount_deltas(reservation, settlement.amounts, counted), group)
        return rows

    def _unbooked(self, act: Settle, group: Group) -> Sequence[Row]:
        """The rows of entries that are not booked yet. Raises ``Conflict`` where other content has the id."""
        if not act.entry_rows:
            return ()
        group.begin()
        rows = []
        for entry, row in zip(act.settlement.entries, act.entry_rows, strict=True):
            booked = _entry(group.connection, entry.id)
            if booked is None:
                rows.append(row)
            elif booked != entry:
                raise Conflict(f"Entry {entry.id} is already booked with other content.")
        return rows

    def _count(self, accounts: Sequence[Account], amounts: Iterable[int], group: Group) -> None:
        recalled = self.room.recalled
        for account, amount in zip(accounts, amounts, strict=True):
            group.touch(account)
            account.posted += amount
            if account.limit is not None:
                held, left = account.held, account.authority - amount
                tight = account.exact or (recalled and account.key in recalled)
                account.authority = held if tight or left < held else left

    # Keeping

    def expire(self, now_ms: int, group: Group) -> None:
        """Hold no longer what is past its time; a call that still settles is booked all the same."""
        for reservation_id in self._expiries.due(now_ms, self.open):
            reservation = self.open.get(reservation_id)
            if reservation is not None:
                self._close(reservation, group)
                self._bury(Tombstone(reservation, (), None), group)

    def account(self, key: CounterKey) -> Account | None:
        """This worker's account of a counter, if it has one in memory."""
        return self._accounts.get(key)

    def fold_idle(self, group: Group) -> bool:
        """Give the oldest idle accounts back when there are too many; True if so. Memory stays bounded this way."""
        if len(self._accounts) <= ACCOUNTS_MAX:
            return False
        idle = []
        for account in self._accounts.values():
            if account.held == 0 and account.group is None:
                idle.append(account)
                if len(idle) == EVICT:
                    break
        self.fold(idle, group)
        return True

    def close(self, group: Group) -> None:
        """Give everything back but what open reservations hold."""
        self.room.recalled = set()
        idle = []
        for account in self._accounts.values():
            if account.held == 0:
                idle.append(account)
            else:
                group.touch(account)
                account.authority = account.held if account.limit is not None else 0
        self.fold(idle, group)

    def fold(self, accounts: Sequence[Account], group: Group) -> None:
        """Move what these accounts booked to the common share and drop their rows."""
        group.begin()
        written = [account for account in accounts if account.written is not None]
        group.connection.executemany(FOLD, [(*account.key, account.posted) for account in written if account.posted])
        self._remove(accounts, group)

    def _remove(self, accounts: Sequence[Account], group: Group) -> None:
        group.begin()
        for account in accounts:
            account.folding = True
        group.undo.append(lambda: self._unfold(accounts))
        written = [account for account in accounts if account.written is not None]
        group.connection.executemany(
            'DELETE FROM shares WHERE counter = ? AND "window" = ? AND unit = ? AND worker = ?',
            [(*account.key, self.worker) for account in written],
        )
        group.after.append(lambda committed: self._forget(accounts) if committed else None)

    def _unfold(self, accounts: Sequence[Account]) -> None:
        for account in accounts:
            account.folding = False

    def _forget(self, accounts: Sequence[Account]) -> None:
        for account in accounts:
            self._accounts.pop(account.key, None)

    def _account(self, key: CounterKey) -> Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(key)
        return account

    def _known(self, reservation: Reservation) -> Reservation | None:
        """The same reservation as it was seen before. Raises ``Conflict`` when it had other content."""
        known = self.open.get(reservation.id)
        if known is None:
            tombstone = self._tombstones.get(reservation.id)
            known = None if tombstone is None else tombstone.reservation
        if known is not None and known != reservation:
            raise _conflict(reservation)
        return known

    def _open(self, reservation: Reservation, group: Group) -> None:
        self.open[reservation.id] = reservation
        self._expiries.add(reservation, self.open)
        group.undo.append(lambda: self.open.pop(reservation.id, None))

    def _close(self, reservation: Reservation, group: Group) -> list[Account]:
        """Hold it no longer; a row that was never written need not be deleted. Its accounts, by hold."""
        del self.open[reservation.id]
        recalled = self.room.recalled
        accounts = []
        for hold in reservation.holds:
            account = self._account((hold.counter, hold.window, hold.unit))
            accounts.append(account)
            group.touch(account)
            account.held -= hold.amount
            if account.limit is not None and (account.exact or (recalled and account.key in recalled)):
                account.authority = account.held
        group.undo.append(lambda: self._reopen(reservation, accounts))
        waiting = self._unwritten.pop(reservation.id, None)
        if waiting is not None:
            group.undo.append(lambda: self._unwritten.__setitem__(reservation.id, waiting))
        elif group.reservation_rows.pop(reservation.id, None) is None:
            group.ended.append(reservation.id)
        group.over.append(reservation.id)
        return accounts

    def _reopen(self, reservation: Reservation, accounts: Sequence[Account]) -> None:
        for account, hold in zip(accounts, reservation.holds, strict=True):
            account.held += hold.amount
        self.open[reservation.id] = reservation
        self._expiries.add(reservation, self.open)

    def _bury(self, tombstone: Tombstone, group: Group) -> None:
        id = tombstone.reservation.id
        before = self._tombstones.pop(id, None)
        self._tombstones[id] = tombstone
        group.undo.append(lambda: self._dig_up(id, before))
        if len(self._tombstones) > TOMBSTONES_MAX:
            self._tombstones.popitem(last=False)

    def _dig_up(self, id: str, before: Tombstone | None) -> None:
        self._tombstones.pop(id, None)
        if before is not None:
            self._tombstones[id] = before


def _entry(connection: sqlite3.Connection, entry_id: str) -> LedgerEntry | None:
    row = connection.execute(_SELECT_ENTRY, (entry_id,)).fetchone()
    return None if row is None else entry_from_row(row)


def _conflict(reservation: Reservation) -> Conflict:
    return Conflict(f"Reservation {reservation.id} already exists with other content.")
