"""Opportunities in calls that need not have been made: equal calls, loops of retries, storms of tool calls."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Final

from farthing.core.types import Exchange, Scope
from farthing.lab.optimize import Change, Opportunity, Seen

TTL_MS: Final = 3_600_000
LOOP_MS: Final = 600_000
LOOP_MIN: Final = 3
CALLS_MAX: Final = 10
REMEMBERED: Final = 1_000_000


def _owner(scope: Scope) -> tuple[str, ...]:
    return (scope.org, scope.team, scope.project, scope.customer, scope.user, scope.key)


class Repeats:
    """Equal calls of the same caller within an hour, and equal calls after failures."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, ...], tuple[int, int, int]] = OrderedDict()
        """By digest and caller: (when it was last answered, when it last failed, failures in a row)."""
        self._repeats = self._repeat_nusd = self._loops = self._loop_nusd = 0
        self._features: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def see(self, seen: Seen) -> None:
        exchange = seen.exchange
        if not exchange.received_digest:
            return
        key = (exchange.received_digest, *_owner(exchange.scope))
        answered_ms, failed_ms, failures = self._last.pop(key, (-TTL_MS, -LOOP_MS, 0))
        at_ms = exchange.received_at_ms
        failures = failures if at_ms - failed_ms < LOOP_MS else 0
        if failures >= LOOP_MIN - 1 and seen.nusd:
            self._loops += 1
            self._loop_nusd += seen.nusd
            self._errors[exchange.error or exchange.outcome] += 1
        elif seen.answered and at_ms - answered_ms < TTL_MS:
            self._repeats += 1
            self._repeat_nusd += seen.nusd
            self._features[seen.feature] += seen.nusd
        if exchange.outcome in ("failed", "aborted"):
            failed_ms, failures = at_ms, failures + 1
        elif exchange.outcome == "answered":
            failures = 0
            if seen.answered and at_ms - answered_ms >= TTL_MS:
                answered_ms = at_ms  # an answer in a cache grows old although it is served
        self._last[key] = (answered_ms, failed_ms, failures)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)

    def found(self) -> Iterator[Opportunity]:
        if self._repeats:
            worst = ", ".join(name or "(no feature)" for name, _ in self._features.most_common(3))
            yield Opportunity(
                kind="exact_cache",
                nusd=self._repeat_nusd,
                sure="exact",
                requests=self._repeats,
                evidence=f"{self._repeats} calls ask what their caller had asked within the hour; most in: {worst}",
                risk="low",
                effort="low",
                try_="answer them from the exact cache; leave out what must be new each time",
                change=Change(section="cache", values={"name": "repeated", "ttl": "1h"}),
            )
        if self._loops:
            worst = ", ".join(name for name, _ in self._errors.most_common(3))
            yield Opportunity(
                kind="retry_loops",
                nusd=self._loop_nusd,
                sure="exact",
                requests=self._loops,
                evidence=f"{self._loops} paid calls repeated one that had failed at least twice just before: {worst}",
                risk="none",
                effort="medium",
                try_="give the callers a limit of retries and a growing pause; see farthing requests",
            )


class Storms:
    """Calls made after a model had called tools very often without a human in between."""

    def __init__(self) -> None:
        self._calls = self._nusd = self._worst = 0
        self._sessions: set[str] = set()

    def see(self, seen: Seen) -> None:
        calls = _tool_turns(seen.exchange)
        if not seen.answered or calls < CALLS_MAX:
            return
        self._calls += 1
        self._nusd += seen.nusd
        self._worst = max(self._worst, calls)
        self._sessions.add(seen.exchange.scope.session)

    def found(self) -> Iterator[Opportunity]:
        if self._calls:
            yield Opportunity(
                kind="tool_call_storms",
                nusd=self._nusd,
                sure="estimated",
                requests=self._calls,
                evidence=(
                    f"{self._calls} calls came after {CALLS_MAX} or more tool calls without a human "
                    f"(up to {self._worst}, {len(self._sessions)} sessions); assumes that they were not needed"
                ),
                risk="medium",
                effort="low",
                try_="let the model answer after that many",
                change=Change(section="levers", values={"kind": "max_tool_calls", "calls": CALLS_MAX}),
            )


def _tool_turns(exchange: Exchange) -> int:
    """Tool calls since a human last spoke: as read for budgets, else by the roles that were logged."""
    turns = exchange.readings.get("without_human")
    if turns is not None:
        return max(0, int(turns) - 1)
    found = 0
    for section in reversed(exchange.sections):
        if section.role == "user":
            break
        found += section.role == "tool"
    return found if any(section.role == "user" for section in exchange.sections) else 0
