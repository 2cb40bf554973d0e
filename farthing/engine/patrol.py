"""The patrol: every few minutes one worker looks for incidents nobody was told of, and raises each once.

What an incident is, reports say; here is who looks, how often, and that it is told exactly once: the alert is claimed
in the log, like every other, before anybody is told.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from farthing.core.alerts import Alert
from farthing.engine.background import outlived
from farthing.engine.watch import claim
from farthing.ports.alerts import AlertLog
from farthing.ports.clock import Clock

_LOG = logging.getLogger("farthing.alerts")
FIRST_S: Final = 2.0
"""After a start calls come first."""
EVERY_S: Final = 300.0
REST: Final = 20
"""A look that took long is followed by a rest of this many times as long."""
TOLD_MAX: Final = 200
KEPT_MS: Final = 400 * 86_400_000
TURN: Final = "incidents"


class Patrol:
    """Owns the task that looks. ``start`` and ``close`` are called with the gateway's."""

    def __init__(
        self,
        *,
        look: Callable[[int, Sequence[Alert]], Sequence[Alert]],
        log: AlertLog,
        clock: Clock,
        sinks_for: Callable[[Alert], Sequence[tuple[str, int]]],
        every_s: float = EVERY_S,
    ) -> None:
        """``look``: (now, the alerts of incidents that were told) to those that were not; blocks, on a thread."""
        self.raised = 0
        self._look = look
        self._log = log
        self._clock = clock
        self._sinks_for = sinks_for
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_S
        while True:
            await asyncio.sleep(pause)
            began = loop.time()
            await outlived(asyncio.to_thread(self.round), "the search for incidents")
            pause = max(self._every_s, REST * (loop.time() - began))

    def round(self) -> None:
        """Looks, if no other worker has in this stretch of time, and raises what is new. Blocks."""
        now_ms = self._clock.now_ms()
        # A little less than the pause: who looked last is the first to be back.
        if not self._log.turn(TURN, now_ms=now_ms, until_ms=now_ms + round(self._every_s * 900)):
            return
        told = tuple(one.alert for one in self._log.records(limit=TOLD_MAX) if one.alert.kind == "incident")
        for alert in self._look(now_ms, told):
            if claim(self._log, self._sinks_for, alert, now_ms + KEPT_MS):
                self.raised += 1
