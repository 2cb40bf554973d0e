"""The books of a replay: counters and what is held, nothing else, so that memory does not grow with the log.

A replay asks each reservation once and settles it once, and hands its entries to a sink; what the stores do besides
(repeats, conflicts, late settlements, recovery) cannot happen here. The decisions are those of every store: the
conformance script of the stores runs on it too.
"""

import heapq
from collections.abc import Sequence

from farthing.core.types import Denied, Held, Hold, LedgerEntry, Reservation
from farthing.ports.books import Balance, Settlement

_Key = tuple[str, str, str]


class ReplayBooks:
    """``Books`` without a ledger."""

    def __init__(self) -> None:
        self._used: dict[_Key, int] = {}
        """Posted and held, by counter, window and unit."""
        self._posted: dict[_Key, int] = {}
        self._open: dict[str, Reservation] = {}
        self._expiries: list[tuple[int, str]] = []

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        if self._expiries and self._expiries[0][0] <= now_ms:
            self._expire(now_ms)
        used = self._used
        taken: list[tuple[_Key, int]] = []
        over: list[Denied] = []
        for hold in reservation.holds:
            key = (hold.counter, hold.window, hold.unit)
            left = hold.limit - used.get(key, 0)
            for window in hold.also:
                left -= used.get((hold.counter, window, hold.unit), 0)
            if hold.amount > left:
                denied = Denied(id=reservation.id, hold=hold, left=max(0, left))
                if hold.hard:
                    for back, amount in taken:
                        used[back] -= amount
                    return denied
                over.append(denied)
            used[key] = used.get(key, 0) + hold.amount
            taken.append((key, hold.amount))
        self._open[reservation.id] = reservation
        heapq.heappush(self._expiries, (reservation.expires_at_ms, reservation.id))
        if len(self._expiries) > 2 * len(self._open) + 1_024:
            self._expiries = [(one.expires_at_ms, one.id) for one in self._open.values()]
            heapq.heapify(self._expiries)
        return Held(id=reservation.id, over=tuple(over)) if over else Held(id=reservation.id)

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        reservation = settlement.reservation
        if reservation is None:
            return
        held = self._open.pop(reservation.id, None) is not None
        amounts = settlement.amounts or (0,) * len(reservation.holds)
        for hold, amount in zip(reservation.holds, amounts, strict=True):
            key = (hold.counter, hold.window, hold.unit)
            self._used[key] = self._used.get(key, 0) + amount - (hold.amount if held else 0)
            self._posted[key] = self._posted.get(key, 0) + amount

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        wanted = set(counters)
        found = []
        for key in sorted(self._used):
            if key[:2] in wanted and (self._used[key] or self._posted.get(key, 0)):
                posted = self._posted.get(key, 0)
                held = self._used[key] - posted
                found.append(Balance(counter=key[0], window=key[1], unit=key[2], posted=posted, held=held))
        return tuple(found)

    def open_reservations(self) -> tuple[Reservation, ...]:
        return tuple(self._open[one] for one in sorted(self._open))

    async def close(self) -> None:
        """Nothing to close."""

    def _expire(self, now_ms: int) -> None:
        while self._expiries and self._expiries[0][0] <= now_ms:
            reservation = self._open.pop(heapq.heappop(self._expiries)[1], None)
            for hold in reservation.holds if reservation is not None else ():
                self._release(hold)

    def _release(self, hold: Hold) -> None:
        self._used[(hold.counter, hold.window, hold.unit)] -= hold.amount
