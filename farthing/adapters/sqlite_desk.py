"""The desk: where the writer thread decides each act in memory, against the authority this worker holds durably.

A worker may promise calls only what it has authority for. It takes slices of a counter's free room inside its own
transactions, so the sum over all workers never passes a hard limit; when the room is used up but other workers hold
slices they do not need, it recalls those before it refuses anything.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from farthing.adapters.memory import CounterKey, Expiries, amount_deltas, counter_key
from farthing.adapters.sqlite_group import Account, Flight, Group, Reserve, Settle, Tombstone
from farthing.adapters.sqlite_inserts import ShapedRow, entry_to_sqlite
from farthing.adapters.sqlite_keeping import Keeper
from farthing.adapters.sqlite_recovery import Recovery
from farthing.adapters.sqlite_room import Room
from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    RESERVATION_COLUMNS,
    WORKER_LOST,
    Row,
    entry_from_row,
    lost_reversal,
    quoted,
    reservation_from_row,
)
from farthing.adapters.sqlite_runs import Sizes
from farthing.core.errors import Conflict, StoreUnavailable
from farthing.core.types import Denied, Held, Hold, LedgerEntry, Reservation

TOMBSTONES_MAX: Final = 8_192
"""Ended reservations remembered, so that a repeated act is recognised without asking the file."""

PARTS: Final = 4_096
"""Parts of rolling windows that are dropped at once, at most."""

LASTING_S: Final = 0.2
"""A call in flight for longer gets a row in the ledger's file; most of an LLM's calls do."""

_SELECT_ENTRY: Final = f"SELECT {quoted(ENTRY_COLUMNS)} FROM entries WHERE id = ?"
_SELECT_RESERVATION: Final = f"SELECT {quoted(RESERVATION_COLUMNS)} FROM reservations WHERE id = ?"


class Desk:
    """All of this worker's open reservations and accounts. Owned by the writer thread."""

    def __init__(self, worker: str, recovery: Recovery, sizes: Sizes) -> None:
        self.worker = worker
        self.open: dict[str, Flight] = {}
        self._accounts: dict[CounterKey, Account] = {}
        self._tombstones: dict[str, Tombstone] = {}
        self._older: dict[str, Tombstone] = {}
        """Two generations: the older one is forgotten as a whole."""
        self._expiries = Expiries()
        self._unwritten: dict[str, Flight] = {}
        """Holds that stand in the journal only, oldest first."""
        self.room = Room(worker, self._accounts, recovery)
        self.keeper = Keeper(worker, self._accounts, self.room, sizes)

    # Reserving

    def reserve(self, act: Reserve, group: Group) -> Held | Denied | StoreUnavailable | None:
        """Hold all or nothing; None: ask again later, other workers were asked to give authority back."""
        reservation = act.reservation
        self.expire(act.now_ms, group)
        over = self.room.parts_over(act.now_ms, PARTS)
        if over:
            self.keeper.remove(over, group)
        if self._known(reservation) is not None:
            return Held(id=reservation.id)
        if reservation.holds and not self.room.may_decide(group):
            return None if self.room.patient(act) else self.room.stuck()
        needed: dict[Account, int] = {}
        accounts: list[Account] = []
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
            accounts.append(account)
        self._undoable(group)
        flight = Flight(reservation, tuple(accounts), None, 0.0)
        flight.hold()
        group.opened.append(flight)
        for account in needed:
            group.touch(account)
            if account.limit is not None:
                account.authority = max(account.authority, account.held)
        self.open[reservation.id] = flight
        self._expiries.add(flight, self.open)
        group.reservation_rows[reservation.id] = act.row
        return Held(id=reservation.id, over=tuple(passed))

    def hold_at_once(self, reservation: Reservation, row: Row, now_ms: int) -> bool:
        """Hold without a transaction where what is surely left for this worker covers it; False: take the queue.

        Called on the event loop under the writer's lock. The caller writes the hold journal before anything is sent.
        """
        id = reservation.id
        if id in self.open or self._expiries.any_due(now_ms) or self._tombstone(id) is not None:
            return False
        if reservation.expires_at_ms <= now_ms:
            return False  # acts that came earlier and wait in the queue must not end it
        accounts: list[Account] = []
        made = False
        try:
            hold = self._hold_alone if self.room.alone else self._hold_among_others
            made = hold(reservation.holds, accounts)
        finally:
            if not made:
                for account, one in zip(accounts, reservation.holds):  # noqa: B905  # as far as it came
                    account.held -= one.amount
        if made:
            flight = self.open[id] = self._unwritten[id] = Flight(reservation, tuple(accounts), row, time.monotonic())
            self._expiries.add(flight, self.open)
        return made

    def _hold_alone(self, holds: Iterable[Hold], accounts: list[Account]) -> bool:
        """Hold one after the other while limits leave room; False: this one does not fit, or asks for more."""
        find = self._accounts.get
        for hold in holds:
            key = (hold.counter, hold.window, hold.unit)
            account = find(key)
            if account is None:
                account = self._accounts[key] = Account(key)
            if hold.also or account.exact:
                return False
            others = account.others
            if others is None:
                others = self.room.look(account)
            held = account.held + hold.amount
            if others + account.posted + held > hold.limit:
                return False
            account.held = held
            accounts.append(account)
        return True

    def _hold_among_others(self, holds: Iterable[Hold], accounts: list[Account]) -> bool:
        """The same where this worker has authority for each, and no counter comes twice."""
        for hold in holds:
            account = self._accounts.get((hold.counter, hold.window, hold.unit))
            if account is None or hold.also or account in accounts or not self._covers(account, hold):
                return False
            account.held += hold.amount
            accounts.append(account)
        return True

    def short_of(self, reservation: Reservation) -> list[CounterKey]:
        """The counters of a reservation of which not surely enough is left for it."""
        keys = [(counter_key(hold), hold) for hold in reservation.holds]
        known = [(key, self._accounts.get(key), hold) for key, hold in keys]
        return [key for key, one, hold in known if one is not None and (hold.also or not self._covers(one, hold))]

    def _covers(self, account: Account, hold: Hold) -> bool:
        """What is surely left of a counter for this worker is enough for the hold."""
        if self.room.alone:
            others = account.others
            if others is None:
                others = self.room.look(account)
            return not account.exact and others + account.posted + account.held + hold.amount <= hold.limit
        sure = account.sure()
        if hold.limit != account.limit or hold.amount > sure or sure <= 0:
            return False
        return hold.hard or account.fits(hold.amount)

    def take_back(self, reservation: Reservation) -> None:
        """Undo ``hold_at_once``: its journal could not be written."""
        del self._unwritten[reservation.id]
        self.open.pop(reservation.id).release()

    def write_lasting(self, group: Group, lasting_s: float = LASTING_S) -> None:
        """Give holds that have lasted a moment their row in the file: it outlives the machine, unlike the journal."""
        due = time.monotonic() - lasting_s
        while self._unwritten:
            flight = next(iter(self._unwritten.values()))
            if flight.since > due or flight.row is None:
                break
            group.begin()
            self._unwritten.pop(flight.id)
            group.reservation_rows[flight.id] = flight.row
            group.undo.append(partial(self._unwritten.__setitem__, flight.id, flight))

    # Settling

    def settle(self, act: Settle, group: Group) -> None:
        """End the reservation, count its amounts, book its entries. Raises ``Conflict`` before anything changed."""
        settlement = act.settlement
        reservation = settlement.reservation
        if self._expiries.any_due(act.now_ms):
            self.expire(act.now_ms, group)
        rows = self._unbooked(act, group) if group.careful else act.entry_rows
        if reservation is not None:
            flight = self.open.get(reservation.id)
            if flight is None:
                late = self._settle_late(act, reservation, group)
                if late is None:
                    return
                rows = late
            elif flight.reservation is not reservation and flight.reservation != reservation:
                raise _conflict(reservation)
            else:
                self._end(flight, settlement.amounts, group)
                if not settlement.entries:
                    group.voided.append(reservation.id)
            entries = settlement.entries
            ids = (entries[0].id,) if len(entries) == 1 else tuple([entry.id for entry in entries])
            self._bury(Tombstone(reservation, settlement.amounts, ids), group)
        if len(rows) == 1:
            group.entry_rows.append(rows[0])
        else:
            group.several_rows += rows
        if act.exchange_row is not None:
            group.exchange_rows.append(act.exchange_row)

    def _settle_late(self, act: Settle, reservation: Reservation, group: Group) -> Sequence[ShapedRow] | None:
        """Settle what is not open here: voided, expired, of a dead worker, never reserved. None: was done before."""
        settlement = act.settlement
        self._known(reservation)
        rows = self._unbooked(act, group)
        ids = tuple(entry.id for entry in settlement.entries)
        counted: Sequence[int] = ()
        before = self._tombstone(reservation.id)
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
                rows = [*rows, entry_to_sqlite(reversal)]
                counted = tuple(hold.amount for hold in reservation.holds)
            elif ids and not rows:
                return None
        accounts = [self._account(counter_key(hold)) for hold in reservation.holds]
        self._count(accounts, amount_deltas(reservation, settlement.amounts, counted), group)
        return rows

    def _unbooked(self, act: Settle, group: Group) -> Sequence[ShapedRow]:
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

    def _end(self, flight: Flight, amounts: Sequence[int], group: Group) -> None:
        """Hold it no longer, and count what it cost."""
        accounts = flight.accounts
        for account in accounts:
            if account.limit is not None or account.dropped:
                break
        else:
            if amounts:  # nearly always, for a worker that is alone: no authority to care for
                self._over(flight, group)
                touch = group.touch
                for account, hold, amount in zip(accounts, flight.reservation.holds, amounts):  # noqa: B905  # checked
                    account.held -= hold.amount
                    if account.group is not group:
                        touch(account)
                    account.posted += amount
                return
        self._close(flight, group)
        if amounts:
            self._count(self._accounts_of(flight), amounts, group)

    def _count(self, accounts: Sequence[Account], amounts: Iterable[int], group: Group) -> None:
        for account, amount in zip(accounts, amounts, strict=True):
            if account.group is not group:
                group.touch(account)
            account.posted += amount
            if account.limit is not None:
                held, left = account.held, account.authority - amount
                tight = account.exact or account.key in self.room.recalled
                account.authority = held if tight or left < held else left

    # Keeping

    def expire(self, now_ms: int, group: Group) -> None:
        """Hold no longer what is past its time; a call that still settles is booked all the same."""
        for reservation_id in self._expiries.due(now_ms, self.open):
            flight = self.open.get(reservation_id)
            if flight is not None:
                self._close(flight, group)
                self._bury(Tombstone(flight.reservation, (), None), group)

    def close(self, run: Callable[[], Group], *, clean: bool) -> None:
        """Give everything back but what open reservations hold; those get their rows in the file."""
        group = run()
        self.write_lasting(group, lasting_s=0.0)
        self.keeper.close(run, clean=clean, group=group)

    def account(self, key: CounterKey) -> Account | None:
        """This worker's account of a counter, if it has one in memory."""
        return self._accounts.get(key)

    def _account(self, key: CounterKey) -> Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account(key)
        return account

    def _accounts_of(self, flight: Flight) -> Sequence[Account]:
        """Its accounts; one that nothing was held on may have been forgotten."""
        for account in flight.accounts:
            if account.dropped:
                return [self._account(account.key) for account in flight.accounts]
        return flight.accounts

    def _known(self, reservation: Reservation) -> Reservation | None:
        """The same reservation as it was seen before. Raises ``Conflict`` when it had other content."""
        flight = self.open.get(reservation.id)
        tombstone = self._tombstone(reservation.id) if flight is None else None
        known = flight.reservation if flight is not None else None if tombstone is None else tombstone.reservation
        if known is not None and known != reservation:
            raise _conflict(reservation)
        return known

    def _tombstone(self, reservation_id: str) -> Tombstone | None:
        return self._tombstones.get(reservation_id) or self._older.get(reservation_id)

    def _close(self, flight: Flight, group: Group) -> None:
        """Hold it no longer."""
        self._over(flight, group)
        recalled = self.room.recalled
        for account, hold in zip(flight.accounts, flight.reservation.holds):  # noqa: B905  # made of each other
            account.held -= hold.amount
            if account.limit is not None and (account.exact or (recalled and account.key in recalled)):
                group.touch(account)
                account.authority = account.held

    def _over(self, flight: Flight, group: Group) -> None:
        """It is in flight no more; a row that was never written need not be deleted."""
        id = flight.id
        del self.open[id]
        if not group.tracked:
            self._undoable(group)
        group.closed.append(flight)
        if flight.row is None or self._unwritten.pop(id, None) is None:
            if group.reservation_rows.pop(id, None) is None:
                group.ended.append(id)
        else:
            group.unwritten.append(flight)
        group.over.append(id)

    def _bury(self, tombstone: Tombstone, group: Group) -> None:
        id = tombstone.reservation.id
        group.buried.append((id, self._tombstones.get(id) or self._older.get(id)))
        if not group.tracked:
            self._undoable(group)
        if len(self._tombstones) >= TOMBSTONES_MAX // 2:
            self._older, self._tombstones = self._tombstones, {}
        self._tombstones[id] = tombstone

    def _undoable(self, group: Group) -> None:
        """The group remembers what it opens, closes and buries; one entry in its list of undoing stands for all."""
        if not group.tracked:
            group.tracked = True
            group.undo.append(partial(self._undo, group))

    def _undo(self, group: Group) -> None:
        for id, before in reversed(group.buried):
            self._tombstones.pop(id, None)
            if before is not None:
                self._tombstones[id] = before
        for flight in reversed(group.closed):
            flight.hold()
            self.open[flight.id] = flight
            self._expiries.add(flight, self.open)
        for flight in group.unwritten:
            self._unwritten[flight.id] = flight
        for flight in group.opened:
            del self.open[flight.id]
            flight.release()


def _entry(connection: sqlite3.Connection, entry_id: str) -> LedgerEntry | None:
    row = connection.execute(_SELECT_ENTRY, (entry_id,)).fetchone()
    return None if row is None else entry_from_row(row)


def _conflict(reservation: Reservation) -> Conflict:
    return Conflict(f"Reservation {reservation.id} already exists with other content.")
