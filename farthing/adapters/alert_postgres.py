"""The alert log in PostgreSQL, for gateways on several hosts."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from farthing.adapters.alert_log import Run, SqlAlerts
from farthing.adapters.postgres_schema import Connection, connect, expand, store_error

_Answer = TypeVar("_Answer")


class PostgresAlerts(SqlAlerts):
    """``AlertLog`` over one connection, made again when it is lost; any thread may ask, one at a time is served."""

    lock_rows = " FOR UPDATE OF d SKIP LOCKED"

    def __init__(self, url: str, namespace: str) -> None:
        """Connects, and makes the tables, when first asked for something: a gateway starts without its database."""
        self._url = url
        self._namespace = namespace
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._expanded = False

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _do(self, act: Callable[[Run], _Answer], *, writes: bool) -> _Answer:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._url, self._namespace)
                connection = self._connection
                if not self._expanded:
                    expand(connection, self._namespace)
                    self._expanded = True

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
