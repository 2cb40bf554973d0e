"""Running replays for the command line: in how many processes, and what is kept of them on disk."""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, cast

import msgspec

from farthing.cli.context import Failed, closed
from farthing.config import Settings
from farthing.lab.replay_apart import conflict
from farthing.lab.replay_parts import Found, Job, Period, TrafficLog, added, in_one, parts_of
from farthing.ports.prices import Prices


class ReplayStores(Protocol):
    """What replays need of ``farthing.bootstrap``."""

    def open_log(self, settings: Settings, source: str = "") -> TrafficLog: ...

    def price_book(self, settings: Settings) -> Prices: ...

    def replay_part(self, job: Job, progress: Callable[[int], None] | None = None) -> Found: ...


def stores() -> ReplayStores:
    """``farthing.bootstrap``, also in a worker process."""
    return cast("ReplayStores", importlib.import_module("farthing.bootstrap"))


@contextmanager
def opened(settings: Settings, source: str) -> Iterator[TrafficLog]:
    """The traffic log."""
    with closed(stores().open_log(settings, source)) as log:
        yield log


def run(job: Job, progress: Callable[[int], None] | None = None) -> Found:
    """One part of a replay; what each worker process does."""
    return stores().replay_part(job, progress)


def spread(jobs: Sequence[Job], workers: int, done: Callable[[int], None] | None = None) -> list[Found]:
    """Several replays in several processes: in parts where calls share nothing that matters, else whole.

    Where parts turn out to share a budget that decided something, that replay is done again in one piece.
    """
    groups = [parts_of(job, workers) for job in jobs]
    parts = [part for group in groups for part in group]
    count = 0

    def told(found: Iterable[Found]) -> Iterator[Found]:
        nonlocal count
        for one in found:
            count += 1
            if done is not None:
                done(count)
            yield one

    with ProcessPoolExecutor(min(workers, len(parts)), mp_context=get_context("spawn")) as pool:
        results = told(pool.map(run, parts))
        whole = [_together([next(results) for _ in group]) for group in groups]
        again = [place for place, found in enumerate(whole) if found is None]
        for place, found in zip(again, told(pool.map(run, [in_one(jobs[place]) for place in again])), strict=True):
            whole[place] = found
    return [found for found in whole if found is not None]


def _together(parts: Sequence[Found]) -> Found | None:
    """The parts as one replay; None: they are none."""
    if any(part.orphans for part in parts) or conflict([part.levels for part in parts]):
        return None
    return added(parts)


def cores() -> int:
    """Processes that can run at the same time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds: results of finished replays of a period."""

    period: Period
    found: dict[str, Found]


class State:
    """Finished replays on disk, and beside them where the others stand, so that what was interrupted goes on."""

    def __init__(self, path: Path | None, *, fresh: bool) -> None:
        """``fresh``: nothing of before counts. Raises ``Failed`` for a file of something else."""
        self.period: Period | None = None
        self._path = path
        self._known: dict[str, Found] = {}
        if path is None:
            return
        if fresh:
            self.forget()
        elif path.exists():
            try:
                kept = msgspec.json.decode(path.read_bytes(), type=Kept)
            except msgspec.MsgspecError as error:
                raise Failed(f"{path} is not the state of a replay: {error}. Remove it.") from error
            self.period, self._known = kept.period, kept.found

    def begin(self, period: Period) -> None:
        """Writes down which period is replayed; results of another one are dropped."""
        if self.period != period:
            self._known.clear()
        self.period = period
        self._write()

    def get(self, key: str) -> Found | None:
        """A result of before."""
        return self._known.get(key)

    def put(self, key: str, found: Found) -> None:
        """Keeps a result; the file is replaced in one act."""
        self._known[key] = found
        self._write()

    def place(self, key: str) -> str:
        """The file that says where an unfinished replay stands; empty: nothing is kept."""
        return "" if self._path is None else f"{self._path}.{key}"

    def forget(self) -> None:
        """Removes everything."""
        if self._path is not None:
            for path in (self._path, *self._path.parent.glob(self._path.name + ".*")):
                path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path is not None and self.period is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(self._path.name + ".new")
            fresh.write_bytes(msgspec.json.encode(Kept(period=self.period, found=self._known)))
            fresh.replace(self._path)
