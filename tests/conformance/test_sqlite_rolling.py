"""Rolling limits on the SQLite books: the parts that count no more go away, whoever holds authority gives it back."""

import sqlite3

from farthing.adapters.sqlite import SqliteBooks
from farthing.core.budget import Budgets, Need
from farthing.core.policy import Budget
from farthing.core.types import Denied, Held, Reservation, Scope
from farthing.ports.books import Settlement
from farthing.testing.records import AT_MS, FAR_MS, a_hold, a_reservation, an_entry

BUDGETS = Budgets((Budget(name="r", per="rolling", length_ms=60_000, limits=(("requests", 100),)),))
HOUR_MS = 3_600_000


async def opened(home, worker="w1"):
    books = SqliteBooks(home / "books.db", worker=worker)
    await books.start()
    return books


async def call(books, number, at_ms):
    need = Need(usd=0, input_tokens=0, output_tokens=0)
    holds = BUDGETS.holds(Scope(), provider="p", model="m", need=need, at_ms=at_ms)
    one = Reservation(id=f"r{number}", request_id="", holds=holds, ceiling=None, expires_at_ms=FAR_MS)
    answer = await books.reserve(one, now_ms=at_ms)
    if isinstance(answer, Held):
        entry = an_entry(f"e{number}", 1)
        await books.settle(Settlement(reservation=one, amounts=(1,), entries=(entry,)), now_ms=at_ms)
    return answer


def rows(home):
    with sqlite3.connect(home / "books.db") as connection:
        return connection.execute("SELECT count(*), coalesce(sum(posted), 0) FROM counters_now").fetchone()


async def test_parts_that_count_no_more_are_dropped_after_an_hour(tmp_path):
    books = await opened(tmp_path)
    for number in range(50):
        await call(books, number, AT_MS + number * 1_000)
    assert rows(tmp_path) == (50, 50)
    await call(books, 50, AT_MS + HOUR_MS + 61_000 + 20_500)
    assert rows(tmp_path) == (30, 30)  # the first twenty-one are gone, one is new
    late = BUDGETS.holds(
        Scope(), provider="p", model="m", need=Need(usd=0, input_tokens=0, output_tokens=0), at_ms=AT_MS
    )
    one = Reservation(id="late", request_id="", holds=late, ceiling=None, expires_at_ms=FAR_MS)
    await books.settle(Settlement(reservation=one, amounts=(1,), entries=(an_entry("late"),)), now_ms=AT_MS + HOUR_MS)
    assert rows(tmp_path) == (31, 31)
    await books.close()


async def test_a_rolling_limit_survives_a_restart(tmp_path):
    books = await opened(tmp_path)
    for number in range(100):
        assert isinstance(await call(books, number, AT_MS + number * 100), Held)
    await books.close()
    books = await opened(tmp_path, "w2")
    assert isinstance(await call(books, 100, AT_MS + 30_000), Denied)
    assert isinstance(await call(books, 101, AT_MS + 62_000), Held)
    await books.close()


async def test_slices_that_others_hold_in_any_part_are_called_back_before_a_refusal(tmp_path):
    first, second = await opened(tmp_path, "w1"), await opened(tmp_path, "w2")
    plain = a_reservation("r1", a_hold("c", 1, limit=100, window="p1"))
    assert isinstance(await first.reserve(plain, now_ms=AT_MS), Held)  # takes a slice of some more
    rolling = a_reservation("r2", a_hold("c", 99, limit=100, window="p2", also=("p1", "p3")))
    assert isinstance(await second.reserve(rolling, now_ms=AT_MS), Held)
    more = a_reservation("r3", a_hold("c", 1, limit=100, window="p3", also=("p2", "p4")))
    assert isinstance(await first.reserve(more, now_ms=AT_MS), Held)
    over = a_reservation("r4", a_hold("c", 1, limit=100, window="p2", also=("p1", "p3")))
    answer = await first.reserve(over, now_ms=AT_MS)
    assert isinstance(answer, Denied)
    assert answer.left == 0
    await second.settle(Settlement(reservation=rolling, amounts=(98,)), now_ms=AT_MS)
    assert isinstance(await first.reserve(over, now_ms=AT_MS), Denied)
    await first.settle(Settlement(reservation=plain), now_ms=AT_MS)
    assert isinstance(await first.reserve(over, now_ms=AT_MS), Held)
    await first.close()
    await second.close()
