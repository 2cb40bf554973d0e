"""Conformance classes: subclass one per port, name your store, and its whole contract runs against it.

::

    class TestMyBooks(DurableBooksContract):
        opener = "my_package.my_module:open_books"    # async (home: Path, worker: str) -> books

Needs pytest and pytest-asyncio.
"""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from farthing.adapters.memory import MemoryBooks
from farthing.core.errors import BadRequest, Conflict, NotFound
from farthing.core.types import Denied, Held, LedgerEntry, LedgerQuery, Scope
from farthing.ports.books import Settlement
from farthing.testing.books_random import STEPS, run_scripts
from farthing.testing.books_script import TABLES, BooksScript
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry, an_exchange
from farthing.testing.stores import BooksUnderTest
from farthing.testing.worker import LOAD_COST, RACE_LIMIT, find_opener

COUNTERS = ("team", "user", "org", "soft")
LIMIT = 100
HOUR_MS = 3_600_000


class BooksContract:
    """What every store of holds and entries keeps; the sentences of ``farthing.ports.books.Books``."""

    opener: ClassVar[str]
    scripts: ClassVar[int] = 5_000
    """Random scripts of the differential test (``farthing.testing.books_random``)."""
    pytestmark = pytest.mark.asyncio

    @asynccontextmanager
    async def books(self, home: Path, worker: str = "w1") -> AsyncIterator[BooksUnderTest]:
        """The store under test, closed at the end."""
        opened = await find_opener(self.opener)(home, worker)
        try:
            yield opened
        finally:
            await opened.close()

    @pytest.mark.parametrize("sentence", list(TABLES))
    async def test_the_table_holds(self, tmp_path: Path, sentence: str) -> None:
        async with self.books(tmp_path) as books:
            await BooksScript(books).run(TABLES[sentence])

    async def test_every_answer_is_that_of_the_reference(self, tmp_path: Path) -> None:
        async with self.books(tmp_path) as books:
            acts = await run_scripts([books], range(self.scripts))
        assert acts == self.scripts * STEPS

    async def test_a_thousand_reserves_at_once_never_pass_the_limit(self, tmp_path: Path) -> None:
        need, limit = 7, 700
        async with self.books(tmp_path) as books:
            reservations = [a_reservation(f"r{n}", a_hold("team", need, limit=limit)) for n in range(1000)]
            answers = await asyncio.gather(*(books.reserve(r, now_ms=AT_MS) for r in reservations))
            assert sum(isinstance(answer, Held) for answer in answers) == 100
            assert all(answer.left == 0 for answer in answers if isinstance(answer, Denied))
            assert books.balances([("team", "all")])[0].held == limit

    async def test_reserves_and_settlements_at_once_leave_the_sum_of_what_was_spent(self, tmp_path: Path) -> None:
        async with self.books(tmp_path) as books:
            randomness = random.Random(7)

            async def call(number: int) -> int:
                holds = [a_hold(counter, 10, limit=2_000) for counter in randomness.sample(COUNTERS, 2)]
                reservation = a_reservation(f"r{number}", *holds)
                if isinstance(await books.reserve(reservation, now_ms=AT_MS), Denied):
                    return 0
                cost = randomness.randint(0, 10)
                entries = (an_entry(f"e{number}", cost),) if cost else ()
                await books.settle(
                    Settlement(reservation=reservation, amounts=(cost,) * 2 if cost else (), entries=entries),
                    now_ms=AT_MS,
                )
                return 2 * cost

            spent = sum(await asyncio.gather(*(call(number) for number in range(300))))
            balances = books.balances([(counter, "all") for counter in COUNTERS])
            assert sum(balance.posted for balance in balances) == spent > 0
            assert all(balance.held == 0 for balance in balances)
            assert books.totals(LedgerQuery())[0].amount * 2 == spent

    async def test_a_cancelled_reserve_holds_nothing_for_long(self, tmp_path: Path) -> None:
        async with self.books(tmp_path) as books:
            waiting = asyncio.ensure_future(books.reserve(a_reservation("r1", a_hold("team", 100)), now_ms=AT_MS))
            await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                later = await books.reserve(a_reservation("r2", a_hold("team", 100)), now_ms=AT_MS)
                assert isinstance(later, Held)

    async def test_amounts_must_fit_the_holds(self, tmp_path: Path) -> None:
        async with self.books(tmp_path) as books:
            reservation = a_reservation("r1", a_hold("team", 10))
            await books.reserve(reservation, now_ms=AT_MS)
            with pytest.raises(ValueError, match="2 amounts for 1 holds"):
                await books.settle(Settlement(reservation=reservation, amounts=(1, 2)), now_ms=AT_MS)
            with pytest.raises(ValueError, match="same entry id twice"):
                await books.settle(
                    Settlement(reservation=reservation, entries=(an_entry("e"), an_entry("e"))), now_ms=AT_MS
                )
            assert books.balances([("team", "all")])[0].held == 10

    async def test_records_come_back_as_they_were_booked(self, tmp_path: Path) -> None:
        scope = Scope(team="a|b,c=d%", user="zoë", tags=(("env", 'pr"od'), ("ze|ta", "")))
        entries = [
            an_entry("e2", 5, scope=scope, baseline=9),
            an_entry("e1", None, error="provider_timed_out", source="estimated"),
            an_entry("e3", 0, request_id="request-e2"),
        ]
        async with self.books(tmp_path) as books:
            for entry in entries:
                exchange = an_exchange(f"x-{entry.id}", received_at_ms=entry.received_at_ms)
                settlement = Settlement(reservation=None, entries=(entry,), exchange=exchange)
                await books.settle(settlement, now_ms=AT_MS)
            assert list(books.entries()) == entries
            assert list(books.entries(after="e2")) == entries[1:]
            assert [e.id for e in books.entries(request_id="request-e2")] == ["e2", "e3"]
            assert list(books.entries(since_ms=AT_MS + 1)) == []
            assert [e.request_id for e in books.exchanges(after="x-e2")] == ["x-e1", "x-e3"]
            assert next(iter(books.exchanges())) == an_exchange("x-e2")
            with pytest.raises(NotFound):
                list(books.entries(after="nothing"))

    async def test_totals_are_those_of_the_reference_in_every_dimension(self, tmp_path: Path) -> None:
        entries = random_entries(random.Random(11), 120)
        reference = MemoryBooks()
        async with self.books(tmp_path) as books:
            for store in (reference, books):
                await store.settle(Settlement(reservation=None, entries=tuple(entries)), now_ms=AT_MS)
            for query in QUERIES:
                assert books.totals(query) == reference.totals(query), query
            with pytest.raises(BadRequest, match="colour"):
                books.totals(LedgerQuery(group_by=("colour",)))

    async def test_sums_beyond_64_bits_are_exact(self, tmp_path: Path) -> None:
        huge = 2**63 - 1
        async with self.books(tmp_path) as books:
            entries = tuple(an_entry(f"e{n}", huge if n < 3 else -5, baseline=huge) for n in range(4))
            await books.settle(Settlement(reservation=None, entries=entries), now_ms=AT_MS)
            (totals,) = books.totals(LedgerQuery())
            assert (totals.amount, totals.baseline) == (3 * huge - 5, 4 * huge)

    async def test_old_exchanges_are_pruned_and_entries_stay(self, tmp_path: Path) -> None:
        async with self.books(tmp_path) as books:
            for number in (3, 1, 2):
                await books.settle(
                    Settlement(
                        reservation=None,
                        entries=(an_entry(f"e{number}"),),
                        exchange=an_exchange(f"x{number}", received_at_ms=AT_MS + number),
                    ),
                    now_ms=AT_MS,
                )
            assert await books.prune(AT_MS + 3) == 2
            assert [exchange.request_id for exchange in books.exchanges()] == ["x3"]
            assert len(list(books.entries())) == 3


