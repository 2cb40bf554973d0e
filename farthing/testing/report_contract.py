"""The same question has the same answer, whichever store is asked: a conformance kit for ``Ledger.totals``.

Subclass :class:`ReportContract` and give ``opener``, the name of a function ``(home, entries, exchanges) -> Ledger``
that fills a store. The reference is ``farthing.adapters.ledger_query``, entry by entry.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, cast

import pytest

from farthing.adapters.ledger_query import entry_totals
from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS, TIME_DIMENSIONS
from farthing.core.errors import NotFound
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Ledger
from farthing.testing.lifelike import MONTH_MS, ODD, START_MS, lifelike_entries
from farthing.testing.records import an_entry, an_exchange
from farthing.testing.worker import find_opener

DIMENSIONS = (*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS, *TIME_DIMENSIONS, "tag:env", "tag:run", "tag:it's")
BIG = 2**62
Fill = Callable[[Path, Sequence[LedgerEntry], Sequence[Exchange]], Ledger]


def some_queries(entries: Sequence[LedgerEntry], *, seed: int, count: int) -> Iterator[LedgerQuery]:
    """Questions with and without groups, periods and filters whose values occur."""
    chance = random.Random(seed)
    yield LedgerQuery()
    yield from (LedgerQuery(group_by=(name,)) for name in DIMENSIONS)
    for _ in range(count):
        group_by = tuple(chance.sample(DIMENSIONS, chance.randint(0, 3)))
        bounds = sorted(START_MS + chance.randrange(MONTH_MS) for _ in range(2))
        where: list[tuple[str, str]] = []
        for name in chance.sample(SCOPE_DIMENSIONS, chance.choice((0, 1))):
            where.append((name, getattr(chance.choice(entries).scope, name)))
        if chance.random() < 0.2:
            where.append(("tag:run", chance.choice(ODD)))
        yield LedgerQuery(
            group_by=group_by,
            since_ms=bounds[0] if chance.random() < 0.5 else None,
            until_ms=bounds[1] if chance.random() < 0.5 else None,
            where=tuple(where),
        )


@lru_cache(maxsize=2)
def a_month(count: int) -> tuple[tuple[LedgerEntry, ...], tuple[tuple[LedgerQuery, tuple[Totals, ...]], ...]]:
    """Entries, and questions about them with the reference's answers; the same for every store, so made once."""
    entries = tuple(lifelike_entries(count, seed=11))
    queries = some_queries(entries, seed=5, count=15)
    return entries, tuple((query, entry_totals(entries, query)) for query in queries)


class ReportContract:
    """Sentences about reading a filled store."""

    opener: ClassVar[str]
    entries_in_month: ClassVar[int] = 12_000

    def fill(self, home: Path, entries: Iterable[LedgerEntry], exchanges: Iterable[Exchange] = ()) -> Ledger:
        """A store with these records."""
        opener = cast("Fill", find_opener(self.opener))
        ledger = opener(home, tuple(entries), tuple(exchanges))
        self._filled.append(ledger)
        return ledger

    @pytest.fixture(autouse=True)
    def _closed(self) -> Iterator[None]:
        self._filled: list[Ledger] = []
        yield
        for ledger in self._filled:
            close = getattr(ledger, "close", None)
            if close is not None:
                close()

    def test_a_months_reports_are_those_of_the_reference(self, tmp_path: Path) -> None:
        entries, answers = a_month(self.entries_in_month)
        ledger = self.fill(tmp_path, entries)
        for query, answer in answers:
            assert ledger.totals(query) == answer, query

    def test_sums_beyond_64_bits_are_exact(self, tmp_path: Path) -> None:
        entries = [an_entry(f"e{number}", BIG, baseline=BIG + 1) for number in range(5)]
        (total,) = self.fill(tmp_path, entries).totals(LedgerQuery())
        assert (total.amount, total.baseline) == (5 * BIG, 5 * (BIG + 1))

    def test_the_first_days_of_a_year_are_in_the_week_that_holds_its_thursday(self, tmp_path: Path) -> None:
        days = (1_293_840_000_000, 1_325_376_000_000, 1_419_984_000_000, 1_609_459_199_999, 1_735_689_600_000)
        entries = [an_entry(f"e{at}", received_at_ms=at) for at in days]
        ledger = self.fill(tmp_path, entries)
        for name in TIME_DIMENSIONS:
            query = LedgerQuery(group_by=(name,))
            assert ledger.totals(query) == entry_totals(entries, query)

    def test_a_request_in_two_groups_counts_once_in_each_and_once_in_the_whole(self, tmp_path: Path) -> None:
        day_ms = 86_400_000
        entries = [
            an_entry("a", request_id="r", model="m1", received_at_ms=day_ms),
            an_entry("b", request_id="r", model="m2", received_at_ms=day_ms),
            an_entry("c", request_id="r", model="m2", received_at_ms=5 * day_ms),
            an_entry("d", request_id="s", model="m2", received_at_ms=5 * day_ms),
        ]
        ledger = self.fill(tmp_path, entries)
        by_model = {row.group[0]: row.requests for row in ledger.totals(LedgerQuery(group_by=("model",)))}
        assert by_model == {"m1": 1, "m2": 2}
        assert ledger.totals(LedgerQuery())[0].requests == 2
        assert ledger.totals(LedgerQuery(since_ms=2 * day_ms))[0].requests == 2

    def test_a_store_without_entries_has_one_empty_total_and_no_groups(self, tmp_path: Path) -> None:
        ledger = self.fill(tmp_path, ())
        assert ledger.totals(LedgerQuery()) == entry_totals((), LedgerQuery())
        assert ledger.totals(LedgerQuery(group_by=("team",))) == ()

    def test_entries_come_back_as_they_were_booked(self, tmp_path: Path) -> None:
        entries = sorted(lifelike_entries(3_000, seed=3), key=lambda entry: (entry.booked_at_ms, entry.id))
        ledger = self.fill(tmp_path, entries)
        assert list(ledger.entries()) == entries
        assert list(ledger.entries(after=entries[1_234].id)) == entries[1_235:]
        wanted = next(entry.request_id for entry in entries if entry.attempt == 2)
        assert list(ledger.entries(request_id=wanted)) == [e for e in entries if e.request_id == wanted]

    def test_exchanges_come_back_as_they_were_logged(self, tmp_path: Path) -> None:
        exchanges = [an_exchange(f"r{number:03}", received_at_ms=START_MS + number) for number in range(50)]
        ledger = self.fill(tmp_path, (), exchanges)
        assert list(ledger.exchanges()) == exchanges
        assert list(ledger.exchanges(after="r030")) == exchanges[31:]
        assert list(ledger.exchanges(since_ms=START_MS + 40)) == exchanges[40:]

    def test_going_on_after_an_unknown_record_is_refused(self, tmp_path: Path) -> None:
        ledger = self.fill(tmp_path, [an_entry("a")], [an_exchange("r")])
        with pytest.raises(NotFound):
            list(ledger.entries(after="nobody"))
        with pytest.raises(NotFound):
            list(ledger.exchanges(after="nobody"))
