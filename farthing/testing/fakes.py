"""Fakes of Farthing's own ports, for tests that decide what time it is and which ids come next."""

import hashlib


class VirtualClock:
    """A ``Clock`` that stands still until it is told to move."""

    def __init__(self, now_ms: int = 1_795_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, ms: int) -> None:
        """Move forward. Raises ``ValueError`` for a step back: wall time in a test only grows by intent."""
        if ms < 0:
            raise ValueError(f"a clock cannot go back by {-ms} ms; use set() to test a clock that was corrected")
        self._now_ms += ms

    def set(self, now_ms: int) -> None:
        """Jump anywhere, back included."""
        self._now_ms = now_ms


class SeededIds:
    """``Ids`` that are the same in every run with the same seed: sortable by time, then by order of asking."""

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._count = 0

    def new(self, now_ms: int) -> str:
        self._count += 1
        tail = hashlib.sha256(f"{self._seed}:{self._count}".encode()).hexdigest()[:8]
        return f"{now_ms:012x}{self._count:08x}{tail}"
