"""What a page costs the server over a large ledger: CPU and wall-clock, cold and again.

    python bench/pages.py --entries 10000000 [--reports parquet] [--home DIR]

Fills a ledger with lifelike entries of the last thirty days (``--home`` keeps it for the next run), exports it to
Parquet when asked to, and opens every page twice over HTTP. ``server-timing`` says what each took: ``page`` is
wall-clock with everything (the thread, the queries, the template), ``cpu`` the CPU of the page's own thread, without
DuckDB's threads. The last line is one JSON object; ``over`` lists pages beyond their goal (300 ms for Overview and
Explore, 100 ms for Requests) on the second look.
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
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.core.types import LedgerEntry
from farthing.testing.gateway import GatewayServer
from farthing.testing.lifelike import MONTH_MS, lifelike_entries

BATCH = 50_000
SEED = 20_261_121
GOALS_MS = {"/": 300, "/explore": 300, "/explore?by=team,model": 300, "/requests": 100}
PAGES = (
    "/", "/explore", "/explore?by=team,model", "/explore?where=team%3Dsearch&by=user", "/requests",
    "/requests?where=feature%3Dagent", "/requests?where=user%3Duser-1999&since=7d", "/sessions", "/anomalies",
    "/allocation", "/savings", "/budgets",
)  # fmt: skip
PROVIDERS = '[[providers]]\nname = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "SIM_KEY"\n'


def batches(entries: Iterator[LedgerEntry]) -> Iterator[list[LedgerEntry]]:
    while part := list(itertools.islice(entries, BATCH)):
        yield part


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
    marker.touch()
    print(f"{count:,} entries in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def look(client: httpx.Client, path: str) -> tuple[float, float]:
    """(wall, CPU) milliseconds of one page, as the server says."""
    answer = client.get(path)
    answer.raise_for_status()
    found = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    return float(found["page"]), float(found["cpu"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--reports", choices=("ledger", "parquet"), default="parquet")
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.home or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        fill(home, options.entries)
        if options.reports == "parquet":
            began = time.monotonic()
            ParquetExport(home / bootstrap.LEDGER_FILE, home / "parquet").run(since_ms=0)
            print(f"exported in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        results: dict[str, dict[str, float]] = {}
        toml = f'{PROVIDERS}[analytics]\nreports = "{options.reports}"\n'
        with GatewayServer(home, toml) as server, httpx.Client(base_url=server.url, timeout=600) as client:
            for path in PAGES:
                cold, warm = look(client, path), look(client, path)
                time.sleep(2.5)  # past what is kept of the present: closed days remembered, today asked anew
                later = look(client, path)
                results[path] = {
                    "first_ms": cold[0], "first_cpu_ms": cold[1], "again_ms": warm[0], "later_ms": later[0],
                    "later_cpu_ms": later[1],
                }  # fmt: skip
                print(f"{path:45} {results[path]}", file=sys.stderr, flush=True)
    over = [path for path, goal in GOALS_MS.items() if results[path]["later_ms"] > goal]
    print(json.dumps({"entries": options.entries, "reports": options.reports, "over": over, "pages": results}))


if __name__ == "__main__":
    main()
