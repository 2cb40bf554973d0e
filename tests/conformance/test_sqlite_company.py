"""SQLite books of a worker that is alone, and what changes when others come, leave, die or do not answer."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager

import pytest

from farthing.adapters.sqlite import SqliteBooks
from farthing.adapters.sqlite_runs import USUAL
from farthing.adapters.sqlite_workers import WorkerLocks
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Denied, Held
from farthing.ports.books import Settlement
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry

FEW = USUAL._replace(fold_accounts=2_000, accounts=5_000, evicted=1_000)
"""For a worker that keeps few counters in memory."""

MANY = 12_000
"""More than those."""


@asynccontextmanager
async def opened(home, worker="w1", sizes=USUAL):
    books = SqliteBooks(home / "books.db", worker=worker, sizes=sizes)
    await books.start()
    try:
        yield books
    finally:
        await books.close()


async def call(books, id, *holds, cost=None):
    """Reserve, and settle at what was held or ``cost``; the answer to the reservation."""
    reservation = a_reservation(id, *holds)
    answer = await books.reserve(reservation, now_ms=AT_MS)
    if isinstance(answer, Held):
        amounts = tuple(hold.amount if cost is None else cost for hold in holds)
        settlement = Settlement(reservation=reservation, amounts=amounts, entries=(an_entry(f"{id}-e", 1),))
        await books.settle(settlement, now_ms=AT_MS)
    return answer


def rows(home, sql):
    with sqlite3.connect(home / "books.db") as connection:
        return connection.execute(sql).fetchall()


async def test_a_lone_worker_spends_a_limit_to_its_end_and_not_beyond(tmp_path):
    async with opened(tmp_path) as books:
        for number in range(10):
            assert isinstance(await call(books, f"r{number}", a_hold("team", 10, limit=100)), Held)
        answer = await books.reserve(a_reservation("over", a_hold("team", 1, limit=100)), now_ms=AT_MS)
        assert isinstance(answer, Denied)
        assert answer.left == 0
        raised = await books.reserve(a_reservation("raised", a_hold("team", 1, limit=101)), now_ms=AT_MS)
        assert isinstance(raised, Held)
        assert rows(tmp_path, "SELECT * FROM shares WHERE worker <> ''") == []
    assert rows(tmp_path, "SELECT worker FROM alone") == []


async def test_who_comes_later_finds_what_the_lone_worker_holds_and_has_booked(tmp_path):
    async with opened(tmp_path) as first:
        await call(first, "r0", a_hold("team", 25, limit=100))
        await first.reserve(a_reservation("r1", a_hold("team", 35, limit=100)), now_ms=AT_MS)
        async with opened(tmp_path, "w2") as second:
            over = await second.reserve(a_reservation("r2", a_hold("team", 41, limit=100)), now_ms=AT_MS)
            assert isinstance(over, Denied)
            assert over.left == 40
            fits = await second.reserve(a_reservation("r3", a_hold("team", 40, limit=100)), now_ms=AT_MS)
            assert isinstance(fits, Held)
            assert isinstance(
                await first.reserve(a_reservation("r4", a_hold("team", 1, limit=100)), now_ms=AT_MS), Denied
            )
            (balance,) = second.balances([("team", "all")])
            assert (balance.posted, balance.held) == (25, 75)


async def test_who_stays_behind_is_alone_again_and_counts_what_the_others_booked(tmp_path):
    async with opened(tmp_path) as first:
        held = a_reservation("r0", a_hold("team", 10, limit=100))
        await first.reserve(held, now_ms=AT_MS)
        async with opened(tmp_path, "w2") as second:
            await call(second, "r1", a_hold("team", 50, limit=100))
        async with asyncio.timeout(60):
            while rows(tmp_path, "SELECT worker FROM alone") != [("w1",)]:
                await asyncio.sleep(0.01)
        assert isinstance(await call(first, "r2", a_hold("team", 41, limit=100)), Denied)
        assert isinstance(await call(first, "r3", a_hold("team", 40, limit=100)), Held)
        await first.settle(Settlement(reservation=held, amounts=(10,), entries=(an_entry("e0", 1),)), now_ms=AT_MS)
        (balance,) = first.balances([("team", "all")])
        assert (balance.posted, balance.held) == (100, 0)
    assert rows(tmp_path, "SELECT counter, posted, held FROM counters_now") == [("team", 100, 0)]


async def test_a_worker_waits_for_the_lone_one_and_takes_over_when_it_dies(tmp_path):
    async with opened(tmp_path):
        pass
    lock = WorkerLocks(tmp_path / "workers").take("silent")
    assert lock is not None
    with sqlite3.connect(tmp_path / "books.db") as connection:
        connection.execute("INSERT INTO workers VALUES ('silent', 1, 0)")
        connection.execute("INSERT INTO alone VALUES (1, 'silent')")
        connection.execute("""INSERT INTO posts (worker, body) VALUES ('silent', '[["team","all","usd",30]]')""")
    connection.close()
    async with opened(tmp_path) as books:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await books.reserve(a_reservation("r1", a_hold("team", 1, limit=100)), now_ms=AT_MS)
        assert isinstance(await books.reserve(a_reservation("r2"), now_ms=AT_MS), Held)  # needs no room
        lock.release()
        over = await books.reserve(a_reservation("r3", a_hold("team", 71, limit=100)), now_ms=AT_MS)
        assert isinstance(over, Denied)
        assert over.left == 70
        assert isinstance(await call(books, "r4", a_hold("team", 70, limit=100)), Held)
    assert rows(tmp_path, "SELECT count(*) FROM posts") == [(0,)]


async def test_what_a_dead_worker_left_is_booked_by_a_living_one_that_has_nothing_to_do(tmp_path):
    lock = WorkerLocks(tmp_path / "workers").take("other")
    assert lock is not None
    async with opened(tmp_path) as books:
        await call(books, "r0", a_hold("team", 10, limit=100))
        with sqlite3.connect(tmp_path / "books.db") as connection:
            connection.execute("INSERT INTO workers VALUES ('other', 1, 0)")
            connection.execute("INSERT INTO shares VALUES ('team', 'all', 'usd', 'other', 20, 50, 0)")
            connection.execute("""INSERT INTO posts (worker, body) VALUES ('other', '[["team","all","usd",5]]')""")
        connection.close()
        lock.release()
        async with asyncio.timeout(60):
            while rows(tmp_path, "SELECT worker FROM workers") != [("w1",)]:
                await asyncio.sleep(0.01)
            while rows(tmp_path, "SELECT worker FROM alone") != [("w1",)]:
                await asyncio.sleep(0.01)
        assert rows(tmp_path, "SELECT posted, held FROM counters_now") == [(35, 0)]
        (balance,) = books.balances([("team", "all")])
        assert balance.posted == 35


async def test_counters_that_were_forgotten_are_found_again_exactly(tmp_path):
    async with opened(tmp_path, sizes=FEW) as books:
        page = 1_000
        for first in range(0, MANY, page):
            holds = [a_hold(f"user={number}", 7, limit=10) for number in range(first, first + page)]
            assert isinstance(await call(books, f"r{first}", *holds), Held)
        known = len(books._running.desk._accounts)
        assert known <= 8_000
        for number in (0, 1, 777, MANY - 1):
            name = f"user={number}"
            over = await books.reserve(a_reservation(f"o{number}", a_hold(name, 4, limit=10)), now_ms=AT_MS)
            assert isinstance(over, Denied)
            assert over.left == 3
            assert isinstance(await call(books, f"f{number}", a_hold(name, 3, limit=10)), Held)
            (balance,) = books.balances([(name, "all")])
            assert (balance.posted, balance.held) == (10, 0)
    assert rows(tmp_path, "SELECT sum(posted), count(*) FROM counters_now") == [(7 * MANY + 12, MANY)]


async def test_a_call_that_held_nothing_on_a_forgotten_counter_still_counts_there(tmp_path):
    async with opened(tmp_path) as first:
        zero = a_reservation("r0", a_hold("team", 0, limit=100))
        assert isinstance(await first.reserve(zero, now_ms=AT_MS), Held)
        async with opened(tmp_path, "w2") as second:  # its coming makes the first forget what is not held
            await call(second, "r1", a_hold("team", 10, limit=100))
            settled = Settlement(reservation=zero, amounts=(30,), entries=(an_entry("e0", 30),))
            await first.settle(settled, now_ms=AT_MS)
            assert isinstance(await call(second, "r2", a_hold("team", 61, limit=100)), Denied)
            assert isinstance(await call(second, "r3", a_hold("team", 60, limit=100)), Held)


async def test_what_somebody_booked_who_came_and_went_unseen_is_counted(tmp_path):
    async with opened(tmp_path) as first:
        await call(first, "r0", a_hold("team", 10, limit=100))
        late = a_reservation("late", a_hold("team", 50, limit=100))
        with first._running.writer.lock:  # the first sees nothing of it
            async with opened(tmp_path, "w2") as second:
                settled = Settlement(reservation=late, amounts=(50,), entries=(an_entry("e1", 50),))
                await second.settle(settled, now_ms=AT_MS)
        async with asyncio.timeout(60):
            while first._running.desk.account(("team", "all", "usd")).others is not None:
                await asyncio.sleep(0.01)
        assert isinstance(await call(first, "r1", a_hold("team", 41, limit=100)), Denied)
        assert isinstance(await call(first, "r2", a_hold("team", 40, limit=100)), Held)


async def test_counters_of_an_earlier_run_are_known_and_forgotten_when_others_come(tmp_path):
    async with opened(tmp_path) as books:
        await call(books, "r0", *[a_hold(f"user={number}", 7, limit=10) for number in range(300)])
    async with opened(tmp_path) as books:
        known = books._running.desk.room.known
        async with asyncio.timeout(60):
            while known.booked(("never", "all", "usd")) is None:
                await asyncio.sleep(0.01)
        assert {known.booked((f"user={number}", "all", "usd")) for number in range(300)} == {7}
        for number in range(300):
            over = await books.reserve(
                a_reservation(f"o{number}", a_hold(f"user={number}", 4, limit=10)), now_ms=AT_MS
            )
            assert isinstance(over, Denied)
        async with opened(tmp_path, "w2") as second:  # two write now: nothing is surely absent any more
            assert isinstance(await call(second, "r1", a_hold("new", 1, limit=10)), Held)
            assert known.booked(("never", "all", "usd")) is None
