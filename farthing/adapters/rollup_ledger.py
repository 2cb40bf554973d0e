"""``Ledger`` that answers from roll-ups where it can; the answer is the one that the entries give. Blocking.

Whole hours come from the cells (whole days from the cells of days), the rest from the entries: parts of an hour at
either end of the period, whatever was booked after the last batch, and entries with numbers too large for cells.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from farthing.adapters import rollup_file
from farthing.adapters.ledger_query import MEASURES, check_query, totals_of
from farthing.adapters.rollup_cuboids import HOUR_MS, Cuboid, asked_of, differing, name, requests_column
from farthing.adapters.rollup_file import Kept, Progress
from farthing.adapters.rollup_job import want
from farthing.adapters.sqlite_reader import SUMMED, TIMES, SqliteLedger, expression
from farthing.core.dimensions import TIME_DIMENSIONS
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Balance

CELLS_MANY: Final = 60_000
"""Cells of days beyond which a question is worth a cuboid of its own."""
TOUCHED_MS: Final = 3_600_000
"""How often it is noted that a cuboid is in use."""
SLOTS_NAMED: Final = 1_000
"""Days or hours that are looked up one by one, at most."""
EVER: Final = 2**40
"""More hours than there are."""

Group = tuple[str, ...]
Sums = dict[Group, list[int]]
"""Requests, then the measures, by group."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """How a period is divided: whole hours from ``first`` up to ``end``, which is not among them."""

    first: int
    end: int
    since_ms: int | None
    until_ms: int | None

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(from, until) of the parts of an hour before and after."""
        low = [(self.since_ms, self.first * HOUR_MS)] if self.since_ms is not None else []
        high = [(self.end * HOUR_MS, self.until_ms)] if self.until_ms is not None else []
        return tuple((since, until) for since, until in (*low, *high) if since < until)


class RollupLedger:
    """The SQLite ledger with its roll-ups. What they cannot answer the ledger itself answers."""

    def __init__(self, ledger: SqliteLedger, path: Path) -> None:
        self._ledger = ledger
        self._path = path

    @property
    def path(self) -> Path:
        """Where the ledger is."""
        return self._ledger.path

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        check_query(query)
        found = None
        with suppress(StoreUnavailable, sqlite3.Error):
            found = self._rolled(query)
        return self._ledger.totals(query) if found is None else found

    def answers(self, query: LedgerQuery) -> bool:
        """True where the roll-ups answer, so that even a long period costs little."""
        try:
            with closing(self._open()) as connection:
                return _choose(connection, rollup_file.progress(connection), query) is not None
        except (StoreUnavailable, sqlite3.Error):
            return False

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        return self._ledger.entries(request_id=request_id, since_ms=since_ms, after=after)

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return self._ledger.exchanges(since_ms=since_ms, after=after)

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        """As :class:`SqliteLedger` has them."""
        return self._ledger.balances(counters)

    def _open(self) -> sqlite3.Connection:
        return rollup_file.connect(self._path, self._ledger.path, write=False)

    def _rolled(self, query: LedgerQuery) -> tuple[Totals, ...] | None:
        """None: the roll-ups do not answer."""
        period = _divided(query)
        if period.first >= period.end:
            return None
        with closing(self._open()) as connection:
            connection.execute("BEGIN")  # cells and progress of one moment
            progress = rollup_file.progress(connection)
            kept = _choose(connection, progress, query)
            sums = None if kept is None else _Answer(connection, query, period, progress, kept).sums()
            known = rollup_file.cuboids(connection)
        self._wish(query, kept, known)
        if sums is None:
            return None
        if not query.group_by:
            sums.setdefault((), [0] * (len(MEASURES) + 1))
        return tuple(_totals(group, sums[group]) for group in sorted(sums) if not query.group_by or sums[group][1])

    def _wish(self, query: LedgerQuery, used: Kept | None, known: Sequence[Kept]) -> None:
        """Notes for the gateway what is asked: what no cuboid answers, or only one much larger than it need be."""
        cuboid = Cuboid.of(asked_of(query))
        now_ms = time.time_ns() // 1_000_000
        exact = next((kept for kept in known if kept.cuboid == cuboid), None)
        if exact is None:
            wanted = used is None or used.cells > CELLS_MANY
        else:
            wanted = not exact.built_in and exact.asked_at_ms < now_ms - TOUCHED_MS
        if not wanted or any("\0" in dimension for dimension in cuboid.dimensions):
            return
        with (
            suppress(StoreUnavailable, sqlite3.Error),  # a wish: whoever asks next wishes again
            closing(rollup_file.connect(self._path, self._ledger.path, write=True, wait_ms=50)) as connection,
            rollup_file.writing(connection),
        ):
            want(connection, cuboid, now_ms=now_ms)


