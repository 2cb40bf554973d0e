"""Which worker processes are alive: each holds an advisory lock on ``<home>/workers/<worker>.lock`` while it runs.

The kernel frees the lock when the process dies, however it dies; a lock that can be taken belongs to the dead.
"""

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from farthing.core.errors import StoreUnavailable

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class WorkerLock:
    """A held lock; ``release`` frees it, ``remove`` frees it for good."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Free the lock and leave its file: the worker still has something in the books."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Free the lock and delete its file: the books know this worker no more."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class WorkerLocks:
    """The locks of one installation's workers. Raises ``StoreUnavailable`` where the folder cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"The folder {folder} cannot be made: {error.strerror}.", hint="Give this user write permission."
            ) from error

    def take(self, worker: str) -> WorkerLock | None:
        """The worker's lock, or None when a living process holds it."""
        if not _NAME.fullmatch(worker):
            raise ValueError(f"worker {worker!r}: use 1 to 64 letters, digits, '.', '_' or '-'")
        path = self._folder / f"{worker}.lock"
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise StoreUnavailable(
                    f"The lock file {path} cannot be opened: {error.strerror}.",
                    hint="Give this user write permission.",
                ) from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if _is_same_file(path, descriptor):
                return WorkerLock(path, descriptor)
            os.close(descriptor)  # deleted by another process between open and lock: take the new file


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
