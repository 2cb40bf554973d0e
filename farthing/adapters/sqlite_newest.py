"""The newest entries of the SQLite ledger, page by page: the work of a page is bounded, whatever the filter."""

import sqlite3
from pathlib import Path
from typing import Final

from farthing.adapters.ledger_query import check_query, entry_edge, is_unbooked, log_edge
from farthing.adapters.sqlite_reader import condition
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_from_row, exchange_from_body, quoted
from farthing.adapters.sqlite_schema import connect_read, store_error
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery

SCAN: Final = 20_000
"""Entries that one page looks at, at most."""
SCAN_LOG: Final = 10_000
"""Calls of the traffic log that one page looks at: their rows are longer."""


class SqliteNewest:
    """``Newest`` over the file; the cursor is the number of the last entry that was looked at."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def newest_entries(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[LedgerEntry, ...], str]:
        check_query(query)
        edge = entry_edge(before)
        where, values = condition(query)
        connection = connect_read(self.path)
        try:
            top = _after_newest(connection, query) if edge is None else edge
            low = max(0, top - SCAN)
            rows = connection.execute(
                f"SELECT seq, {quoted(ENTRY_COLUMNS)} FROM entries WHERE seq < ? AND seq >= ?{where}"
                " ORDER BY seq DESC LIMIT ?",
                (top, low, *values, limit),
            ).fetchall()
            end = rows[-1][0] if len(rows) == limit else low
            more = _is_left(connection, query, end)
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            connection.close()
        return tuple(entry_from_row(row[1:]) for row in rows), str(end) if more else ""

    def newest_unbooked(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[Exchange, ...], str]:
        check_query(query)
        edge = log_edge(query, before)
        connection = connect_read(self.path)
        found: list[Exchange] = []
        looked, last = 0, edge
        try:
            # The index on time ends with the number; the outcome stands before the body, which is not read.
            for seq, at_ms, outcome in connection.execute(
                "SELECT seq, received_at_ms, outcome FROM exchanges WHERE received_at_ms >= ? AND"
                " (received_at_ms, seq) < (?, ?) ORDER BY received_at_ms DESC, seq DESC LIMIT ?",
                (query.since_ms or 0, *edge, SCAN_LOG),
            ):
                looked, last = looked + 1, (at_ms, seq)
                if outcome == "answered":
                    continue
                row = connection.execute("SELECT body FROM exchanges WHERE seq = ?", (seq,)).fetchone()
                one = exchange_from_body(row[0])
                if is_unbooked(one, query):
                    found.append(one)
                if len(found) == limit:
                    break
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            connection.close()
        more = len(found) == limit or looked == SCAN_LOG
        return tuple(found), f"{last[0]}.{last[1]}" if more else ""

    def exchange(self, request_id: str) -> Exchange | None:
        connection = connect_read(self.path)
        try:
            row = connection.execute("SELECT body FROM exchanges WHERE request_id = ?", (request_id,)).fetchone()
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            connection.close()
        return None if row is None else exchange_from_body(row[0])


def _after_newest(connection: sqlite3.Connection, query: LedgerQuery) -> int:
    """The number after the last entry of the period, by the index on time; entries are booked about in its order."""
    if query.until_ms is None:
        row = connection.execute("SELECT max(seq) FROM entries").fetchone()
    else:
        row = connection.execute(
            "SELECT max(seq) FROM (SELECT seq FROM entries WHERE received_at_ms < ? ORDER BY received_at_ms DESC"
            " LIMIT 1000)",
            (query.until_ms,),
        ).fetchone()
    return 0 if row[0] is None else int(row[0]) + 1


def _is_left(connection: sqlite3.Connection, query: LedgerQuery, end: int) -> bool:
    """Some entry of the period may be older than ``end``."""
    if end <= 1:
        return False
    if query.since_ms is None:
        return True
    row = connection.execute(
        "SELECT 1 FROM (SELECT received_at_ms FROM entries WHERE seq < ? ORDER BY seq DESC LIMIT 1000)"
        " WHERE received_at_ms >= ? LIMIT 1",
        (end, query.since_ms),
    ).fetchone()
    return row is not None
