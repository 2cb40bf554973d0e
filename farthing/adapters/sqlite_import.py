"""Booking many entries of elsewhere in the SQLite file: one transaction for all of them. Blocking."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    EXCHANGE_COLUMNS,
    entry_to_row,
    exchange_to_row,
    quoted,
)
from farthing.adapters.sqlite_schema import connect, migrate, store_error
from farthing.core.types import Exchange, LedgerEntry


class SqliteImporter:
    """``Importer``; creates the file when there is none. Holds the file's write lock until it returns."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = connect(self.path)
        migrate(self.path, self._connection)

    def import_batch(self, entries: Iterable[LedgerEntry], exchanges: Iterable[Exchange]) -> tuple[int, int]:
        seen = 0

        def rows() -> Iterable[tuple[object, ...]]:
            nonlocal seen
            for entry in entries:
                seen += 1
                yield entry_to_row(entry)

        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            before = connection.total_changes
            connection.executemany(_insert("entries", ENTRY_COLUMNS), rows())
            new = connection.total_changes - before
            connection.executemany(
                _insert("exchanges", EXCHANGE_COLUMNS), (exchange_to_row(one) for one in exchanges)
            )
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise store_error(self.path, error) from error
            raise
        return new, seen - new

    def clear(self) -> None:
        """Deletes every entry: for copies of another ledger only, whose history is never overwritten."""
        try:
            self._connection.execute("DELETE FROM entries")
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    def close(self) -> None:
        self._connection.close()


def _insert(table: str, columns: tuple[str, ...]) -> str:
    conflict = "id" if table == "entries" else "request_id"
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({quoted(columns)}) VALUES ({places}) ON CONFLICT ({conflict}) DO NOTHING"
