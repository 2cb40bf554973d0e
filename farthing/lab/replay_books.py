"""The books of a replay: counters and what is held, nothing else, so that memory does not grow with the log.

A replay asks each reservation once and settles it once, and hands its entries to a sink; what the stores do besides
(repeats, conflicts, recovery, holds that lapse because their worker died) cannot happen here. The decisions are those
of every store: a differential test compares them with the reference.
"""

from collections.abc import Iterable, Sequence

from farthing.core.types import Denied, Held, Hold, LedgerEntry, Reservation
from farthing.engine.levels import Tally
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Balance, Settlement

_Key = tuple[str, str, str]


class ReplayBooks:
    """``Books`` without a ledger."""

    def __init__(self, loop: VirtualLoop | None = None, provider: Provider | None = None) -> None:
        """With a loop and a provider, a request's acts happen when the log says that they did."""
        self._loop = loop
        self._provider = provider
        self._used: dict[_Key, int] = {}
        """Posted and held, by counter, window and unit."""
        self._posted: dict[_Key, int] = {}
        self._open: dict[str, Reservation] = {}

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        if self._loop is not None and self._provider is not None:
            when = self._provider.turn(reservation.request_id)
            if when > self._loop.time():
                await self._loop.until(when)
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
        if self._loop is not None and self._provider is not None:
            self._provider.turn(reservation.request_id)
            when = self._provider.rest(reservation.request_id)
            if when > self._loop.time():
                await self._loop.until(when)

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

    def used(self, hold: Hold) -> int:
        """Booked and held on a hold's counter, the other windows of a rolling limit included."""
        windows = (hold.window, *hold.also)
        return sum(self._used.get((hold.counter, window, hold.unit), 0) for window in windows)


class ReplayWatch:
    """The levels of budgets in a replay, for their thresholds: exact, where a gateway's may be a second old."""

    def __init__(self, books: ReplayBooks, budgets: Iterable[str]) -> None:
        self.blocked: dict[str, int] = {}
        """Nobody spends too fast in a replay: that is judged by the wall clock."""
        self._books = books
        self._budgets = frozenset(budgets)

    def tallies(self, holds: Iterable[Hold]) -> list[tuple[Hold, Tally]]:
        """How far the counters of a call are used."""
        found = []
        for hold in holds:
            if hold.budget in self._budgets:
                tally = Tally(hold)
                tally.stored = self._books.used(hold)
                found.append((hold, tally))
        return found
