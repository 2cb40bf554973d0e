"""Roll-ups and ledger as they are at one moment, opened once for all that a page asks of them. Blocking."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters import rollup_file, rollup_postings
from farthing.adapters.ledger_query import MEASURES
from farthing.adapters.rollup_answer import Sums
from farthing.adapters.rollup_cuboids import asked_of, names
from farthing.adapters.rollup_file import Kept
from farthing.adapters.rollup_postings import Span
from farthing.adapters.sqlite_ahead import Ahead
from farthing.adapters.sqlite_reader import condition, read_sums
from farthing.adapters.sqlite_rows import INT64_MAX, INT64_MIN
from farthing.core.types import LedgerQuery

POSTED_MAX: Final = 20_000
"""Entries in the blocks of one user, session or key that are read at once, at most."""
SEEK: Final = 24
"""Going to another place of the ledger takes as long as so many entries that are read there."""
GATHERED_MAX: Final = 50_000
"""Entries that are kept in memory for one page, at most."""
NEAR_MAX: Final = 2
"""A period's entries are read in a row with those between, where all are at most so many times as many."""
_PRAGMAS: Final = (
    "temp_store = MEMORY",
    "automatic_index = OFF",  # SQLite would read all entries to find a few
    "main.cache_size = -16384",
    "ledger.cache_size = -16384",
)
_SUMMED: Final = (
    "request_id", "received_at_ms", "amount_nusd", "baseline_nusd", "reason", "source", "error", "input_tokens",
    "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "latency_ms",
)  # fmt: skip
"""What the measures are made from."""
_GATHERED: Final = "temp.gathered AS entries"


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """What the temporary table of the same name has: the entries that match the query."""

    query: LedgerQuery
    dimensions: frozenset[str]

    def answers(self, query: LedgerQuery) -> bool:
        """True where all that is asked about is in it."""
        own = self.query
        begins = own.since_ms is None or (query.since_ms is not None and query.since_ms >= own.since_ms)
        ends = own.until_ms is None or (query.until_ms is not None and query.until_ms <= own.until_ms)
        return begins and ends and set(own.where) <= set(query.where) and set(asked_of(query)) <= self.dimensions


class Reading:
    """Close it after use. Raises ``StoreUnavailable`` and ``sqlite3.Error``."""

    def __init__(self, path: Path, ledger: Path) -> None:
        self.connection = rollup_file.connect(path, ledger, write=False)
        self._ledger = ledger
        self._gathered: Gathered | None = None
        self._posted: dict[tuple[object, ...], list[Span] | None] = {}
        try:
            for pragma in _PRAGMAS:
                self.connection.execute(f"PRAGMA {pragma}")
            self.connection.execute("BEGIN")  # cells, progress and entries of one moment
            self.progress = rollup_file.progress(self.connection)
            self.is_of_ledger = rollup_file.is_of_ledger(self.connection, self.progress)
            self.kept = rollup_file.cuboids(self.connection)
        except sqlite3.Error:
            self.connection.close()
            raise

    def close(self) -> None:
        """Ends the moment."""
        self.connection.close()

    def choose(self, query: LedgerQuery) -> Kept | None:
        """The cuboid with the fewest cells that answers; None where the roll-ups are of another ledger, too."""
        if not self.is_of_ledger:
            return None
        asked = asked_of(query)
        able = [kept for kept in self.kept if kept.state == "ready" and kept.cuboid.answers(asked)]
        return min(able, key=lambda kept: (kept.cells, len(kept.cuboid.dimensions)), default=None)

    def posted(self, query: LedgerQuery) -> list[Span] | None:
        """Where all matching entries are; None where that is not known, or almost everywhere."""
        asked = query.where, query.since_ms, query.until_ms
        if asked not in self._posted:
            self._posted[asked] = self._looked_up(query)
        return self._posted[asked]

    def _looked_up(self, query: LedgerQuery) -> list[Span] | None:
        where = rollup_postings.known(query.where)
        if not where or not self.is_of_ledger:
            return None
        (last,) = self.connection.execute("SELECT coalesce(max(seq), 0) FROM ledger.entries").fetchone()
        found, cost = [], 0
        for span in rollup_postings.spans(
            self.connection, where, seq=self.progress.seq, low=1, high=last + 1,
            since_ms=query.since_ms, until_ms=query.until_ms,
        ):  # fmt: skip
            found.append(span)
            cost += span[1] - span[0] + SEEK
            if cost > POSTED_MAX:
                return None
        return found

    def gather(self, query: LedgerQuery) -> None:
        """Reads the entries that match once; questions about the dimensions of ``query`` are then put to these."""
        dimensions = frozenset(asked_of(query))
        found = self.posted(query)
        source = self._near(query) if found is None else self._source(found)
        if not source:
            return
        where, values = condition(query, indexed="INDEXED" in source)
        tags = ("tags",) if any(name.startswith("tag:") for name in dimensions) else ()
        columns = dict.fromkeys((*_SUMMED, *(name for name in dimensions if not name.startswith("tag:")), *tags))
        self.connection.execute("DROP TABLE IF EXISTS temp.gathered")
        self.connection.execute(
            f"CREATE TEMP TABLE gathered AS SELECT {names(columns)} FROM {source} WHERE true{where}", values
        )
        self._gathered = Gathered(query=query, dimensions=dimensions)

    def has(self, query: LedgerQuery) -> bool:
        """What was gathered answers it."""
        return self._gathered is not None and self._gathered.answers(query)

    def sums(self, query: LedgerQuery, measures: Sequence[str] = MEASURES) -> Sums | None:
        """The answer from what was gathered, or from the blocks that have matching entries; None where these are too
        many, or not known."""
        if self.has(query):
            source = _GATHERED
        else:
            found = self.posted(query)
            if found is None:
                return None
            source = self._source(found)
        rows, width = read_sums(self.connection, query, source=source, measures=measures), len(query.group_by)
        return {row[:width]: list(row[width:]) for row in rows}

    def _source(self, found: Sequence[Span]) -> str:
        """SQL for the entries of these places."""
        self._ahead(found)
        values = ", ".join(f"({low}, {high})" for low, high in found or [(0, 0)])
        return (
            f"(VALUES {values}) AS spans CROSS JOIN ledger.entries AS entries"
            " ON entries.seq >= spans.column1 AND entries.seq < spans.column2"
        )

    def _near(self, query: LedgerQuery) -> str:
        """SQL for the entries of a period, which are mostly near each other; "" where they are many."""
        low, high, count = self.connection.execute(
            "SELECT min(seq), max(seq), count(*) FROM (SELECT seq FROM ledger.entries"
            " INDEXED BY entries_received WHERE received_at_ms BETWEEN ? AND ? LIMIT ?)",
            (
                INT64_MIN if query.since_ms is None else query.since_ms,
                INT64_MAX if query.until_ms is None else query.until_ms - 1,
                GATHERED_MAX + 1,
            ),
        ).fetchone()
        if count > GATHERED_MAX:
            return ""
        if count and high - low < NEAR_MAX * count:
            self._ahead([(low, high + 1)])
            return f"(SELECT * FROM ledger.entries WHERE seq >= {low} AND seq <= {high}) AS entries"
        return "ledger.entries AS entries INDEXED BY entries_received"  # SQLite would guess, and read everything

    def _ahead(self, found: Sequence[Span]) -> None:
        Ahead.of_entries(self._ledger, self.connection, "ledger").fetch(found)
