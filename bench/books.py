"""CPU cost of the books: reserve + settle, strict durability, concurrent callers.

Prints CPU-µs per request (user + system, all threads of the process) for growing numbers of budgets and scopes. "Net"
is without the cost of building the records. A run is cut into pieces: each has a calibration (``calibrate.py``: CPU
time of a fixed piece of Python, on the event loop's thread), the records alone, the books, and bare inserts of the
same rows, so that what a machine's speed does in the meantime happens to all of them. ``net_us`` is the least of
``--repeat`` runs as measured; ``scaled_us`` what it would be at the calibration of the published figures (5.5 ms),
the median of the runs; ``to_bare`` the ratio to bare inserts. The ratios between cases are of scaled figures.
"Without the traffic log" is reserve + post alone: the exchange is a record of its own. "In the file": all those
scopes have a counter in the file already, of this window and of the one before; how long a start takes, and what it
costs until its counters are loaded, is told. The last line is one JSON object.

    python bench/books.py [--requests N] [--callers N] [--repeat N] [--only TEXT] [--core N]
"""

import argparse
import asyncio
import gc
import json
import os
import pathlib
import resource
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import uvloop
from calibrate import REFERENCE_MS, piece

from farthing.adapters.sqlite import SqliteBooks
from farthing.adapters.sqlite_group import fold_shares
from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    EXCHANGE_COLUMNS,
    entry_to_row,
    exchange_to_row,
    quoted,
)
from farthing.adapters.sqlite_schema import Durability, connect, migrate
from farthing.core.budget import Budgets, Need, spent
from farthing.core.money import Nusd, Pusd
from farthing.core.policy import Budget
from farthing.core.types import (
    AttemptFact,
    Charge,
    ChargeLine,
    Exchange,
    Held,
    LedgerEntry,
    PromptSection,
    PromptView,
    Reservation,
    Scope,
    Usage,
    UsagePart,
)
from farthing.ports.books import Settlement

NOW_MS = 1_795_000_000_000
DAY_MS = 86_400_000
CALLERS = 16
CASES = (
    ("4 budgets, 1,000 scopes", 0, 1_000),
    ("10,004 budgets, 1,000 scopes", 10_000, 1_000),
    ("10,004 budgets, 1,000,000 scopes", 10_000, 1_000_000),
)
IN_THE_FILE = ("10,004 budgets, 1,000,000 scopes in the file", 10_000, 1_000_000)
PIECES = 8
"""A run's parts."""
NEED = Need(usd=30_000_000, input_tokens=1500, output_tokens=4096)


def budgets(extra: int) -> Budgets:
    """Four nested budgets that bind every call, and ``extra`` that bind others."""
    limit = (("usd", 10**18),)
    nested = (
        Budget(name="org", per="month", limits=limit),
        Budget(name="team", per="month", limits=limit, each=("team",)),
        Budget(name="user", per="day", limits=limit, each=("user",), timezone="Europe/Berlin"),
        Budget(name="model", per="week", limits=limit, each=("model",)),
    )
    others = (Budget(name=f"x{n}", per="day", limits=limit, match=(("feature", f"f{n}"),)) for n in range(extra))
    return Budgets((*nested, *others))


def entry_of(number: int, scope: Scope) -> LedgerEntry:
    """A typical entry: two charge lines, reported usage with its raw JSON."""
    raw = b'{"prompt_tokens":1500,"completion_tokens":200,"prompt_tokens_details":{"cached_tokens":0}}'
    return LedgerEntry(
        id=f"01JD{number:020}-1",
        request_id=f"01JD{number:020}",
        attempt=1,
        received_at_ms=NOW_MS + number,
        booked_at_ms=NOW_MS + number + 900,
        scope=scope,
        dialect="openai",
        endpoint="chat",
        provider="openai",
        price_as="openai",
        model_requested="gpt-4o",
        model="gpt-4o-2024-08-06",
        usage=Usage(
            parts=(UsagePart(lines=(("input", 1500), ("output", 200)), tier_basis=1500),),
            source="reported",
            model="gpt-4o-2024-08-06",
            service_tier="default",
            finish_reason="stop",
            upstream_id=f"chatcmpl-{number:024}",
            raw=raw,
        ),
        charge=Charge(
            lines=(
                ChargeLine(unit="input", quantity=1500, price=Pusd(2_500_000), amount=Nusd(3_750_000), row="gpt-4o"),
                ChargeLine(unit="output", quantity=200, price=Pusd(10_000_000), amount=Nusd(2_000_000), row="gpt-4o"),
            ),
            total=Nusd(5_750_000),
            state="priced",
            price_ref="0123456789ab",
        ),
        baseline=Nusd(5_750_000),
        ceiling=Nusd(30_000_000),
        policy_ref="ba9876543210",
        ttft_ms=210,
        latency_ms=900,
    )


