"""The semantic cache's memory in one SQLite file; vectors as half floats."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from farthing.core.errors import StoreUnavailable
from farthing.ports.cache import Selector
from farthing.ports.embed import Vector
from farthing.ports.semantic import Comparison, Overview, Remembered

_SCHEMA = """
CREATE TABLE IF NOT EXISTS questions (
  number INTEGER PRIMARY KEY AUTOINCREMENT, partition TEXT NOT NULL, key TEXT NOT NULL, route TEXT NOT NULL,
  model TEXT NOT NULL, caller TEXT NOT NULL, created_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL,
  vector BLOB NOT NULL, record BLOB NOT NULL, UNIQUE (partition, key));
CREATE INDEX IF NOT EXISTS questions_expiry ON questions (expires_at_ms);
CREATE TABLE IF NOT EXISTS learned (family TEXT PRIMARY KEY, updated_at_ms INTEGER NOT NULL, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS comparisons (
  id TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, wrong INTEGER NOT NULL, label TEXT NOT NULL, record BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS comparisons_time ON comparisons (at_ms);
"""
COMPARISONS_MAX = 20_000
TIDY_EVERY = 500

_question = msgspec.msgpack.Decoder(Remembered)
_comparison = msgspec.msgpack.Decoder(Comparison)
_encode = msgspec.msgpack.Encoder().encode
_T = TypeVar("_T")


class SqliteSemantic:
    """``SemanticStore`` and ``SemanticRecords`` over one file; one thread of its own while it is started."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._writes = 0

    async def start(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="semantic")
            await self._run(self._open)

    async def partition(self, partition: str, *, now_ms: int) -> Sequence[Remembered]:
        return await self.since(0, (partition,), now_ms=now_ms)

    async def since(self, number: int, partitions: Sequence[str], *, now_ms: int) -> Sequence[Remembered]:
        def read() -> list[Remembered]:
            marks = ",".join("?" * len(partitions))
            sql = (
                "SELECT number, vector, record FROM questions WHERE number > ? AND expires_at_ms > ?"
                f" AND partition IN ({marks}) ORDER BY number"
            )
            rows = self._open().execute(sql, (number, now_ms, *partitions))
            return [_remembered(*row) for row in rows]

        return await self._run(read) if partitions else ()

    async def add(self, question: Remembered) -> int:
        half = _half(question.vector)
        record = _encode(msgspec.structs.replace(question, vector=b""))
        values = (question.partition, question.key, question.route, question.model, question.caller)

        def write(db: sqlite3.Connection) -> int:
            self._tidy(db, question.created_at_ms)
            db.execute("DELETE FROM questions WHERE partition = ? AND key = ?", values[:2])
            found = db.execute(
                "INSERT INTO questions (partition, key, route, model, caller, created_at_ms, expires_at_ms, vector,"
                " record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, question.created_at_ms, question.expires_at_ms, half, record),
            )
            return found.lastrowid or 0

        return await self._run(lambda: self._transact(write))

    async def forget(self, selector: Selector) -> int:
        def write(db: sqlite3.Connection) -> int:
            doomed = []
            for number, vector, record in db.execute("SELECT number, vector, record FROM questions"):
                if selected(_remembered(number, vector, record), selector):
                    doomed.append((number,))
            db.executemany("DELETE FROM questions WHERE number = ?", doomed)
            return len(doomed)

        return await self._run(lambda: self._transact(write))

    async def state(self, family: str) -> bytes | None:
        def read() -> bytes | None:
            row = self._open().execute("SELECT state FROM learned WHERE family = ?", (family,)).fetchone()
            return None if row is None else bytes(row[0])

        return await self._run(read)

    async def keep(self, family: str, state: bytes, *, now_ms: int) -> None:
        sql = "INSERT OR REPLACE INTO learned VALUES (?, ?, ?)"
        await self._run(lambda: self._transact(lambda db: db.execute(sql, (family, now_ms, state))))

    async def note(self, comparison: Comparison) -> None:
        values = (comparison.id, comparison.at_ms, int(comparison.wrong), comparison.label, _encode(comparison))
        sql = "INSERT OR REPLACE INTO comparisons VALUES (?, ?, ?, ?, ?)"
        await self._run(lambda: self._transact(lambda db: db.execute(sql, values)))

    async def close(self) -> None:
        if self._thread is not None:
            await self._run(self._shut)
            self._thread.shutdown()
            self._thread = None

    # -- for the command line

    def overview(self) -> Sequence[Overview]:
        rows = self._open().execute("SELECT family, updated_at_ms, state FROM learned ORDER BY family")
        return [Overview(family=family, updated_at_ms=at, state=bytes(state)) for family, at, state in rows]

    def comparisons(self, *, since_ms: int = 0, only_wrong: bool = False) -> Iterator[Comparison]:
        sql = "SELECT record, label FROM comparisons WHERE at_ms >= ? AND wrong >= ? ORDER BY at_ms DESC, id"
        for record, label in self._open().execute(sql, (since_ms, int(only_wrong))):
            yield msgspec.structs.replace(_comparison.decode(record), label=label)

    def label(self, id: str, label: Literal["", "same", "different"]) -> bool:
        sql = "UPDATE comparisons SET label = ? WHERE id = ?"
        return self._transact(lambda db: db.execute(sql, (label, id)).rowcount) > 0

    # -- inside

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._thread is None:
            raise StoreUnavailable("The semantic cache's store is not open.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"The semantic cache's store failed: {error}") from None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA busy_timeout = 5000")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            self._db = db
        return self._db

    def _transact(self, write: Callable[[sqlite3.Connection], _T]) -> _T:
        db = self._open()
        db.execute("BEGIN IMMEDIATE")
        try:
            result = write(db)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return result

    def _tidy(self, db: sqlite3.Connection, now_ms: int) -> None:
        self._writes += 1
        if self._writes % TIDY_EVERY == 0:
            db.execute("DELETE FROM questions WHERE expires_at_ms <= ?", (now_ms,))
            db.execute(
                "DELETE FROM comparisons WHERE label = '' AND id NOT IN"
                " (SELECT id FROM comparisons ORDER BY at_ms DESC LIMIT ?)",
                (COMPARISONS_MAX,),
            )

    def _shut(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _remembered(number: int, vector: bytes, record: bytes) -> Remembered:
    return msgspec.structs.replace(_question.decode(record), number=number, vector=_full(vector))


def _half(vector: Vector) -> bytes:
    import numpy as np  # the command line reads comparisons without the packages that make vectors

    return bytes(np.frombuffer(vector, dtype="<f4").astype("<f2").tobytes())


def _full(vector: bytes) -> Vector:
    import numpy as np

    values = np.frombuffer(vector, dtype="<f2").astype("<f4")
    return bytes((values / np.linalg.norm(values)).astype("<f4").tobytes())


def selected(one: Remembered, selector: Selector) -> bool:
    """Whether the selector means this question."""
    return (
        (not selector.tag or selector.tag in one.tags)
        and (not selector.route or selector.route == one.route)
        and (not selector.model or fnmatchcase(one.model, selector.model))
        and one.key.startswith(selector.prefix)
        and (not selector.partition or selector.partition == one.caller)
        and (selector.before_ms is None or one.created_at_ms < selector.before_ms)
    )
