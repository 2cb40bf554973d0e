"""Leases in PostgreSQL itself: one transaction for each act, for installations without Valkey."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg

from farthing.adapters.leases import ALL_ANSWERED, GRACE, LEASE_S, Grant, LeaseLost, Posted, Share, Want
from farthing.adapters.memory import CounterKey
from farthing.adapters.postgres_schema import Connection, connect, migrations, store_error

_LOCK: Final = """
    SELECT counter, "window", unit, posted FROM counters
    WHERE (counter, "window", unit) IN (SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]))
    ORDER BY counter, "window", unit FOR UPDATE
"""
_ADD: Final = """
    INSERT INTO counters (counter, "window", unit, posted, version, ends_at_ms)
    SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]), 0, 0, 0 ON CONFLICT DO NOTHING
"""
_OTHERS: Final = """
    SELECT counter, "window", unit, authority, acked FROM leases
    WHERE (counter, "window", unit) IN (SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]))
        AND worker <> %s AND authority > 0
"""
_RECALLED: Final = """
    SELECT counter, "window", unit FROM recalls
    WHERE (counter, "window", unit) IN (SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]))
"""
_RECALL: Final = """
    INSERT INTO recalls (counter, "window", unit, number, now_ms) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (counter, "window", unit) DO UPDATE
    SET number = excluded.number, now_ms = excluded.now_ms, asked_at = clock_timestamp()
"""
_WRITE: Final = """
    INSERT INTO leases (counter, "window", unit, worker, authority, acked)
    SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]), %s, unnest(%s::numeric[]), unnest(%s::bigint[])
    ON CONFLICT (counter, "window", unit, worker) DO UPDATE
    SET authority = excluded.authority, acked = excluded.acked
"""
_GIVE_UP: Final = """
    DELETE FROM leases WHERE (counter, "window", unit) IN
        (SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[])) AND worker = %s
