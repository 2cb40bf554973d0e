"""The newest entries of the SQLite ledger, page by page: the work of a page is bounded, whatever the filter."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from farthing.adapters import rollup_file, rollup_postings
from farthing.adapters.ledger_query import check_query, entry_edge, is_unbooked, log_edge
from farthing.adapters.rollup_postings import Span
from farthing.adapters.sqlite_ahead import Ahead
from farthing.adapters.sqlite_reader import condition
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_from_row, exchange_from_body, quoted
from farthing.adapters.sqlite_schema import connect_read, store_error
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery

SCAN: Final = 100_000
"""Entries that one page looks at, at most, and calls of the traffic log."""
LOOK_S: Final = 0.025
"""How long a page looks at records of which few match, and as long again for its calls without an entry."""
LOOK_ROWS: Final = 100
"""A page of more rows than that looks longer in proportion."""
STEP: Final = 500
"""Entries that are looked at between two looks at the clock."""
STEP_LOG: Final = 20
AHEAD: Final = 256
"""Entries that a cold disk reads together first; then more and more, up to:"""
AHEAD_MAX: Final = 4_096
NEAR: Final = 1_000
"""Entries are booked about in the order in which calls came: so many are looked at to find where a period ends."""
_MATCHING: Final = f"SELECT seq, {quoted(ENTRY_COLUMNS)} FROM entries WHERE seq < ? AND seq >= ?"


class SqliteNewest:
    """``Newest`` over the file; the cursor is the number of the last entry that was looked at."""

    def __init__(self, path: Path | str, rollups: Path | None = None, *, look_s: float = LOOK_S) -> None:
        """``rollups``: the file that knows where the entries of a user, session or key are; without it, and before
        its first batch, pages of rare ones look at everything on the way. ``look_s``: see ``LOOK_S``."""
        self.path = Path(path)
        self._rollups = rollups
        self._look_s = look_s

    def newest_entries(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[LedgerEntry, ...], str]:
        check_query(query)
        edge = entry_edge(before)
        until_s = self._until_s(limit)
        connection, posted = self._connect(query)
        try:
            top = _after_newest(connection, query) if edge is None else edge
            floor = _first(connection, query)
            rows: list[tuple[object, ...]] = []
            end, looked = floor, 0
            where, values = condition(query)
            sql = f"{_MATCHING}{where} ORDER BY seq DESC LIMIT ?"
            spans = _steps(_spans(connection, query, floor, top, posted=posted))
            ahead = Ahead.of_entries(self.path, connection, "ledger" if posted else "main")
            for low, high in _told(ahead, spans):
                if looked and (looked >= SCAN or time.monotonic() > until_s):
                    end = high
                    break
                found = connection.execute(sql, (high, low, *values, limit - len(rows))).fetchall()
                rows += found
                looked += high - low
                if len(rows) == limit:
                    end = int(str(found[-1][0]))
                    break
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            connection.close()
        return tuple(entry_from_row(row[1:]) for row in rows), str(end) if end > floor else ""

    def newest_unbooked(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[Exchange, ...], str]:
        check_query(query)
        edge = log_edge(query, before)
        until_s = self._until_s(limit)
        connection = connect_read(self.path)
        found: list[Exchange] = []
        looked, last, over = 0, edge, False
        try:
            # The index on time ends with the number; the outcome stands before the body, which is not read.
            for seq, at_ms, outcome in connection.execute(
                "SELECT seq, received_at_ms, outcome FROM exchanges WHERE received_at_ms >= ? AND"
                " (received_at_ms, seq) < (?, ?) ORDER BY received_at_ms DESC, seq DESC LIMIT ?",
                (query.since_ms or 0, *edge, SCAN),
            ):
                looked, last = looked + 1, (at_ms, seq)
                if outcome != "answered":
                    row = connection.execute("SELECT body FROM exchanges WHERE seq = ?", (seq,)).fetchone()
                    one = exchange_from_body(row[0])
                    if is_unbooked(one, query):
                        found.append(one)
                over = len(found) == limit or looked == SCAN
                if over or (looked % STEP_LOG == 0 and time.monotonic() > until_s):
                    over = True
                    break
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            connection.close()
        return tuple(found), f"{last[0]}.{last[1]}" if over else ""

    def exchange(self, request_id: str) -> Exchange | None:
        connection = connect_read(self.path)
        try:
            row = connection.execute("SELECT body FROM exchanges WHERE request_id = ?", (request_id,)).fetchone()
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            connection.close()
        return None if row is None else exchange_from_body(row[0])

    def _until_s(self, limit: int) -> float:
        return time.monotonic() + self._look_s * max(1.0, limit / LOOK_ROWS)

    def _connect(self, query: LedgerQuery) -> tuple[sqlite3.Connection, bool]:
        """The ledger; True: with the roll-ups, where they help."""
        if self._rollups is not None and rollup_postings.known(query.where) and self._rollups.exists():
            try:
                return rollup_file.connect(self._rollups, self.path, write=False), True
            except StoreUnavailable:
                pass  # of another release, or just being made
        return connect_read(self.path), False


def _spans(
    connection: sqlite3.Connection, query: LedgerQuery, low: int, high: int, *, posted: bool
) -> Iterator[Span]:
    """Where matching entries may be, newest first."""
    if low >= high:
        return
    if posted:
        connection.execute("BEGIN")  # postings and progress of one moment
        progress = rollup_file.progress(connection)
        if rollup_file.is_of_ledger(connection, progress):
            yield from rollup_postings.spans(
                connection, rollup_postings.known(query.where), seq=progress.seq, low=low, high=high,
                since_ms=query.since_ms, until_ms=query.until_ms,
            )  # fmt: skip
            return
    yield low, high


def _steps(spans: Iterator[Span]) -> Iterator[Span]:
    """The same in parts of at most ``STEP``."""
    for low, high in spans:
        for end in range(high, low, -STEP):
            yield max(low, end - STEP), end


def _told(ahead: Ahead, spans: Iterator[Span]) -> Iterator[Span]:
    """The same, some at a time, each time told to the system before they are read."""
    most = AHEAD
    while True:
        some, left = list[Span](), most
        for span in spans:
            some.append(span)
            left -= span[1] - span[0]
            if left <= 0:
                break
        if not some:
            return
        ahead.fetch(some)
        yield from some
        most = min(AHEAD_MAX, most * 4)


def _after_newest(connection: sqlite3.Connection, query: LedgerQuery) -> int:
    """The number after the last entry of the period, by the index on time."""
    if query.until_ms is None:
        row = connection.execute("SELECT max(seq) FROM entries").fetchone()
    else:
        row = connection.execute(
            "SELECT max(seq) FROM (SELECT seq FROM entries WHERE received_at_ms < ? ORDER BY received_at_ms DESC"
            f" LIMIT {NEAR})",
            (query.until_ms,),
        ).fetchone()
    return 0 if row[0] is None else int(row[0]) + 1


def _first(connection: sqlite3.Connection, query: LedgerQuery) -> int:
    """The number of the first entry of the period, by the index on time; entries before it are not looked at."""
    if query.since_ms is None:
        return 1
    row = connection.execute(
        "SELECT min(seq) FROM (SELECT seq FROM entries WHERE received_at_ms >= ? ORDER BY received_at_ms"
        f" LIMIT {NEAR})",
        (query.since_ms,),
    ).fetchone()
    return 2**62 if row[0] is None else int(row[0])
