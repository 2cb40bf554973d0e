"""How far counters are used, as this worker knows it: read from the books once a second, its own calls added at once.

Nothing here decides about money: hard limits are the books' own, under their reservations. What is kept is bounded in
number, and holds only counters that calls of this worker touch.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from farthing.core.alerts import Contributor, Speed, Top
from farthing.core.assess import Level
from farthing.core.types import Hold
from farthing.ports.books import Balance

COUNTERS_MAX: Final = 10_000
FIRST_READS_MAX: Final = 200
"""Windows that may be read at first sight between two rounds; what is beyond waits for the round."""
RECENT_MS: Final = 30_000

Key = tuple[str, str, str]
"""(counter, window, unit)."""
Who = tuple[str, str, str]
"""(key, feature, model) of a call."""


class Tally:
    """One counter in one window."""

    __slots__ = (
        "_before", "_recent", "_span", "fired", "hold", "known", "mine", "mine_booked", "older", "refused", "stored",
        "top",
    )  # fmt: skip

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        """The last hold seen on it: its limit, its end and its older windows."""
        self.stored = 0
        """Booked in this window, as last read."""
        self.older = 0
        """Booked in the other windows that a rolling limit counts."""
        self.known = False
        """It has been read from the books."""
        self.mine = 0
        """What was held at the last reading, and what this worker's calls have added to booked and held since."""
        self.mine_booked = 0
        """What this worker has booked since the last reading."""
        self.fired: set[tuple[str, int, int]] = set()
        """(kind, limit, percent) of alerts that are on record for this window."""
        self.top = Top()
        """Contributors since this worker met the counter."""
        self._span = -1
        self._recent = self._before = Top()
        self.refused = 0
        """Calls of this worker that did not fit since the last reading."""

    @property
    def used(self) -> int:
        """Booked and held, the other windows of a rolling limit included."""
        return self.stored + self.older + self.mine

    def add(self, who: Who, amount: int, now_ms: int) -> None:
        """A call booked ``amount``."""
        span = now_ms // RECENT_MS
        if span != self._span:
            self._before = self._recent if span == self._span + 1 else Top()
            self._recent, self._span = Top(), span
        self.top.add(who, amount)
        self._recent.add(who, amount)

    def recent(self) -> tuple[Contributor, ...]:
        """The largest contributors of the last half to full minute of activity."""
        both = Top()
        for one in (*self._recent.largest(8), *self._before.largest(8)):
            both.add((one.key, one.feature, one.model), one.amount)
        return both.largest()

    def level(self, hold: Hold) -> Level:
        """For deciding about a call that this hold is for."""
        return Level(
            budget=hold.budget,
            counter=hold.counter,
            window=hold.window,
            unit=hold.unit,
            limit=hold.limit,
            used=self.used,
            hard=hold.hard,
            resets_at_ms=hold.resets_at_ms,
        )


