"""Acts on tables beside the ledger's, in the same SQLite file: one connection for any thread, one act at a time."""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from farthing.adapters.alert_log import Run
from farthing.adapters.sqlite_schema import connect, migrate, store_error

_Answer = TypeVar("_Answer")


class SqliteActs:
    """Safe for any thread. Creates the file when there is none. Raises ``StoreUnavailable``."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection = connect(self.path)
        try:
            migrate(self.path, self._connection)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _do(self, act: Callable[[Run], _Answer], *, writes: bool) -> _Answer:
        """Runs an act; one that writes is one transaction, undone whatever it raises."""

        def run(statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
            return self._connection.execute(statement, tuple(values))

        with self._lock:
            try:
                if not writes:
                    return act(run)
                self._connection.execute("BEGIN IMMEDIATE")
                answer = act(run)
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise store_error(self.path, error) from error
                raise
            return answer
