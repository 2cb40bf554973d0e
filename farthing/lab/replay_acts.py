"""Thresholds of budgets in a replay: whether a call has reached any, and what is taken back of one decided anew."""

from collections.abc import Iterable, Mapping
from typing import Final, cast

from farthing.core.assess import acts_from
from farthing.core.budget import Key, Places
from farthing.core.policy import Threshold
from farthing.core.types import Hold
from farthing.engine.actions import Actions, Turnstile
from farthing.engine.watch import Watch
from farthing.lab.replay_books import ReplayBooks, ReplayWatch

Turnstiles = tuple[tuple[str, tuple[int, ...]], ...]
"""Counters that are slowed down, each with when calls went."""
_PLACES_MAX: Final = 100_000


class ReplayActions(Actions):
    """The thresholds of all budgets over a replay's books."""

    def __init__(self, books: ReplayBooks, thresholds: Mapping[str, tuple[Threshold, ...]]) -> None:
        super().__init__(cast("Watch", ReplayWatch(books, thresholds)), thresholds)
        self._books = books
        self._rules = thresholds
        self._marks: dict[int, tuple[Places, tuple[tuple[Hold, Key, int], ...]]] = {}
        """By identity: counters that rules act on, and from which use on. Places are kept, so that identity holds."""
        self._went: list[str] = []

    def wait_ms(self, counter: str, per_minute: int, now_ms: int) -> int:
        """How long a call on a slowed counter must wait; 0: it may go, and counts."""
        wait_ms = super().wait_ms(counter, per_minute, now_ms)
        if not wait_ms:
            self._went.append(counter)
        return wait_ms

    def reached(self, places: Places) -> bool:
        """Some rule says something about a call that counts there: ``apply_thresholds`` must be asked."""
        found = self._marks.get(id(places))
        if found is None:
            if len(self._marks) >= _PLACES_MAX:
                self._marks.clear()
            found = self._marks[id(places)] = (places, self._marked(places))
        for hold, key, least in found[1]:
            if (self._books.used(hold) if hold.also else self._books.at(key)) >= least:
                return True
        return False

    def begin(self) -> None:
        """Another call comes."""
        self._went.clear()

    def take_back(self) -> None:
        """The call that came last is decided about anew."""
        for counter in self._went:
            turnstile = self.turnstiles.get(counter)
            if turnstile is not None:
                turnstile.take_back()
        self._went.clear()

    def state(self) -> Turnstiles:
        """Which calls went lately, for :meth:`restore`."""
        return tuple([(counter, turnstile.passed()) for counter, turnstile in self.turnstiles.items()])

    def restore(self, state: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        """As it was."""
        for counter, passed in state:
            turnstile = self.turnstiles[counter] = Turnstile()
            turnstile.restore(passed)

    def _marked(self, places: Places) -> tuple[tuple[Hold, Key, int], ...]:
        found = []
        for hold, key in zip(places.holds, places.keys, strict=True):
            least = acts_from(hold.limit, self._rules.get(hold.budget, ()))
            if least is not None:
                found.append((hold, key, least))
        return tuple(found)
