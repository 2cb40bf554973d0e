"""Thresholds of budgets in a replay: whether a call has reached any, and what is taken back of one decided anew."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, cast

from farthing.core.assess import acts_from
from farthing.core.policy import Threshold
from farthing.core.types import Hold
from farthing.engine.actions import Actions, Turnstile
from farthing.engine.watch import Watch
from farthing.lab.replay_books import Account, Cell, ReplayBooks, ReplayWatch, Rows

Turnstiles = tuple[tuple[str, tuple[int, ...]], ...]
"""Counters that are slowed down, each with when calls went."""


class Slowed(NamedTuple):
    """What thresholds say to a call, where that takes no more than the levels of its counters."""

    way: Literal["go", "wait", "ask"]
    """``ask``: more may happen to it, and nothing has been counted."""
    degrades: Threshold | None = None
    """A rule that wants another model for a call that goes."""


GO, WAIT, ASK = Slowed("go"), Slowed("wait"), Slowed("ask")
Rule = tuple[Cell, Hold | None, int, str, int | None, Slowed | None]
"""One rule on one counter: (its use, its hold where other windows count too, from which use on it acts, the counter,
requests a minute that it lets through, what it says where it wants another model).
"""
_UNSLOWED: Final = 2**62


class ReplayActions(Actions):
    """The thresholds of all budgets over a replay's books."""

    def __init__(self, books: ReplayBooks, thresholds: Mapping[str, tuple[Threshold, ...]]) -> None:
        super().__init__(cast("Watch", ReplayWatch(books, thresholds)), thresholds)
        self._books = books
        self._rules = thresholds
        self._went: list[str] = []

    def wait_ms(self, counter: str, per_minute: int, now_ms: int) -> int:
        """How long a call on a slowed counter must wait; 0: it may go, and counts."""
        turnstile = self.turnstiles.get(counter)
        if turnstile is None:
            wait_ms = super().wait_ms(counter, per_minute, now_ms)
        else:  # as there: in a replay no other worker shares the rate
            wait_ms = turnstile.wait_ms(now_ms, per_minute)
        if not wait_ms:
            self._went.append(counter)
        return wait_ms

    def reached(self, account: Account) -> bool:
        """Some rule says something about a call that counts there: ``apply_thresholds`` must be asked."""
        for cell, least, rolls in self._marks_of(account):
            if (cell[0] if rolls is None else self._books.used(rolls)) >= least:
                return True
        return False

    def edges(self, account: Account) -> Rows:
        """Up to where its counters may go without reaching a limit or a threshold."""
        least = {id(cell): at for cell, at, _ in self._marks_of(account)}
        return tuple([(unit, cell, min(most, least.get(id(cell), 2**63) - 1)) for unit, cell, most in account.limits])

    def slow(self, account: Account, at_ms: int) -> Slowed:
        """What counters say to a call that has reached thresholds. What soft budgets would do is not said."""
        slowest: dict[str, int] = {}
        says = GO
        rules = account.rules
        if rules is None:
            rules = account.rules = self._rules_of(account)
        for cell, rolls, least, counter, per_minute, degrades in rules:
            if (cell[0] if rolls is None else self._books.used(rolls)) < least:
                continue
            if per_minute is not None:
                if per_minute < slowest.get(counter, _UNSLOWED):
                    slowest[counter] = per_minute
            elif degrades is None or says is not GO:  # of several, ``assess`` says which
                return ASK
            else:
                says = degrades
        for counter in sorted(slowest) if len(slowest) > 1 else slowest:
            if self.wait_ms(counter, slowest[counter], at_ms):
                return WAIT
        return says

    def _marks_of(self, account: Account) -> tuple[tuple[Cell, int, Hold | None], ...]:
        """See :meth:`_marked`."""
        marks = account.marks
        if marks is None:
            marks = account.marks = self._marked(account)
        return marks

    def _rules_of(self, account: Account) -> tuple[Rule, ...]:
        """Rules of hard budgets that act on its counters, with the use from which on each does."""
        found = []
        for hold, cell in zip(account.places.holds, account.cells, strict=True):
            for rule in self._rules.get(hold.budget, ()) if hold.hard else ():
                least = acts_from(hold.limit, (rule,))
                if least is not None:
                    slows = rule.per_minute if rule.action == "throttle" else None
                    degrades = Slowed("go", rule) if rule.action == "degrade" else None
                    found.append((cell, hold if hold.also else None, least, hold.counter, slows, degrades))
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
