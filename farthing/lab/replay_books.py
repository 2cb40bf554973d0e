"""The books of a replay: counters and what is held, nothing else, so that memory does not grow with the log.

A replay asks each reservation once and settles it once, and hands its entries to a sink; what the stores do besides
(repeats, conflicts, recovery, holds that lapse because their worker died) cannot happen here. The decisions are those
of every store: a differential test compares them with the reference.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from farthing.core.assess import acts_from
from farthing.core.budget import Key
from farthing.core.policy import Threshold
from farthing.core.types import Denied, Held, Hold, LedgerEntry, LimitUnit, Reservation
from farthing.engine.levels import Tally
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Balance, Settlement

FORGET_MS: Final = 7_200_000
"""How long after its window a counter is kept: longer than any call takes."""
CROWDED: Final = 200_000
"""Counters from which on those of windows that have ended are looked for."""


Levels = tuple[tuple[str, str, LimitUnit, int, int], ...]
"""Of counters: (counter, window, unit, highest level, the highest at which nothing happens)."""


class ReplayBooks:
    """``Books`` without a ledger."""

    def __init__(self, loop: VirtualLoop | None = None, provider: Provider | None = None) -> None:
        """With a loop and a provider, a request's acts happen when the log says that they did."""
        self._loop = loop
        self._provider = provider
        self._used: dict[Key, int] = {}
        """Posted and held, by counter, window and unit."""
        self._open: dict[str, Reservation] = {}
        self._ends: dict[str, int] = {}
        """When windows end, by name; the latest of those that share one."""
        self._crowded = CROWDED
        self._shared: Mapping[str, tuple[Threshold, ...]] = {}
        """Thresholds by budget, of budgets that other parts of the log count on too."""
        self._levels: dict[Key, tuple[int, int]] = {}

    def share(self, budgets: Mapping[str, tuple[Threshold, ...]]) -> None:
        """From now on, notes how far the counters of these budgets go (see :meth:`levels`)."""
        self._shared = budgets

    def levels(self) -> Levels:
        """How far calls brought the counters of shared budgets, or would have, and up to where nothing happens."""
        return tuple([(*key, level, most) for key, (level, most) in sorted(self._levels.items())])

    def _note(self, key: Key, hold: Hold, level: int) -> None:
        """``level``: what a call brings a counter to, if it may."""
        before, most = self._levels.get(key, (0, 2**63))
        acts = acts_from(hold.limit, self._shared[hold.budget])
        most = min(most, hold.limit, 2**63 if acts is None else acts - 1)
        if hold.also:
            most = -1  # other windows count too: what is said of this one says little
        self._levels[key] = (max(before, level), most)

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        if self._loop is not None and self._provider is not None:
            when = self._provider.turn(reservation.request_id)
            if when > self._loop.time():
                await self._loop.until(when)
        holds = reservation.holds
        keys: list[Key] = [(hold.counter, hold.window, hold.unit) for hold in holds]
        denied, over = self.take(reservation.id, holds, keys, [hold.amount for hold in holds])
        if denied is not None:
            return denied
        self._open[reservation.id] = reservation
        return Held(id=reservation.id, over=over) if over else Held(id=reservation.id)

    def take(
        self, id: str, holds: Sequence[Hold], keys: Sequence[Key], amounts: Sequence[int]
    ) -> tuple[Denied | None, tuple[Denied, ...]]:
        """Holds ``amounts`` on the counters ``keys`` of ``holds``, all or none: (why none, soft limits passed)."""
        used, shared = self._used, self._shared
        taken = 0
        over: tuple[Denied, ...] = ()
        for hold, key, amount in zip(holds, keys, amounts, strict=True):
            before = used.get(key)
            if before is None:
                before = 0
                self._met(key, hold)
            left = hold.limit - before
            if hold.also:
                for window in hold.also:
                    left -= used.get((key[0], window, key[2]), 0)
            if shared and hold.budget in shared:
                self._note(key, hold, before + amount)
            if amount > left:
                asked = hold if hold.amount == amount else msgspec.structs.replace(hold, amount=amount)
                denied = Denied(id=id, hold=asked, left=max(0, left))
                if hold.hard:
                    for back in range(taken):
                        used[keys[back]] -= amounts[back]
                    return denied, ()
                over = (*over, denied)
            used[key] = before + amount
            taken += 1  # noqa: SIM113  # enumerate would cost each call a tuple
        return None, over

    def _met(self, key: Key, hold: Hold) -> None:
        """A counter's first call in a window. Now and then, counters are forgotten whose windows ended long ago."""
        ends_ms = 2**62 if hold.resets_at_ms is None else hold.resets_at_ms
        self._ends[key[1]] = max(ends_ms, self._ends.get(key[1], 0))
        if len(self._used) < self._crowded or self._loop is None:
            return
        over_ms = self._loop.now_ms() - FORGET_MS
        gone = {window for window, at_ms in self._ends.items() if at_ms < over_ms}
        for one in [one for one in self._used if one[1] in gone]:
            del self._used[one]
        for window in gone:
            del self._ends[window]
        self._crowded = max(CROWDED, 2 * len(self._used))

    def give(self, keys: Sequence[Key], held: Sequence[int], amounts: Sequence[int]) -> None:
        """Books ``amounts`` where ``held`` was held."""
        used = self._used
        for key, before, after in zip(keys, held, amounts, strict=True):
            level = used[key] = used.get(key, 0) + after - before
            if after > before and key in self._levels:  # it cost more than the most that it could
                self._levels[key] = (max(level, self._levels[key][0]), self._levels[key][1])

    def spend(self, keys: Sequence[Key], held: Sequence[int], used: Mapping[LimitUnit, int]) -> None:
        """Books what was used in units that an answer decides, and of others what was held."""
        counters = self._used
        for key, before in zip(keys, held, strict=True):
            after = used.get(key[2])
            if after is not None:
                level = counters[key] = counters.get(key, 0) + after - before
                if after > before and key in self._levels:
                    self._levels[key] = (max(level, self._levels[key][0]), self._levels[key][1])

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        reservation = settlement.reservation
        if reservation is None:
            return
        open_ = self._open.pop(reservation.id, None) is not None
        holds = reservation.holds
        keys: list[Key] = [(hold.counter, hold.window, hold.unit) for hold in holds]
        held = [hold.amount for hold in holds] if open_ else [0] * len(holds)
        self.give(keys, held, settlement.amounts or [0] * len(holds))
        if self._loop is not None and self._provider is not None:
            self._provider.turn(reservation.request_id)
            when = self._provider.rest(reservation.request_id)
            if when > self._loop.time():
                await self._loop.until(when)

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        wanted = set(counters)
        held: dict[Key, int] = {}
        for reservation in self._open.values():
            for hold in reservation.holds:
                key: Key = (hold.counter, hold.window, hold.unit)
                held[key] = held.get(key, 0) + hold.amount
        found = []
        for key in sorted(self._used):
            if key[:2] in wanted and (self._used[key] or held.get(key, 0)):
                now = held.get(key, 0)
                posted = self._used[key] - now
                found.append(Balance(counter=key[0], window=key[1], unit=key[2], posted=posted, held=now))
        return tuple(found)

    def open_reservations(self) -> tuple[Reservation, ...]:
        return tuple(self._open[one] for one in sorted(self._open))

    async def close(self) -> None:
        """Nothing to close."""

    def restore_levels(self, levels: Levels) -> None:
        """As it was when those were the levels."""
        self._levels = {(counter, window, unit): (level, most) for counter, window, unit, level, most in levels}

    def counters(self) -> tuple[tuple[Key, int], ...]:
        """Booked and held on every counter."""
        return tuple(self._used.items())

    def restore(self, counters: Iterable[tuple[Key, int]]) -> None:
        """As it was when those were the counters. When their windows end is learned anew from later calls."""
        self._used = dict(counters)

    def at(self, key: Key) -> int:
        """Booked and held on one counter in one window."""
        return self._used.get(key, 0)

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
