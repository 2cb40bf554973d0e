"""Time and identity as ports, so that replay and tests decide both."""

from typing import Protocol


class Clock(Protocol):
    """Wall time."""

    def now_ms(self) -> int:
        """UTC milliseconds since the epoch."""
        ...


class Ids(Protocol):
    """Request ids: unique, sortable by time, URL-safe."""

    def new(self, now_ms: int) -> str: ...
