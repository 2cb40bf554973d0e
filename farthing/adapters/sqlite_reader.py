"""Reading the books from SQLite: totals, entries, exchanges. Blocking; works while a gateway writes."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from farthing.adapters.ledger_query import MEASURES, check_query, totals_of
from farthing.adapters.memory import CounterKey
from farthing.adapters.sqlite_group import logged_in
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_from_row, exchange_from_body, quoted
from farthing.adapters.sqlite_runs import in_runs_by_unit
from farthing.adapters.sqlite_schema import connect_read, store_error
from farthing.core.dimensions import TIME_DIMENSIONS
from farthing.core.errors import NotFound
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Balance

PAGE: Final = 500

_PLAIN_TAG: Final = re.compile(r"tag:[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
"""Names that need no quotes in a path of JSON."""
_AT: Final = "received_at_ms / 1000, 'unixepoch'"
TIMES: Final = {
    "hour": f"strftime('%Y-%m-%dT%H', {_AT})",
    "day": f"strftime('%Y-%m-%d', {_AT})",
    # The ISO year and week of a day are those of the Thursday of its week.
    "week": f"strftime('%Y', {_AT}, '-3 days', 'weekday 4') || printf('-W%02d',"
    f" (strftime('%j', {_AT}, '-3 days', 'weekday 4') - 1) / 7 + 1)",
    "month": f"strftime('%Y-%m', {_AT})",
}
SUMMED: Final = {
    "entries": "1",
    "amount": "amount_nusd",
    "baseline": "CASE WHEN amount_nusd IS NOT NULL THEN baseline_nusd END",
    "unpriced": "(amount_nusd IS NULL) - (reason = 'was_unpriced')",
    "estimated": "source <> 'reported'",
    "estimated_amount": "CASE WHEN source <> 'reported' THEN amount_nusd END",
    "errors": "error <> ''",
}

_SELECT_POSTED: Final = 'SELECT unit, sum(posted) FROM shares WHERE counter = ? AND "window" = ? GROUP BY unit'
_SELECT_HELD: Final = """
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
        sum(json_extract(value, '$[4]'))
    FROM reservations, json_each(reservations.holds) GROUP BY 1, 2, 3
