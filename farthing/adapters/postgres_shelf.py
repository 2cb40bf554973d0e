"""Writing the ledger in PostgreSQL: shipping a worker's journal, calls in flight, workers that died. Blocking.

One transaction a batch of settlements: entries, traffic log, counters, ended reservations and how far the journal is
shipped. A batch that is shipped twice books once.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import psycopg

from farthing.adapters.journal import Post, Record
from farthing.adapters.leases import GRACE, LEASE_S, Posted
from farthing.adapters.memory import CounterKey, counter_key
from farthing.adapters.postgres_rows import (
    BIG_ENTRY_SELECT,
    INSERT_ENTRIES,
    INSERT_EXCHANGES,
    entry_of,
    entry_to_json,
    ship_statement,
)
from farthing.adapters.postgres_schema import Connection, JsonText, connect, contract, expand, migrations, store_error
from farthing.adapters.sqlite_rows import (
    RESERVATION_COLUMNS,
    WORKER_LOST,
    Row,
    lost_entry,
    lost_reversal,
    quoted,
    reservation_from_row,
)
from farthing.core.errors import StoreUnavailable
from farthing.core.types import LedgerEntry, Reservation

_log: Final = logging.getLogger("farthing.books")

_UPSERT_COUNTERS: Final = """
    INSERT INTO counters (counter, "window", unit, posted, version, ends_at_ms)
    SELECT * FROM (SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]), unnest(%s::numeric[]), 1,
        unnest(%s::bigint[])) AS added
    ON CONFLICT (counter, "window", unit) DO UPDATE SET posted = counters.posted + excluded.posted,
        version = counters.version + 1, ends_at_ms = excluded.ends_at_ms
"""
_LOWER_LEASES: Final = """
    UPDATE leases SET authority = greatest(0, authority - added.amount)
    FROM (SELECT unnest(%s::text[]) AS c, unnest(%s::text[]) AS w, unnest(%s::text[]) AS u,
        unnest(%s::numeric[]) AS amount) AS added
    WHERE counter = added.c AND "window" = added.w AND unit = added.u AND worker = %s
"""
_SELECT_COUNTERS: Final = """
    SELECT counter, "window", unit, posted, version, ends_at_ms FROM counters
    WHERE (counter, "window", unit) IN (SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]))
"""
_INSERT_RESERVATIONS: Final = (
    f"INSERT INTO reservations ({quoted(RESERVATION_COLUMNS)}) VALUES"
    f" ({', '.join(['%s'] * len(RESERVATION_COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)
_FIND_WORKER: Final = "SELECT shipped, lost FROM workers WHERE worker = %s FOR UPDATE"


Added = tuple[dict[CounterKey, int], dict[CounterKey, int]]
"""What is added to each counter, and when each ends."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of a settlement that came late."""

    entries: dict[str, LedgerEntry]
    lost: LedgerEntry | None
    """The estimate that was booked because its worker was thought dead."""
    reversed: bool
    reservation: Reservation | None


