"""Keeping the roll-ups up to date in the background of a gateway: a thread of low priority, off the path of calls."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from farthing.adapters.rollup_cuboids import BUILT_IN, Cuboid
from farthing.adapters.rollup_file import FILE
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.errors import StoreUnavailable

LOOK_S: Final = 2.0
"""Between two looks at how much is new."""
ENOUGH: Final = 5_000
"""New entries that are worth a batch at once; batches cost less an entry the larger they are."""
LATEST_MS: Final = 30_000
"""Fewer new entries wait this long."""
BUSY_PER_S: Final = 200.0
"""New entries a second from which the processor is left to calls; what waits is summed in a quieter minute."""
MOST: Final = 500_000
"""Entries that wait at most however busy it is: reading so many besides the cells costs a report about 0.1 s."""
QUIET_S: Final = 15.0
"""After somebody asked for sums that are not kept, they are not made before so long: who asks one thing asks another,
and disk and processor are the pages' so far."""
QUIET_MAX_S: Final = 120.0
"""Somebody who never stops asking puts it off for so long."""
RETRY_S: Final = 30.0
NICE: Final = 10
_LOG = logging.getLogger("farthing.rollups")


class Rolling:
    """The thread. Every worker process has one; whichever looks first when there is enough to do does it."""

    def __init__(
        self,
        ledger: Path,
        path: Path,
        now_ms: Callable[[], int],
        *,
        enough: int = ENOUGH,
        wanted: Iterable[Cuboid] = (),
    ) -> None:
        """``enough``: see ``ENOUGH``; a ledger with fewer entries gets no roll-ups. ``wanted``: sets that are kept as
        if somebody asked for them, where no built-in one answers."""
        self._wanted = tuple(
            cuboid for cuboid in wanted if not any(one.answers(cuboid.dimensions) for one in BUILT_IN)
        )
        self._ledger = SqliteLedger(ledger)
        self._enough = enough
        self._path = path
        self._now_ms = now_ms
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._looked_s = 0.0
        self._quiet = Quiet()

    def start(self) -> None:
        """Begins at once."""
        self._thread = threading.Thread(target=self._run, name="rollups", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Waits for the batch that is being added: about a second."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def gauges(self) -> dict[str, float]:
        """For ``/metrics``: how far the roll-ups are behind the ledger."""
        return {"rollup_entries_waiting": self._waiting}

    def _run(self) -> None:
        with suppress(AttributeError, OSError):  # where the system knows no priority of a thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        rollups: Rollups | None = None
        told = False
        wanted: tuple[Cuboid, ...] = ()
        pause = LOOK_S
        while not self._over.wait(pause):
            try:
                if rollups is None:
                    if not self._path.exists() and self._ledger.last() < self._enough:
                        continue
                    rollups = Rollups(self._ledger.path, self._path)
                    wanted = self._wanted
                if wanted and self._noted(rollups, wanted):
                    wanted = ()
                    self._quiet = Quiet()
                pause = self._turn(rollups)
                told = False
            except StoreUnavailable as error:
                if not told:
                    _LOG.warning("%s Reports read the entries instead, which takes longer.", error)
                told = True
                if rollups is not None:
                    rollups.close()
                rollups, pause = None, RETRY_S
        if rollups is not None:
            rollups.close()

    def _noted(self, rollups: Rollups, wanted: tuple[Cuboid, ...]) -> bool:
        """False while another process is at it: the next look tries again."""
        with suppress(StoreUnavailable):
            for cuboid in wanted:
                rollups.want(cuboid, now_ms=self._now_ms())
            return True
        return False

    def _turn(self, rollups: Rollups) -> float:
        """One batch where it is due; the seconds until the next look."""
        known, looked_s = self._waiting, self._looked_s
        self._waiting, filling, at_ms = rollups.waiting()
        self._looked_s = time.monotonic()
        passed_s = self._looked_s - looked_s if looked_s else 0.0
        age_ms = self._now_ms() - at_ms
        new = self._waiting - known
        due = is_due(self._waiting, new=new, passed_s=passed_s, age_ms=age_ms, enough=self._enough)
        if not due and not (filling and self._quiet.is_over(rollups.asked_ms(), self._looked_s)):
            return LOOK_S
        done = rollups.step(now_ms=self._now_ms())
        self._waiting = max(0, self._waiting - done.entries)
        return 0.0 if done.left else LOOK_S


class Quiet:
    """Waits until nobody asks for new sums any more; what was asked for before it began is not waited for."""

    def __init__(self) -> None:
        self._asked_ms: int | None = None
        self._until_s = self._longest_s = 0.0

    def is_over(self, asked_ms: int, now_s: float) -> bool:
        """``asked_ms``: when somebody asked last; ``now_s``: of a clock that only goes on."""
        if self._asked_ms is not None and asked_ms > self._asked_ms:
            if now_s >= self._until_s:
                self._longest_s = now_s + QUIET_MAX_S
            self._until_s = now_s + QUIET_S
        self._asked_ms = asked_ms
        return now_s >= min(self._until_s, self._longest_s)


def is_due(waiting: int, *, new: int, passed_s: float, age_ms: int, enough: int = ENOUGH) -> bool:
    """Whether the entries that wait are summed now.

    ``new`` of them came in the last ``passed_s`` (0: not known); the last step was ``age_ms`` ago.
    """
    if not waiting or (passed_s and new > BUSY_PER_S * passed_s and waiting < MOST):
        return False
    return waiting >= enough or age_ms >= LATEST_MS or age_ms < 0  # negative: the clock was set back


def rolled_up(ledger: SqliteLedger) -> RollupLedger:
    """The ledger with the roll-ups beside it; where there are none yet, it answers as before."""
    return RollupLedger(ledger, ledger.path.parent / FILE)


def rolling(ledger: SqliteLedger, now_ms: Callable[[], int], wanted: Iterable[tuple[str, ...]] = ()) -> Rolling:
    """What keeps them up to date, not started yet. ``wanted``: dimensions that will be asked about together."""
    return Rolling(ledger.path, ledger.path.parent / FILE, now_ms, wanted=map(Cuboid.of, wanted))
