"""Settling calls: into the journal of this worker, once each."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence

import msgspec

from farthing.adapters.journal import Record, line_of
from farthing.adapters.leases_asking import Asking
from farthing.adapters.leases_desk import Tombstone, posts_of
from farthing.adapters.leases_state import (
    RECENT_MAX,
    RETRY_S,
)
from farthing.adapters.memory import amount_deltas
from farthing.adapters.postgres_rows import entry_to_json, exchange_to_json
from farthing.adapters.sqlite_rows import lost_reversal
from farthing.core.errors import Conflict, StoreUnavailable
from farthing.core.types import LedgerEntry, Reservation
from farthing.ports.books import Settlement


class Settling(Asking):
    """Settling calls: into the journal of this worker, once each."""

    async def settle(self, settlement: Settlement, now_ms: int) -> None:
        self._enter(now_ms)
        reservation = settlement.reservation
        key = "" if reservation is None else reservation.id
        while key in self._settling:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._settling[key])
        rows = {entry.id: entry_to_json(entry) for entry in settlement.entries}
        exchange = None if settlement.exchange is None else exchange_to_json(settlement.exchange)
        if reservation is None:
            fresh = await self._look_up(rows) if rows else rows
            await self._write(settlement, fresh, exchange, ())
            return
        done = self._loop.create_future()
        self._settling[key] = done
        try:
            known = self.desk.open.get(key)
            if known is None:
                await self._settle_late(settlement, reservation, rows, exchange)
                return
            self.desk.known(reservation)
            fresh = self._unbooked(rows)
            deltas = settlement.amounts or (0,) * len(reservation.holds)
            if fresh or exchange or any(deltas):
                await self._write(settlement, fresh, exchange, deltas)
            elif key in self.desk.open:
                self._release(reservation)
            self.desk.bury(Tombstone(reservation, settlement.amounts, tuple(rows)))
        finally:
            del self._settling[key]
            done.set_result(None)

    async def _settle_late(
        self, settlement: Settlement, reservation: Reservation, rows: dict[str, bytes], exchange: bytes | None
    ) -> None:
        """What is not open here: voided, expired, of a dead worker, never reserved."""
        self.desk.known(reservation)
        before = self.desk.tombstone(reservation.id)
        counted: Sequence[int] = ()
        if before is not None and before.entry_ids is not None:
            fresh = self._unbooked(rows)
            if (before.amounts, before.entry_ids) == (settlement.amounts, tuple(rows)):
                return
            if before.entry_ids or not rows:
                raise Conflict(f"Reservation {reservation.id} is already settled with other content.")
            counted = before.amounts
            fresh = await self._look_up(rows)
        else:
            fresh, late = await self._find(rows, reservation)
            if late is None:
                return
            counted = late if late else ()
            if before is None and rows and not fresh:
                return
        deltas = amount_deltas(reservation, settlement.amounts, counted)
        if fresh or exchange or any(deltas):
            await self._write(settlement, fresh, exchange, deltas)
        self.desk.bury(Tombstone(reservation, settlement.amounts, tuple(rows)))

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
            booked = self._recent.get(id)
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

    async def _write(
        self,
        settlement: Settlement,
        rows: dict[str, bytes],
        exchange: bytes | None,
        deltas: Sequence[int],
    ) -> None:
        """Into the journal; then it counts. Raises ``StoreUnavailable`` when the journal cannot be written."""
        self._seq += 1
        posts = posts_of(settlement, deltas)
        record = Record(
            seq=self._seq,
            ids=tuple(rows),
            entries=tuple([msgspec.Raw(row) for row in rows.values()]),
            exchanges=() if exchange is None else (msgspec.Raw(exchange),),
            posts=posts,
            ended="" if settlement.reservation is None else settlement.reservation.id,
        )
        try:
            line = line_of(record)
        except UnicodeEncodeError as error:
            raise ValueError(f"This cannot be booked: {error}.") from error
        self._remember(rows)
        future = self._loop.create_future() if self.books._strict else None
        self._lines.append((line, future))
        self._written.set()
        if future is not None:
            try:
                await asyncio.shield(future)
            except StoreUnavailable:
                for id in rows:
                    self._recent.pop(id, None)
                raise
        if record.ended in self.desk.open:
            self._release(self.desk.open[record.ended])
        self.desk.post(posts)
        if self._first_waiting_s is None:
            self._first_waiting_s = time.monotonic()
        self._to_ship.set()

    def _remember(self, rows: dict[str, bytes]) -> None:
        self._recent |= rows
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    async def _write_loop(self) -> None:
        while True:
            if not self._lines:
                self._written.clear()
                await self._written.wait()
            group, self._lines = self._lines, []
            try:
                await self._loop.run_in_executor(self._disk, self._journal.write, [line for line, _ in group])
            except OSError as error:
                told = StoreUnavailable(
                    f"The journal in {self._folder} cannot be written: {error.strerror}.", hint="Free some space."
                )
                for _, future in group:
                    if future is not None and not future.done():
                        future.set_exception(told)
                self._lines = [(line, None) for line, future in group if future is None] + self._lines
                await asyncio.sleep(RETRY_S)
                continue
            for _, future in group:
                if future is not None and not future.done():
                    future.set_result(None)


def _taken(entry_id: str) -> Conflict:
    return Conflict(f"Entry {entry_id} is already booked with other content.")
