"""Ledger and traffic log as Parquet files, one folder a UTC day; each run writes only the days that changed.

A day's file is written aside and takes its place whole. The manifest is written last: a run that was broken off is
done again by the next one, and nothing is in the files twice.
"""

import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters.parquet_rows import (
    DAY_MS,
    ENTRY_FIELDS,
    EXCHANGE_FIELDS,
    MANIFEST,
    TagColumns,
    batch_of,
    day_folder,
    schema_of,
    writer,
)
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, EXCHANGE_COLUMNS, quoted
from farthing.adapters.sqlite_schema import connect_read, store_error
from farthing.core.errors import ConfigError
from farthing.ports.books import Ledger

GROUP_ROWS: Final = 50_000
"""Rows of one row group: what is in memory at a time."""

_SHARED: Final = (
    "EXISTS (SELECT 1 FROM entries AS other WHERE other.request_id = e.request_id AND other.seq <> e.seq)"
)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """How far an export has come; ``*_id`` tell whether it is the same ledger still."""

    version: int = 1
    entries_seq: int = 0
    entries_id: str = ""
    exchanges_seq: int = 0
    exchanges_id: str = ""
    since_ms: int = 0


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What a run wrote."""

    days: int
    entries: int
    exchanges: int


class ParquetExport:
    """An export of the SQLite ledger at ``ledger`` to ``folder``."""

    def __init__(self, ledger: Path, folder: Path) -> None:
        self._ledger = ledger
        self._folder = folder
        self._drafts = folder / ".new"

    def run(self, *, since_ms: int = 0) -> Exported:
        """Bring the folder up to date. Days before the day of ``since_ms`` are left out.

        Raises ``ConfigError`` when the folder holds the export of another ledger, ``StoreUnavailable`` when the
        ledger cannot be read.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._drafts, ignore_errors=True)
        first_day = since_ms // DAY_MS
        before = self._manifest()
        try:
            with closing(connect_read(self._ledger)) as connection:
                connection.execute("BEGIN")  # one picture of the ledger for the whole run
                self._check_same(connection, before)
                if first_day != before.since_ms // DAY_MS:
                    before = Manifest()
                done = self._write(connection, before, first_day)
                entry, exchange = _last(connection, "entries", "id"), _last(connection, "exchanges", "request_id")
                after = Manifest(
                    entries_seq=entry[0],
                    entries_id=entry[1],
                    exchanges_seq=exchange[0],
                    exchanges_id=exchange[1],
                    since_ms=first_day * DAY_MS,
                )
        except sqlite3.Error as error:
            raise store_error(self._ledger, error) from error
        self._publish(after)
        return done

    def _manifest(self) -> Manifest:
        try:
            return msgspec.json.decode((self._folder / MANIFEST).read_bytes(), type=Manifest)
        except FileNotFoundError:
            return Manifest()
        except msgspec.MsgspecError as error:
            raise ConfigError([f"{self._folder / MANIFEST} cannot be read: {error}; remove the folder"]) from error

    def _check_same(self, connection: sqlite3.Connection, manifest: Manifest) -> None:
        found = connection.execute("SELECT id FROM entries WHERE seq = ?", (manifest.entries_seq,)).fetchone()
        if manifest.entries_seq and (found is None or found[0] != manifest.entries_id):
            raise ConfigError([f"{self._folder} holds the export of another ledger; choose another folder"])

    def _write(self, connection: sqlite3.Connection, before: Manifest, first_day: int) -> Exported:
        seen = connection.execute(
            "SELECT request_id FROM exchanges WHERE seq = ?", (before.exchanges_seq,)
        ).fetchone()
        # The traffic log is pruned, so its numbers may begin anew.
        exchanges_from = before.exchanges_seq if seen is not None and seen[0] == before.exchanges_id else 0
        days = [day for day in _changed_days(connection, before.entries_seq) if day >= first_day]
        entries = sum(self._entries(connection, day) for day in days)
        name = f"{exchanges_from + 1:012}-{zlib.crc32(before.exchanges_id.encode()):08x}"
        exchanges = sum(
            self._exchanges(connection, day, exchanges_from, name)
            for day in _exchange_days(connection, exchanges_from)
            if day >= first_day
        )
        return Exported(days=len(days), entries=entries, exchanges=exchanges)

    def _entries(self, connection: sqlite3.Connection, day: int) -> int:
        columns = ", ".join(f'e."{name}"' for name in ENTRY_COLUMNS)
        sql = (
            f"SELECT e.seq, {columns}, {_SHARED} AS shared FROM entries AS e"
            " WHERE e.received_at_ms >= ? AND e.received_at_ms < ? ORDER BY shared, e.received_at_ms, e.seq"
        )
        rows = connection.execute(sql, (day * DAY_MS, (day + 1) * DAY_MS))
        path = day_folder(self._drafts, "entries", day) / "entries.parquet"
        return self._file(rows, ENTRY_FIELDS, path, _tag_columns(connection, day))

    def _exchanges(self, connection: sqlite3.Connection, day: int, after: int, name: str) -> int:
        """A file of its own for what is new: the traffic log is pruned, but what was exported stays."""
        sql = (
            f"SELECT seq, {quoted(EXCHANGE_COLUMNS)} FROM exchanges"
            " WHERE seq > ? AND received_at_ms >= ? AND received_at_ms < ? ORDER BY seq"
        )
        rows = connection.execute(sql, (after, day * DAY_MS, (day + 1) * DAY_MS))
        path = day_folder(self._drafts, "exchanges", day) / f"from-{name}.parquet"
        return self._file(rows, EXCHANGE_FIELDS, path)

    def _file(self, rows: sqlite3.Cursor, fields: tuple[str, ...], path: Path, tags: TagColumns | None = None) -> int:
        schema = schema_of(fields, tags)
        path.parent.mkdir(parents=True, exist_ok=True)
        count = 0
        with writer(path, schema) as file:
            for part in _parts(rows):
                file.write_batch(batch_of(part, fields, schema))
                count += len(part)
        return count

    def _publish(self, manifest: Manifest) -> None:
        """The drafts take their places, the manifest last."""
        for draft in sorted(self._drafts.rglob("*.parquet")):
            place = self._folder / draft.relative_to(self._drafts)
            place.parent.mkdir(parents=True, exist_ok=True)
            _sync(draft)
            draft.replace(place)
        shutil.rmtree(self._drafts, ignore_errors=True)
        draft = self._folder / f".{MANIFEST}.new"
        draft.write_bytes(msgspec.json.encode(manifest))
        _sync(draft)
        draft.replace(self._folder / MANIFEST)


