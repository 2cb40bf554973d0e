"""CPU cost of the books: reserve + settle, strict durability, concurrent callers.

Prints CPU-µs per request (user + system, all threads of the process) against bare inserts of the same rows, measured
in the same run, for growing numbers of budgets and scopes. "Net" is without the cost of building the records; each
figure is the least of ``--repeat`` runs, because other programs on the machine only add. "Without the traffic log" is
reserve + post alone: the exchange is a record of its own. ``calibration_ms`` is the CPU time of a fixed piece of
Python around each figure (``calibrate.py``: 5.5 on the machine of the published figures); only figures of one run can
be compared. The last line is one JSON object.

    python bench/books.py [--requests N] [--callers N] [--repeat N]
"""

import argparse
import asyncio
import gc
import json
import pathlib
import resource
import statistics
import tempfile
import time

import uvloop
from calibrate import piece

from farthing.adapters.sqlite import SqliteBooks
from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    EXCHANGE_COLUMNS,
    entry_to_row,
    exchange_to_row,
    quoted,
)
from farthing.adapters.sqlite_schema import connect, migrate
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
CALLERS = 16
CASES = (
    ("4 budgets, 1,000 scopes", 0, 1_000),
    ("10,004 budgets, 1,000 scopes", 10_000, 1_000),
    ("10,004 budgets, 1,000,000 scopes", 10_000, 1_000_000),
)
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


def calibration_ms() -> float:
    """CPU time of a piece now."""
    taken = []
    for _ in range(9):
        began = time.thread_time()
        piece()
        taken.append((time.thread_time() - began) * 1e3)
    return statistics.median(taken)


def cpu_us() -> float:
    """CPU time of all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) * 1e6


async def measure(
    label: str,
    make,
    rules: Budgets,
    scopes: int,
    requests: int,
    *,
    repeat: int = 1,
    callers: int = CALLERS,
    log: bool = True,
) -> float:
    """Drive fresh stores; the least CPU-µs a request, the cost of building the records included."""
    costs, rates = [], []
    for _ in range(repeat):
        books = await make()
        await drive(books, rules, scopes, requests // 4, 0, callers=callers, log=log)
        cpu, wall = cpu_us(), time.perf_counter()
        await drive(books, rules, scopes, requests, requests, callers=callers, log=log)
        costs.append((cpu_us() - cpu) / requests)
        rates.append(requests / (time.perf_counter() - wall))
        await books.close()
    print(f"{label:<58} {min(costs):7.1f} CPU-µs/request {max(rates):9.0f} requests/s", flush=True)
    return min(costs)


def bare(folder: pathlib.Path, requests: int) -> None:
    """The floor: the same entry and exchange rows, inserted in groups of 16 by a bare loop."""
    connection = connect(folder / "bare.db")
    migrate(folder / "bare.db", connection)
    entry_sql = f"INSERT INTO entries ({quoted(ENTRY_COLUMNS)}) VALUES ({', '.join('?' * len(ENTRY_COLUMNS))})"
    exchange_sql = (
        f"INSERT INTO exchanges ({quoted(EXCHANGE_COLUMNS)}) VALUES ({', '.join('?' * len(EXCHANGE_COLUMNS))})"
    )
    made = [entry_of(number, Scope(org="o", team="t", user=f"u{number}")) for number in range(requests)]
    rows = [(entry_to_row(entry), exchange_to_row(exchange_of(entry))) for entry in made]
    cpu, wall = cpu_us(), time.perf_counter()
    for start in range(0, requests, CALLERS):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(entry_sql, [row for row, _ in rows[start : start + CALLERS]])
        connection.executemany(exchange_sql, [row for _, row in rows[start : start + CALLERS]])
        connection.execute("COMMIT")
    cpu, wall = cpu_us() - cpu, time.perf_counter() - wall
    connection.close()
    print(
        f"{'bare executemany of the two rows, 16 a commit':<52} {cpu / requests:7.1f} CPU-µs/request"
        f" {requests / wall:9.0f} requests/s",
        flush=True,
    )


class NoBooks:
    """Books that do nothing: what it costs to build the records and to drive the callers."""

    async def reserve(self, reservation, *, now_ms, stub=None):
        await asyncio.sleep(0)
        return Held(id=reservation.id)

    async def settle(self, settlement, *, now_ms):
        await asyncio.sleep(0)

    async def close(self):
        pass


async def run(requests: int, folder: pathlib.Path, *, repeat: int, callers: int) -> dict[str, dict[str, float]]:
    files = iter(range(1000))
    found: dict[str, dict[str, float]] = {}

    async def nothing():
        return NoBooks()

    def sqlite(durability):
        async def make():
            books = SqliteBooks(folder / str(next(files)) / "books.db", worker="bench", durability=durability)
            books.path.parent.mkdir()
            await books.start()
            return books

        return make

    async def cost(label, make, extra, scopes, *, log=True):
        options = {"repeat": repeat, "callers": callers, "log": log}
        before = calibration_ms()
        whole = await measure(label, make, budgets(extra), scopes, requests, **options)
        base = await measure("  of it building the records", nothing, budgets(extra), scopes, requests, **options)
        quick = (before + calibration_ms()) / 2
        found[label] = {"net_us": round(whole - base, 1), "calibration_ms": round(quick, 2)}
        print(f"{'  net':<58} {whole - base:7.1f}   calibration {quick:.1f} ms", flush=True)

    for label, extra, scopes in CASES:
        await cost(f"sqlite, {label}", sqlite("strict"), extra, scopes)
    for label, extra, scopes in CASES:
        await cost(f"sqlite without the traffic log, {label}", sqlite("strict"), extra, scopes, log=False)
    await cost(f"sqlite relaxed, {CASES[0][0]}", sqlite("relaxed"), *CASES[0][1:])
    return found


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
    arguments = parser.parse_args()
    as_the_gateway()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        place = pathlib.Path(folder)
        bare(place, arguments.requests)
        found = uvloop.run(run(arguments.requests, place, repeat=arguments.repeat, callers=arguments.callers))
    print(json.dumps({"callers": arguments.callers, "net": found}))


if __name__ == "__main__":
    main()
