"""What a page costs the server over a large ledger: CPU and wall-clock, the first time and again.

    python bench/pages.py --entries 10000000 [--keep DIR] [--no-check] [--all] [--reports parquet]

Fills a ledger with lifelike entries of the last thirty days, rolls it up (``--reports parquet``: exports it instead)
and opens every page three times over HTTP. ``--keep`` leaves ledger and roll-ups in a folder for the next run. Before
pages are opened, answers from the roll-ups are compared with sums over all entries.

``server-timing`` says what a page took: ``page`` is wall-clock with everything, ``cpu`` the CPU of the page's own
thread, in which SQLite runs too; DuckDB has threads of its own. The goals (300 ms for Overview and Explore, 100 ms
for Requests) are held against the worst of the looks, the first one included.

The last line is one JSON object: ``rollup_cpu_us`` per entry (null: rolled up before), ``differences`` (must be 0),
``over`` and ``over_cpu`` (pages beyond their goal by wall-clock and by CPU), ``pages``.
"""

import argparse
import itertools
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from farthing import bootstrap
from farthing.adapters.parquet import ParquetExport
from farthing.adapters.rollup_file import FILE
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.testing.gateway import GatewayServer
from farthing.testing.lifelike import MONTH_MS, lifelike_entries

BATCH = 50_000
SEED = 20_261_121
HOUR_MS = 3_600_000
EXPLORE, REQUESTS = 300, 100
"""Goals in milliseconds."""
PAGES = {
    "/": EXPLORE,
    "/explore": EXPLORE,
    "/explore?by=team,model": EXPLORE,
    "/explore?by=model&compare=1&since=7d": EXPLORE,
    "/explore?by=team,feature,model": EXPLORE,
    "/explore?by=user": EXPLORE,
    "/explore?by=customer&since=24h": EXPLORE,
    "/explore?where=team%3Dsearch&by=user": EXPLORE,
    "/explore?where=model%3Dgpt-4o&by=status": EXPLORE,
    "/explore?by=project,key": EXPLORE,
    "/explore?by=feature&grain=hour&since=7d": EXPLORE,
    "/explore?by=endpoint&since=90d": EXPLORE,
    "/requests": REQUESTS,
    "/requests?before={deep}": REQUESTS,
    "/requests?where=feature%3Dagent": REQUESTS,
    "/requests?where=user%3Duser-1999&since=7d": REQUESTS,
    "/sessions": 0, "/anomalies": 0, "/allocation": 0, "/savings": 0, "/budgets": 0,
}  # fmt: skip
"""Page → goal; 0: shown only, with ``--all``."""
CHECKED = (
    LedgerQuery(group_by=("team", "model")),
    LedgerQuery(group_by=("day", "feature", "provider", "model", "kind", "reason")),
    LedgerQuery(group_by=("user",), where=(("team", "search"),)),
)
PROVIDERS = '[[providers]]\nname = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "SIM_KEY"\n'


def batches(entries: Iterator[LedgerEntry]) -> Iterator[list[LedgerEntry]]:
    while part := list(itertools.islice(entries, BATCH)):
        yield part


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fill(home: Path, count: int) -> None:
    """The entries, unless the folder has them already."""
    marker = home / f"filled-{count}"
    if marker.exists():
        return
    began = time.monotonic()
    importer = SqliteImporter(home / bootstrap.LEDGER_FILE)
    start = time.time_ns() // 1_000_000 - MONTH_MS
    for part in batches(lifelike_entries(count, seed=SEED, start_ms=start)):
        importer.import_batch(part, ())
    importer.close()
    marker.touch()
    say(f"{count:,} entries in {time.monotonic() - began:.0f} s")