def exchange_of(entry: LedgerEntry) -> Exchange:
    """A typical exchange without text: prefix digests and sections."""
    return Exchange(
        request_id=entry.request_id,
        received_at_ms=entry.received_at_ms,
        scope=entry.scope,
        dialect="openai",
        view=PromptView(endpoint="chat", model="gpt-4o", body_bytes=6000, output_tokens_max=4096),
        outcome="answered",
        status=200,
        received_digest="d" * 32,
        sent_digest="d" * 32,
        blocks=("b" * 16,) * 6,
        sections=tuple(PromptSection(role="user", size=2000, digest="s" * 16) for _ in range(3)),
        attempts=(
            AttemptFact(
                attempt=1,
                provider="openai",
                model="gpt-4o",
                status=200,
                started_at_ms=entry.received_at_ms,
                latency_ms=900,
                ttft_ms=210,
                entry_id=entry.id,
            ),
        ),
        usage=entry.usage,
        amount=entry.charge.total,
        policy_ref=entry.policy_ref,
        latency_ms=900,
        ttft_ms=210,
    )


async def drive(
    books, rules: Budgets, scopes: int, requests: int, first: int, *, callers: int = CALLERS, log: bool = True
) -> None:
    """Concurrent callers, each request reserved and settled; ``log``: with its exchange."""
    numbers = iter(range(first, first + requests))

    async def caller() -> None:
        for number in numbers:
            scope = Scope(org="o", team=f"t{number % 20}", user=f"u{number * 7919 % scopes}", key=f"k{number % 100}")
            entry = entry_of(number, scope)
            holds = rules.holds(scope, provider="openai", model="gpt-4o", need=NEED, at_ms=NOW_MS)
            reservation = Reservation(
                id=f"{entry.request_id}-r",
                request_id=entry.request_id,
                holds=holds,
                ceiling=Nusd(30_000_000),
                expires_at_ms=NOW_MS + 900_000,
            )
            await books.reserve(reservation, now_ms=NOW_MS, stub=entry)
            amounts = spent(holds, usd=5_750_000, input_tokens=1500, output_tokens=200)
            settlement = Settlement(
                reservation=reservation,
                amounts=amounts,
                entries=(entry,),
                exchange=exchange_of(entry) if log else None,
            )
            await books.settle(settlement, now_ms=NOW_MS)

    await asyncio.gather(*(caller() for _ in range(callers)))


def calibration_ms(pieces: int = 9) -> float:
    """CPU time of a piece now."""
    taken = []
    for _ in range(pieces):
        began = time.thread_time()
        piece()
        taken.append((time.thread_time() - began) * 1e3)
    return statistics.median(taken)


def cpu_us() -> float:
    """CPU time of all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e6


class NoBooks:
    """Books that do nothing: what it costs to build the records and to drive the callers."""

    async def reserve(self, reservation, *, now_ms, stub=None):
        await asyncio.sleep(0)
        return Held(id=reservation.id)

    async def settle(self, settlement, *, now_ms):
        await asyncio.sleep(0)

    async def close(self):
        pass


class Bare:
    """The floor: rows of the same kind, inserted in groups by a bare loop."""

    def __init__(self, folder: pathlib.Path, *, log: bool, callers: int) -> None:
        path = folder / f"bare-{time.monotonic_ns()}.db"
        self._connection = connect(path)
        migrate(path, self._connection)
        self._made = 0
        self._group = callers
        tables = [("entries", ENTRY_COLUMNS), *([("exchanges", EXCHANGE_COLUMNS)] if log else [])]
        self._sql = [
            f"INSERT INTO {table} ({quoted(columns)}) VALUES ({', '.join('?' * len(columns))})"
            for table, columns in tables
        ]

    def insert(self, requests: int) -> float:
        """CPU-µs a request."""
        numbers = range(self._made, self._made + requests)
        self._made += requests
        made = [entry_of(number, Scope(org="o", team="t", user=f"u{number}")) for number in numbers]
        rows = [[entry_to_row(one) for one in made], [exchange_to_row(exchange_of(one)) for one in made]]
        cpu = cpu_us()
        for start in range(0, requests, self._group):
            self._connection.execute("BEGIN IMMEDIATE")
            for sql, table in zip(self._sql, rows, strict=False):
                self._connection.executemany(sql, table[start : start + self._group])
            self._connection.execute("COMMIT")
        return (cpu_us() - cpu) / requests

    def close(self) -> None:
        self._connection.close()


class Figures(NamedTuple):
    """CPU-µs a request, records taken off; see the module's text."""

    net_us: float
    scaled_us: float
    calibration_ms: float
    bare_us: float
    to_bare: float

    def told(self) -> dict[str, float]:
        return {
            name: round(value, 2 if name in ("calibration_ms", "to_bare") else 1)
            for name, value in self._asdict().items()
        }


