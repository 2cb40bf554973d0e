"""The machine's clock and its randomness."""

import os
import random
import time
from collections.abc import Callable


class SystemClock:
    """UTC wall time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ScaledClock:
    """A clock that runs faster until it has caught up with another: a day of traffic in a minute of waiting."""

    def __init__(self, *, starts_at_ms: int, speed: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._starts_at_ms = starts_at_ms
        self._speed = speed
        self._monotonic = monotonic
        self._origin = monotonic()
        self._wall = SystemClock()

    def now_ms(self) -> int:
        scaled = self._starts_at_ms + int((self._monotonic() - self._origin) * 1000 * self._speed)
        return min(scaled, self._wall.now_ms())


class RandomIds:
    """``req_`` + 11 hex digits of time + 20 random ones: sortable by time, 80 random bits, safe in URLs."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))  # one system call per process, not one per request

    def new(self, now_ms: int) -> str:
        return f"req_{now_ms:011x}{self._random.getrandbits(80):020x}"