"""


class PostgresLeases:
    """``BlockingLeases`` in the ledger's database; what is booked is read where it is written."""

    in_ledger = True

    def __init__(self, url: str, namespace: str, worker: str) -> None:
        self._url = url
        self._namespace = namespace
        self._worker = worker
        self._connection: Connection | None = None

    def declare(self, shares: Sequence[Share]) -> None:
        with self._using() as connection, connection.transaction():
            connection.execute("DELETE FROM leases WHERE worker = %s", (self._worker,))
            connection.execute(
                "INSERT INTO workers VALUES (%s, %s, 0, false) ON CONFLICT (worker) DO UPDATE SET"
                " seen_at = clock_timestamp(), lost = false",
                (self._worker, len(migrations())),
            )
            self._write(connection, shares)

    def renew(self, shares: Sequence[Share]) -> Mapping[CounterKey, tuple[int, int]]:
        with self._using() as connection, connection.transaction():
            self._alive(connection)
            self._write(connection, shares)
            rows = connection.execute('SELECT counter, "window", unit, number, now_ms FROM recalls').fetchall()
            if rows:
                connection.execute("DELETE FROM recalls WHERE asked_at < clock_timestamp() - interval '5 seconds'")
        return {(str(row[0]), str(row[1]), str(row[2])): (int(str(row[3])), int(str(row[4]))) for row in rows}

    def grant(self, wants: Sequence[Want], *, now_ms: int) -> Sequence[Grant]:
        keys = sorted({key for want in wants for key in (want.key, *want.also)})
        columns = [list(column) for column in zip(*keys, strict=True)]
        with self._using() as connection, connection.transaction():
            self._alive(connection)
            # A lock on each counter: between here and the commit nobody else takes of its room.
            locked = connection.execute(_LOCK, columns).fetchall()
            if len(locked) < len(keys):
                connection.execute(_ADD, columns)
                locked = connection.execute(_LOCK, columns).fetchall()
            posted = {(str(row[0]), str(row[1]), str(row[2])): int(str(row[3])) for row in locked}
            others: dict[CounterKey, list[tuple[int, int]]] = {}
            for row in connection.execute(_OTHERS, (*columns, self._worker)).fetchall():
                key = (str(row[0]), str(row[1]), str(row[2]))
                others.setdefault(key, []).append((int(str(row[3])), int(str(row[4]))))
            recalled = {
                (str(row[0]), str(row[1]), str(row[2])) for row in connection.execute(_RECALLED, columns).fetchall()
            }
            grants = []
            for want in wants:
                counted = (want.key, *want.also)
                number = self._recall(connection, counted, now_ms) if want.recall else 0
                if number:
                    recalled |= set(counted)
                has = [one for key in counted for one in others.get(key, ())]
                room = want.limit - sum(posted[key] for key in counted) - sum(authority for authority, _ in has)
                grants.append(
                    Grant(
                        authority=authority_of(want, room, scarce=not recalled.isdisjoint(counted)),
                        room=room,
                        answered=min((acked for _, acked in has), default=ALL_ANSWERED),
                        recall=number,
                    )
                )
            # Several limits on one counter: each hold is checked against its own; the widest decides the authority.
            most: dict[CounterKey, int] = {}
            for want, grant in zip(wants, grants, strict=True):
                most[want.key] = max(most.get(want.key, grant.authority), grant.authority)
            self._write(connection, [Share(key=key, authority=authority) for key, authority in most.items()])
            for want in wants:
                if want.ends_at_ms:
                    connection.execute(
                        'UPDATE counters SET ends_at_ms = %s WHERE counter = %s AND "window" = %s AND unit = %s'
                        " AND ends_at_ms = 0",
                        (want.ends_at_ms, *want.key),
                    )
        return grants

    def leave(self) -> None:
        self.drop(self._worker, ())

    def drop(self, worker: str, posted: Sequence[Posted]) -> None:
        with self._using() as connection:
            connection.execute("DELETE FROM leases WHERE worker = %s", (worker,))

    def leased(self, worker: str) -> Sequence[CounterKey]:
        with self._using() as connection:
            rows = connection.execute(
                'SELECT counter, "window", unit FROM leases WHERE worker = %s', (worker,)
            ).fetchall()
        return [(str(row[0]), str(row[1]), str(row[2])) for row in rows]

    def silent(self, workers: Sequence[str]) -> Sequence[str]:
        with self._using() as connection:
            rows = connection.execute(
                "SELECT worker FROM workers WHERE worker = ANY(%s)"
                " AND seen_at >= clock_timestamp() - %s * interval '1 second'",
                (list(workers), LEASE_S * GRACE),
            ).fetchall()
        alive = {str(row[0]) for row in rows}
        return [worker for worker in workers if worker not in alive]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._url, self._namespace)
            yield self._connection
        except psycopg.Error as error:
            if self._connection is not None and isinstance(error, psycopg.OperationalError):
                self._connection.close()
            raise store_error(error) from error

    def _alive(self, connection: Connection) -> None:
        row = connection.execute(
            "SELECT 1 FROM workers WHERE worker = %s AND NOT lost FOR SHARE", (self._worker,)
        ).fetchone()
        if row is None:
            raise LeaseLost("The ledger does not know this worker any more.", hint="It joins again by itself.")

    def _recall(self, connection: Connection, keys: Sequence[CounterKey], now_ms: int) -> int:
        row = connection.execute("SELECT nextval('recall_numbers')").fetchone()
        assert row is not None
        number = int(str(row[0]))
        connection.cursor().executemany(_RECALL, [(*key, number, now_ms) for key in sorted(keys)])
        return number

    def _write(self, connection: Connection, shares: Sequence[Share]) -> None:
        given = [share.key for share in shares if not share.authority]
        if given:
            connection.execute(_GIVE_UP, (*[list(one) for one in zip(*given, strict=True)], self._worker))
        kept = {share.key: share for share in shares if share.authority}
        if kept:
            columns = [list(column) for column in zip(*kept, strict=True)]
            connection.execute(
                _WRITE,
                (
                    *columns,
                    self._worker,
                    [share.authority for share in kept.values()],
                    [share.answers for share in kept.values()],
                ),
            )


def authority_of(want: Want, room: int, *, scarce: bool) -> int:
    """What a store grants: the use and the ask, and a slice while there is plenty; what is left where it is short."""
    total = want.used + want.ask
    if total > room:
        return max(want.used, room)
    return total if scarce else total + min(want.slice, (room - total) // 8)
