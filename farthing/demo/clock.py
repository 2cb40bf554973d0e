"""The demo's time: a day passes in half a minute, then the clock is the wall's again."""

import time
from collections.abc import Callable
from typing import Final

HOUR_MS: Final = 3_600_000
_MARGIN_MS: Final = 120_000
"""A day that would pass midnight while it is replayed begins an hour later instead."""


def wall_ms() -> int:
    """UTC milliseconds since the epoch by the machine's clock."""
    return time.time_ns() // 1_000_000


class DayClock:
    """A ``Clock`` that stands at midnight until it is started, runs fast until now, and then is the wall's.

    ``zone`` is the time zone in which the 23 to 24 hours before now are one calendar day, so that the demo's daily
    and monthly budgets have one window whenever it is run.
    """

    def __init__(
        self, seconds: float, *, wall: Callable[[], int] = wall_ms, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """``seconds``: how long the day takes in real time."""
        self._wall = wall
        self._monotonic = monotonic
        self._origin: float | None = None
        self.ends_at_ms = wall()
        hour = (self.ends_at_ms + _MARGIN_MS) // HOUR_MS * HOUR_MS
        self.starts_at_ms = hour - 23 * HOUR_MS
        self.speed = (self.ends_at_ms - self.starts_at_ms) / (max(seconds, 0.001) * 1000)

    @property
    def zone(self) -> str:
        """An IANA name of whole hours from UTC (``Etc/GMT+5`` is five hours *behind* it)."""
        hour = self.starts_at_ms // HOUR_MS % 24
        if hour == 0:
            return "UTC"
        return f"Etc/GMT+{hour}" if hour <= 12 else f"Etc/GMT-{24 - hour}"

    @property
    def span_ms(self) -> int:
        """The length of the demo's day."""
        return self.ends_at_ms - self.starts_at_ms

    def start(self) -> None:
        """Let time pass."""
        self._origin = self._monotonic()

    def now_ms(self) -> int:
        """UTC milliseconds since the epoch, by the demo's time."""
        if self._origin is None:
            return self.starts_at_ms
        passed = int((self._monotonic() - self._origin) * 1000 * self.speed)
        return min(self.starts_at_ms + passed, self._wall())

    def wait_s(self, at_ms: int) -> float:
        """Real seconds until the demo's time is ``at_ms``; 0 when it is past."""
        return max(0.0, (at_ms - self.now_ms()) / 1000 / self.speed)
