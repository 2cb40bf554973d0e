"""Books and keys in memory: the obvious reference that other stores are compared with, and what replay books in.

Nothing survives the process. Every method is atomic because none of them awaits.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol, TypeVar, get_args

import msgspec

from farthing.adapters.ledger_query import entry_totals
from farthing.core.errors import Conflict, NotFound
from farthing.core.types import (
    Denied,
    Exchange,
    Held,
    Hold,
    KeyRecord,
    LedgerEntry,
    LedgerQuery,
    LimitUnit,
    Reservation,
    Totals,
)
from farthing.ports.books import Balance, Settlement

Item = TypeVar("Item")

_UNITS: Final = tuple(sorted(get_args(LimitUnit)))

CounterKey = tuple[str, str, str]
"""(counter, window, unit)."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a reservation ended; what a repeated settlement is compared with."""

    amounts: tuple[int, ...]
    entry_ids: tuple[str, ...]


class Expiring(Protocol):
    """What expires."""

    @property
    def id(self) -> str: ...
    @property
    def expires_at_ms(self) -> int: ...


class Expiries:
    """Reservations by the time they expire; those that ended earlier are skipped, and swept when they pile up."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def add(self, reservation: Expiring, still_open: Mapping[str, Expiring]) -> None:
        """Remember when an open reservation expires."""
        heapq.heappush(self._heap, (reservation.expires_at_ms, reservation.id))
        if len(self._heap) > 2 * len(still_open) + 1024:
            self._heap = [(open.expires_at_ms, open.id) for open in still_open.values()]
            heapq.heapify(self._heap)

    def any_due(self, now_ms: int) -> bool:
        """True when ``due`` may have something to tell."""
        return bool(self._heap) and self._heap[0][0] <= now_ms

    def due(self, now_ms: int, still_open: Mapping[str, Expiring]) -> list[str]:
        """Ids of open reservations whose time has passed; each is told once."""
        found = []
        while self._heap and self._heap[0][0] <= now_ms:
            reservation_id = heapq.heappop(self._heap)[1]
            if reservation_id in still_open:
                found.append(reservation_id)
        return found


class MemoryBooks:
    """``Books`` and ``Ledger`` in dictionaries."""

    def __init__(self) -> None:
        self._posted: dict[CounterKey, int] = {}
        self._held: dict[CounterKey, int] = {}
        self._known: dict[str, Reservation] = {}
        self._open: dict[str, Reservation] = {}
        self._expiries = Expiries()
        self._ended: dict[str, Ended] = {}
        self._entries: dict[str, LedgerEntry] = {}
        self._exchanges: dict[str, Exchange] = {}

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        self._expire(now_ms)
        self._check_known(reservation)
        if reservation.id in self._known:
            return Held(id=reservation.id)
        needed: dict[CounterKey, int] = {}
        over: list[Denied] = []
        for hold in reservation.holds:
            counts = (self._posted, self._held, needed)
            left = hold.limit - sum(count.get(key, 0) for key in counted_keys(hold) for count in counts)
            if hold.amount > left:
                denied = Denied(id=reservation.id, hold=hold, left=max(0, left))
                if hold.hard:
                    return denied
                over.append(denied)
            key = counter_key(hold)
            needed[key] = needed.get(key, 0) + hold.amount
        for key, amount in needed.items():
            self._held[key] = self._held.get(key, 0) + amount
        self._known[reservation.id] = self._open[reservation.id] = reservation
        self._expiries.add(reservation, self._open)
        return Held(id=reservation.id, over=tuple(over))

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        check_settlement(settlement)
        self._expire(now_ms)
        for entry in settlement.entries:
            if self._entries.get(entry.id, entry) != entry:
                raise Conflict(f"Entry {entry.id} is already booked with other content.")
        if settlement.reservation is not None and not self._end(settlement.reservation, settlement):
            return
        for entry in settlement.entries:
            self._entries.setdefault(entry.id, entry)
        if settlement.exchange is not None:
            self._exchanges.setdefault(settlement.exchange.request_id, settlement.exchange)

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        found = []
        for counter, window in sorted(set(counters)):
            for unit in _UNITS:
                key = (counter, window, unit)
                posted, held = self._posted.get(key, 0), self._held.get(key, 0)
                if posted or held:
                    found.append(Balance(counter=counter, window=window, unit=unit, posted=posted, held=held))
        return tuple(found)

    def open_reservations(self) -> tuple[Reservation, ...]:
        return tuple(self._open[id] for id in sorted(self._open))

    async def close(self) -> None:
        """Nothing to close."""

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return entry_totals(self._entries.values(), query)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        for entry in _following(self._entries, after):
            if entry.received_at_ms >= since_ms and request_id in ("", entry.request_id):
                yield entry

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return (e for e in _following(self._exchanges, after) if e.received_at_ms >= since_ms)

    async def prune(self, before_ms: int) -> int:
        """Forget exchanges received before ``before_ms``; the number forgotten."""
        old = [e.request_id for e in self._exchanges.values() if e.received_at_ms < before_ms]
        for request_id in old:
            del self._exchanges[request_id]
        return len(old)

    def _end(self, reservation: Reservation, settlement: Settlement) -> bool:
        """Count the amounts and end the reservation; False when just that was done before."""
        self._check_known(reservation)
        ended = Ended(amounts=settlement.amounts, entry_ids=tuple(entry.id for entry in settlement.entries))
        before = self._ended.get(reservation.id)
        if before == ended:
            return False
        if before is not None and (before.entry_ids or not ended.entry_ids):
            raise Conflict(f"Reservation {reservation.id} is already settled with other content.")
        self._known[reservation.id] = reservation
        self._release(reservation.id)
        counted = before.amounts if before is not None else ()
        for hold, amount in zip(
            reservation.holds, amount_deltas(reservation, settlement.amounts, counted), strict=True
        ):
            key = counter_key(hold)
            self._posted[key] = self._posted.get(key, 0) + amount
        self._ended[reservation.id] = ended
        return True

    def _check_known(self, reservation: Reservation) -> None:
        if self._known.get(reservation.id, reservation) != reservation:
            raise Conflict(f"Reservation {reservation.id} already exists with other content.")

    def _expire(self, now_ms: int) -> None:
        for reservation_id in self._expiries.due(now_ms, self._open):
            self._release(reservation_id)

    def _release(self, reservation_id: str) -> None:
        reservation = self._open.pop(reservation_id, None)
        for hold in reservation.holds if reservation is not None else ():
            self._held[counter_key(hold)] -= hold.amount


class MemoryKeys:
    """``Keys`` in a dictionary."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self._by_id = {record.id: record for record in records}
        self._by_hash = {record.hash: record.id for record in self._by_id.values()}

    def find(self, secret_hash: str) -> KeyRecord | None:
        key_id = self._by_hash.get(secret_hash)
        return None if key_id is None else self._by_id[key_id]

    def all(self) -> tuple[KeyRecord, ...]:
        return tuple(sorted(self._by_id.values(), key=lambda record: (record.created_at_ms, record.id)))

    def add(self, record: KeyRecord) -> None:
        if record.id in self._by_id or record.hash in self._by_hash:
            raise Conflict(f"Key {record.id} exists already.", hint="Choose another id.")
        self._by_id[record.id] = record
        self._by_hash[record.hash] = record.id

    def revoke(self, key_id: str, *, at_ms: int) -> bool:
        record = self._by_id.get(key_id)
        if record is None or record.revoked_at_ms is not None:
            return False
        self._by_id[key_id] = msgspec.structs.replace(record, revoked_at_ms=at_ms)
        return True


