"""Answers in one SQLite file of their own, for any number of worker processes of one machine.

A cache is not a ledger: a commit does not wait for the disk, and a damaged file is put aside and begun anew. What was
committed survives a killed process; only a power cut may lose the last moments.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from farthing.core.caching import worth
from farthing.core.errors import StoreUnavailable
from farthing.ports.cache import CacheState, Selector, StoredAnswer

APPLICATION_ID: Final = 0x46544843
"""``FTHC`` in the file's header."""
VERSION: Final = 1
ENTRIES_MAX: Final = 100_000
BYTES_MAX: Final = 1024 * 1024 * 1024
BUSY_TIMEOUT_S: Final = 2.0
FORGETS_KEPT: Final = 1_000
PURGE_MS: Final = 250
"""Expired answers are deleted so often, when something is stored."""
_PAGE: Final = 128
_PURGE_PAGE: Final = 2_048
_Result = TypeVar("_Result")
_FAILURES: Final = (sqlite3.Error, OSError, msgspec.MsgspecError, ArithmeticError, LookupError, TypeError, ValueError)

_SCHEMA: Final = (
    """CREATE TABLE answers (
        key TEXT PRIMARY KEY, partition TEXT NOT NULL, route TEXT NOT NULL, model TEXT NOT NULL, tags TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL, cost_nusd INTEGER, size INTEGER NOT NULL,
        uses INTEGER NOT NULL, clock REAL NOT NULL, worth REAL NOT NULL, record BLOB NOT NULL)""",
    "CREATE INDEX answers_worth ON answers (worth)",
    "CREATE INDEX answers_expiry ON answers (expires_at_ms)",
    "CREATE TABLE totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL, clock REAL NOT NULL,"
    " stores INTEGER NOT NULL, evictions INTEGER NOT NULL, expired INTEGER NOT NULL, forgotten INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0, 0, 0.0, 0, 0, 0, 0)",
    "CREATE TRIGGER answers_in AFTER INSERT ON answers BEGIN"
    " UPDATE totals SET entries = entries + 1, bytes = bytes + new.size; END",
    "CREATE TRIGGER answers_out AFTER DELETE ON answers BEGIN"
    " UPDATE totals SET entries = entries - 1, bytes = bytes - old.size; END",
    "CREATE TABLE forgets (number INTEGER PRIMARY KEY AUTOINCREMENT, selector BLOB NOT NULL)",
    "CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, until_ms INTEGER NOT NULL)",
)
_record = msgspec.msgpack.Decoder(StoredAnswer)
_selector = msgspec.json.Decoder(Selector)