def export_ledger(ledger: Ledger, folder: Path, *, scratch: Path, since_ms: int = 0) -> Exported:
    """An export of any other ledger: by way of a SQLite copy in ``scratch``, which the next run continues."""
    importer = SqliteImporter(scratch)
    try:
        importer.import_batch(ledger.entries(), ledger.exchanges())
    finally:
        importer.close()
    return ParquetExport(scratch, folder).run(since_ms=since_ms)


def _changed_days(connection: sqlite3.Connection, after: int) -> list[int]:
    """Days with entries that are new, or whose request has new entries."""
    if not after:
        sql = f"SELECT DISTINCT received_at_ms / {DAY_MS} FROM entries"
        return sorted(row[0] for row in connection.execute(sql))
    sql = (
        f"SELECT DISTINCT other.received_at_ms / {DAY_MS} FROM entries AS new"
        " CROSS JOIN entries AS other ON other.request_id = new.request_id WHERE new.seq > ?"
    )
    return sorted(row[0] for row in connection.execute(sql, (after,)))


def _tag_columns(connection: sqlite3.Connection, day: int) -> TagColumns:
    """The tags of a day's entries, the most used first."""
    sql = (
        "SELECT tag.key FROM (SELECT tags, count(*) AS times FROM entries WHERE received_at_ms >= ?"
        " AND received_at_ms < ? AND tags IS NOT NULL GROUP BY tags) AS used, json_each(used.tags) AS tag"
        " GROUP BY tag.key ORDER BY sum(used.times) DESC, tag.key"
    )
    return TagColumns.of(row[0] for row in connection.execute(sql, (day * DAY_MS, (day + 1) * DAY_MS)))


def _exchange_days(connection: sqlite3.Connection, after: int) -> list[int]:
    sql = f"SELECT DISTINCT received_at_ms / {DAY_MS} FROM exchanges WHERE seq > ?"
    return sorted(row[0] for row in connection.execute(sql, (after,)))


def _last(connection: sqlite3.Connection, table: str, id_column: str) -> tuple[int, str]:
    row = connection.execute(f"SELECT seq, {id_column} FROM {table} ORDER BY seq DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row is not None else (0, "")


def _parts(rows: sqlite3.Cursor) -> Iterator[list[tuple[object, ...]]]:
    while part := rows.fetchmany(GROUP_ROWS):
        yield part


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
