"""The running experiment, kept up to date with the register beside the ledger."""

import asyncio
import threading
from collections.abc import Callable, Mapping

from farthing.adapters import store_opening
from farthing.adapters.practice_log import SqlPractice
from farthing.config import Settings
from farthing.core.experiment import Experiment
from farthing.engine.services import Services
from farthing.engine.trials import Trials, follow, look


class Following:
    """Looks at the register while a gateway runs, through one connection of its own."""

    def __init__(self, trials: Trials, opener: Callable[[], SqlPractice]) -> None:
        self._trials = trials
        self._opener = opener
        self._lock = threading.Lock()
        self._register: SqlPractice | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Looks once, so that a restart goes on where the last process was, then every second."""
        await look(self._trials, self._running)
        self._task = asyncio.get_running_loop().create_task(follow(self._trials, self._running))

    async def stop(self) -> None:
        """Stops looking and closes the register."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._close)

    def _running(self) -> Experiment | None:
        with self._lock:
            if self._register is None:
                self._register = self._opener()
            return self._register.running()

    def _close(self) -> None:
        with self._lock:  # a look that is under way ends first
            if self._register is not None:
                self._register.close()
                self._register = None


def following_of(settings: Settings, services: Services, env: Mapping[str, str]) -> Following | None:
    """None where the policy has nothing that an experiment could switch off."""
    policy = services.policy
    if not (policy.cache or policy.routes or policy.levers):
        return None
    return Following(services.trials, lambda: store_opening.open_practice(settings, env))