async def measure(
    label: str,
    make: Callable[[], Awaitable[Any]],
    rules: Budgets,
    scopes: int,
    requests: int,
    *,
    folder: pathlib.Path,
    repeat: int = 1,
    callers: int = CALLERS,
    log: bool = True,
) -> Figures:
    """Drive stores that ``make`` opens."""
    runs: list[Figures] = []
    rates = []
    each = requests // PIECES
    for turn in range(repeat):
        books = await make()
        bare = Bare(folder, log=log, callers=callers)
        first = (turn + 1) * 10 * requests
        await drive(books, rules, scopes, requests // 4, first - requests, callers=callers, log=log)
        bare.insert(callers)
        nets, scaled, quick, floors, seconds = [], [], [], [], 0.0
        for part in range(PIECES):
            before = calibration_ms(3)
            costs = []
            for driven in (NoBooks(), books):
                cpu, wall = cpu_us(), time.perf_counter()
                await drive(driven, rules, scopes, each, first + part * each, callers=callers, log=log)
                costs.append((cpu_us() - cpu) / each)
            seconds += time.perf_counter() - wall
            floors.append(bare.insert(max(callers, each // 4)))
            quick.append((before + calibration_ms(3)) / 2)
            nets.append(costs[1] - costs[0])
            scaled.append(nets[-1] * REFERENCE_MS / quick[-1])
        bare.close()
        cpu = cpu_us()
        await books.close()  # what waits to be brought into rows in bulk is part of the cost
        rest = (cpu_us() - cpu) / (requests // 4 + each * PIECES)
        rates.append(each * PIECES / seconds)
        slow, floor = statistics.mean(quick), statistics.mean(floors)
        net = statistics.mean(nets) + rest
        runs.append(Figures(net, statistics.mean(scaled) + rest * REFERENCE_MS / slow, slow, floor, net / floor))
    found = Figures(
        min(run.net_us for run in runs),
        *(statistics.median(values) for values in list(zip(*runs, strict=True))[1:]),
    )
    print(
        f"{label:<76} net {found.net_us:6.1f} CPU-µs a request, scaled {found.scaled_us:6.1f}"
        f" (calibration {found.calibration_ms:4.1f} ms), {found.to_bare:5.2f} times bare inserts of its rows,"
        f" {max(rates):6.0f} requests/s",
        flush=True,
    )
    return found


def ratios(found: dict[str, Figures]) -> dict[str, float]:
    """Each case's scaled cost, by that of the first case of its kind (what stands before the first comma)."""
    first: dict[str, float] = {}
    told = {}
    for label, figures in found.items():
        least = first.setdefault(label.partition(",")[0], figures.scaled_us)
        told[label] = round(figures.scaled_us / least, 2)
        print(f"{label:<76} {told[label]:6.2f} times the first case, scaled")
    return told


def fill(path: pathlib.Path, rules: Budgets, scopes: int) -> None:
    """A file as a gateway leaves it whose users were there the day before and on this one."""
    connection = connect(path)
    migrate(path, connection)
    rows: list[tuple[str, str, str, int]] = []
    for at_ms in (NOW_MS - DAY_MS, NOW_MS):
        scope = Scope(org="o", team="t0", user="u0", key="k0")
        holds = rules.holds(scope, provider="openai", model="gpt-4o", need=NEED, at_ms=at_ms)
        for hold in holds:
            names = [hold.counter]
            if hold.counter == "user|user=u0":
                names = [f"user|user=u{number}" for number in range(scopes)]
            rows += [(name, hold.window, hold.unit, 5_750_000) for name in names]
    rows.sort()
    connection.execute("BEGIN IMMEDIATE")
    fold_shares(connection, rows)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def counters_in(path: pathlib.Path) -> int:
    """Counters in the file, by row and by run."""
    connection = sqlite3.connect(path)
    (count,) = connection.execute(
        "SELECT (SELECT count(*) FROM shares) + (SELECT coalesce(sum(counters), 0) FROM run_rows)"
    ).fetchone()
    connection.close()
    return int(count)


def resident_mb() -> float:
    """Memory of this process."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def start(books: SqliteBooks, rules: Budgets, scopes: int) -> dict[str, float]:
    """Start, serve the first calls, and wait until what it loads in the background is there; the cost."""
    memory, cpu, wall = resident_mb(), cpu_us(), time.perf_counter()
    await books.start()
    ready = time.perf_counter() - wall
    await drive(books, rules, scopes, CALLERS, 0, log=False)
    await asyncio.sleep(0.1)
    while any(thread.name == "farthing-counters" for thread in threading.enumerate()):
        await asyncio.sleep(0.01)
    return {
        "ready_ms": round(ready * 1e3, 1),
        "background_cpu_ms": round((cpu_us() - cpu) / 1e3, 1),
        "memory_mb": round(resident_mb() - memory, 1),
    }


async def run(requests: int, folder: pathlib.Path, *, repeat: int, callers: int, only: str) -> dict[str, object]:
    files = iter(range(1000))
    found: dict[str, Figures] = {}
    starts: dict[str, dict[str, float]] = {}

    def opened(
        path: pathlib.Path, label: str, durability: Durability, rules: Budgets, scopes: int
    ) -> Callable[[], Awaitable[SqliteBooks]]:
        async def make() -> SqliteBooks:
            books = SqliteBooks(path if path.exists() else fresh(), worker="bench", durability=durability)
            starts[label] = await start(books, rules, scopes)
            return books

        return make

    def fresh() -> pathlib.Path:
        path = folder / str(next(files)) / "books.db"
        path.parent.mkdir()
        return path

    async def cost(
        kind: str, case: tuple[str, int, int], *, log: bool = True, path: pathlib.Path = folder / "none",
        durability: Durability = "strict",
    ) -> None:  # fmt: skip
        label = f"{kind}, {case[0]}"
        if only in label:
            rules = budgets(case[1])
            if case is IN_THE_FILE and not path.exists():
                path.parent.mkdir()
                fill(path, rules, case[2])
            options = {"repeat": repeat, "callers": callers, "log": log, "folder": folder}
            make = opened(path, label, durability, rules, case[2])
            found[label] = await measure(label, make, rules, case[2], requests, **options)
            if case is IN_THE_FILE:
                print(f"  its start: {starts[label]}, {counters_in(path):,} counters in the file", flush=True)

    for log, kind in ((True, "sqlite"), (False, "sqlite without the traffic log")):
        for case in CASES:
            await cost(kind, case, log=log)
        # a file of its own: calls that are booked there already would take another way
        await cost(kind, IN_THE_FILE, log=log, path=folder / f"held-{log}" / "books.db")
    await cost("sqlite relaxed", CASES[0], durability="relaxed")
    return {
        "net": {label: figures.told() for label, figures in found.items()},
        "ratios": ratios(found),
        "starts": {label: told for label, told in starts.items() if IN_THE_FILE[0] in label},
    }


def as_the_gateway() -> None:
    """The collector is set as ``farthing serve`` sets it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=CALLERS)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--folder", type=pathlib.Path, default=None, help="where the files go (default: a temporary one)"
    )
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--core", type=int, default=None, help="run on this core alone")
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    as_the_gateway()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        options = {"repeat": arguments.repeat, "callers": arguments.callers, "only": arguments.only}
        found = uvloop.run(run(arguments.requests, pathlib.Path(folder), **options))
    print(json.dumps({"callers": arguments.callers, "reference_ms": REFERENCE_MS, **found}))


if __name__ == "__main__":
    main()
