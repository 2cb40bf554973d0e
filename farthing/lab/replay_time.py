"""Time for replay: an event loop that never waits.

It is asyncio's own loop with a selector that has nothing to select: where the loop would sleep until its next timer,
time jumps there. The pipeline runs unchanged on it, sleeps and deadlines included, and always in the same order.
"""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

_MS = 1_000


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at an instant and moves only when nothing is left to do before."""

    def __init__(self, start_ms: int) -> None:
        """``start_ms``: UTC milliseconds at which the loop's own clock reads zero."""
        self.start_ms = start_ms
        self._now = 0.0
        super().__init__(_NoSelector(self))

    def time(self) -> float:
        """Seconds since the start."""
        return self._now

    def now_ms(self) -> int:
        """UTC milliseconds; this makes the loop a ``Clock``."""
        return self.start_ms + round(self._now * _MS)

    def jump(self, seconds: float) -> None:
        """Moves the clock forward."""
        self._now += seconds

    async def until(self, at_ms: int) -> None:
        """Returns when the clock has reached an instant; at once when it has passed."""
        wait = self.start_ms + round(self._now * _MS)
        if at_ms <= wait:
            return
        future: asyncio.Future[None] = self.create_future()
        self.call_at((at_ms - self.start_ms) / _MS, _wake, future)
        await future


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class _NoSelector(selectors.BaseSelector):
    """Waits for nothing: a time-out is time that has passed."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self._keys[fileobj] = key = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("replay waits for something that will never happen")
        if timeout > 0:
            self._loop.jump(timeout)
        return []

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[fileobj]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys
