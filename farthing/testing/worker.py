"""A worker process for the conformance kit: ``python -m farthing.testing.worker OPENER HOME WORKER load|race N``.

``load`` reserves and settles until it is killed and prints each id once its settlement has returned; ``race`` makes
N reserves at once, prints how many were held, and keeps them until its input ends.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from farthing.core.types import Held
from farthing.ports.books import Settlement
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry, an_exchange
from farthing.testing.stores import BooksUnderTest

Opener = Callable[[Path, str], Awaitable[BooksUnderTest]]

LOAD_LIMIT = 100_000
LOAD_NEED = 60
LOAD_COST = 25
RACE_LIMIT = 100


def find_opener(name: str) -> Opener:
    """The function that ``module:name`` refers to."""
    module, _, attribute = name.partition(":")
    return cast(Opener, getattr(importlib.import_module(module), attribute))


async def load(books: BooksUnderTest, worker: str, callers: int) -> None:
    """Endless calls on one shared counter; a denied call is dropped."""

    async def call(caller: int) -> None:
        number = 0
        while True:
            number += 1
            id = f"{worker}-{caller}-{number}"
            reservation = a_reservation(id, a_hold("load", LOAD_NEED, limit=LOAD_LIMIT))
            entry = an_entry(id, LOAD_COST)
            if not isinstance(await books.reserve(reservation, now_ms=AT_MS, stub=entry), Held):
                await asyncio.sleep(0.001)
                continue
            settlement = Settlement(
                reservation=reservation, amounts=(LOAD_COST,), entries=(entry,), exchange=an_exchange(f"request-{id}")
            )
            await books.settle(settlement, now_ms=AT_MS)
            os.write(1, f"{id}\n".encode())

    await asyncio.gather(*(call(caller) for caller in range(callers)))


async def race(books: BooksUnderTest, worker: str, reserves: int) -> None:
    """All at once against ``RACE_LIMIT``, one unit each."""
    reservations = [a_reservation(f"{worker}-{n}", a_hold("race", 1, limit=RACE_LIMIT)) for n in range(reserves)]
    answers = await asyncio.gather(*(books.reserve(r, now_ms=AT_MS) for r in reservations))
    os.write(1, f"{sum(isinstance(answer, Held) for answer in answers)}\n".encode())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def main(opener: str, home: str, worker: str, act: str, count: str) -> None:
    """Open the books, tell so, wait for a line of input, act."""
    books = await find_opener(opener)(Path(home), worker)
    os.write(1, b"ready\n")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await (load if act == "load" else race)(books, worker, int(count))
    await books.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