class _Answer:
    """One question, put to the cells of one cuboid and to the entries that are not in them."""

    def __init__(
        self, connection: sqlite3.Connection, query: LedgerQuery, period: Part, progress: Progress, kept: Kept
    ) -> None:
        self._connection = connection
        self._query = query
        self._period = period
        self._progress = progress
        self._kept = kept
        self._width = len(query.group_by)

    def sums(self) -> Sums:
        """Everything together."""
        sums: Sums = {}
        for sql in self._cells():
            _add(sums, self._rows(*sql), self._width)
        self._add_requests(sums, *self._strays())
        entries, values = self._entries()
        for condition in self._outside():
            rows = self._rows(entries.replace("{outside}", condition), values)
            _add(sums, (_whole(row, self._width) for row in rows), self._width)
        self._count_once(sums)
        return sums

    def _rows(self, sql: str, values: Sequence[object]) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _cells(self) -> Iterator[tuple[str, list[object]]]:
        query, period = self._query, self._period
        columns = [requests_column(differing(asked_of(query))), *MEASURES]
        sums = ", ".join(f"sum({name(column)})" for column in columns)
        days = -(-period.first // 24), period.end // 24
        if "hour" in query.group_by or any(dimension == "hour" for dimension, _ in query.where) or days[0] >= days[1]:
            parts = [("hour", 3600, period.first, period.end)]
        else:
            parts = [
                ("hour", 3600, period.first, days[0] * 24),
                ("day", 86_400, *days),
                ("hour", 3600, days[1] * 24, period.end),
            ]
        for grain, seconds, first, end in parts:
            if first >= end:
                continue
            groups = "".join(
                f"{_of_cell(dimension, seconds)} AS g{at}, " for at, dimension in enumerate(query.group_by)
            )
            where = "".join(f" AND {_of_cell(dimension, seconds)} = ?" for dimension, _ in query.where)
            by = ", ".join(f"g{at}" for at in range(self._width))
            yield (
                f"SELECT {groups}{sums} FROM {self._kept.table(grain)} WHERE {self._slots(grain, first, end)}{where}"
                + (f" GROUP BY {by}" if by else ""),
                [value for _, value in query.where],
            )

    def _slots(self, grain: str, first: int, end: int) -> str:
        """The condition on slots: one by one where the next column of the key is known, so that each is looked up."""
        table, lead = self._kept.table(grain), self._kept.cuboid.dimensions[:1]
        if not any((dimension,) == lead for dimension, _ in self._query.where):
            return f"slot >= {first} AND slot < {end}"
        sql = f"SELECT (SELECT min(slot) FROM {table}), (SELECT max(slot) FROM {table})"
        low, high = self._connection.execute(sql).fetchone()
        slots = range(0) if low is None else range(max(first, low), min(end, high + 1))
        if len(slots) > SLOTS_NAMED:
            return f"slot >= {first} AND slot < {end}"
        return f"slot IN ({', '.join(map(str, slots))})"

    def _strays(self) -> tuple[str, list[object]]:
        groups, where, values = self._compiled()
        by = ", ".join(f"g{at}" for at in range(self._width))
        return (
            f"SELECT {groups}count(DISTINCT request_id) FROM main.strays AS entries"
            f" WHERE slot >= {self._period.first} AND slot < {self._period.end}{where}"
            + (f" GROUP BY {by}" if by else "")
        ), values

    def _entries(self) -> tuple[str, list[object]]:
        groups, where, values = self._compiled()
        by = ", ".join(f"g{at}" for at in range(self._width))
        summed = [SUMMED.get(measure, measure) for measure in MEASURES]
        halves = ", ".join(f"sum(({sql}) >> 32), sum(({sql}) & 4294967295)" for sql in summed)
        return (
            f"SELECT {groups}count(DISTINCT request_id), {halves} FROM ledger.entries AS entries"
            f" WHERE {{outside}}{where}" + (f" GROUP BY {by}" if by else "")
        ), values

    def _compiled(self) -> tuple[str, str, list[object]]:
        """(groups, conditions, parameters) over rows of entries."""
        groups, where, values = "", "", []
        for at, dimension in enumerate(self._query.group_by):
            sql, own = expression(dimension)
            groups += f"{sql} AS g{at}, "
            values += own
        for dimension, value in self._query.where:
            sql, own = expression(dimension)
            where += f" AND {sql} = ?"
            values += [*own, value]
        return groups, where, values

    def _outside(self) -> list[str]:
        """Conditions of the entries that are in no cell of the period: booked since, at its ends, odd."""
        period, seq = self._period, self._progress.seq
        inside = "" if period.since_ms is None else f" AND received_at_ms >= {period.first * HOUR_MS}"
        inside += "" if period.until_ms is None else f" AND received_at_ms < {period.end * HOUR_MS}"
        return [
            f"seq > {seq}{self._in_period()}",
            *(f"+seq <= {seq} AND received_at_ms >= {since} AND received_at_ms < {until}"
              for since, until in period.edges),
            f"seq IN (SELECT seq FROM main.odd) AND +seq <= {seq}{inside}",
        ]  # fmt: skip

    def _in_period(self) -> str:
        period = self._period
        since = "" if period.since_ms is None else f" AND +received_at_ms >= {period.since_ms}"
        return since + ("" if period.until_ms is None else f" AND +received_at_ms < {period.until_ms}")

    def _add_requests(self, sums: Sums, sql: str, values: Sequence[object]) -> None:
        for row in self._rows(sql, values):
            if row[self._width]:
                sums.setdefault(row[: self._width], [0] * (len(MEASURES) + 1))[0] += row[self._width]

    def _count_once(self, sums: Sums) -> None:
        """Requests that were counted in several parts of the answer are counted once."""
        seq, period = self._progress.seq, self._period
        edges = "".join(
            " UNION SELECT request_id FROM main.strays WHERE received_at_ms >= {} AND received_at_ms < {}".format(
                *edge
            )
            for edge in period.edges
        )
        several = (
            "SELECT request_id FROM ledger.entries AS fresh"
            f" WHERE seq > {seq}{self._in_period()} AND EXISTS (SELECT 1 FROM ledger.entries AS other"
            f" WHERE other.request_id = fresh.request_id AND other.seq <= {seq})"
            " UNION SELECT request_id FROM ledger.entries WHERE seq IN (SELECT seq FROM main.odd)" + edges
        )
        groups, where, values = self._compiled()
        rows = self._rows(
            f"SELECT {groups}request_id, received_at_ms, seq > {seq}, seq IN (SELECT seq FROM main.odd)"
            f" FROM ledger.entries AS entries WHERE request_id IN ({several}){self._in_period()}{where}",
            values,
        )
        parts: dict[tuple[Group, str], set[int]] = {}
        for row in rows:
            request_id, at_ms, fresh, odd = row[self._width :]
            part = 0
            if fresh:
                part = 1
            elif period.since_ms is not None and at_ms < period.first * HOUR_MS:
                part = 2
            elif period.until_ms is not None and at_ms >= period.end * HOUR_MS:
                part = 3
            elif odd:
                part = 4
            parts.setdefault((row[: self._width], request_id), set()).add(part)
        for (group, _), found in parts.items():
            sums[group][0] -= len(found) - 1


def _choose(connection: sqlite3.Connection, progress: Progress, query: LedgerQuery) -> Kept | None:
    """The cuboid with the fewest cells that answers; None where the roll-ups are of another ledger, too."""
    if not rollup_file.is_of_ledger(connection, progress):
        return None
    asked = asked_of(query)
    able = [kept for kept in rollup_file.cuboids(connection) if kept.state == "ready" and kept.cuboid.answers(asked)]
    return min(able, key=lambda kept: (kept.cells, len(kept.cuboid.dimensions)), default=None)


def _divided(query: LedgerQuery) -> Part:
    since, until = query.since_ms, query.until_ms
    return Part(
        first=0 if since is None else max(0, -(-since // HOUR_MS)),
        end=EVER if until is None else until // HOUR_MS,
        since_ms=since,
        until_ms=until,
    )


def _of_cell(dimension: str, seconds: int) -> str:
    if dimension not in TIME_DIMENSIONS:
        return name(dimension)
    return f"({TIMES[dimension].replace('received_at_ms / 1000', f'slot * {seconds}')})"


def _add(sums: Sums, rows: Iterable[tuple[Any, ...]], width: int) -> None:
    for row in rows:
        group, amounts = row[:width], row[width:]
        known = sums.get(group)
        if known is None:
            sums[group] = [amount or 0 for amount in amounts]
        else:
            for at, amount in enumerate(amounts):
                known[at] += amount or 0


def _whole(row: tuple[Any, ...], width: int) -> tuple[Any, ...]:
    """A row with its sums put together from their halves."""
    halves = row[width + 1 :]
    sums = ((high or 0) * 2**32 + (low or 0) for high, low in zip(halves[::2], halves[1::2], strict=True))
    return (*row[: width + 1], *sums)


def _totals(group: Group, sums: Sequence[int]) -> Totals:
    return totals_of(group, sums[0], sums[1:])