class SqliteCache:
    """``SharedCache`` over one file. ``claims`` off: no other process shares it, and nobody need be asked."""

    def __init__(
        self, path: Path, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX, claims: bool = True
    ) -> None:
        self._path = path
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._claims = claims
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._queue: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._busy = False
        self._purged_ms = 0

    async def start(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache")
            await self._run(lambda: self._open())

    def peek(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        return None

    async def get(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        def read() -> StoredAnswer | None:
            sql = "SELECT record FROM answers WHERE key = ? AND expires_at_ms > ?"
            row = self._open().execute(sql, (key, now_ms)).fetchone()
            return None if row is None else _record.decode(row[0])

        return await self._run(read)

    async def put(self, answer: StoredAnswer, *, now_ms: int) -> None:
        if answer.expires_at_ms > now_ms and answer.size <= self._bytes_max:
            await self._run(lambda: self._transact(lambda db: self._insert(db, answer, now_ms)))

    async def claim(self, key: str, *, owner: str, ttl_ms: int, now_ms: int) -> bool:
        if not self._claims:
            return True

        def take(db: sqlite3.Connection) -> bool:
            taken = db.execute(
                "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET owner = excluded.owner,"
                " until_ms = excluded.until_ms WHERE claims.owner = excluded.owner OR claims.until_ms <= ?",
                (key, owner, now_ms + ttl_ms, now_ms),
            )
            return taken.rowcount > 0

        return await self._run(lambda: self._transact(take))

    async def release(self, key: str, *, owner: str) -> None:
        if self._claims:
            sql = "DELETE FROM claims WHERE key = ? AND owner = ?"
            await self._run(lambda: self._transact(lambda db: db.execute(sql, (key, owner))))

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        def delete(db: sqlite3.Connection) -> int:
            where, values = _where(selector)
            count = db.execute(f"DELETE FROM answers WHERE {where}", values).rowcount
            db.execute("UPDATE totals SET forgotten = forgotten + ?", (count,))
            db.execute("INSERT INTO forgets (selector) VALUES (?)", (msgspec.json.encode(selector),))
            db.execute("DELETE FROM forgets WHERE number <= (SELECT max(number) FROM forgets) - ?", (FORGETS_KEPT,))
            return count

        return await self._run(lambda: self._transact(delete))

    async def answers(self, selector: Selector, *, limit: int, now_ms: int) -> tuple[StoredAnswer, ...]:
        where, values = _where(selector)
        sql = (
            f"SELECT record FROM answers WHERE {where} AND expires_at_ms > ? ORDER BY created_at_ms DESC, key LIMIT ?"
        )

        def read() -> tuple[StoredAnswer, ...]:
            return tuple(_record.decode(row[0]) for row in self._open().execute(sql, (*values, now_ms, limit)))

        return await self._run(read)

    async def state(self) -> CacheState:
        sql = "SELECT entries, bytes, stores, evictions, expired, forgotten FROM totals"
        row = await self._run(lambda: self._open().execute(sql).fetchone())
        names = ("entries", "bytes", "stores", "evictions", "expired", "forgotten")
        return CacheState(kind="sqlite", **dict(zip(names, row, strict=True)))

    async def touch(self, uses: Mapping[str, int], *, now_ms: int) -> None:
        def count(db: sqlite3.Connection) -> None:
            clock = _clock(db)
            for key, times in uses.items():
                sql = "SELECT cost_nusd, uses, size FROM answers WHERE key = ?"
                row = db.execute(sql, (key,)).fetchone()
                if row is not None:
                    value = worth(clock, cost=row[0], uses=row[1] + times, size=row[2])
                    change = "UPDATE answers SET uses = uses + ?, clock = ?, worth = ? WHERE key = ?"
                    db.execute(change, (times, clock, value, key))

        if uses:
            await self._run(lambda: self._transact(count))

    async def forgotten(self, after: int) -> tuple[int, tuple[Selector, ...] | None]:
        def read() -> tuple[int, tuple[Selector, ...] | None]:
            sql = "SELECT number, selector FROM forgets WHERE number > ? ORDER BY number"
            rows = self._open().execute(sql, (after,)).fetchall()
            if not rows:
                return after, ()
            complete = rows[0][0] == after + 1
            return rows[-1][0], tuple(_selector.decode(row[1]) for row in rows) if complete else None

        return await self._run(read)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown()

    # -- in the thread

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self._db = _connect(self._path)
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorname", "") not in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                    raise
                self._path.replace(self._path.with_name(self._path.name + ".damaged"))
                self._db = _connect(self._path)
        return self._db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _transact(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """One act: all of it or nothing. It is committed with the batch that it came in."""
        db = self._open()
        if not db.in_transaction:
            db.execute("BEGIN IMMEDIATE")
        db.execute("SAVEPOINT act")
        try:
            result = work(db)
        except BaseException:
            db.execute("ROLLBACK TO act")
            db.execute("RELEASE act")
            raise
        db.execute("RELEASE act")
        return result

    def _insert(self, db: sqlite3.Connection, answer: StoredAnswer, now_ms: int) -> None:
        expired = 0
        if now_ms >= self._purged_ms + PURGE_MS or now_ms < self._purged_ms:
            self._purged_ms = now_ms
            purge = "DELETE FROM answers WHERE key IN (SELECT key FROM answers WHERE expires_at_ms <= ? LIMIT ?)"
            expired = db.execute(purge, (now_ms, _PURGE_PAGE)).rowcount
        db.execute("DELETE FROM answers WHERE key = ?", (answer.key,))
        clock = _clock(db)
        value = worth(clock, cost=answer.charge, uses=1, size=answer.size)
        db.execute(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?)",
            (
                answer.key, answer.partition, answer.route, answer.target.model,
                msgspec.json.encode(answer.tags).decode(), answer.created_at_ms, answer.expires_at_ms, answer.charge,
                answer.size, clock, value, msgspec.msgpack.encode(answer),
            ),
        )  # fmt: skip
        evicted, clock = self._evict(db, clock)
        db.execute(
            "UPDATE totals SET stores = stores + 1, expired = expired + ?, evictions = evictions + ?, clock = ?",
            (expired, evicted, clock),
        )

    def _evict(self, db: sqlite3.Connection, clock: float) -> tuple[int, float]:
        """Deletes what is worth least until the bounds hold; (how many, the worth of the last)."""
        count = 0
        while True:
            entries, size = db.execute("SELECT entries, bytes FROM totals").fetchone()
            if entries <= self._entries_max and size <= self._bytes_max:
                return count, clock
            rows = db.execute("SELECT key, size, worth FROM answers ORDER BY worth, key LIMIT ?", (_PAGE,)).fetchall()
            for key, freed, value in rows:
                if entries <= self._entries_max and size <= self._bytes_max:
                    break
                db.execute("DELETE FROM answers WHERE key = ?", (key,))
                entries, size, count, clock = entries - 1, size - freed, count + 1, max(clock, value)

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        """Does ``work`` in the thread; what is asked at the same time goes there, and to the disk, together."""
        if self._thread is None:
            raise StoreUnavailable(f"The cache {self._path} is not open.", hint="Call start() first.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Result] = loop.create_future()
        with self._lock:
            self._queue.append((work, future))
            idle, self._busy = not self._busy, True
        if idle:
            self._thread.submit(self._drain, loop)
        return await future

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._lock:
                batch, self._queue = self._queue, []
                self._busy = bool(batch)
            if not batch:
                return
            done = [(future, self._guarded(work)) for work, future in batch]
            failure = self._commit()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_tell, done, failure)

    def _guarded(self, work: Callable[[], object]) -> "_Outcome":
        try:
            return _Outcome(work())
        except _FAILURES as error:  # whoever waits gets it
            return _Outcome(None, self._named(error))

    def _commit(self) -> Exception | None:
        """Ends the transaction that the batch began, if any did; a failure is that of every act of the batch."""
        try:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("ROLLBACK")
            return self._named(error)
        return None

    def _named(self, error: Exception) -> Exception:
        if not isinstance(error, sqlite3.Error | OSError | msgspec.MsgspecError):
            return error
        return StoreUnavailable(
            f"The cache {self._path} cannot be used: {error}.",
            hint="It may be deleted while no gateway runs: it holds nothing but answers to save calls.",
        )


class _Outcome(NamedTuple):
    result: object
    error: Exception | None = None


def _tell(done: "list[tuple[asyncio.Future[Any], _Outcome]]", failure: Exception | None) -> None:
    for future, outcome in done:
        if future.done():
            continue
        error = outcome.error or failure
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(outcome.result)


def _clock(db: sqlite3.Connection) -> float:
    (clock,) = db.execute("SELECT clock FROM totals").fetchone()
    return float(clock)


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if (application, version) != (APPLICATION_ID, VERSION):
            _begin_anew(db)
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _begin_anew(db: sqlite3.Connection) -> None:
    """An empty cache: new, or of another release, whose answers are not worth a migration."""
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for (name,) in db.execute(tables).fetchall():
        db.execute(f'DROP TABLE "{name}"')
    for statement in _SCHEMA:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def _where(selector: Selector) -> tuple[str, list[object]]:
    parts, values = ["1"], list[object]()
    for given, sql, value in (
        (selector.tag, "EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)", selector.tag),
        (selector.route, "route = ?", selector.route),
        (selector.model, "model GLOB ?", selector.model),
        (selector.prefix, "instr(key, ?) = 1", selector.prefix),
        (selector.partition, "partition = ?", selector.partition),
        (selector.before_ms is not None, "created_at_ms < ?", selector.before_ms),
    ):
        if given:
            parts.append(sql)
            values.append(value)
    return " AND ".join(parts), values
