"""How far a replay is, for programs that wait for it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says."""

    replay: int
    """Which of the replays is running, from 1."""
    replays: int
    label: str
    """The sections that are switched on."""
    done: int
    requests: int


class Told:
    """Writes progress into a file, in one act each time; without a file it does nothing."""

    def __init__(self, path: Path | None, requests: int, replays: int) -> None:
        self._path = path
        self._requests = requests
        self._replays = replays
        self._begun = 0

    def replay(self, label: str) -> AbstractContextManager[Callable[[int], None]] | None:
        """What one more replay tells how far it is; None without a file."""
        self._begun += 1
        return None if self._path is None else self._telling(self._path, label)

    @contextmanager
    def _telling(self, path: Path, label: str) -> Iterator[Callable[[int], None]]:
        def tell(done: int) -> None:
            told = Progress(
                replay=self._begun, replays=self._replays, label=label, done=done, requests=self._requests
            )
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_bytes(msgspec.json.encode(told))
            fresh.replace(path)

        tell(0)
        yield tell
        tell(self._requests)