"""


class SqliteLedger:
    """``Ledger`` over the file; every call opens its own connection, so any thread may use it.

    Raises ``StoreUnavailable`` when the file is missing, is not a ledger or cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        with self._connection() as connection:
            rows = read_sums(connection, query)
        width = len(query.group_by)
        return tuple(totals_of(row[:width], row[width], row[width + 1 :]) for row in rows)

    def amounts(self, query: LedgerQuery) -> dict[tuple[str, ...], tuple[int, int]]:
        """See :class:`farthing.ports.books.Ranked`."""
        with self._connection() as connection:
            rows = read_sums(connection, query, measures=("amount", "entries"))
        width = len(query.group_by)
        return {row[:width]: (row[width + 1], row[width + 2]) for row in rows if row[width + 2]}

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        with self._connection() as connection:
            seq = _start(connection, "entries", "id", after, since_ms)
            where = "seq > ? AND received_at_ms >= ?" + (" AND request_id = ?" if request_id else "")
            sql = f"SELECT seq, {quoted(ENTRY_COLUMNS)} FROM entries WHERE {where} ORDER BY seq LIMIT {PAGE}"
            while True:
                rows = connection.execute(sql, (seq, since_ms, *([request_id] if request_id else []))).fetchall()
                for row in rows:
                    yield entry_from_row(row[1:])
                if len(rows) < PAGE:
                    return
                seq = rows[-1][0]

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        with self._connection() as connection:
            seq = _start(connection, "exchanges", "request_id", after, since_ms)
            sql = f"SELECT seq, body FROM exchanges WHERE seq > ? AND received_at_ms >= ? ORDER BY seq LIMIT {PAGE}"
            while True:
                rows = connection.execute(sql, (seq, since_ms)).fetchall()
                for row in rows:
                    yield exchange_from_body(row[1])
                if len(rows) < PAGE:
                    return
                seq = rows[-1][0]

    def written(self, *, since_ms: int, until_ms: int, after: str = "") -> Iterator[tuple[str, bytes]]:
        """(request, exchange as JSON) of a period in the order of :meth:`exchanges`, for readers who need a part."""
        with self._connection() as connection:
            seq = _start(connection, "exchanges", "request_id", after, since_ms)
            # "+": by the rowid, or every page would sort what the index of times finds
            where = "seq > ? AND +received_at_ms >= ? AND +received_at_ms < ?"
            sql = f"SELECT seq, request_id, body FROM exchanges WHERE {where} ORDER BY seq LIMIT {PAGE}"
            while True:
                rows = connection.execute(sql, (seq, since_ms, until_ms)).fetchall()
                for row in rows:
                    yield row[1], row[2]
                if len(rows) < PAGE:
                    return
                seq = rows[-1][0]

    def surveyed(self, *, since_ms: int, until_ms: int) -> tuple[int, int]:
        """(exchanges of a period, milliseconds that the longest took)."""
        period = "received_at_ms >= ? AND received_at_ms < ?"
        sql = f"SELECT count(*), coalesce(max(latency_ms), 0) FROM exchanges WHERE {period}"
        with self._connection() as connection:
            count, longest_ms = connection.execute(sql, (since_ms, until_ms)).fetchone()
        return int(count), int(longest_ms)

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """Counters as the file has them: what is booked, and what calls in flight hold."""
        wanted = set(counters)
        posted: dict[CounterKey, int] = {}
        with self._connection() as connection:
            connection.execute("BEGIN")  # what moves from the log to the rows is seen in one of them
            for counter, window in wanted:
                for unit, amount in connection.execute(_SELECT_POSTED, (counter, window)):
                    posted[counter, window, unit] = amount
                for unit, amount in in_runs_by_unit(connection, counter, window).items():
                    posted[counter, window, unit] = posted.get((counter, window, unit), 0) + amount
            logged = logged_in(connection.execute("SELECT body FROM posts"))
            held = {row[:3]: row[3] for row in connection.execute(_SELECT_HELD)}
        found = []
        for key in sorted({*posted, *logged, *held}):
            counter, window, unit = key
            if (counter, window) in wanted:
                booked = posted.get(key, 0) + logged.get(key, 0)
                found.append(Balance(counter=counter, window=window, unit=unit, posted=booked, held=held.get(key, 0)))
        return tuple(found)

    def last(self) -> int:
        """The number of the entry that was booked last; 0 where there is none, or no ledger yet."""
        if not self.path.exists():
            return 0
        with self._connection() as connection:
            (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()
        return int(last)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = connect_read(self.path)
        try:
            yield connection
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            connection.close()


def open_read(path: Path | str) -> SqliteLedger:
    """The ledger at ``path``, read-only. Raises ``StoreUnavailable`` when there is none."""
    connect_read(Path(path)).close()
    return SqliteLedger(path)


def read_sums(
    connection: sqlite3.Connection,
    query: LedgerQuery,
    *,
    source: str = "entries",
    measures: Sequence[str] = MEASURES,
) -> list[tuple[Any, ...]]:
    """The answer, row by row: the group, its requests (0 where not all measures are asked for), the measures.

    ``source``: what stands for the table, as SQL without parameters.
    """
    sql, parameters = compile_totals(query, source=source, measures=measures, halved=False)
    width = len(query.group_by) + 1
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if "overflow" not in str(error):
            raise
    sql, parameters = compile_totals(query, source=source, measures=measures, halved=True)
    return [(*row[:width], *joined(row[width:])) for row in connection.execute(sql, parameters)]


def compile_totals(
    query: LedgerQuery, *, source: str = "entries", measures: Sequence[str] = MEASURES, halved: bool = True
) -> tuple[str, list[object]]:
    """The SELECT for a query and its parameters: the only place where a ``LedgerQuery`` becomes SQL.

    SQLite raises an error where a sum passes int64. ``halved``: sums are split in two halves of 32 bits each, which
    takes half as long again.
    """
    check_query(query)
    groups = [expression(name) for name in query.group_by]
    parameters: list[object] = [value for _, values in groups for value in values]
    conditions = []
    for name, value in query.where:
        sql, values = expression(name)
        conditions.append(f"{sql} = ?")
        parameters += [*values, value]
    for operator, bound in ((">=", query.since_ms), ("<", query.until_ms)):
        if bound is not None:
            conditions.append(f"received_at_ms {operator} ?")
            parameters.append(bound)
    summed = [SUMMED.get(name, name) for name in measures]
    sums = [
        f"sum(({sql}) >> 32), sum(({sql}) & 4294967295)" if halved else f"coalesce(sum({sql}), 0)" for sql in summed
    ]
    requests = "count(DISTINCT request_id)" if tuple(measures) == MEASURES else "0"
    names = [f"g{number}" for number in range(len(groups))]
    columns = [f"{sql} AS {name}" for (sql, _), name in zip(groups, names, strict=True)]
    select = ", ".join([*columns, requests, *sums])
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = f" GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}" if names else ""
    return f"SELECT {select} FROM {source}{where}{order}", parameters


def condition(query: LedgerQuery, *, indexed: bool = False) -> tuple[str, list[object]]:
    """``AND …`` for the filters and the period of a query, with its parameters. ``indexed``: by the index on time."""
    parts, parameters = [""], []
    for name, value in query.where:
        sql, values = expression(name)
        parts.append(f"{sql} = ?")
        parameters += [*values, value]
    for operator, bound in ((">=", query.since_ms), ("<", query.until_ms)):
        if bound is not None:
            # mostly the order of booking decides, not the index on time
            parts.append(f"{'' if indexed else '+'}received_at_ms {operator} ?")
            parameters.append(bound)
    return " AND ".join(parts), parameters


def expression(name: str) -> tuple[str, list[object]]:
    """SQL for a dimension of a row of ``entries``, with its parameters."""
    if _PLAIN_TAG.fullmatch(name):
        return f"coalesce(json_extract(entries.tags, '$.{name[4:]}'), '')", []  # takes a third of the time
    if name.startswith("tag:"):
        return "coalesce((SELECT value FROM json_each(entries.tags) WHERE key = ?), '')", [name[4:]]
    if name in TIME_DIMENSIONS:
        return f"({TIMES[name]})", []
    return ("CAST(status AS TEXT)" if name == "status" else f'"{name}"'), []


def joined(halves: Sequence[int | None]) -> Iterator[int]:
    """Sums from their halves; see :func:`compile_totals`."""
    return ((high or 0) * 2**32 + (low or 0) for high, low in zip(halves[::2], halves[1::2], strict=True))


def _start(connection: sqlite3.Connection, table: str, id_column: str, after: str, since_ms: int) -> int:
    """The ``seq`` to continue after. Raises ``NotFound`` when ``after`` is unknown."""
    if after:
        row = connection.execute(f"SELECT seq FROM {table} WHERE {id_column} = ?", (after,)).fetchone()
        if row is None:
            raise NotFound(f"There is no record {after!r} to continue after.", hint="Start again from the beginning.")
        return int(row[0])
    row = connection.execute(f"SELECT min(seq) FROM {table} WHERE received_at_ms >= ?", (since_ms,)).fetchone()
    return int(row[0]) - 1 if row[0] is not None else 0
