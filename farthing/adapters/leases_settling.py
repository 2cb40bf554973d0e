"""Settling calls: into the journal of this worker, once each."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence

import msgspec

from farthing.adapters.journal import Record, line_of
from farthing.adapters.leases_asking import Asking
from farthing.adapters.leases_calls import Flight, Tombstone
from farthing.adapters.leases_desk import posts_of
from farthing.adapters.leases_state import RECENT_MAX, RETRY_S, Written
from farthing.adapters.memory import amount_deltas, check_settlement
from farthing.adapters.postgres_rows import entry_to_json, exchange_to_json
from farthing.adapters.sqlite_rows import lost_reversal
from farthing.core.errors import Conflict, StoreUnavailable
from farthing.core.types import LedgerEntry, Reservation
from farthing.ports.books import Settlement


class Settling(Asking):
    """Settling calls: into the journal of this worker, once each."""

    async def settle(self, settlement: Settlement, now_ms: int) -> None:
        check_settlement(settlement)
        self._enter(now_ms)
        reservation = settlement.reservation
        rows: dict[str, bytes] = {}
        for entry in settlement.entries:
            rows[entry.id] = entry_to_json(entry)
        exchange = None if settlement.exchange is None else exchange_to_json(settlement.exchange)
        if reservation is None:
            fresh = await self._look_up(rows) if rows else rows
            booked = self._write(settlement, fresh, exchange, (), None)
            if booked.future is not None:
                await booked.future
            return
        key = reservation.id
        settling = self._settling
        while key in settling:
            ended = settling[key] = settling[key] or self._loop.create_future()
            await asyncio.shield(ended)
        settling[key] = None
        try:
            flight = self.desk.open.get(key)
            if flight is None:
                one = await self._settle_late(settlement, reservation, rows, exchange)
            else:
                one = self._settle_open(settlement, flight, rows, exchange)
            if one is not None and one.future is not None:
                try:
                    await one.future  # until the disk has it
                except asyncio.CancelledError:
                    self._left(one)
                    raise
        finally:
            if key not in self._unfinished:
                self._finished(key)

    def _finished(self, key: str) -> None:
        waiting = self._settling.pop(key)
        if waiting is not None:
            waiting.set_result(None)

    def _settle_open(
        self, settlement: Settlement, flight: Flight, rows: dict[str, bytes], exchange: bytes | None
    ) -> Written | None:
        """What is open here; what is on its way to the journal for it."""
        reservation = settlement.reservation
        assert reservation is not None
        self.desk.known(reservation)
        fresh = self._unbooked(rows)
        deltas = settlement.amounts or (0,) * len(reservation.holds)
        tombstone = Tombstone(reservation, settlement.amounts, tuple(rows))
        if fresh or exchange or any(deltas):
            return self._write(settlement, fresh, exchange, deltas, tombstone)
        self._release(flight)
        self.desk.bury(tombstone)
        return None

    async def _settle_late(
        self, settlement: Settlement, reservation: Reservation, rows: dict[str, bytes], exchange: bytes | None
    ) -> Written | None:
        """What is not open here: voided, expired, of a dead worker, never reserved."""
        self.desk.known(reservation)
        before = self.desk.tombstone(reservation.id)
        counted: Sequence[int] = ()
        if before is not None and before.entry_ids is not None:
            fresh = self._unbooked(rows)
            if (before.amounts, before.entry_ids) == (settlement.amounts, tuple(rows)):
                return None
            if before.entry_ids or not rows:
                raise Conflict(f"Reservation {reservation.id} is already settled with other content.")
            counted = before.amounts
            fresh = await self._look_up(rows)
        else:
            fresh, late = await self._find(rows, reservation)
            if late is None:
                return None
            counted = late if late else ()
            if before is None and rows and not fresh:
                return None
        deltas = amount_deltas(reservation, settlement.amounts, counted)
        tombstone = Tombstone(reservation, settlement.amounts, tuple(rows))
        self._ended_rows.append(reservation.id)  # wherever its row came from
        if fresh or exchange or any(deltas):
            self._hurry_seq = self._seq + 1  # it may take an estimate back
            return self._write(settlement, fresh, exchange, deltas, tombstone)
        self.desk.bury(tombstone)
        return None

    async def _find(
        self, rows: dict[str, bytes], reservation: Reservation
    ) -> tuple[dict[str, bytes], tuple[int, ...] | None]:
        """Entries that are not booked, and what was counted for the call already; None: it was settled before."""
        fresh = self._unbooked(rows)
        try:
            found = await self.on_shelf(lambda: self._shelf.find(list(rows), reservation.id))
        except StoreUnavailable:
            return fresh, ()  # the ledger sorts it out when it is shipped
        if found.reservation is not None and found.reservation != reservation:
            raise Conflict(f"Reservation {reservation.id} already exists with other content.")
        fresh = self._not_in(found.entries, fresh)
        if found.lost is not None and reservation.id not in rows:
            if found.reversed:
                return fresh, None
            reversal = lost_reversal(found.lost, now_ms=time.time_ns() // 1_000_000)
            fresh = {**fresh, reversal.id: entry_to_json(reversal)}
            return fresh, tuple(hold.amount for hold in reservation.holds)
        return fresh, ()

    async def _look_up(self, rows: dict[str, bytes]) -> dict[str, bytes]:
        """Those of the entries that are not booked. Raises ``Conflict``."""
        fresh = self._unbooked(rows)
        if fresh:
            with contextlib.suppress(StoreUnavailable):
                found = await self.on_shelf(lambda: self._shelf.find(list(fresh), ""))
                fresh = self._not_in(found.entries, fresh)
        return fresh

    def _unbooked(self, rows: dict[str, bytes]) -> dict[str, bytes]:
        """Those of the entries that this worker has not booked lately. Raises ``Conflict``."""
        fresh = {}
        for id, row in rows.items():
            booked = self._recent.get(id) or self._less_recent.get(id)
            if booked is None:
                fresh[id] = row
            elif booked != row:
                raise _taken(id)
        return fresh

    def _not_in(self, booked: Mapping[str, LedgerEntry], rows: dict[str, bytes]) -> dict[str, bytes]:
        for id, entry in booked.items():
            if id in rows and entry_to_json(entry) != rows[id]:
                raise _taken(id)
        return {id: row for id, row in rows.items() if id not in booked}

    def _write(
        self,
        settlement: Settlement,
        rows: dict[str, bytes],
        exchange: bytes | None,
        deltas: Sequence[int],
        tombstone: Tombstone | None,
    ) -> Written:
        """Give it to the journal; it counts once it is written."""
        posts = posts_of(settlement, deltas)
        ended = "" if settlement.reservation is None else settlement.reservation.id
        record = Record(
            seq=self._seq + 1,
            ids=tuple(rows),
            entries=tuple([msgspec.Raw(row) for row in rows.values()]),
            exchanges=() if exchange is None else (msgspec.Raw(exchange),),
            posts=posts,
            ended=ended,
        )
        try:
            line = line_of(record)
        except UnicodeEncodeError as error:
            raise ValueError(f"This cannot be booked: {error}.") from error
        self._seq += 1
        self._remember(rows)
        future = self._loop.create_future() if self.books._strict else None
        one = Written(line, record, rows, posts, self.desk.open.get(ended), tombstone, future, self._acts)
        self._lines.append(one)
        if not self._writing:
            self._writing = True
            self._loop.call_soon(self._write_next)
        if future is None:
            self._count(one)
        return one

    def _left(self, one: Written) -> None:
        """Its caller waits no more: nobody else may settle it before the journal has."""
        ended = one.record.ended
        if ended and one in (*self._group, *self._lines):
            self._unfinished.add(ended)

    def _count(self, one: Written) -> None:
        """It is settled: what it held is free, and what it cost counts."""
        flight = one.flight
        if flight is not None and self.desk.open.get(flight.id) is flight:
            self.desk.exchange(flight, one.posts)
            self._over(flight.id)
        else:
            self.desk.post(one.posts)
        if one.tombstone is not None:
            self.desk.bury(one.tombstone)
        if self._first_waiting_s is None:
            self._first_waiting_s = time.monotonic()
        self._to_ship.set()

    def _remember(self, rows: dict[str, bytes]) -> None:
        if len(self._recent) >= RECENT_MAX // 2:
            self._less_recent, self._recent = self._recent, {}
        self._recent |= rows

    def _forget(self, rows: dict[str, bytes]) -> None:
        for id in rows:
            self._recent.pop(id, None)
            self._less_recent.pop(id, None)

    def _group_done(self, error: OSError | None) -> None:
        """The journal's thread has written the group, or failed to."""
        group, self._group = self._group, []
        if error is None:
            for one in group:
                if one.future is not None:
                    self._count(one)
                    if not one.future.done():
                        one.future.set_result(None)
        else:
            told = StoreUnavailable(
                f"The journal in {self._folder} cannot be written: {error.strerror}.", hint="Free some space."
            )
            for one in group:
                if one.future is not None:
                    self._forget(one.rows)
                    if not one.future.done():
                        one.future.set_exception(told)
            self._lines = [one for one in group if one.future is None] + self._lines
        for one in group if self._unfinished else ():
            key = "" if one.tombstone is None else one.tombstone.reservation.id
            if key in self._unfinished:
                self._unfinished.discard(key)
                self._finished(key)
        self._writing = bool(self._lines)
        if self._writing and error is None:
            self._loop.call_soon(self._write_next)  # with what those settle at once who have just been answered
        elif self._writing:
            self._loop.call_later(RETRY_S, self._write_next)


def _taken(entry_id: str) -> Conflict:
    return Conflict(f"Entry {entry_id} is already booked with other content.")
