"""Acts on tables beside the ledger's in PostgreSQL: one connection for any thread, one act at a time."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from farthing.adapters.alert_log import Run
from farthing.adapters.postgres_schema import Connection, connect, expand, store_error

_Answer = TypeVar("_Answer")


class PostgresActs:
    """One connection, made when first needed and again when it is lost; any thread may ask."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._namespace = namespace
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _do(self, act: Callable[[Run], _Answer], *, writes: bool) -> _Answer:
        with self._lock:
            try:
                connection = self._open()

                def run(statement: str, values: Sequence[object] = ()) -> psycopg.Cursor[tuple[object, ...]]:
                    return connection.execute(statement.replace("?", "%s").encode(), tuple(values))

                if not writes:
                    return act(run)
                with connection.transaction():
                    return act(run)
            except psycopg.Error as error:
                if self._connection is not None and isinstance(error, psycopg.OperationalError):
                    self._connection.close()
                raise store_error(error) from error

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url, self._namespace)
            expand(self._connection, self._namespace)
        return self._connection
