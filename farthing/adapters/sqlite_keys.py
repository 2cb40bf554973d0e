"""Virtual keys in the SQLite file: a cache for the gateway's look-ups, refreshed when the keys change."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters.sqlite_schema import connect, migrate, store_error
from farthing.core.errors import Conflict
from farthing.core.types import KeyRecord

STALE_MS: Final = 100
"""A key added or revoked by another process is noticed after this at the latest."""

_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(KeyRecord)


class SqliteKeys:
    """``Keys``; blocking, safe for any thread. Creates the file when there is none. Raises ``StoreUnavailable``."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection = connect(self.path)
        self._by_hash: dict[str, KeyRecord] = {}
        self._version = -1
        self._fresh_until = 0.0
        try:
            migrate(self.path, self._connection)
            self._refresh()
        except BaseException:
            self._connection.close()
            raise

    def find(self, secret_hash: str) -> KeyRecord | None:
        """The key with this hash, revoked ones included."""
        if time.monotonic() >= self._fresh_until:
            self._refresh()
        return self._by_hash.get(secret_hash)

    def all(self) -> tuple[KeyRecord, ...]:
        self._refresh()
        return tuple(sorted(self._by_hash.values(), key=lambda record: (record.created_at_ms, record.id)))

    def add(self, record: KeyRecord) -> None:
        """Raises ``Conflict`` when the id or the hash exists."""
        row = (record.id, record.hash, record.name, record.hint, record.created_at_ms, record.revoked_at_ms)
        try:
            self._change("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, _encode(record).decode()))
        except sqlite3.IntegrityError as error:
            raise Conflict(f"Key {record.id} exists already.", hint="Choose another id.") from error

    def revoke(self, key_id: str, *, at_ms: int) -> bool:
        """False when there is no such key or it is revoked already."""
        record = next((record for record in self.all() if record.id == key_id), None)
        if record is None or record.revoked_at_ms is not None:
            return False
        revoked = msgspec.structs.replace(record, revoked_at_ms=at_ms)
        sql = "UPDATE keys SET revoked_at_ms = ?, record = ? WHERE id = ? AND revoked_at_ms IS NULL"
        return self._change(sql, (at_ms, _encode(revoked).decode(), key_id)) == 1

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _change(self, sql: str, parameters: tuple[object, ...]) -> int:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                changed = self._connection.execute(sql, parameters).rowcount
                self._connection.execute("UPDATE changes SET version = version + 1 WHERE name = 'keys'")
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.IntegrityError):
                    raise
                raise store_error(self.path, error) from error
        self._refresh()
        return changed

    def _refresh(self) -> None:
        with self._lock:
            try:
                (version,) = self._connection.execute("SELECT version FROM changes WHERE name = 'keys'").fetchone()
                if version != self._version:
                    rows = self._connection.execute("SELECT hash, record FROM keys").fetchall()
                    self._by_hash = {hash: _record.decode(text) for hash, text in rows}
                    self._version = version
            except sqlite3.Error as error:
                raise store_error(self.path, error) from error
            self._fresh_until = time.monotonic() + STALE_MS / 1000