class Shelf:
    """The ledger's writer for one worker. Any thread may call; one at a time is served."""

    def __init__(self, url: str, namespace: str, worker: str, *, leases: bool = False) -> None:
        """``leases``: they are in this database too, and go down as the counters go up."""
        self.worker = worker
        self._leases = leases
        self._url = url
        self._namespace = namespace
        self.lock = threading.RLock()
        """Held while a batch is shipped."""
        self._connection: Connection | None = None
        self._shipped: int | None = None
        """How far this worker's journal is known to be shipped; None: ask."""
        self._statement = ship_statement(leases=leases)
        self._last_beat: float | None = None
        self._steady_since: float | None = None

    def start(self) -> None:
        """Make or upgrade the schema and register this worker."""
        with self._using() as connection:
            expand(connection, self._namespace)
            self._register(connection)

    def ship(
        self,
        records: Sequence[Record],
        *,
        begun: Sequence[Row] = (),
        ended: Sequence[str] = (),
        added: Added | None = None,
    ) -> Sequence[Posted]:
        """Book these records of this worker's journal; the counters they touched, as they are now.

        ``begun`` are rows of calls in flight, ``ended`` ids of reservations whose rows go, ``added`` is what the
        records add, where that is known.
        """
        with self._using() as connection:
            found = self._ship_quickly(connection, records, begun, ended, added or sums_of(records))
            if found is not None:
                return found
            try:
                with connection.transaction():
                    posts = self._ship(connection, self.worker, records)
                    self._note_flights(connection, begun, ended)
                    return self._posted(connection, posts)
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                if len(records) == 1:
                    return self._set_aside(connection, records[0], error)
        newest: dict[CounterKey, Posted] = {}
        for record in records:
            newest |= {one.key: one for one in self.ship([record])}
        self.ship([], begun=begun, ended=ended)
        return list(newest.values())

    def _ship_quickly(
        self,
        connection: Connection,
        records: Sequence[Record],
        begun: Sequence[Row],
        ended: Sequence[str],
        added: Added,
    ) -> Sequence[Posted] | None:
        """Book these records with one statement, when none is booked and no id is taken; None: go the long way."""
        if not records or self._shipped is None or records[0].seq <= self._shipped:
            return None
        sums, ends = added
        entries = [row for record in records for row in record.entries]
        told = {
            "worker": self.worker,
            "before": self._shipped,
            "after": records[-1].seq,
            "entries": _array(entries),
            "exchanges": _array(row for record in records for row in record.exchanges),
            "posts": JsonText(_encode([_Sum(*key, amount, ends[key]) for key, amount in sums.items()])),
            "count": len(entries),
        }
        shipped, self._shipped = self._shipped, None
        try:
            if begun or ended:
                with connection.transaction():
                    row = connection.execute(self._statement, told).fetchone()
                    self._note_flights(connection, begun, ended)
            else:
                row = connection.execute(self._statement, told).fetchone()
        except (psycopg.DataError, psycopg.IntegrityError):
            return None
        assert row is not None
        self._shipped = max(shipped, records[-1].seq)
        return _counters_in(str(row[0]))

    def _note_flights(self, connection: Connection, begun: Sequence[Row], ended: Sequence[str]) -> None:
        if begun:
            connection.cursor().executemany(_INSERT_RESERVATIONS, begun)
        if ended:
            connection.execute("DELETE FROM reservations WHERE id = ANY(%s)", (list(ended),))

    def find(self, entry_ids: Sequence[str], reservation_id: str) -> Found:
        """What is booked already."""
        ids = [*entry_ids, reservation_id, f"{reservation_id}:reversal", *(f"{one}:late" for one in entry_ids)]
        with self._using() as connection:
            rows = connection.execute(f"{BIG_ENTRY_SELECT} WHERE id = ANY(%s)", (ids,)).fetchall()
            row = connection.execute(
                f"SELECT {quoted(RESERVATION_COLUMNS)} FROM reservations WHERE id = %s", (reservation_id,)
            ).fetchone()
        booked = {entry.id: entry for entry in map(entry_of, rows)}
        lost = booked.get(reservation_id)
        entries = {}
        for one in entry_ids:
            late = booked.get(f"{one}:late")
            if late is not None:
                entries[one] = msgspec.structs.replace(late, id=one)
            elif one in booked and booked[one].error != WORKER_LOST:
                entries[one] = booked[one]
        return Found(
            entries=entries,
            lost=lost if lost is not None and lost.error == WORKER_LOST else None,
            reversed=f"{reservation_id}:reversal" in booked,
            reservation=None if row is None else reservation_from_row(row),
        )

    def posted(self, keys: Iterable[CounterKey]) -> Sequence[Posted]:
        """These counters as they are now."""
        with self._using() as connection:
            return self._posted(connection, keys)

    def counters(self, *, now_ms: int) -> Iterator[Posted]:
        """All counters that still count, for a rebuild."""
        after: CounterKey = ("", "", "")
        while True:
            with self._using() as connection:
                rows = connection.execute(
                    'SELECT counter, "window", unit, posted, version, ends_at_ms FROM counters'
                    ' WHERE (counter, "window", unit) > (%s, %s, %s) AND (ends_at_ms = 0 OR ends_at_ms > %s)'
                    ' ORDER BY counter, "window", unit LIMIT 5000',
                    (*after, now_ms),
                ).fetchall()
            page = [_posted(row) for row in rows]
            yield from page
            if len(page) < 5000:
                return
            after = page[-1].key

    def living(self) -> Sequence[str]:
        """Workers that are not known to be dead, this one excluded."""
        with self._using() as connection:
            rows = connection.execute(
                "SELECT worker FROM workers WHERE NOT lost AND worker <> %s", (self.worker,)
            ).fetchall()
        return [str(row[0]) for row in rows]

    def beat(self, *, rejoin: bool = False) -> Sequence[str]:
        """I live; ``rejoin``: and I have declared what I use, in case I was thought dead.

        Workers that have been silent for too long; nobody is, just after the database was away.
        """
        now = time.monotonic()
        with self._using() as connection:
            self._register(connection)
            if rejoin:
                connection.execute("UPDATE workers SET lost = false WHERE worker = %s AND lost", (self.worker,))
            contract(connection)
            rows = connection.execute(
                "SELECT worker FROM workers WHERE NOT lost"
                " AND seen_at < clock_timestamp() - %s * interval '1 second'",
                (LEASE_S * GRACE,),
            ).fetchall()
        if self._last_beat is None or now - self._last_beat > LEASE_S or self._steady_since is None:
            self._steady_since = now
        self._last_beat = now
        return [] if now - self._steady_since < LEASE_S * GRACE else [str(row[0]) for row in rows]

    def bury(
        self,
        worker: str,
        records: Sequence[Record],
        holds: Sequence[Row],
        *,
        book: bool,
        leased: Iterable[CounterKey],
    ) -> Sequence[Posted]:
        """Book what a dead worker left: its journal, and its calls in flight at their ceiling.

        The counters touched, and those of ``leased``, as they are now. May be repeated.
        """
        now_ms = time.time_ns() // 1_000_000
        with self._using() as connection, connection.transaction():
            row = connection.execute(_FIND_WORKER, (worker,)).fetchone()
            if row is None:
                connection.execute("INSERT INTO workers VALUES (%s, 0, 0, false)", (worker,))
            keys = set(leased) | set(self._ship(connection, worker, records))
            rows = connection.execute(
                f"DELETE FROM reservations WHERE worker = %s RETURNING {quoted(RESERVATION_COLUMNS)}", (worker,)
            ).fetchall()
            if row is None or not row[1]:
                keys |= self._book_lost(connection, [*rows, *holds], records, now_ms) if book else set()
            connection.execute("UPDATE workers SET lost = true WHERE worker = %s", (worker,))
            connection.execute("DELETE FROM leases WHERE worker = %s", (worker,))
            return self._posted(connection, keys)

    def forget(self, worker: str) -> None:
        """The worker is dead and buried, or has left with nothing in flight."""
        with self._using() as connection:
            connection.execute("DELETE FROM workers WHERE worker = %s", (worker,))

    def prune(self, before_ms: int, page: int) -> int:
        """Delete some exchanges received before ``before_ms``; imported ones stay."""
        with self._using() as connection:
            return connection.execute(
                "DELETE FROM exchanges WHERE seq IN (SELECT seq FROM exchanges"
                " WHERE received_at_ms < %s AND request_id NOT LIKE 'imp-%%' LIMIT %s)",
                (before_ms, page),
            ).rowcount

    def close(self) -> None:
        """Close the connection."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        with self.lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._url, self._namespace)
                yield self._connection
            except psycopg.Error as error:
                if self._connection is not None and isinstance(error, psycopg.OperationalError):
                    self._connection.close()
                raise store_error(error) from error

    def _register(self, connection: Connection) -> None:
        connection.execute(
            "INSERT INTO workers VALUES (%s, %s, 0, false) ON CONFLICT (worker) DO UPDATE SET"
            " seen_at = clock_timestamp()",
            (self.worker, len(migrations())),
        )

    def _ship(self, connection: Connection, worker: str, records: Sequence[Record]) -> Iterable[CounterKey]:
        """Book what is not booked of these records; the counters they touch."""
        if not records:
            return ()
        keys = {(post.counter, post.window, post.unit) for record in records for post in record.posts}
        row = connection.execute(_FIND_WORKER, (worker,)).fetchone()
        if row is None:
            raise StoreUnavailable(f"Worker {worker} is not registered.", hint="It registers again by itself.")
        shipped = int(str(row[0]))
        fresh = [record for record in records if record.seq > shipped]
        if worker == self.worker:
            self._shipped = max(shipped, records[-1].seq)
        if fresh:
            adjusted = self._insert_entries(connection, worker, fresh)
            exchanges = [row for record in fresh for row in record.exchanges]
            if exchanges:
                connection.execute(INSERT_EXCHANGES, (_array(exchanges),))
            self._add(connection, (post for record in adjusted for post in record.posts))
            if self._leases:
                self._lower(connection, worker, (post for record in fresh for post in record.posts))
            connection.execute("UPDATE workers SET shipped = %s WHERE worker = %s", (fresh[-1].seq, worker))
        return keys

    def _insert_entries(self, connection: Connection, worker: str, records: Sequence[Record]) -> Sequence[Record]:
        """Insert; ids that are taken are looked at one by one. The records with what they really add."""
        rows = [row for record in records for row in record.entries]
        if not rows:
            return records
        new = {str(row[0]) for row in connection.execute(INSERT_ENTRIES, (_array(rows),)).fetchall()}
        if len(new) == len(rows):
            return records
        return [self._collided(connection, worker, record, new) for record in records]

    def _collided(self, connection: Connection, worker: str, record: Record, new: set[str]) -> Record:
        taken = [(one, row) for one, row in zip(record.ids, record.entries, strict=True) if one not in new]
        if not taken:
            return record
        ids = [one for one, _ in taken]
        found = connection.execute(f"{BIG_ENTRY_SELECT} WHERE id = ANY(%s)", (ids,)).fetchall()
        booked = {entry.id: entry for entry in map(entry_of, found)}
        for one, row in taken:
            if booked[one].error == WORKER_LOST:
                record = self._set_right(connection, record, booked[one], row)
            elif entry_to_json(booked[one]) != bytes(row):
                _log.error("Entry %s is booked with other content; this one is kept in the table conflicts", one)
                connection.execute(
                    "INSERT INTO conflicts (entry_id, worker, entry) VALUES (%s, %s, %s)",
                    (one, worker, bytes(row).decode()),
                )
        return record

    def _set_right(self, connection: Connection, record: Record, lost: LedgerEntry, row: msgspec.Raw) -> Record:
        """The call of a worker that was thought dead has been settled after all: take the estimate back."""
        reversal = lost_reversal(lost, now_ms=time.time_ns() // 1_000_000)
        true = msgspec.json.decode(bytes(row), type=dict[str, msgspec.Raw])
        true["id"] = msgspec.Raw(msgspec.json.encode(f"{lost.id}:late"))
        pair = [msgspec.Raw(entry_to_json(reversal)), msgspec.Raw(msgspec.json.encode(true))]
        inserted = connection.execute(INSERT_ENTRIES, (_array(pair),)).fetchall()
        if len(inserted) < 2:
            return record
        posts = tuple(msgspec.structs.replace(post, amount=post.amount - post.held) for post in record.posts)
        return msgspec.structs.replace(record, posts=posts)

    def _book_lost(
        self, connection: Connection, rows: Sequence[Sequence[object]], records: Sequence[Record], now_ms: int
    ) -> set[CounterKey]:
        ended = {record.ended for record in records if record.ended}
        lost = {str(row[0]): row for row in rows if str(row[0]) not in ended}
        if not lost:
            return set()
        entries = [msgspec.Raw(entry_to_json(lost_entry(row, now_ms=now_ms))) for row in lost.values()]
        new = {str(row[0]) for row in connection.execute(INSERT_ENTRIES, (_array(entries),)).fetchall()}
        holds = [hold for id in sorted(new) for hold in reservation_from_row(lost[id]).holds]
        self._add(connection, (Post(one.counter, one.window, one.unit, one.amount, one.amount) for one in holds))
        return {counter_key(hold) for hold in holds}

    def _add(self, connection: Connection, posts: Iterable[Post]) -> None:
        sums, ends = _sums(posts)
        if sums:
            keys = sorted(sums)  # the same order everywhere: no deadlocks
            columns = [list(column) for column in zip(*keys, strict=True)]
            connection.execute(_UPSERT_COUNTERS, (*columns, [sums[key] for key in keys], [ends[key] for key in keys]))

    def _lower(self, connection: Connection, worker: str, posts: Iterable[Post]) -> None:
        sums, _ = _sums(posts)
        if sums:
            columns = [list(column) for column in zip(*sums, strict=True)]
            connection.execute(_LOWER_LEASES, (*columns, list(sums.values()), worker))

    def _posted(self, connection: Connection, keys: Iterable[CounterKey]) -> Sequence[Posted]:
        columns = [list(column) for column in zip(*sorted(set(keys)), strict=True)]
        if not columns:
            return ()
        return [_posted(row) for row in connection.execute(_SELECT_COUNTERS, columns).fetchall()]

    def _set_aside(self, connection: Connection, record: Record, error: psycopg.Error) -> Sequence[Posted]:
        """One record that the database will never take must not stop all others: keep it where people look."""
        _log.error("A settlement cannot be booked (%s); it is kept in the table conflicts", error)
        text = msgspec.json.encode(ascii(msgspec.json.encode(record).decode())).decode()
        with connection.transaction():
            connection.execute(
                "INSERT INTO conflicts (entry_id, worker, entry) VALUES (%s, %s, %s)",
                (ascii(",".join(record.ids)), self.worker, text),
            )
            self._add(connection, record.posts)
            connection.execute("UPDATE workers SET shipped = %s WHERE worker = %s", (record.seq, self.worker))
            return self._posted(connection, {(post.counter, post.window, post.unit) for post in record.posts})


def sums_of(records: Iterable[Record]) -> Added:
    """What is added to each counter, and when it ends."""
    return _sums([post for record in records for post in record.posts])


def _sums(posts: Iterable[Post]) -> Added:
    """What is added to each counter, and when it ends."""
    sums: dict[CounterKey, int] = {}
    ends: dict[CounterKey, int] = {}
    find = sums.get
    for post in posts:
        key = (post.counter, post.window, post.unit)
        known = find(key)
        if known is None:
            sums[key] = post.amount
            ends[key] = post.ends_at_ms
        else:
            sums[key] = known + post.amount
    return sums, ends


class _Sum(msgspec.Struct, frozen=True, gc=False):
    """What is added to a counter, for ``ship_statement``."""

    counter: str
    window: str
    unit: str
    posted: int
    ends_at_ms: int


_encode = msgspec.json.Encoder().encode
_counters_in: Final = msgspec.json.Decoder(list[Posted], strict=False).decode
"""Amounts come as text."""


def _array(rows: Iterable[msgspec.Raw]) -> JsonText:
    return JsonText(b"[" + b",".join(rows) + b"]")


def _posted(row: Sequence[object]) -> Posted:
    return Posted(
        key=(str(row[0]), str(row[1]), str(row[2])),
        amount=int(str(row[3])),
        version=int(str(row[4])),
        ends_at_ms=int(str(row[5])),
    )