class DurableBooksContract(BooksContract):
    """For stores that survive their process and that several processes share: reopening, races, crashes."""

    shared_scripts: ClassVar[int] = 256
    """Random scripts whose acts are spread over three workers."""

    async def test_what_was_settled_is_there_after_reopening(self, tmp_path: Path) -> None:
        reservation = a_reservation("r1", a_hold("team", 60))
        entry = an_entry("e1", 25)
        async with self.books(tmp_path) as books:
            await books.reserve(reservation, now_ms=AT_MS)
            await books.settle(Settlement(reservation=reservation, amounts=(25,), entries=(entry,)), now_ms=AT_MS)
        async with self.books(tmp_path) as books:
            assert books.balances([("team", "all")])[0].posted == 25
            assert list(books.entries()) == [entry]
            await books.settle(Settlement(reservation=reservation, amounts=(25,), entries=(entry,)), now_ms=AT_MS)
            assert books.balances([("team", "all")])[0].posted == 25
            with pytest.raises(Conflict):
                await books.settle(Settlement(reservation=None, entries=(an_entry("e1", 26),)), now_ms=AT_MS)

    async def test_two_workers_share_one_limit_to_the_last_unit(self, tmp_path: Path) -> None:
        async with self.books(tmp_path, "w1") as first, self.books(tmp_path, "w2") as second:
            held = 0
            for number in range(12):
                books = (first, second)[number % 2]
                answer = await books.reserve(a_reservation(f"r{number}", a_hold("team", 10)), now_ms=AT_MS)
                held += isinstance(answer, Held)
            assert held == 10
            for books in (first, second):
                assert books.balances([("team", "all")])[0].held == LIMIT

    async def test_authority_that_another_worker_does_not_need_refuses_nothing(self, tmp_path: Path) -> None:
        async with self.books(tmp_path, "w1") as first, self.books(tmp_path, "w2") as second:
            small = a_reservation("r1", a_hold("team", 1))
            assert isinstance(await first.reserve(small, now_ms=AT_MS), Held)
            rest = a_reservation("r2", a_hold("team", 99))
            assert isinstance(await second.reserve(rest, now_ms=AT_MS), Held)
            answer = await first.reserve(a_reservation("r3", a_hold("team", 1)), now_ms=AT_MS)
            assert isinstance(answer, Denied)
            await second.settle(
                Settlement(reservation=rest, amounts=(9,), entries=(an_entry("e2", 9),)), now_ms=AT_MS
            )
            more = await first.reserve(a_reservation("r4", a_hold("team", 90)), now_ms=AT_MS)
            assert isinstance(more, Held)

    async def test_several_workers_answer_as_one_reference_would(self, tmp_path: Path) -> None:
        async with (
            self.books(tmp_path, "w0") as w0,
            self.books(tmp_path, "w1") as w1,
            self.books(tmp_path, "w2") as w2,
        ):
            await run_scripts([w0, w1, w2], range(self.shared_scripts))

    async def test_a_closed_worker_leaves_no_authority_behind(self, tmp_path: Path) -> None:
        async with self.books(tmp_path, "w1") as first:
            async with self.books(tmp_path, "w2") as second:
                reservation = a_reservation("r1", a_hold("team", 2))
                await second.reserve(reservation, now_ms=AT_MS)
                await second.settle(Settlement(reservation=reservation, amounts=(1,)), now_ms=AT_MS)
            assert isinstance(await first.reserve(a_reservation("r2", a_hold("team", 99)), now_ms=AT_MS), Held)

    async def test_two_processes_race_for_one_limit(self, tmp_path: Path) -> None:
        children = [self.child(tmp_path, f"race-{n}", "race", 400) for n in range(2)]
        try:
            held = await asyncio.gather(*(asyncio.to_thread(_held_by, child) for child in children))
            assert sum(held) == RACE_LIMIT
            async with self.books(tmp_path, "judge") as books:
                assert books.balances([("race", "all")])[0].held == RACE_LIMIT
        finally:
            for child in children:
                child.communicate(timeout=60)
        assert [child.returncode for child in children] == [0, 0]

    async def test_a_killed_worker_loses_nothing_that_was_settled(self, tmp_path: Path) -> None:
        child = self.child(tmp_path, "victim", "load", 16)
        settled = await asyncio.to_thread(_settled_until_killed, child, 400)
        async with self.books(tmp_path, "heir") as books:
            entries = list(books.entries())
            ids = [entry.id for entry in entries]
            assert len(ids) == len(set(ids))
            assert settled <= set(ids)
            lost = [entry for entry in entries if entry.error == "worker_lost"]
            assert len(lost) <= 16
            assert all(entry.fidelity == "unknown" and entry.scope.team == "search" for entry in lost)
            assert books.open_reservations() == ()
            (balance,) = books.balances([("load", "all")])
            (totals,) = books.totals(LedgerQuery())
            assert (balance.posted, balance.held) == (totals.amount, 0)
            if lost:
                await self.settle_late(books, lost[0])

    async def settle_late(self, books: BooksUnderTest, lost: LedgerEntry) -> None:
        """A call that was booked at its ceiling turns out to have cost less."""
        before = books.totals(LedgerQuery())[0].amount
        assert lost.ceiling is not None
        reservation = a_reservation(lost.id, a_hold("load", lost.ceiling, limit=100_000))
        entry = an_entry(f"{lost.id}-late", LOAD_COST, request_id=lost.request_id)
        settlement = Settlement(reservation=reservation, amounts=(LOAD_COST,), entries=(entry,))
        for _ in range(2):
            await books.settle(settlement, now_ms=AT_MS)
            amount = books.totals(LedgerQuery())[0].amount
            assert amount == before - lost.ceiling + LOAD_COST
            assert books.balances([("load", "all")])[0].posted == amount

    def child(self, home: Path, worker: str, act: str, count: int) -> subprocess.Popen[str]:
        """A worker process on the same books."""
        return subprocess.Popen(
            [sys.executable, "-m", "farthing.testing.worker", self.opener, str(home), worker, act, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


QUERIES = (
    LedgerQuery(),
    LedgerQuery(group_by=("team", "user")),
    LedgerQuery(group_by=("tag:env", "model")),
    LedgerQuery(group_by=("source", "state", "status", "kind")),
    LedgerQuery(group_by=("provider", "endpoint", "dialect", "service_tier", "policy", "price_book")),
    *(LedgerQuery(group_by=(name,)) for name in ("hour", "day", "week", "month", "key")),
    LedgerQuery(group_by=("day",), where=(("team", "search"), ("tag:env", "prod"))),
    LedgerQuery(where=(("status", "200"), ("week", "2026-W47"))),
    LedgerQuery(where=(("team", "nobody"),)),
    LedgerQuery(group_by=("team",), where=(("team", "nobody"),)),
    LedgerQuery(group_by=("team",), since_ms=AT_MS, until_ms=AT_MS + 5 * 24 * HOUR_MS),
)


def random_entries(randomness: random.Random, count: int) -> list[LedgerEntry]:
    """Entries over a year and a half, with every kind of gap that reports must show."""
    tags = ((), (("env", "prod"),), (("env", "dev"), ("zone", "eu")))
    return [
        an_entry(
            f"e{number}",
            randomness.choice((None, 0, 25, 10**15, -40)),
            request_id=f"request-{number // 2}",
            scope=Scope(
                team=randomness.choice(("", "search", "ads")), user=f"u{number % 3}", tags=randomness.choice(tags)
            ),
            received_at_ms=AT_MS + randomness.randint(-400 * 24, 150 * 24) * HOUR_MS + randomness.randint(0, 999),
            model=randomness.choice(("gpt-4o", "claude")),
            source=randomness.choice(("reported", "estimated", "partial", "missing")),
            tokens=(
                ("input", number),
                ("input_cache_write_5m", 3),
                ("output", 2),
                ("output_reasoning", 1),
                ("web_search", 9),
            ),
            baseline=randomness.choice((None, 50)),
            error=randomness.choice(("", "", "provider_timed_out")),
        )
        for number in range(count)
    ]


def _held_by(child: subprocess.Popen[str]) -> int:
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()
    return int(child.stdout.readline())


def _settled_until_killed(child: subprocess.Popen[str], count: int) -> set[str]:
    """Let it work until ``count`` settlements have returned, then SIGKILL; every id it managed to print."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()
    settled = {child.stdout.readline().strip() for _ in range(count)}
    child.kill()
    rest, _ = child.communicate()
    return settled | {line for line in rest.splitlines() if line}
