"""Keeping the roll-ups up to date in the background of a gateway: a thread of low priority, off the path of calls."""

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from farthing.adapters.rollup_file import FILE
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.errors import StoreUnavailable

LOOK_S: Final = 2.0
"""Between two looks at how much is new."""
ENOUGH: Final = 2_000
"""New entries that are worth a batch at once; batches cost less an entry the larger they are."""
LATEST_MS: Final = 30_000
"""Fewer new entries wait this long."""
RETRY_S: Final = 30.0
NICE: Final = 10
_LOG = logging.getLogger("farthing.rollups")


class Rolling:
    """The thread. Every worker process has one; whichever looks first when there is enough to do does it."""

    def __init__(self, ledger: Path, path: Path, now_ms: Callable[[], int], *, enough: int = ENOUGH) -> None:
        """``enough``: see ``ENOUGH``; a ledger with fewer entries gets no roll-ups."""
        self._ledger = SqliteLedger(ledger)
        self._enough = enough
        self._path = path
        self._now_ms = now_ms
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting = 0

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
        pause = LOOK_S
        while not self._over.wait(pause):
            try:
                if rollups is None:
                    if not self._path.exists() and self._ledger.last() < self._enough:
                        continue
                    rollups = Rollups(self._ledger.path, self._path)
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

    def _turn(self, rollups: Rollups) -> float:
        """One batch where it is due; the seconds until the next look."""
        self._waiting, filling, at_ms = rollups.waiting()
        if not filling and not self._waiting:
            return LOOK_S
        if not filling and self._waiting < self._enough and self._now_ms() - at_ms < LATEST_MS:
            return LOOK_S
        return 0.0 if rollups.step(now_ms=self._now_ms()).left else LOOK_S


def rolled_up(ledger: SqliteLedger) -> RollupLedger:
    """The ledger with the roll-ups beside it; where there are none yet, it answers as before."""
    return RollupLedger(ledger, ledger.path.parent / FILE)


def rolling(ledger: SqliteLedger, now_ms: Callable[[], int]) -> Rolling:
    """What keeps them up to date, not started yet."""
    return Rolling(ledger.path, ledger.path.parent / FILE, now_ms)
