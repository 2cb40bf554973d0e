"""The machine's clock and its randomness."""

import os
import random
import time
from typing import Final

_ID_BYTES: Final = 16
"""44 bits of time (until the year 2527) and 80 random ones, and half a byte that is cut off."""


class SystemClock:
    """UTC wall time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class SteadyClock:
    """Wall time as it was at the start, and real time since then: it never jumps."""

    def __init__(self) -> None:
        self._ahead_ns = time.time_ns() - time.monotonic_ns()

    def now_ms(self) -> int:
        return (time.monotonic_ns() + self._ahead_ns) // 1_000_000


class RandomIds:
    """``req_`` + 11 hex digits of time + 20 random ones: sortable by time, 80 random bits, safe in URLs."""

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))  # one system call per process, not one per request

    def new(self, now_ms: int) -> str:
        return "req_" + (now_ms << 80 | self._random.getrandbits(80)).to_bytes(_ID_BYTES, "big").hex()[1:]
