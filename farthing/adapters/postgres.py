"""The ledger in PostgreSQL: reading it, its virtual keys, importing into it. Blocking."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import psycopg

from farthing.adapters.ledger_query import MEASURES, check_query
from farthing.adapters.memory import CounterKey
from farthing.adapters.postgres_rows import (
    INSERT_ENTRIES,
    INSERT_EXCHANGES,
    SEQ_ENTRY_SELECT,
    entry_of,
    entry_to_json,
    exchange_to_json,
)
from farthing.adapters.postgres_schema import Connection, connect, expand, store_error
from farthing.adapters.sqlite_rows import RESERVATION_COLUMNS, exchange_from_body, quoted, reservation_from_row
from farthing.core.dimensions import TIME_DIMENSIONS
from farthing.core.errors import Conflict, NotFound, StoreUnavailable
from farthing.core.types import Exchange, KeyRecord, LedgerEntry, LedgerQuery, Reservation, Totals
from farthing.ports.books import Balance

PAGE: Final = 500
IMPORT_PAGE: Final = 500
REPORT_TIMEOUT_MS: Final = 600_000
"""For sums over the whole ledger, which no call waits for."""

STALE_S: Final = 1.0
"""A key added or revoked elsewhere is noticed after this at the latest."""

_AT: Final = "to_timestamp(received_at_ms / 1000) AT TIME ZONE 'UTC'"
_TIMES: Final = {
    "hour": f"""to_char({_AT}, 'YYYY-MM-DD"T"HH24')""",
    "day": f"to_char({_AT}, 'YYYY-MM-DD')",
    "week": f"""to_char({_AT}, 'IYYY-"W"IW')""",
    "month": f"to_char({_AT}, 'YYYY-MM')",
}
_SUMMED: Final = {
    "entries": "1",
    "amount": "amount_nusd",
    "baseline": "CASE WHEN amount_nusd IS NOT NULL THEN baseline_nusd END",
    "unpriced": "(amount_nusd IS NULL)::int - (reason = 'was_unpriced')::int",
    "estimated": "(source <> 'reported')::int",
    "estimated_amount": "CASE WHEN source <> 'reported' THEN amount_nusd END",
    "errors": "(error <> '')::int",
}
_encode = msgspec.json.Encoder().encode
_key = msgspec.json.Decoder(KeyRecord)


class PostgresLedger:
    """``Ledger`` over one connection; any thread may ask, one at a time is served. Raises ``StoreUnavailable``."""

    def __init__(self, url: str, namespace: str, *, keep: bool = False) -> None:
        """``keep``: one connection for all questions, closed by ``close``; else one for each."""
        self._url = url
        self._namespace = namespace
        self._keep = keep
        self._lock = threading.RLock()
        self._connection: Connection | None = None

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        statement, parameters = compile_totals(query)
        with self._using() as connection, connection.transaction():
            connection.execute(f"SET LOCAL statement_timeout = {REPORT_TIMEOUT_MS}".encode())
            rows = connection.execute(statement.encode(), parameters).fetchall()
        width = len(query.group_by)
        return tuple(_totals(row, width) for row in rows)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        seq = self._start("entries", "id", after, since_ms)
        where = "seq > %s AND received_at_ms >= %s" + (" AND request_id = %s" if request_id else "")
        statement = f"{SEQ_ENTRY_SELECT} WHERE {where} ORDER BY seq LIMIT {PAGE}"
        while True:
            with self._using() as connection:
                told = (seq, since_ms, *([request_id] if request_id else []))
                rows = connection.execute(statement.encode(), told).fetchall()
            for row in rows:
                yield entry_of(row[1:])
            if len(rows) < PAGE:
                return
            seq = int(str(rows[-1][0]))

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        seq = self._start("exchanges", "request_id", after, since_ms)
        while True:
            with self._using() as connection:
                rows = connection.execute(
                    "SELECT seq, body::text FROM exchanges WHERE seq > %s AND received_at_ms >= %s"
                    f" ORDER BY seq LIMIT {PAGE}".encode(),
                    (seq, since_ms),
                ).fetchall()
            for row in rows:
                yield exchange_from_body(str(row[1]).encode())
            if len(rows) < PAGE:
                return
            seq = int(str(rows[-1][0]))

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """Counters as the database has them: what is booked, and what lasting calls in flight hold."""
        posted = self.posted(counters)
        wanted = set(counters)
        held: dict[CounterKey, int] = {}
        for reservation in self.reservations(without=()):
            for hold in reservation.holds:
                if (hold.counter, hold.window) in wanted:
                    key = (hold.counter, hold.window, hold.unit)
                    held[key] = held.get(key, 0) + hold.amount
        found = [
            Balance(counter=key[0], window=key[1], unit=key[2], posted=posted.get(key, 0), held=held.get(key, 0))
            for key in sorted(posted.keys() | held.keys())
        ]
        return tuple(balance for balance in found if balance.posted or balance.held)

    def posted(self, counters: Sequence[tuple[str, str]]) -> dict[CounterKey, int]:
        """What is booked on these counters and windows, by unit."""
        if not counters:
            return {}
        columns = [list(column) for column in zip(*sorted(set(counters)), strict=True)]
        with self._using() as connection:
            rows = connection.execute(
                'SELECT counter, "window", unit, posted FROM counters'
                ' WHERE (counter, "window") IN (SELECT unnest(%s::text[]), unnest(%s::text[]))',
                columns,
            ).fetchall()
        return {(str(row[0]), str(row[1]), str(row[2])): int(str(row[3])) for row in rows}

    def reservations(self, *, without: Sequence[str]) -> tuple[Reservation, ...]:
        """Lasting calls in flight of all workers but these."""
        with self._using() as connection:
            rows = connection.execute(
                f"SELECT {quoted(RESERVATION_COLUMNS)} FROM reservations WHERE worker <> ALL(%s)".encode(),
                (list(without),),
            ).fetchall()
        return tuple(reservation_from_row(row) for row in rows)

    def facts(self) -> dict[str, str]:
        """What people want to know of the store: versions, workers, conflicts."""
        with self._using() as connection:
            row = connection.execute(
                "SELECT current_setting('server_version'), (SELECT count(*) FROM workers WHERE NOT lost),"
                " (SELECT count(*) FROM workers WHERE lost), (SELECT count(*) FROM conflicts),"
                " (SELECT expanded || '/' || contracted FROM farthing_schema),"
                " (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
            ).fetchone()
        assert row is not None
        names = ("version", "workers", "workers_lost", "conflicts", "schema", "now_ms")
        return dict(zip(names, map(str, row), strict=True))

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _start(self, table: str, id_column: str, after: str, since_ms: int) -> int:
        """The ``seq`` to continue after. Raises ``NotFound`` when ``after`` is unknown."""
        with self._using() as connection:
            if after:
                row = connection.execute(
                    f"SELECT seq FROM {table} WHERE {id_column} = %s".encode(), (after,)
                ).fetchone()
                if row is None:
                    raise NotFound(
                        f"There is no record {after!r} to continue after.", hint="Start again from the beginning."
                    )
                return int(str(row[0]))
        return 0

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._url, self._namespace)
                yield self._connection
            except psycopg.Error as error:
                if self._connection is not None and isinstance(error, psycopg.OperationalError):
                    self._connection.close()
                raise store_error(error) from error
            finally:
                if not self._keep:
                    self.close()


class PostgresKeys:
    """``Keys``; answers from memory, refreshed from the database by whoever asks once it is older than a second."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._namespace = namespace
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._by_hash: dict[str, KeyRecord] = {}
        self._version = -1
        self._fresh_until = 0.0
        self._refreshing = False
        with self._using() as connection:
            expand(connection, namespace)
        self._refresh()

    def find(self, secret_hash: str) -> KeyRecord | None:
        """The key with this hash, revoked ones included. Never waits for the database: a thread refreshes."""
        if time.monotonic() >= self._fresh_until and not self._refreshing:
            self._refreshing = True
            threading.Thread(target=self._refresh_quietly, name="farthing-keys", daemon=True).start()
        return self._by_hash.get(secret_hash)

    def all(self) -> tuple[KeyRecord, ...]:
        self._refresh()
        return tuple(sorted(self._by_hash.values(), key=lambda record: (record.created_at_ms, record.id)))

    def add(self, record: KeyRecord) -> None:
        """Raises ``Conflict`` when the id or the hash exists."""
        row = (record.id, record.hash, record.name, record.hint, record.created_at_ms, record.revoked_at_ms)
        try:
            self._change("INSERT INTO keys VALUES (%s, %s, %s, %s, %s, %s, %s)", (*row, _encode(record).decode()))
        except psycopg.errors.UniqueViolation as error:
            raise Conflict(f"Key {record.id} exists already.", hint="Choose another id.") from error

    def revoke(self, key_id: str, *, at_ms: int) -> bool:
        """False when there is no such key or it is revoked already."""
        record = next((record for record in self.all() if record.id == key_id), None)
        if record is None or record.revoked_at_ms is not None:
            return False
        revoked = msgspec.structs.replace(record, revoked_at_ms=at_ms)
        statement = "UPDATE keys SET revoked_at_ms = %s, record = %s WHERE id = %s AND revoked_at_ms IS NULL"
        return self._change(statement, (at_ms, _encode(revoked).decode(), key_id)) == 1

    def __del__(self) -> None:
        """A gateway keeps its keys until it ends."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _change(self, statement: str, parameters: tuple[object, ...]) -> int:
        with self._using() as connection, connection.transaction():
            changed = connection.execute(statement.encode(), parameters).rowcount
            connection.execute("UPDATE changes SET version = version + 1 WHERE name = 'keys'")
        self._refresh()
        return changed

    def _refresh_quietly(self) -> None:
        try:
            self._refresh()
        except StoreUnavailable:
            self._fresh_until = time.monotonic() + STALE_S  # what is known stays in force while the database is away
        finally:
            self._refreshing = False

    def _refresh(self) -> None:
        with self._using() as connection:
            row = connection.execute("SELECT version FROM changes WHERE name = 'keys'").fetchone()
            assert row is not None
            if row[0] != self._version:
                rows = connection.execute("SELECT hash, record FROM keys").fetchall()
                self._by_hash = {str(one[0]): _key.decode(str(one[1])) for one in rows}
                self._version = int(str(row[0]))
            self._fresh_until = time.monotonic() + STALE_S

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._url, self._namespace)
                yield self._connection
            except psycopg.errors.UniqueViolation:
                raise
            except psycopg.Error as error:
                if self._connection is not None and isinstance(error, psycopg.OperationalError):
                    self._connection.close()
                raise store_error(error) from error


class PostgresImporter:
    """``Importer``: one transaction for all of it."""

    def __init__(self, url: str, namespace: str) -> None:
        self._connection = connect(url, namespace)
        expand(self._connection, namespace)

    def import_batch(self, entries: Iterable[LedgerEntry], exchanges: Iterable[Exchange]) -> tuple[int, int]:
        seen = new = 0
        try:
            with self._connection.transaction():
                for page in _pages(map(entry_to_json, entries)):
                    seen += len(page)
                    new += len(self._connection.execute(INSERT_ENTRIES, (_array(page),)).fetchall())
                for page in _pages(map(exchange_to_json, exchanges)):
                    self._connection.execute(INSERT_EXCHANGES, (_array(page),))
        except psycopg.Error as error:
            raise store_error(error) from error
        return new, seen - new

    def close(self) -> None:
        self._connection.close()


def compile_totals(query: LedgerQuery) -> tuple[str, list[object]]:
    """The SELECT for a query and its parameters: the only place where a ``LedgerQuery`` becomes PostgreSQL's SQL."""
    check_query(query)
    groups = [_expression(name) for name in query.group_by]
    parameters: list[object] = [value for _, values in groups for value in values]
    conditions = []
    for name, value in query.where:
        statement, values = _expression(name)
        conditions.append(f"{statement} = %s")
        parameters += [*values, value]
    for operator, bound in ((">=", query.since_ms), ("<", query.until_ms)):
        if bound is not None:
            conditions.append(f"received_at_ms {operator} %s")
            parameters.append(bound)
    sums = [f"coalesce(sum(({_SUMMED.get(name, name)})::numeric), 0)" for name in MEASURES]
    names = [f"g{number}" for number in range(len(groups))]
    columns = [f'({statement}) COLLATE "C" AS {name}' for (statement, _), name in zip(groups, names, strict=True)]
    select = ", ".join([*columns, "count(DISTINCT request_id)", *sums])
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = f" GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}" if names else ""
    return f"SELECT {select} FROM entries{where}{order}", parameters


