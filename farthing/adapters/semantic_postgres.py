"""The semantic cache's memory in PostgreSQL, shared by gateways on several hosts; pgvector finds neighbours."""

import array
import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal, TypeVar

import msgspec
import psycopg
from psycopg import sql

from farthing.adapters.postgres_schema import Connection, connect, store_error
from farthing.adapters.semantic_sqlite import COMPARISONS_MAX, TIDY_EVERY, selected
from farthing.core.errors import StoreUnavailable
from farthing.ports.cache import Selector
from farthing.ports.embed import Vector
from farthing.ports.semantic import Comparison, Nearest, Overview, Remembered

_LOG = logging.getLogger("farthing.semantic")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS semantic_questions (
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, partition text NOT NULL, key text NOT NULL,
  cluster text NOT NULL, compared boolean NOT NULL, created_at_ms bigint NOT NULL, expires_at_ms bigint NOT NULL,
  embedding vector NOT NULL, record bytea NOT NULL, UNIQUE (partition, key));
CREATE INDEX IF NOT EXISTS semantic_questions_new ON semantic_questions (partition, number);
CREATE INDEX IF NOT EXISTS semantic_questions_cluster ON semantic_questions (partition, cluster);
CREATE INDEX IF NOT EXISTS semantic_questions_expiry ON semantic_questions (expires_at_ms);
CREATE TABLE IF NOT EXISTS semantic_learned (
  family text PRIMARY KEY, updated_at_ms bigint NOT NULL, state bytea NOT NULL);
CREATE TABLE IF NOT EXISTS semantic_comparisons (
  id text PRIMARY KEY, at_ms bigint NOT NULL, wrong boolean NOT NULL, label text NOT NULL, record bytea NOT NULL);
