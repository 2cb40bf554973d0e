"""What thresholds do to calls: the rules of a policy's budgets, and the state that slowing down needs."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from farthing.core.assess import Verdict, assess
from farthing.core.policy import Threshold
from farthing.core.types import Hold
from farthing.engine.watch import Watch

TURNSTILES_MAX: Final = 10_000
_MINUTE_MS: Final = 60_000


class Turnstile:
    """Lets so many calls through in any sixty seconds. Keeps one time for each of them."""

    __slots__ = ("_passed",)

    def __init__(self) -> None:
        self._passed: deque[int] = deque()

    def wait_ms(self, now_ms: int, per_minute: int) -> int:
        """0: go, and it is counted; otherwise how long until there is room."""
        passed = self._passed
        while passed and passed[0] <= now_ms - _MINUTE_MS:
            passed.popleft()
        if len(passed) < per_minute:
            passed.append(now_ms)
            return 0
        return passed[len(passed) - per_minute] + _MINUTE_MS - now_ms if per_minute else _MINUTE_MS

    def take_back(self) -> None:
        """The last call that was let through did not go after all."""
        self._passed.pop()

    def passed(self) -> tuple[int, ...]:
        """When calls went, as far as it is remembered."""
        return tuple(self._passed)

    def restore(self, passed: Iterable[int]) -> None:
        """As it was when those had gone."""
        self._passed = deque(passed)


class Actions:
    """The thresholds of all budgets and what this worker remembers for them."""

    def __init__(
        self, watch: Watch, thresholds: Mapping[str, tuple[Threshold, ...]], *, workers: int = 1, blocks: bool = False
    ) -> None:
        """``workers`` share a throttled rate evenly; ``blocks``: what spends too fast is blocked."""
        self.watch = watch
        self.clamps = frozenset(
            budget for budget, rules in thresholds.items() if any(rule.action == "cap" for rule in rules)
        )
        """Budgets under which a call that does not fit is cut to what is left."""
        acting = ("degrade", "queue", "throttle", "block")
        self.before = blocks or any(rule.action in acting for rules in thresholds.values() for rule in rules)
        """Something may happen to a call before it is held."""
        self._thresholds = thresholds
        self._workers = max(1, workers)
        self.turnstiles: dict[str, Turnstile] = {}

    def verdict(self, holds: Iterable[Hold]) -> Verdict:
        """What the thresholds say about a call that counts on these."""
        levels = [tally.level(hold) for hold, tally in self.watch.tallies(holds)]
        return assess(levels, self._thresholds)

    def too_fast(self, holds: Iterable[Hold]) -> Hold | None:
        """The first of these counters that is blocked because it spends too fast."""
        blocked = self.watch.blocked
        return next((hold for hold in holds if hold.counter in blocked), None) if blocked else None

    def wait_ms(self, counter: str, per_minute: int, now_ms: int) -> int:
        """How long a call on a slowed counter must wait; 0: it may go, and counts."""
        turnstile = self.turnstiles.get(counter)
        if turnstile is None:
            if len(self.turnstiles) >= TURNSTILES_MAX:
                self.turnstiles.clear()
            turnstile = self.turnstiles[counter] = Turnstile()
        share = max(1, per_minute // self._workers) if per_minute else 0
        return turnstile.wait_ms(now_ms, share)
