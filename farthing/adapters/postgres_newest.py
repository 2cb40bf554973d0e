"""The newest records of the PostgreSQL ledger, page by page: the work of a page is bounded, whatever the filter."""

from typing import Final

from farthing.adapters.ledger_query import check_query, entry_edge, is_unbooked, log_edge
from farthing.adapters.postgres import PostgresLedger, condition
from farthing.adapters.postgres_rows import SEQ_ENTRY_SELECT, entry_of
from farthing.adapters.sqlite_rows import exchange_from_body
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery

SCAN: Final = 20_000
"""Entries that one page looks at, at most."""
SCAN_LOG: Final = 10_000
"""Calls of the traffic log that one page looks at."""
NEAR: Final = 1_000
"""Entries are booked about in the order in which calls came: so many are looked at to find where a period ends."""


class PostgresNewest(PostgresLedger):
    """``Newest`` over the database; the cursor of entries is the number of the last one that was looked at."""

    def newest_entries(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[LedgerEntry, ...], str]:
        check_query(query)
        edge = entry_edge(before)
        top = self._after_newest(query) if edge is None else edge
        low = self._number(
            f"SELECT min(seq) FROM (SELECT seq FROM entries WHERE seq < %s ORDER BY seq DESC LIMIT {SCAN}) AS looked",
            (top,),
        )
        where, values = condition(query)
        with self._using() as connection:
            rows = connection.execute(
                f"{SEQ_ENTRY_SELECT} WHERE seq < %s AND seq >= %s{where} ORDER BY seq DESC LIMIT %s".encode(),
                (top, low, *values, limit),
            ).fetchall()
        end = int(str(rows[-1][0])) if len(rows) == limit else low
        more = end > 1 and self._is_left(query, end)
        return tuple(entry_of(row[1:]) for row in rows), str(end) if more else ""

    def newest_unbooked(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[Exchange, ...], str]:
        check_query(query)
        edge = log_edge(query, before)
        with self._using() as connection:
            rows = connection.execute(
                "SELECT received_at_ms, seq, CASE WHEN outcome <> 'answered' THEN body::text END FROM exchanges"
                " WHERE received_at_ms >= %s AND (received_at_ms, seq) < (%s, %s)"
                " ORDER BY received_at_ms DESC, seq DESC LIMIT %s",
                (query.since_ms or 0, *edge, SCAN_LOG),
            ).fetchall()
        found: list[Exchange] = []
        last: tuple[object, object] = edge
        for at_ms, seq, body in rows:
            last = (at_ms, seq)
            one = None if body is None else exchange_from_body(str(body).encode())
            if one is not None and is_unbooked(one, query):
                found.append(one)
                if len(found) == limit:
                    break
        more = len(found) == limit or len(rows) == SCAN_LOG
        return tuple(found), f"{last[0]}.{last[1]}" if more else ""

    def exchange(self, request_id: str) -> Exchange | None:
        with self._using() as connection:
            row = connection.execute(
                "SELECT body::text FROM exchanges WHERE request_id = %s", (request_id,)
            ).fetchone()
        return None if row is None else exchange_from_body(str(row[0]).encode())

    def _after_newest(self, query: LedgerQuery) -> int:
        """The number after the last entry of the period."""
        if query.until_ms is None:
            return self._number("SELECT max(seq) FROM entries", ()) + 1
        return 1 + self._number(
            "SELECT max(seq) FROM (SELECT seq FROM entries WHERE received_at_ms < %s"
            f" ORDER BY received_at_ms DESC LIMIT {NEAR}) AS near",
            (query.until_ms,),
        )

    def _is_left(self, query: LedgerQuery, end: int) -> bool:
        """Some entry of the period may be older than ``end``."""
        return bool(
            self._number(
                "SELECT count(*) FROM (SELECT received_at_ms FROM entries WHERE seq < %s ORDER BY seq DESC"
                f" LIMIT {NEAR}) AS older WHERE received_at_ms >= %s",
                (end, query.since_ms or 0),
            )
        )

    def _number(self, statement: str, values: tuple[object, ...]) -> int:
        with self._using() as connection:
            row = connection.execute(statement.encode(), values).fetchone()
        return int(str(row[0])) if row is not None and row[0] is not None else 0
