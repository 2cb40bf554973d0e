"""Farthing's own stores keep the books contract."""

import asyncio

import pytest

from farthing.core.types import Denied, Held
from farthing.ports.books import Settlement
from farthing.testing.contracts import BooksContract, DurableBooksContract
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry
from farthing.testing.stores import open_memory, open_postgres, open_sqlite, open_valkey


class TestMemoryBooks(BooksContract):
    opener = "farthing.testing.stores:open_memory"


class TestSqliteBooks(DurableBooksContract):
    opener = "farthing.testing.stores:open_sqlite"


@pytest.mark.asyncio
@pytest.mark.parametrize("opener", [open_memory, open_sqlite, open_postgres, open_valkey])
async def test_acts_of_one_worker_take_effect_in_the_order_in_which_they_are_asked(opener, tmp_path):
    """One that asks later and needs less does not pass by one that fits once what is being settled is free.

    A replay depends on it: it decides acts by the numbers that they got when they were asked.
    """
    first, large, small = (
        a_reservation(name, a_hold("team", need, limit=100)) for name, need in (("x", 60), ("a", 45), ("b", 40))
    )
    books = await opener(tmp_path, "w1")
    try:
        for _ in range(2):  # the counter is known to the worker
            assert isinstance(await books.reserve(first, now_ms=AT_MS), Held)
        paid = Settlement(reservation=first, amounts=(50,), entries=(an_entry("e", 50),))
        _, before, after = await asyncio.gather(
            books.settle(paid, now_ms=AT_MS),
            books.reserve(large, now_ms=AT_MS),
            books.reserve(small, now_ms=AT_MS),
        )
        assert isinstance(before, Held)
        assert isinstance(after, Denied)
        assert books.balances([("team", "all")])[0].held == 45
    finally:
        await books.close()