def condition(query: LedgerQuery) -> tuple[str, list[object]]:
    """``AND …`` for the filters and the period of a query, with its parameters."""
    parts, parameters = [""], []
    for name, value in query.where:
        statement, values = _expression(name)
        parts.append(f"{statement} = %s")
        parameters += [*values, value]
    for operator, bound in ((">=", query.since_ms), ("<", query.until_ms)):
        if bound is not None:
            parts.append(f"received_at_ms + 0 {operator} %s")  # the order of booking decides, not the index on time
            parameters.append(bound)
    return " AND ".join(parts), parameters


def _expression(name: str) -> tuple[str, list[object]]:
    if name.startswith("tag:"):
        return "coalesce(tags ->> %s, '')", [name[4:]]
    if name in TIME_DIMENSIONS:
        return _TIMES[name], []
    return ("status::text" if name == "status" else f'"{name}"'), []


def _totals(row: Sequence[object], width: int) -> Totals:
    group = tuple(str(cell) for cell in row[:width])
    sums = [int(str(cell)) for cell in row[width + 1 :]]
    return Totals(group=group, requests=int(str(row[width])), **dict(zip(MEASURES, sums, strict=True)))


def _pages(rows: Iterable[bytes]) -> Iterator[list[bytes]]:
    page: list[bytes] = []
    for row in rows:
        page.append(row)
        if len(page) == IMPORT_PAGE:
            yield page
            page = []
    if page:
        yield page


def _array(rows: Iterable[bytes]) -> str:
    return (b"[" + b",".join(rows) + b"]").decode()
