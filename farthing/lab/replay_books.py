"""The books of a replay: counters and what is held, nothing else, so that memory does not grow with the log.

A replay asks each reservation once and settles it once, and hands its entries to a sink; what the stores do besides
(repeats, conflicts, recovery, holds that lapse because their worker died) cannot happen here. The decisions are those
of every store: a differential test compares them with the reference.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from farthing.core.assess import acts_from
from farthing.core.budget import Key, Need, Places
from farthing.core.policy import Threshold
from farthing.core.types import Denied, Held, Hold, LedgerEntry, LimitUnit, Reservation
from farthing.engine.levels import Tally
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Balance, Settlement

if TYPE_CHECKING:
    from farthing.lab.replay_acts import Rule

FORGET_MS: Final = 7_200_000
"""How long after its window a counter is kept: longer than any call takes."""
CROWDED: Final = 200_000
"""Counters from which on those of windows that have ended are looked for."""


UNITS: Final[tuple[LimitUnit, ...]] = (
    "usd", "tokens", "input_tokens", "output_tokens", "requests", "tool_calls", "turns_without_human",
)  # fmt: skip
"""The order of :data:`Amounts`."""
_DECIDED: Final = 4
"""So many of them are decided by an answer."""
ACCOUNTS_MAX: Final = 100_000

Amounts = tuple[int, int, int, int, int, int, int]
"""What a call holds, in each of ``UNITS``."""
Used = tuple[int, int, int, int]
"""What an answer used: the first of them."""
NOTHING: Final[Amounts] = (0, 0, 0, 0, 0, 0, 0)
Cell = list[int]
"""One number: booked and held on a counter in a window, or the highest that it has been."""
Rows = tuple[tuple[int, Cell, int], ...]
"""What is looked at before a call goes: (unit by its place in amounts, counter, up to where it may go)."""
_NO_WAY: Final[Rows] = ((0, [0], -1),)
"""Nothing fits: more is to be asked than where counters stand."""
Levels = tuple[tuple[str, str, LimitUnit, int, int], ...]
"""Of counters: (counter, window, unit, highest level, the highest at which nothing happens)."""


def amounts_of(need: Need) -> Amounts:
    """What a call needs."""
    taken, given = need.input_tokens, need.output_tokens
    return (need.usd or 0, taken + given, taken, given, need.requests, need.tool_calls, need.turns_without_human)


class Account:
    """The counters of the calls that count in the same places."""

    __slots__ = (
        "alone", "cells", "edges", "from_ms", "limits", "marks", "places", "plain", "rules", "spent", "tops",
        "units", "until_ms",
    )  # fmt: skip

    def __init__(self, places: Places, cells: tuple[Cell, ...], tops: tuple[tuple[Cell, Cell], ...]) -> None:
        self.places = places
        self.from_ms, self.until_ms = places.from_ms, places.until_ms
        self.cells = cells
        self.tops = tops
        """Of shared budgets: (a counter, the highest that it has been)."""
        self.plain = len(set(places.keys)) == len(places.keys) and not any(hold.also for hold in places.holds)
        """Each counter is asked once, and no other windows count."""
        self.alone = self.plain and not tops and all(hold.hard for hold in places.holds)
        """What does not fit is refused, and that is all: no soft limit is passed, no level is noted."""
        self.units = tuple([UNITS.index(hold.unit) for hold in places.holds])
        """The place in amounts of what counts, of each counter."""
        every = tuple(zip(self.units, cells, [hold.limit for hold in places.holds], strict=True))
        self.limits: Rows = every if self.plain else _NO_WAY
        """Up to their limits; no way where calls are not plain."""
        self.edges: Rows | None = None
        """The same up to where something may happen: a threshold is reached, or a limit; None: not asked yet."""
        decided = {unit: [cell for one, cell, _ in every if one == unit] for unit in self.units if unit < _DECIDED}
        self.spent = tuple([(unit, tuple(some)) for unit, some in decided.items()])
        """By unit, the counters on which an answer decides what it used; on others that is what was held."""
        self.marks: tuple[tuple[Cell, int, Hold | None], ...] | None = None
        """For thresholds (see ``replay_acts``)."""
        self.rules: tuple[Rule, ...] | None = None
        """The same, rule by rule."""


class ReplayBooks:
    """``Books`` without a ledger."""

    def __init__(self, loop: VirtualLoop | None = None, provider: Provider | None = None) -> None:
        """With a loop and a provider, a request's acts happen when the log says that they did."""
        self._loop = loop
        self._provider = provider
        self._used: dict[Key, Cell] = {}
        """Posted and held, by counter, window and unit."""
        self._accounts: dict[int, Account] = {}
        """By identity of their places, which they keep, so that it holds."""
        self._open: dict[str, Reservation] = {}
        self._ends: dict[str, int] = {}
        """When windows end, by name; the latest of those that share one."""
        self._crowded = CROWDED
        self._shared: Mapping[str, tuple[Threshold, ...]] = {}
        """Thresholds by budget, of budgets that other parts of the log count on too."""
        self._tops: dict[Key, Cell] = {}
        """The highest that calls brought the counters of shared budgets to, or would have; −1: no call has come."""
        self._most: dict[Key, int] = {}
        """Up to where nothing happens."""

    def share(self, budgets: Mapping[str, tuple[Threshold, ...]]) -> None:
        """From now on, notes how far the counters of these budgets go (see :meth:`levels`)."""
        self._shared = budgets

    def levels(self) -> Levels:
        """How far calls brought the counters of shared budgets, or would have, and up to where nothing happens."""
        found = sorted((key, top[0]) for key, top in self._tops.items() if top[0] >= 0)
        return tuple([(*key, top, self._most[key]) for key, top in found])

    def account(self, places: Places) -> Account:
        """The counters of calls that count there."""
        return self._accounts.get(id(places)) or self._opened(places)

    def _opened(self, places: Places) -> Account:
        cells = tuple([self._cell(key, hold) for key, hold in zip(places.keys, places.holds, strict=True)])
        tops = [
            (cell, self._top(key, hold))
            for key, hold, cell in zip(places.keys, places.holds, cells, strict=True)
            if hold.budget in self._shared
        ]
        if len(self._accounts) >= ACCOUNTS_MAX:
            self._accounts.clear()
        found = self._accounts[id(places)] = Account(places, cells, tuple(tops))
        return found

    def _cell(self, key: Key, hold: Hold) -> Cell:
        cell = self._used.get(key)
        if cell is None:
            self._met(key, hold)
            cell = self._used[key] = [0]
        return cell

    def _top(self, key: Key, hold: Hold) -> Cell:
        """How far a shared counter has gone; learns up to where nothing happens under this hold."""
        acts = acts_from(hold.limit, self._shared[hold.budget])
        most = min(self._most.get(key, 2**63), hold.limit, 2**63 if acts is None else acts - 1)
        if hold.also:
            most = -1  # other windows count too: what is said of this one says little
        self._most[key] = most
        return self._tops.setdefault(key, [-1])

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        if self._loop is not None and self._provider is not None:
            when = self._provider.turn(reservation.request_id)
            if when > self._loop.time():
                await self._loop.until(when)
        holds = reservation.holds
        cells = [self._cell((hold.counter, hold.window, hold.unit), hold) for hold in holds]
        denied, over = self.take(reservation.id, holds, cells, [hold.amount for hold in holds])
        if denied is not None:
            return denied
        self._open[reservation.id] = reservation
        return Held(id=reservation.id, over=over) if over else Held(id=reservation.id)

    def fits(self, account: Account, amounts: Amounts, edges: Rows | None = None) -> bool:
        """Holds ``amounts`` where all fit within limits, or ``edges``, and that is all there is to say; otherwise
        nothing has happened.
        """
        rows = account.limits if edges is None else edges
        for unit, cell, most in rows:
            level = cell[0] + amounts[unit]
            if level > most:
                for back, taken, _ in rows:
                    if taken is cell:
                        return False
                    taken[0] -= amounts[back]
            cell[0] = level
        if account.tops:
            for cell, top in account.tops:
                if cell[0] > top[0]:
                    top[0] = cell[0]
        return True

    def take_all(self, id: str, account: Account, amounts: Amounts) -> tuple[Denied | None, tuple[Denied, ...]]:
        """The same in full: (why none was held, soft limits passed)."""
        held = [amounts[unit] for unit in account.units]
        return self.take(id, account.places.holds, account.cells, held)

    def take(
        self, id: str, holds: Sequence[Hold], cells: Sequence[Cell], amounts: Sequence[int]
    ) -> tuple[Denied | None, tuple[Denied, ...]]:
        """Holds ``amounts`` on the counters ``cells`` of ``holds``, all or none: (why none, soft limits passed)."""
        shared = self._shared
        taken = 0
        over: tuple[Denied, ...] = ()
        for hold, cell, amount in zip(holds, cells, amounts, strict=True):
            before = cell[0]
            left = hold.limit - before
            for window in hold.also:
                left -= self.at((hold.counter, window, hold.unit))
            if shared and hold.budget in shared:
                top = self._top((hold.counter, hold.window, hold.unit), hold)
                top[0] = max(top[0], before + amount)
            if amount > left:
                asked = hold if hold.amount == amount else msgspec.structs.replace(hold, amount=amount)
                denied = Denied(id=id, hold=asked, left=max(0, left))
                if hold.hard:
                    for back in range(taken):
                        cells[back][0] -= amounts[back]
                    return denied, ()
                over = (*over, denied)
            cell[0] = before + amount
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
        self._accounts.clear()  # some of their counters may be gone
        self._crowded = max(CROWDED, 2 * len(self._used))

    def spend(self, account: Account, held: Amounts, used: Used) -> None:
        """Books what an answer used where ``held`` was held; of what no answer decides, that was used."""
        for unit, cells in account.spent:
            more = used[unit] - held[unit]
            for cell in cells:
                cell[0] += more
        for cell, top in account.tops:
            if cell[0] > top[0]:  # it cost more than the most that it could
                top[0] = cell[0]

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        reservation = settlement.reservation
        if reservation is None:
            return
        open_ = self._open.pop(reservation.id, None) is not None
        holds = reservation.holds
        amounts = settlement.amounts or [0] * len(holds)
        for hold, after in zip(holds, amounts, strict=True):
            key: Key = (hold.counter, hold.window, hold.unit)
            cell = self._cell(key, hold)
            before = hold.amount if open_ else 0
            cell[0] += after - before
            if after > before and key in self._tops:  # it cost more than the most that it could
                top = self._tops[key]
                top[0] = max(top[0], cell[0])
        if self._loop is not None and self._provider is not None:
            self._provider.turn(reservation.request_id, settles=True)
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
            if key[:2] in wanted and (self.at(key) or held.get(key, 0)):
                now = held.get(key, 0)
                posted = self.at(key) - now
                found.append(Balance(counter=key[0], window=key[1], unit=key[2], posted=posted, held=now))
        return tuple(found)

    def open_reservations(self) -> tuple[Reservation, ...]:
        return tuple(self._open[one] for one in sorted(self._open))

    async def close(self) -> None:
        """Nothing to close."""

    def restore_levels(self, levels: Levels) -> None:
        """As it was when those were the levels."""
        self._tops = {(counter, window, unit): [level] for counter, window, unit, level, _ in levels}
        self._most = {(counter, window, unit): most for counter, window, unit, _, most in levels}
        self._accounts.clear()

    def counters(self) -> tuple[tuple[Key, int], ...]:
        """Booked and held on every counter."""
        return tuple([(key, cell[0]) for key, cell in self._used.items()])

    def restore(self, counters: Iterable[tuple[Key, int]]) -> None:
        """As it was when those were the counters. When their windows end is learned anew from later calls."""
        self._used = {key: [level] for key, level in counters}
        self._accounts.clear()

    def at(self, key: Key) -> int:
        """Booked and held on one counter in one window."""
        cell = self._used.get(key)
        return 0 if cell is None else cell[0]

    def used(self, hold: Hold) -> int:
        """Booked and held on a hold's counter, the other windows of a rolling limit included."""
        return sum([self.at((hold.counter, window, hold.unit)) for window in (hold.window, *hold.also)])


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
