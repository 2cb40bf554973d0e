"""One question put to the cells of one cuboid, and to the entries that are not in them.

Whole hours come from the cells (whole days from the cells of days), the rest from the entries: parts of an hour at
either end of the period, whatever was booked after the last batch, and entries with numbers too large for cells.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from farthing.adapters.ledger_query import MEASURES
from farthing.adapters.rollup_cuboids import HOUR_MS, asked_of, differing, name, names, requests_column
from farthing.adapters.rollup_file import Kept, Progress
from farthing.adapters.sqlite_reader import SUMMED, TIMES, expression, joined
from farthing.core.dimensions import TIME_DIMENSIONS
from farthing.core.types import LedgerQuery

SLOTS_NAMED: Final = 1_000
"""Days or hours that are looked up one by one, at most."""
EVER: Final = 2**40
"""More hours than there are."""
AMOUNTS: Final = ("entries", "amount")
"""The measures by which groups are ranked."""

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


def divided(query: LedgerQuery) -> Part:
    """How the period of a question is divided."""
    since, until = query.since_ms, query.until_ms
    return Part(
        first=0 if since is None else max(0, -(-since // HOUR_MS)),
        end=EVER if until is None else until // HOUR_MS,
        since_ms=since,
        until_ms=until,
    )


class Answer:
    """One question, put to the cells of one cuboid and to the entries that are not in them."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        query: LedgerQuery,
        period: Part,
        progress: Progress,
        kept: Kept,
        *,
        measures: Sequence[str] = MEASURES,
        only: Sequence[Group] = (),
    ) -> None:
        """``measures``: of all, only these, and no requests. ``only``: these groups; () for all."""
        self._measures = tuple(measures)
        self._only = only
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
        counted = self._measures == MEASURES
        if counted:
            self._add_requests(sums, *self._strays())
        entries, values = self._entries()
        start = self._width + 1
        for condition in self._outside():
            rows = self._rows(entries.replace("{outside}", condition), values)
            _add(sums, ((*row[:start], *joined(row[start:])) for row in rows), self._width)
        if counted:
            self._count_once(sums)
        return sums

    def _rows(self, sql: str, values: Sequence[object]) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _cells(self) -> Iterator[tuple[str, list[object]]]:
        query, period = self._query, self._period
        columns = [requests_column(differing(asked_of(query))), *self._measures]
        sums = ", ".join(f"sum({name(column)})" for column in columns)
        days = -(-period.first // 24), period.end // 24
        if is_hourly(query) or days[0] >= days[1]:
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
            groups = "".join(f"{name(dimension)} AS g{at}, " for at, dimension in enumerate(query.group_by))
            where = "".join(f" AND {name(dimension)} = ?" for dimension, _ in query.where)
            where += self._among([name(dimension) for dimension in query.group_by])
            by = ", ".join(f"g{at}" for at in range(self._width))
            given, source = self._moments(grain, seconds, first, end)
            yield (
                f"{given}SELECT {groups}{sums} FROM {source} {self._slots(grain, first, end)}{where}"
                + (f" GROUP BY {by}" if by else ""),
                [*(value for _, value in query.where), *self._named()],
            )

    def _moments(self, grain: str, seconds: int, first: int, end: int) -> tuple[str, str]:
        """(what comes before the SELECT, where it reads from). A moment is named once a slot, not once a cell."""
        table = self._kept.table(grain)
        asked = {*self._query.group_by, *(dimension for dimension, _ in self._query.where)}
        times = [dimension for dimension in TIME_DIMENSIONS if dimension in asked]
        if not times:
            return "", f"{table} WHERE"
        sql = f"SELECT (SELECT min(slot) FROM {table}), (SELECT max(slot) FROM {table})"
        low, high = self._connection.execute(sql).fetchone()
        low, high = max(first, low or 0), min(end - 1, -1 if high is None else high)
        began, after = (
            ", ".join(
                TIMES[dimension].replace("received_at_ms / 1000", f"({slot} * {seconds})") for dimension in times
            )
            for slot in (str(low), "(moment + 1)")
        )
        given = (
            f"WITH RECURSIVE moments(moment, {names(times)}) AS (SELECT {low}, {began} WHERE {low} <= {high}"
            f" UNION ALL SELECT moment + 1, {after} FROM moments WHERE moment < {high}) "
        )
        return given, f"moments CROSS JOIN {table} ON slot = moment AND"

    def _among(self, groups: Sequence[str]) -> str:
        """The condition that a row is of the groups that are asked for."""
        if not self._only:
            return ""
        one = f"({', '.join('?' for _ in groups)})"
        return f" AND ({', '.join(groups)}) IN (VALUES {', '.join([one] * len(self._only))})"

    def _named(self) -> list[object]:
        return [value for group in self._only for value in group]

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
        summed = [SUMMED.get(measure, measure) for measure in self._measures]
        requests = "count(DISTINCT request_id)" if self._measures == MEASURES else "0"
        halves = ", ".join(f"sum(({sql}) >> 32), sum(({sql}) & 4294967295)" for sql in summed)
        return (
            f"SELECT {groups}{requests}, {halves} FROM ledger.entries AS entries"
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
        if self._only:
            parts = [expression(dimension) for dimension in self._query.group_by]
            where += self._among([sql for sql, _ in parts])
            values += [*(value for _, own in parts for value in own), *self._named()]
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


def is_hourly(query: LedgerQuery) -> bool:
    """The question tells hours of one day apart."""
    return "hour" in query.group_by or any(dimension == "hour" for dimension, _ in query.where)


def _add(sums: Sums, rows: Iterable[tuple[Any, ...]], width: int) -> None:
    if not sums:  # every group comes once in one part
        for row in rows:
            sums[row[:width]] = [amount or 0 for amount in row[width:]] if None in row else list(row[width:])
        return
    for row in rows:
        group, amounts = row[:width], row[width:]
        known = sums.get(group)
        if known is None:
            sums[group] = [amount or 0 for amount in amounts] if None in row else list(amounts)
        else:
            for at, amount in enumerate(amounts):
                known[at] += amount or 0
