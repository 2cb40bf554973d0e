"""Runs of counters on SQLite: alone, in company, after a crash, from outside: who looks finds what was booked."""

import asyncio
import json
import random
import shutil
import sqlite3
from contextlib import AsyncExitStack

import pytest

from farthing.adapters.sqlite import SqliteBooks
from farthing.adapters.sqlite_reader import open_read
from farthing.adapters.sqlite_runs import USUAL, Sizes
from farthing.core.types import Denied, Held
from farthing.ports.books import Settlement
from farthing.testing.contracts import BooksContract
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry

TINY = Sizes(fold_accounts=5, fold_logged=40, slice=3, part=2, accounts=12, evicted=4, run=3, runs=3, row=2)
COUNTERS = [*(f"user={number}" for number in range(9)), "user=ü|'\"", "team=ü", "z\U0001f4b0", "zz"]
WINDOWS = ("2026-10", "2026-11", "all")
UNITS = ("usd", "requests")
LIMIT = 10**9


class TestSqliteBooksThatFoldAllTheTime(BooksContract):
    opener = "farthing.testing.stores:open_sqlite_folding"
    scripts = 1_500


async def opened(home, worker="w1", sizes=TINY):
    books = SqliteBooks(home / "books.db", worker=worker, sizes=sizes)
    await books.start()
    return books


def places():
    return [(counter, window, unit) for counter in COUNTERS for window in WINDOWS for unit in UNITS]


async def spend(books, chance, first, calls, booked):
    """Random calls; what they cost is added to ``booked``."""

    async def one(number):
        keys = chance.sample(places(), chance.randint(1, 5))
        holds = [a_hold(counter, 90, limit=LIMIT, window=window, unit=unit) for counter, window, unit in keys]
        reservation = a_reservation(f"r{number}", *holds)
        assert isinstance(await books.reserve(reservation, now_ms=AT_MS), Held)
        amounts = tuple(chance.randint(1, 90) for _ in keys)
        for key, amount in zip(keys, amounts, strict=True):
            booked[key] = booked.get(key, 0) + amount
        settlement = Settlement(reservation=reservation, amounts=amounts, entries=(an_entry(f"e{number}", 1),))
        await books.settle(settlement, now_ms=AT_MS)

    for start in range(first, first + calls, 4):
        await asyncio.gather(*(one(number) for number in range(start, start + 4)))


async def left(books, key, number):
    """What is left of a counter, by asking for more than there can be."""
    counter, window, unit = key
    over = a_hold(counter, LIMIT + 1, limit=LIMIT, window=window, unit=unit)
    answer = await books.reserve(a_reservation(f"over{number}", over), now_ms=AT_MS)
    assert isinstance(answer, Denied)
    return answer.left


def seen(home):
    """What views, readers and the file's own rows say: booked by counter."""
    with sqlite3.connect(home / "books.db") as connection:
        view = connection.execute('SELECT counter, "window", unit, posted FROM counters_now').fetchall()
        runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    connection.close()
    wanted = {(counter, window) for counter, window, _ in places()}
    balances = open_read(home / "books.db").balances(sorted(wanted))
    found = {tuple(row[:3]): row[3] for row in view if row[3]}
    assert found == {(one.counter, one.window, one.unit): one.posted for one in balances if one.posted}
    return found, runs


@pytest.mark.parametrize("seed", range(6))
async def test_everybody_finds_what_was_booked(tmp_path, seed):
    chance, booked = random.Random(seed), {}
    books = await opened(tmp_path)
    await spend(books, chance, 0, 60, booked)
    found, runs = seen(tmp_path)
    assert found == booked
    assert 0 < runs <= TINY.runs * len(WINDOWS) * len(UNITS)
    every = {(counter, window) for counter, window, _ in places()}
    assert {(one.counter, one.window, one.unit): one.posted for one in books.balances(sorted(every))} == booked
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("books.db", "books.db-wal"):
        shutil.copy(tmp_path / name, crashed / name)
    await books.close()
    for home in (tmp_path, crashed):
        again = dict(booked)
        async with AsyncExitStack() as stack:
            company = []
            for worker in ("w2", "w3")[: 1 + seed % 2]:
                company.append(await opened(home, worker, sizes=(TINY, USUAL)[seed % 3 == 0]))
                stack.push_async_callback(company[-1].close)
            for number, key in enumerate(places()):
                assert await left(company[number % len(company)], key, number) == LIMIT - again.get(key, 0)
            await spend(company[-1], chance, 1_000, 20, again)
        assert seen(home)[0] == again


async def test_a_limit_over_several_windows_counts_what_runs_say(tmp_path):
    booked = {}
    books = await opened(tmp_path)
    await spend(books, random.Random(1), 0, 80, booked)
    await books.close()
    assert seen(tmp_path)[1] > 0
    for worker in ("w1", "w2"):
        books = await opened(tmp_path, worker)
        for number, (counter, unit) in enumerate((counter, unit) for counter in COUNTERS for unit in UNITS):
            spent = sum(booked.get((counter, window, unit), 0) for window in WINDOWS)
            over = a_hold(counter, LIMIT, limit=LIMIT, window="all", unit=unit, also=WINDOWS[:2])
            answer = await books.reserve(a_reservation(f"{worker}-{number}", over), now_ms=AT_MS)
            assert isinstance(answer, Denied)
            assert answer.left == LIMIT - spent
        await books.close()


async def test_few_counters_and_windows_with_many_runs_have_rows_of_their_own(tmp_path):
    books = await opened(tmp_path, sizes=TINY._replace(fold_accounts=30, run=4, runs=2))
    await spend(books, random.Random(2), 0, 240, {})
    with sqlite3.connect(tmp_path / "books.db") as connection:
        runs = connection.execute('SELECT count(*) FROM runs GROUP BY "window", unit').fetchall()
        bodies = connection.execute("SELECT run, first, body FROM run_rows ORDER BY run, first").fetchall()
        rows = connection.execute("SELECT count(*) FROM shares").fetchone()[0]
    connection.close()
    assert max(runs) == (2,)
    assert rows > 0
    last = ("", "")
    for run, first, body in bodies:
        counters = list(json.loads(body))
        assert counters[0] == first
        assert counters == sorted(counters)
        assert len(counters) <= 2
        assert (run, first) > last if last[0] == run else True
        last = (run, counters[-1])
    await books.close()