CREATE INDEX IF NOT EXISTS semantic_comparisons_time ON semantic_comparisons (at_ms);
"""
_SCHEMA_LOCK: Final = 0x46545356
_INDEX_ABOVE: Final = 10_000
"""Questions of a partition from which comparing all of them costs more than walking a graph."""
_EF_SEARCH: Final = 96
_INSTALL: Final = "Install pgvector on the database server, or let its owner run: CREATE EXTENSION vector;"

_question = msgspec.msgpack.Decoder(Remembered)
_comparison = msgspec.msgpack.Decoder(Comparison)
_encode = msgspec.msgpack.Encoder().encode
_T = TypeVar("_T")


class PostgresSemantic:
    """``SemanticStore``, ``QuestionSearch`` and ``SemanticRecords`` over the database of the books."""

    def __init__(self, url: str, namespace: str, *, index_above: int = _INDEX_ABOVE) -> None:
        self._url = url
        self._namespace = namespace
        self._index_above = index_above
        self._thread: ThreadPoolExecutor | None = None
        self._db: Connection | None = None
        self._writes = 0
        self._indexed: set[str] = set()
        self._indexing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="semantic")
            await self._run(lambda db: None)

    async def close(self) -> None:
        if self._indexing:
            await asyncio.wait(list(self._indexing))
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._shut)
            thread.shutdown()

    # -- questions

    async def partition(self, partition: str, *, now_ms: int) -> Sequence[Remembered]:
        return await self.since(0, (partition,), now_ms=now_ms)

    async def since(self, number: int, partitions: Sequence[str], *, now_ms: int) -> Sequence[Remembered]:
        def read(db: Connection) -> list[Remembered]:
            rows = db.execute(
                "SELECT number, embedding::real[], record FROM semantic_questions"
                " WHERE number > %s AND expires_at_ms > %s AND partition = ANY(%s) ORDER BY number",
                (number, now_ms, list(partitions)),
            )
            return [_remembered(*row) for row in rows]

        return await self._run(read) if partitions else ()

    async def add(self, question: Remembered) -> int:
        record = _encode(msgspec.structs.replace(question, vector=b""))

        def write(db: Connection) -> int:
            self._tidy(db, question.created_at_ms)
            # In a partition, numbers are given in the order of commits: nobody who reads "since" misses one.
            db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (question.partition,))
            where = (question.partition, question.key)
            db.execute("DELETE FROM semantic_questions WHERE partition = %s AND key = %s", where)
            row = db.execute(
                "INSERT INTO semantic_questions (partition, key, cluster, compared, created_at_ms, expires_at_ms,"
                " embedding, record) VALUES (%s, %s, %s, %s, %s, %s, %s::real[]::vector, %s) RETURNING number",
                (
                    *where,
                    question.cluster,
                    question.compared,
                    question.created_at_ms,
                    question.expires_at_ms,
                    _numbers(question.vector),
                    record,
                ),
            ).fetchone()
            return int(str(row[0])) if row else 0

        return await self._run(lambda db: _transact(db, write))

    async def forget(self, selector: Selector) -> int:
        def write(db: Connection) -> int:
            rows = db.execute("SELECT number, '{}'::real[], record FROM semantic_questions")
            doomed = [one.number for one in (_remembered(*row) for row in rows) if selected(one, selector)]
            db.execute("DELETE FROM semantic_questions WHERE number = ANY(%s)", (doomed,))
            return len(doomed)

        return await self._run(lambda db: _transact(db, write))

    # -- search

    async def size(self, partition: str, *, now_ms: int) -> int:
        def read(db: Connection) -> int:
            row = db.execute(
                "SELECT count(*) FROM semantic_questions WHERE partition = %s AND expires_at_ms > %s",
                (partition, now_ms),
            ).fetchone()
            return int(str(row[0])) if row else 0

        found = await self._run(read)
        if found > self._index_above and partition not in self._indexed:
            self._indexed.add(partition)
            task = asyncio.get_running_loop().create_task(asyncio.to_thread(self._index, partition))
            self._indexing.add(task)
            task.add_done_callback(self._indexing.discard)
        return found

    async def near(self, partition: str, vector: Vector, count: int, *, now_ms: int) -> Sequence[Nearest]:
        def read(db: Connection) -> list[Nearest]:
            rows = db.execute(
                nearest(len(vector) // 4), (_numbers(vector), partition, now_ms, count, partition, now_ms)
            )
            found = [
                (_remembered(number, (), record), 1 - float(str(distance)), int(str(members)))
                for number, record, distance, members in rows
            ]
            found.sort(key=lambda one: (-one[1], one[0].number))
            return [Nearest(question=one, similarity=cosine, members=members) for one, cosine, members in found]

        return await self._run(read)

    # -- what was learned

    async def state(self, family: str) -> bytes | None:
        def read(db: Connection) -> bytes | None:
            row = db.execute("SELECT state FROM semantic_learned WHERE family = %s", (family,)).fetchone()
            return None if row is None else _bytes(row[0])

        return await self._run(read)

    async def keep(self, family: str, state: bytes, *, now_ms: int) -> None:
        def write(db: Connection) -> None:
            db.execute(
                "INSERT INTO semantic_learned VALUES (%s, %s, %s) ON CONFLICT (family)"
                " DO UPDATE SET updated_at_ms = excluded.updated_at_ms, state = excluded.state",
                (family, now_ms, state),
            )

        await self._run(write)

    async def note(self, comparison: Comparison) -> None:
        def write(db: Connection) -> None:
            db.execute(
                "INSERT INTO semantic_comparisons VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET"
                " at_ms = excluded.at_ms, wrong = excluded.wrong, label = excluded.label, record = excluded.record",
                (comparison.id, comparison.at_ms, comparison.wrong, comparison.label, _encode(comparison)),
            )

        await self._run(write)

    # -- for the command line

    def overview(self) -> Sequence[Overview]:
        rows = self._briefly(
            lambda db: db.execute(
                "SELECT family, updated_at_ms, state FROM semantic_learned ORDER BY family"
            ).fetchall()
        )
        return [
            Overview(family=str(family), updated_at_ms=int(str(at)), state=_bytes(state))
            for family, at, state in rows
        ]

    def comparisons(self, *, since_ms: int = 0, only_wrong: bool = False) -> Iterator[Comparison]:
        rows = self._briefly(
            lambda db: db.execute(
                "SELECT record, label FROM semantic_comparisons WHERE at_ms >= %s AND (wrong OR NOT %s)"
                " ORDER BY at_ms DESC, id",
                (since_ms, only_wrong),
            ).fetchall()
        )
        for record, label in rows:
            yield msgspec.structs.replace(_comparison.decode(_bytes(record)), label=str(label))

    def label(self, id: str, label: Literal["", "same", "different"]) -> bool:
        def write(db: Connection) -> bool:
            return db.execute("UPDATE semantic_comparisons SET label = %s WHERE id = %s", (label, id)).rowcount > 0

        return self._briefly(write)

    # -- inside

    async def _run(self, work: Callable[[Connection], _T]) -> _T:
        if self._thread is None:
            raise StoreUnavailable("The semantic cache's store is not open.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[Connection], _T]) -> _T:
        try:
            return work(self._open())
        except psycopg.Error as error:
            if self._db is not None and isinstance(error, psycopg.OperationalError):
                self._db.close()
            raise store_error(error) from error

    def _briefly(self, work: Callable[[Connection], _T]) -> _T:
        """With a connection of its own: the command line asks once and starts nothing."""
        try:
            with _opened(self._url, self._namespace) as db:
                return work(db)
        except psycopg.Error as error:
            raise store_error(error) from error

    def _open(self) -> Connection:
        if self._db is None or self._db.closed:
            self._db = _opened(self._url, self._namespace)
        return self._db

    def _index(self, partition: str) -> None:
        """A graph over one large partition, built beside the traffic; until it stands, every search compares all."""
        try:
            db = connect(self._url, self._namespace)
            try:
                _use_vectors(db, self._namespace)
                db.execute("SET statement_timeout = 0")
                _build_graph(db, partition)
            finally:
                db.close()
        except (psycopg.Error, StoreUnavailable) as error:
            self._indexed.discard(partition)
            _LOG.warning("a large partition of the semantic cache has no graph yet: %s", error)

    def _tidy(self, db: Connection, now_ms: int) -> None:
        self._writes += 1
        if self._writes % TIDY_EVERY == 0:
            db.execute("DELETE FROM semantic_questions WHERE expires_at_ms <= %s", (now_ms,))
            db.execute(
                "DELETE FROM semantic_comparisons WHERE label = '' AND id NOT IN"
                " (SELECT id FROM semantic_comparisons ORDER BY at_ms DESC LIMIT %s)",
                (COMPARISONS_MAX,),
            )

    def _shut(self) -> None:
        if self._db is not None:
            self._db.close()


def _opened(url: str, namespace: str) -> Connection:
    db = connect(url, namespace)
    try:
        _prepare(db, namespace)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: Connection, namespace: str) -> None:
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        db.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(namespace)))
        if _extension(db) is None:
            try:
                db.execute("CREATE EXTENSION vector SCHEMA public")
            except psycopg.Error as error:
                raise StoreUnavailable(f"PostgreSQL has no pgvector: {error}", hint=_INSTALL) from error
    _use_vectors(db, namespace)
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        db.execute(_SCHEMA.encode())


def _use_vectors(db: Connection, namespace: str) -> None:
    """The type stands in the schema where the extension was put, which need not be ours."""
    path = sql.SQL(", ").join([sql.Identifier(namespace), sql.Identifier(_extension(db) or "public")])
    db.execute(sql.SQL("SET search_path TO {}").format(path))
    db.execute("LOAD 'vector'")
    db.execute(f"SET hnsw.ef_search = {_EF_SEARCH}")


def _extension(db: Connection) -> str | None:
    row = db.execute(
        "SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace"
        " WHERE extname = 'vector'"
    ).fetchone()
    return None if row is None else str(row[0])


def _build_graph(db: Connection, partition: str) -> None:
    row = db.execute(
        "SELECT vector_dims(embedding) FROM semantic_questions WHERE partition = %s LIMIT 1", (partition,)
    ).fetchone()
    if row is None:
        return
    name = "semantic_graph_" + hashlib.sha256(partition.encode()).hexdigest()[:24]
    invalid = db.execute(
        "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
        " WHERE relname = %s AND NOT indisvalid AND relnamespace = current_schema()::regnamespace",
        (name,),
    ).fetchone()
    if invalid is not None:  # an earlier build was cut off
        db.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(name)))
    db.execute(
        sql.SQL(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS {} ON semantic_questions"
            " USING hnsw ((embedding::vector({})) vector_cosine_ops) WHERE partition = {}"
        ).format(sql.Identifier(name), sql.Literal(int(str(row[0]))), sql.Literal(partition))
    )


def nearest(dimensions: int) -> bytes:
    """Nearest questions with how many compared ones their clusters have. The partial index wants these very words."""
    return (
        f"WITH near AS (SELECT number, record, cluster, embedding::vector({dimensions}) <=> %s::real[]::vector"
        f"({dimensions}) AS distance FROM semantic_questions WHERE partition = %s AND expires_at_ms > %s"
        " ORDER BY distance LIMIT %s)"
        " SELECT number, record, distance, (SELECT count(*) FROM semantic_questions AS other"
        " WHERE other.partition = %s AND other.expires_at_ms > %s AND other.cluster = near.cluster"
        " AND other.compared) FROM near"
    ).encode()


def _transact(db: Connection, write: Callable[[Connection], _T]) -> _T:
    with db.transaction():
        return write(db)


def _remembered(number: object, vector: object, record: object) -> Remembered:
    values = array.array("f", vector if isinstance(vector, (list, tuple)) else ())
    return msgspec.structs.replace(_question.decode(_bytes(record)), number=int(str(number)), vector=values.tobytes())


def _numbers(vector: Vector) -> list[float]:
    values = array.array("f")
    values.frombytes(vector)
    return values.tolist()


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
