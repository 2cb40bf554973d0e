"""How long models take at the moment, as this worker sees it: what a route's ``latency_max`` is judged by."""

from collections import deque
from math import ceil

SHARE = 0.95
CALLS_MIN = 20
"""Fewer recent calls say nothing."""
CALLS_MAX = 400
RECENT_MS = 600_000
"""Older calls are forgotten, so that a model left out for being slow is tried again."""


class Latencies:
    """The last calls of each model: when they ended, and how long they took."""

    def __init__(self) -> None:
        self._calls: dict[str, deque[tuple[int, int]]] = {}

    def heard(self, model: str, *, at_ms: int, took_ms: int) -> None:
        """A model has answered."""
        calls = self._calls.get(model)
        if calls is None:
            calls = self._calls[model] = deque(maxlen=CALLS_MAX)
        calls.append((at_ms, took_ms))

    def p95(self, model: str, *, now_ms: int) -> int | None:
        """Milliseconds within which 95 % of the recent calls were answered; None: too few were made."""
        calls = self._calls.get(model)
        if calls is None:
            return None
        while calls and calls[0][0] < now_ms - RECENT_MS:
            calls.popleft()
        if len(calls) < CALLS_MIN:
            return None
        took = sorted(took for _, took in calls)
        return took[ceil(SHARE * len(took)) - 1]
