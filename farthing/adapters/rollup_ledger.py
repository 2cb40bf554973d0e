"""``Ledger`` that answers from roll-ups where it can; the answer is the one that the entries give. Blocking.

What no cuboid answers about one user, session or key is read from the blocks that have its entries.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from farthing.adapters import rollup_file, rollup_postings
from farthing.adapters.ledger_query import MEASURES, check_query, totals_of
from farthing.adapters.rollup_answer import AMOUNTS, Answer, Group, Part, Sums, divided, is_hourly
from farthing.adapters.rollup_cuboids import Cuboid, asked_of
from farthing.adapters.rollup_file import Kept, Progress
from farthing.adapters.rollup_job import want
from farthing.adapters.rollup_postings import Span
from farthing.adapters.sqlite_reader import SqliteLedger, read_sums
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Balance

CELLS_MANY: Final = 20_000
"""Cells of days beyond which a question is worth a cuboid of its own."""
POSTED_MAX: Final = 20_000
"""Entries in the blocks of one user, session or key that are read at once, at most."""
TOUCHED_MS: Final = 3_600_000
"""How often it is noted that a cuboid is in use."""
WISH_MS: Final = 20
"""How long a wish waits for whoever is writing."""


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

    def cells(self, query: LedgerQuery) -> int | None:
        """See :class:`farthing.ports.books.Ranked`."""
        try:
            with closing(self._open()) as connection:
                progress = rollup_file.progress(connection)
                kept = _choose(connection, progress, query)
                if kept is not None:
                    return _estimate(connection, kept, query)
                found = _posted(connection, progress, query)
                return None if found is None else sum(high - low for low, high in found)
        except (StoreUnavailable, sqlite3.Error):
            return None

    def amounts(self, query: LedgerQuery) -> Mapping[Group, tuple[int, int]]:
        """See :class:`farthing.ports.books.Ranked`."""
        with suppress(StoreUnavailable, sqlite3.Error):
            sums = self._summed(query, AMOUNTS, ())
            if sums is not None:
                return {group: (amount, entries) for group, (_, entries, amount) in sums.items() if entries}
        return self._ledger.amounts(query)

    def some(self, query: LedgerQuery, groups: Sequence[Group]) -> tuple[Totals, ...]:
        """See :class:`farthing.ports.books.Ranked`."""
        with suppress(StoreUnavailable, sqlite3.Error):
            sums = self._summed(query, MEASURES, groups) if groups else {}
            if sums is not None:
                return tuple(_totals(group, sums[group]) for group in sorted(sums) if sums[group][1])
        wanted = set(groups)
        return tuple(row for row in self.totals(query) if row.group in wanted)

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
        period = divided(query)
        if period.first >= period.end:
            return None
        with closing(self._open()) as connection:
            connection.execute("BEGIN")  # cells and progress of one moment
            progress = rollup_file.progress(connection)
            kept = _choose(connection, progress, query)
            if kept is None:
                sums = _from_blocks(connection, progress, query, MEASURES)
            else:
                sums = Answer(connection, query, period, progress, kept).sums()
            known = rollup_file.cuboids(connection)
        if kept is not None or sums is None:
            self._wish(query, kept, known)
        if sums is None:
            return None
        if not query.group_by:
            sums.setdefault((), [0] * (len(MEASURES) + 1))
        return tuple(_totals(group, sums[group]) for group in sorted(sums) if not query.group_by or sums[group][1])

    def _summed(self, query: LedgerQuery, measures: Sequence[str], only: Sequence[Group]) -> Sums | None:
        """Some measures of some groups; None: no cuboid answers."""
        check_query(query)
        period = divided(query)
        if period.first >= period.end:
            return None
        with closing(self._open()) as connection:
            connection.execute("BEGIN")
            progress = rollup_file.progress(connection)
            kept = _choose(connection, progress, query)
            if kept is not None:
                return Answer(connection, query, period, progress, kept, measures=measures, only=only).sums()
            sums = _from_blocks(connection, progress, query, measures)
            return sums if sums is None or not only else {group: sums[group] for group in only if group in sums}

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
            closing(rollup_file.connect(self._path, self._ledger.path, write=True, wait_ms=WISH_MS)) as connection,
            rollup_file.writing(connection),
        ):
            want(connection, cuboid, now_ms=now_ms)


def _choose(connection: sqlite3.Connection, progress: Progress, query: LedgerQuery) -> Kept | None:
    """The cuboid with the fewest cells that answers; None where the roll-ups are of another ledger, too."""
    if not rollup_file.is_of_ledger(connection, progress):
        return None
    asked = asked_of(query)
    able = [kept for kept in rollup_file.cuboids(connection) if kept.state == "ready" and kept.cuboid.answers(asked)]
    return min(able, key=lambda kept: (kept.cells, len(kept.cuboid.dimensions)), default=None)


def _estimate(connection: sqlite3.Connection, kept: Kept, query: LedgerQuery) -> int:
    """About how many cells are added up, were they spread evenly over the days."""
    table, period = kept.table("day"), divided(query)
    sql = f"SELECT (SELECT min(slot) FROM {table}), (SELECT max(slot) FROM {table})"
    low, high = connection.execute(sql).fetchone()
    if low is None:
        return 0
    hours = _within(low * 24, high * 24 + 24, period)
    days = Part(first=-(-period.first // 24), end=period.end // 24, since_ms=None, until_ms=None)
    whole = 0 if is_hourly(query) else _within(low, high + 1, days)
    cells = kept.cells * whole + kept.hour_cells * max(0, hours - whole * 24) // 24
    cells //= high + 1 - low
    if any((dimension,) == kept.cuboid.dimensions[:1] for dimension, _ in query.where):
        cells //= 8  # looked up
    elif query.where:
        cells //= 2
    return int(cells)


def _within(low: int, high: int, period: Part) -> int:
    return max(0, min(high, period.end) - max(low, period.first))


def _posted(connection: sqlite3.Connection, progress: Progress, query: LedgerQuery) -> list[Span] | None:
    """Where all matching entries are; None where that is not known, or almost everywhere."""
    if not rollup_postings.is_posted(query.where) or not rollup_file.is_of_ledger(connection, progress):
        return None
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM ledger.entries").fetchone()
    found, entries = [], 0
    for span in rollup_postings.spans(connection, query.where, seq=progress.seq, low=1, high=last + 1):
        found.append(span)
        entries += span[1] - span[0]
        if entries > POSTED_MAX:
            return None
    return found


def _from_blocks(
    connection: sqlite3.Connection, progress: Progress, query: LedgerQuery, measures: Sequence[str]
) -> Sums | None:
    """The answer from the blocks that have matching entries; None where they are too many, or not known."""
    found = _posted(connection, progress, query)
    if found is None:
        return None
    values = ", ".join(f"({low}, {high})" for low, high in found or [(0, 0)])
    source = (
        f"(VALUES {values}) AS spans CROSS JOIN ledger.entries AS entries"
        " ON entries.seq >= spans.column1 AND entries.seq < spans.column2"
    )
    rows, width = read_sums(connection, query, source=source, measures=measures), len(query.group_by)
    return {row[:width]: list(row[width:]) for row in rows}


def _totals(group: Group, sums: Sequence[int]) -> Totals:
    return totals_of(group, sums[0], sums[1:])