class Levels:
    """The tallies of this worker. All methods are for the event loop."""

    def __init__(self, budgets: Iterable[str], *, most: int = COUNTERS_MAX) -> None:
        """``budgets``: names of those that are watched; others cost a look-up and nothing else."""
        self._budgets = frozenset(budgets)
        self._most = most
        self._tallies: dict[Key, Tally] = {}
        self._touched: dict[Key, None] = {}
        self._speeds: dict[tuple[str, str], Speed] = {}
        self._first_reads = 0

    def __len__(self) -> int:
        return len(self._tallies)

    def find(self, hold: Hold) -> Tally | None:
        """The hold's tally, made when there is none; None for budgets that are not watched."""
        if hold.budget not in self._budgets:
            return None
        key = (hold.counter, hold.window, hold.unit)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally(hold)
            if len(self._tallies) > self._most:
                self._drop()
        tally.hold = hold
        return tally

    def may_read_at_once(self, tally: Tally) -> bool:
        """A counter just met may be read now rather than with the next round."""
        self._first_reads += 1 + len(tally.hold.also)
        return self._first_reads <= FIRST_READS_MAX

    def held(self, holds: Iterable[Hold]) -> None:
        """Holds of a call were made."""
        for hold in holds:
            tally = self.find(hold)
            if tally is not None:
                tally.mine += hold.amount
                self._touch(hold)

    def ended(self, holds: Sequence[Hold], amounts: Sequence[int], who: Who, now_ms: int) -> None:
        """A reservation has ended: ``amounts`` were booked in place of its holds."""
        for hold, amount in zip(holds, amounts, strict=True):
            tally = self.find(hold)
            if tally is not None:
                tally.mine += amount - hold.amount
                tally.mine_booked += amount
                if amount:
                    tally.add(who, amount, now_ms)
                self._touch(hold)

    def refused(self, hold: Hold) -> None:
        """A call was refused because this hold did not fit."""
        tally = self.find(hold)
        if tally is not None:
            tally.refused += 1
            self._touch(hold)

    def touch(self, hold: Hold) -> None:
        """Look at this counter with the next round."""
        if self.find(hold) is not None:
            self._touch(hold)

    def take_touched(self, most: int) -> list[Tally]:
        """The tallies with activity since they were last taken, oldest first; ``most`` windows of them, about."""
        found: list[Tally] = []
        for key in list(self._touched):
            if most <= 0:
                break
            del self._touched[key]
            tally = self._tallies.get(key)
            if tally is not None:
                found.append(tally)
                most -= 1 + len(tally.hold.also)
        self._first_reads = 0
        return found

    def update(self, tallies: Iterable[Tally], balances: Iterable[Balance], now_ms: int) -> None:
        """What the books say now; what this worker had added by itself is in there."""
        found = {(one.counter, one.window, one.unit): one for one in balances}
        for tally in tallies:
            hold = tally.hold
            now = found.get((hold.counter, hold.window, hold.unit))
            booked, held = (now.posted, now.held) if now else (0, 0)
            if hold.unit == "usd":
                self._paced(tally, booked, now_ms)
            tally.stored, tally.mine, tally.mine_booked = booked, held, 0
            tally.known = True
            tally.older = 0
            for window in hold.also:
                other = found.get((hold.counter, window, hold.unit))
                if other is not None:
                    tally.older += other.posted
                    tally.mine += other.held

    def top(self, tally: Tally) -> tuple[Contributor, ...]:
        """The largest contributors to all windows that the tally's limit counts: a rolling one counts many."""
        hold = tally.hold
        if not hold.also:
            return tally.top.largest()
        both = Top()
        for window in (*hold.also, hold.window):
            other = self._tallies.get((hold.counter, window, hold.unit))
            for one in other.top.largest(8) if other is not None else ():
                both.add((one.key, one.feature, one.model), one.amount)
        return both.largest()

    def speed(self, tally: Tally) -> Speed | None:
        """How fast the counter is used, over all its windows."""
        return self._speeds.get((tally.hold.counter, tally.hold.unit))

    def _paced(self, tally: Tally, booked: int, now_ms: int) -> None:
        name = (tally.hold.counter, tally.hold.unit)
        speed = self._speeds.get(name)
        if speed is None:
            if len(self._speeds) >= self._most:
                self._speeds.clear()
            speed = self._speeds[name] = Speed()
        # What others booked before this worker first looked is no haste of now.
        more = booked - tally.stored if tally.known else tally.mine_booked
        speed.add(now_ms, max(0, more))

    def _touch(self, hold: Hold) -> None:
        self._touched[(hold.counter, hold.window, hold.unit)] = None

    def _drop(self) -> None:
        """Forgets the older half of what had no activity since the last round, or of everything."""
        idle = [key for key in self._tallies if key not in self._touched] or list(self._tallies)
        for key in idle[: max(1, len(idle) // 2)]:
            del self._tallies[key]
            self._touched.pop(key, None)


def wanted(tallies: Iterable[Tally]) -> list[tuple[str, str]]:
    """The (counter, window) pairs to read for these tallies, each once."""
    pairs: dict[tuple[str, str], None] = {}
    for tally in tallies:
        for window in (tally.hold.window, *tally.hold.also):
            pairs[(tally.hold.counter, window)] = None
    return list(pairs)
