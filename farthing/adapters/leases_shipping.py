"""Shipping the journal to the ledger, burying dead workers, and looking at all of it."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import get_args

from farthing.adapters.journal import CHUNK_RECORDS, read_entries, remove_entries, workers_of
from farthing.adapters.leases_settling import Settling
from farthing.adapters.leases_state import (
    BEAT_S,
    LASTING_S,
    RETRY_S,
    SHIP_LINGER_S,
    log,
)
from farthing.adapters.memory import CounterKey
from farthing.adapters.postgres_shelf import sums_of
from farthing.adapters.sqlite_journal import read_journal, remove_journal
from farthing.adapters.sqlite_rows import Row, record_to_row, reservation_from_row
from farthing.core.errors import StoreUnavailable
from farthing.core.types import LimitUnit, Reservation
from farthing.ports.books import Balance


class Shipping(Settling):
    """Shipping the journal to the ledger, burying dead workers, and looking at all of it."""

    async def _ship_loop(self) -> None:
        pause_s = RETRY_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LASTING_S):
                    await self._to_ship.wait()
            await asyncio.sleep(SHIP_LINGER_S)
            self._to_ship.clear()
            try:
                await self._ship(some=True)
            except StoreUnavailable as error:
                if self._ledger_ok:
                    self._outages += 1
                    log.error("The ledger is away; the journal keeps what is settled. %s", error)
                self._ledger_ok = False
                await asyncio.sleep(pause_s)
                pause_s = min(2.0, 2 * pause_s)
                self._to_ship.set()
            else:
                self._ledger_ok = True
                pause_s = RETRY_S

    async def _ship(self, *, some: bool = False) -> None:
        """Ship until nothing is left; ``some``: or so little that it is better shipped with what comes next."""
        while True:
            begun, ended = self._lasting(), self._take_ended()
            if not self._journal.waiting and not begun and not ended:
                self._first_waiting_s = None
                return
            try:
                await self._ship_once(begun, ended)
            except StoreUnavailable:
                self._ended_rows += ended
                self._unwritten |= {str(row[0]): (row, 0.0) for row in begun if str(row[0]) in self.desk.open}
                raise
            if some and 0 < self._seq - self._shipped_seq < CHUNK_RECORDS:
                self._first_waiting_s = time.monotonic()
                self._to_ship.set()
                return

    async def _ship_once(self, begun: Sequence[Row], ended: Sequence[str]) -> None:
        ship = partial(self._ship_chunk, begun, ended)
        if not self._leases.in_ledger:
            await self.on_shelf(ship)
            return
        async with self._lease_lock:  # no grant may see the new counters while our use still has the same money
            await self.on_shelf(ship)
            self._apply_booked()

    def _apply_booked(self) -> None:
        while self._booked:
            sums, _ = self._booked.popleft()
            self.desk.booked(sums)

    def _ship_chunk(self, begun: Sequence[Row], ended: Sequence[str]) -> None:
        """On the ledger's thread, or on the loop's for a reader that waits."""
        with self._shelf.lock:
            records, place = self._journal.read()
            added = sums_of(records)
            posted = self._shelf.ship(records, begun=begun, ended=ended, added=added)
            self._journal.shipped(place)
            if added[0]:
                self._booked.append((added[0], posted))
            if records:
                self._shipped_seq = records[-1].seq

    def ship_now(self) -> None:
        """Blocks the loop's thread until everything is shipped."""
        while self._journal.waiting:
            self._ship_chunk((), ())
        if self._leases.in_ledger:
            self._apply_booked()

    async def caught_up(self) -> None:
        """Return when everything is shipped. Raises ``StoreUnavailable``."""
        await self._ship()

    def _lasting(self, *, everything: bool = False) -> list[Row]:
        """Rows of calls that have been in flight for a moment and have none yet."""
        due = time.monotonic() - (0.0 if everything else LASTING_S)
        found = []
        for reservation_id, (row, since) in list(self._unwritten.items()):
            if since > due:
                break
            del self._unwritten[reservation_id]
            found.append(record_to_row(row))
        return found

    def _take_ended(self) -> list[str]:
        ended, self._ended_rows = self._ended_rows, []
        return ended

    async def _beat_loop(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(StoreUnavailable):
                rejoin = self._joined and not self._leases.in_ledger
                silent = await self.on_shelf(partial(self._shelf.beat, rejoin=rejoin))
                await self._bury_dead_here()
                for worker in await self._leases.silent(silent):
                    if worker != self._name:
                        log.warning("Worker %s has been silent for too long; its calls in flight are booked", worker)
                        await self._bury(worker, here=False)

    async def _bury_dead_here(self) -> None:
        """Take over from workers of this host that live no more; the kernel has freed their locks."""
        names = workers_of(self._folder) | {
            path.name.rsplit(".holds.", 1)[0] for path in self._folder.glob("*.holds.*")
        }
        for worker in sorted(names - {self._name}):
            lock = self._locks.take(worker)
            if lock is not None:
                try:
                    await self._bury(worker, here=True)
                except BaseException:
                    lock.release()
                    raise
                lock.remove()

    async def _bury(self, worker: str, *, here: bool) -> None:
        records = read_entries(self._folder, worker) if here else []
        ended = {record.ended for record in records}
        holds = [row for row in read_journal(self._folder, worker) if row[0] not in ended] if here else []
        leased = await self._leases.leased(worker)
        book = self.books._on_lost == "ceiling"
        posted = await self.on_shelf(lambda: self._shelf.bury(worker, records, holds, book=book, leased=leased))
        await self._leases.drop(worker, posted)
        if here:
            remove_journal(self._folder, worker)
            remove_entries(self._folder, worker)  # first: of who is forgotten nothing counts as shipped
            await self.on_shelf(lambda: self._shelf.forget(worker))

    # Looking

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        with self._shelf.lock:  # a shipment on its way is in the ledger and noted here, or neither
            posted = self.books._reader.posted(counters)
            shipped = list(self._booked)
        held: dict[CounterKey, int] = {}
        for reservation in self._others():
            for hold in reservation.holds:
                key: CounterKey = (hold.counter, hold.window, hold.unit)
                held[key] = held.get(key, 0) + hold.amount
        wanted = set(counters)
        unbooked: dict[CounterKey, int] = {}
        for sums, _ in shipped:
            for key, amount in sums.items():
                unbooked[key] = unbooked.get(key, 0) + amount
        keys: list[CounterKey] = [(*pair, unit) for pair in wanted for unit in get_args(LimitUnit)]
        mine = {key: self.desk.accounts[key] for key in keys if key in self.desk.accounts}
        found = []
        for key in sorted({*posted, *mine, *(key for key in held if key[:2] in wanted)}):
            account = mine.get(key)
            # What is shipped already is in the ledger's figure, although the lease store is not told yet.
            pending = 0 if account is None else account.pending - unbooked.get(key, 0)
            balance = Balance(
                counter=key[0],
                window=key[1],
                unit=key[2],
                posted=posted.get(key, 0) + pending,
                held=held.get(key, 0) + (0 if account is None else account.held),
            )
            if balance.posted or balance.held:
                found.append(balance)
        return tuple(found)

    def open_reservations(self) -> tuple[Reservation, ...]:
        found = [*(flight.reservation for flight in self.desk.open.values()), *self._others()]
        return tuple(sorted(found, key=lambda reservation: reservation.id))

    def _others(self) -> list[Reservation]:
        here = {path.name.rsplit(".holds.", 1)[0] for path in self._folder.glob("*.holds.*")}
        found = {one.id: one for one in self.books._reader.reservations(without=[self._name, *here])}
        for worker in here - {self._name}:
            found |= {str(row[0]): reservation_from_row(row) for row in read_journal(self._folder, worker)}
        return list(found.values())

    def gauges(self) -> dict[str, float]:
        waited_s = 0.0 if self._first_waiting_s is None else time.monotonic() - self._first_waiting_s
        return {
            "journal_records_waiting": self._seq - self._shipped_seq,
            "journal_waiting_seconds": waited_s,
            "ledger_up": float(self._ledger_ok),
            "leases_up": float(self._leases_ok and self._may_spend()),
            "store_outages": self._outages,
            "store_allowance_held_usd": self.books.allowance_held / 1e9,
            "reserves_waiting": len(self._waiting),
        }