def counter_key(hold: Hold) -> CounterKey:
    """The counter, window and unit that a hold counts on."""
    return (hold.counter, hold.window, hold.unit)


def counted_keys(hold: Hold) -> tuple[CounterKey, ...]:
    """Every counter, window and unit whose use counts against a hold's limit; the first is the hold's own."""
    return (counter_key(hold), *[(hold.counter, window, hold.unit) for window in hold.also])


def check_settlement(settlement: Settlement) -> None:
    """Raises ``ValueError`` when the amounts do not fit the holds or one entry id stands for two entries."""
    holds = settlement.reservation.holds if settlement.reservation is not None else ()
    if settlement.amounts and len(settlement.amounts) != len(holds):
        raise ValueError(f"{len(settlement.amounts)} amounts for {len(holds)} holds: give one per hold, or none")
    entries = settlement.entries
    if len(entries) > 1 and len({entry.id for entry in entries}) != len(entries):
        raise ValueError("one settlement books the same entry id twice")


def amount_deltas(reservation: Reservation, amounts: Sequence[int], counted: Sequence[int] = ()) -> tuple[int, ...]:
    """What a settlement still adds to each hold's counter; ``counted`` is what an earlier void added already."""
    zeros = (0,) * len(reservation.holds)
    return tuple(now - before for now, before in zip(amounts or zeros, counted or zeros, strict=True))


def _following(items: dict[str, Item], after: str) -> Iterator[Item]:
    """Items in booking order, those after the id ``after``. Raises ``NotFound`` when that id is unknown."""
    if after and after not in items:
        raise NotFound(f"There is no record {after!r} to continue after.", hint="Start again from the beginning.")
    ids = list(items)
    return (items[id] for id in ids[ids.index(after) + 1 if after else 0 :])
