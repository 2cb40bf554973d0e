"""``Ledger`` that answers from roll-ups where it can; the answer is the one that the entries give. Blocking.

What no cuboid answers about one user, session or key is read from the blocks that have its entries.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from farthing.adapters import rollup_file
from farthing.adapters.ledger_query import MEASURES, check_query, totals_of
from farthing.adapters.rollup_answer import AMOUNTS, Answer, Group, Part, Sums, divided, is_hourly
from farthing.adapters.rollup_cuboids import Cuboid, asked_of
from farthing.adapters.rollup_file import Kept
from farthing.adapters.rollup_job import want
from farthing.adapters.rollup_reading import Reading
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Balance

CELLS_MANY: Final = 20_000
"""Cells of days beyond which a question is worth a cuboid of its own."""
TOUCHED_MS: Final = 3_600_000
"""How often it is noted that a cuboid is in use."""
WISH_MS: Final = 20
"""How long a wish waits for whoever is writing."""


class RollupLedger:
    """The SQLite ledger with its roll-ups. What they cannot answer the ledger itself answers.

    Any thread may use it, but one alone while it is :meth:`steady`.
    """

    def __init__(self, ledger: SqliteLedger, path: Path) -> None:
        self._ledger = ledger
        self._path = path
        self._held: Reading | None = None

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
            with self._reading() as reading:
                return reading.choose(query) is not None
        except (StoreUnavailable, sqlite3.Error):
            return False

    def cells(self, query: LedgerQuery) -> int | None:
        """See :class:`farthing.ports.books.Ranked`."""
        try:
            with self._reading() as reading:
                kept = reading.choose(query)
                if kept is not None:
                    return _estimate(reading.connection, kept, query)
                found = reading.posted(query)
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

    @contextmanager
    def steady(self) -> Iterator[None]:
        """See :class:`farthing.ports.books.Steady`."""
        with suppress(StoreUnavailable, sqlite3.Error):
            self._held = Reading(self._path, self._ledger.path)
        try:
            yield
        finally:
            held, self._held = self._held, None
            if held is not None:
                held.close()

    def gather(self, query: LedgerQuery) -> None:
        """See :class:`farthing.ports.books.Steady`."""
        check_query(query)
        if self._held is not None:
            with suppress(sqlite3.Error):
                self._held.gather(query)

    @contextmanager
    def _reading(self) -> Iterator[Reading]:
        if self._held is not None:
            yield self._held
            return
        with closing(Reading(self._path, self._ledger.path)) as reading:
            yield reading

    def _rolled(self, query: LedgerQuery) -> tuple[Totals, ...] | None:
        """None: the roll-ups do not answer."""
        with self._reading() as reading:
            kept = reading.choose(query)
            sums = self._sums(reading, kept, query, MEASURES, ())
            known, posted = reading.kept, reading.posted(query) is not None
        if kept is not None or not posted:
            self._wish(query, kept, known)
        if sums is None:
            return None
        if not query.group_by:
            sums.setdefault((), [0] * (len(MEASURES) + 1))
        return tuple(_totals(group, sums[group]) for group in sorted(sums) if not query.group_by or sums[group][1])

    def _summed(self, query: LedgerQuery, measures: Sequence[str], only: Sequence[Group]) -> Sums | None:
        """Some measures of some groups; None: no cuboid answers."""
        check_query(query)
        with self._reading() as reading:
            return self._sums(reading, reading.choose(query), query, measures, only)

    def _sums(
        self, reading: Reading, kept: Kept | None, query: LedgerQuery, measures: Sequence[str], only: Sequence[Group]
    ) -> Sums | None:
        """What was gathered comes first, even where cells answer: these have no parts of hours."""
        period = divided(query)
        if kept is None or reading.has(query):
            sums = reading.sums(query, measures)
            return sums if sums is None or not only else {group: sums[group] for group in only if group in sums}
        if period.first >= period.end:
            return None
        answer = Answer(reading.connection, query, period, reading.progress, kept, measures=measures, only=only)
        return answer.sums()

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
    return int(cells)


def _within(low: int, high: int, period: Part) -> int:
    return max(0, min(high, period.end) - max(low, period.first))


def _totals(group: Group, sums: Sequence[int]) -> Totals:
    return totals_of(group, sums[0], sums[1:])