def roll_up(home: Path) -> float | None:
    """The CPU-microseconds that an entry took; None where all of them were in the roll-ups before."""
    rollups = Rollups(home / bootstrap.LEDGER_FILE, home / FILE)
    began, added = time.process_time(), 0
    while True:
        step = rollups.step(now_ms=time.time_ns() // 1_000_000)
        added += step.entries
        if not step.entries:  # what earlier runs asked for is the gateway's to fill
            break
    rollups.close()
    size = (home / FILE).stat().st_size / 2**20
    say(f"{added:,} entries rolled up in {time.process_time() - began:.0f} CPU-s; the file has {size:,.0f} MiB")
    return round((time.process_time() - began) / added * 1e6, 1) if added else None


def differences(home: Path) -> int:
    """Answers from the roll-ups that are not the sums over all entries; some of the last days, odd edges included."""
    ledger = SqliteLedger(home / bootstrap.LEDGER_FILE)
    rolled = RollupLedger(ledger, home / FILE)
    since, until = (time.time_ns() // 1_000_000 - days * 24 * HOUR_MS - 12_345 for days in (16, 2))
    found = 0
    for query in (*CHECKED, LedgerQuery(group_by=("hour", "team"), since_ms=since, until_ms=until)):
        assert rolled.answers(query), query
        taken = []
        for one in (rolled, ledger):
            began = time.thread_time()
            rows = one.totals(query)
            taken.append((rows, time.thread_time() - began))
        found += taken[0][0] != taken[1][0]
        said = ", ".join(f"{took * 1000:,.0f} CPU-ms" for _, took in taken)
        say(f"by {', '.join(query.group_by)}: {said} (roll-ups, entries); {len(taken[0][0]):,} rows")
    return found


def look(client: httpx.Client, path: str) -> tuple[float, float]:
    """(wall, CPU) milliseconds of one page, as the server says."""
    answer = client.get(path)
    answer.raise_for_status()
    found = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    return float(found["page"]), float(found["cpu"])


def opened(home: Path, reports: str, deep: int, *, all_pages: bool) -> dict[str, dict[str, float]]:
    """Every page three times: the first look, at once again, and when what is kept of the present is over."""
    results: dict[str, dict[str, float]] = {}
    toml = f'{PROVIDERS}[analytics]\nreports = "{reports}"\nrollups = {str(reports == "ledger").lower()}\n'
    with GatewayServer(home, toml) as server, httpx.Client(base_url=server.url, timeout=600) as client:
        client.get("/").raise_for_status()  # templates and price book are loaded by the first page of a process
        time.sleep(31)  # until no answer is remembered
        for pattern, goal in PAGES.items():
            if not goal and not all_pages:
                continue
            path = pattern.format(deep=deep)
            first, again = look(client, path), look(client, path)
            time.sleep(2.5)
            later = look(client, path)
            results[path] = {
                "goal_ms": goal, "first_ms": first[0], "first_cpu_ms": first[1], "again_ms": again[0],
                "later_ms": later[0], "later_cpu_ms": later[1],
            }  # fmt: skip
            say(
                f"{path:45} limit {goal or '-':>4} ms | first {first[0]:8.1f} ms, {first[1]:8.1f} CPU-ms"
                f" | again {again[0]:7.1f} ms | later {later[0]:7.1f} ms, {later[1]:7.1f} CPU-ms"
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--reports", choices=("ledger", "parquet"), default="ledger")
    parser.add_argument("--keep", "--home", type=Path)
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True, help="compare the answers")
    parser.add_argument("--all", action="store_true", help="open pages without a goal, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.keep or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        fill(home, options.entries)
        cost, wrong = None, 0
        if options.reports == "parquet":
            began = time.monotonic()
            ParquetExport(home / bootstrap.LEDGER_FILE, home / "parquet").run(since_ms=0)
            say(f"exported in {time.monotonic() - began:.0f} s")
        else:
            cost = roll_up(home)
            wrong = differences(home) if options.check else 0
        results = opened(home, options.reports, options.entries // 2, all_pages=options.all)
    limited = {path: found for path, found in results.items() if found["goal_ms"]}
    print(
        json.dumps(
            {
                "entries": options.entries,
                "reports": options.reports,
                "rollup_cpu_us": cost,
                "differences": wrong,
                "over": [p for p, one in limited.items() if max(one["first_ms"], one["later_ms"]) > one["goal_ms"]],
                "over_cpu": [
                    p for p, one in limited.items() if max(one["first_cpu_ms"], one["later_cpu_ms"]) > one["goal_ms"]
                ],
                "pages": results,
            }
        )
    )


if __name__ == "__main__":
    main()
