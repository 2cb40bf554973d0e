"""Thresholds of budgets in a replay: whether a call has reached any, and what is taken back of one decided anew."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, cast

from farthing.core.assess import acts_from
from farthing.core.policy import Threshold
from farthing.core.types import Hold
from farthing.engine.actions import Actions, Turnstile
from farthing.engine.watch import Watch
from farthing.lab.replay_books import Account, Cell, ReplayBooks, ReplayWatch

Turnstiles = tuple[tuple[str, tuple[int, ...]], ...]
"""Counters that are slowed down, each with when calls went."""


class Slowed(NamedTuple):
    """What thresholds say to a call, where that takes no more than the levels of its counters."""

    way: Literal["go", "wait", "ask"]
    """``ask``: more may happen to it, and nothing has been counted."""
    degrades: Threshold | None = None
    """A rule that wants another model for a call that goes."""


GO, WAIT, ASK = Slowed("go"), Slowed("wait"), Slowed("ask")


class ReplayActions(Actions):
    """The thresholds of all budgets over a replay's books."""

    def __init__(self, books: ReplayBooks, thresholds: Mapping[str, tuple[Threshold, ...]]) -> None:
        super().__init__(cast("Watch", ReplayWatch(books, thresholds)), thresholds)
        self._books = books
        self._rules = thresholds
        self._went: list[str] = []

    def wait_ms(self, counter: str, per_minute: int, now_ms: int) -> int:
        """How long a call on a slowed counter must wait; 0: it may go, and counts."""
        wait_ms = super().wait_ms(counter, per_minute, now_ms)
        if not wait_ms:
            self._went.append(counter)
        return wait_ms

    def reached(self, account: Account) -> bool:
        """Some rule says something about a call that counts there: ``apply_thresholds`` must be asked."""
        marks = account.marks
        if marks is None:
            marks = account.marks = self._marked(account)
        for cell, least, rolls in marks:  # noqa: SIM110  # a generator would cost each call as much again
            if (cell[0] if rolls is None else self._books.used(rolls)) >= least:
                return True
        return False

    def slow(self, account: Account, at_ms: int) -> Slowed:
        """What counters say to a call that has reached thresholds. What soft budgets would do is not said."""
        slowest: dict[str, int] = {}
        degrades: Threshold | None = None
        rules = account.rules
        if rules is None:
            rules = account.rules = self._rules_of(account)
        for cell, hold, least, rule in rules:
            if (self._books.used(hold) if hold.also else cell[0]) < least:
                continue
            if rule.action == "throttle":
                before = slowest.get(hold.counter)
                if before is None or rule.per_minute < before:
                    slowest[hold.counter] = rule.per_minute
            elif rule.action != "degrade" or degrades is not None:  # of several, ``assess`` says which
                return ASK
            else:
                degrades = rule
        for counter in sorted(slowest) if len(slowest) > 1 else slowest:
            if self.wait_ms(counter, slowest[counter], at_ms):
                return WAIT
        return GO if degrades is None else Slowed("go", degrades)

    def _rules_of(self, account: Account) -> tuple[tuple[Cell, Hold, int, Threshold], ...]:
        """Rules of hard budgets that act on its counters, with the use from which on each does."""
        found = []
        for hold, cell in zip(account.places.holds, account.cells, strict=True):
            for rule in self._rules.get(hold.budget, ()) if hold.hard else ():
                least = acts_from(hold.limit, (rule,))
                if least is not None:
                    found.append((cell, hold, least, rule))
        return tuple(found)

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

    def _marked(self, account: Account) -> tuple[tuple[Cell, int, Hold | None], ...]:
        """Counters that rules act on, and from which use on; with their hold where other windows count too."""
        found = []
        for hold, cell in zip(account.places.holds, account.cells, strict=True):
            least = acts_from(hold.limit, self._rules.get(hold.budget, ()))
            if least is not None:
                found.append((cell, least, hold if hold.also else None))
        return tuple(found)
