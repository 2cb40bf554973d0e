"""What a page costs the server over a large ledger: CPU and wall-clock, the first time and again.

    python bench/pages.py --entries 10000000 [--keep DIR] [--no-check] [--all] [--commands] [--reports parquet]
                          [--sample 80] [--seed N] [--only-sample] [--cold]

Fills a ledger with lifelike entries of the last thirty days, rolls it up (``--reports parquet``: exports it instead)
and opens every page three times over HTTP. ``--keep`` leaves ledger and roll-ups in a folder for the next run. Before
pages are opened, answers from the roll-ups are compared with sums over all entries.

``server-timing`` says what a page took: ``page`` is wall-clock with everything, ``cpu`` the CPU of the page's own
thread, in which SQLite runs too; DuckDB has threads of its own. The goals (300 ms for Overview and Explore, 100 ms
for Requests) are held against the worst of the looks, the first one included.

``--sample`` of addresses that the controls of Explore and Requests can make, by a seed, are opened once each besides:
one to four groups, filters on frequent, rare and absent values, periods, grains, comparisons, cursors. The worst are
told at the end, and the median, the 95th percentile and the largest by wall-clock and by CPU. With ``--cold`` they
are opened twice, by two servers: first the system forgets ledger and roll-ups before every single one. ``read_kb``
is what came from the disk; beyond the goal with little CPU and few reads it is the disk that was busy.

The last line is one JSON object: ``rollup_cpu_us`` per entry (null: rolled up before), ``differences`` (must be 0),
``over`` and ``over_cpu`` (pages beyond their goal by wall-clock and by CPU), ``slow`` (any page beyond a second of
CPU), ``sampled`` (of the addresses drawn, ``warm`` and ``cold``: figures and those beyond their goal),
``wall_per_cpu`` (how busy the machine was: about 1 when idle; well above, wall-clock says more of the other programs
than of the pages), ``pages``, ``sample``, ``commands``.
"""

import argparse
import itertools
import json
import os
import random
import re
import resource
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import httpx

from farthing import bootstrap
from farthing.adapters.parquet import ParquetExport
from farthing.adapters.rollup_file import FILE
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, quoted
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.server.pages.views import VIEWS
from farthing.testing.gateway import GatewayServer
from farthing.testing.lifelike import FEATURES, MONTH_MS, TEAMS, lifelike_entries

BATCH = 50_000
COPIES = 5
"""Making entries takes longer than booking them: of so many, one is made and the others are copies in other teams."""
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
}
"""Page → goal."""
WHOLE = tuple(view.address for view in VIEWS if "{" not in view.address)
OTHERS = (*(address for address in WHOLE if address not in PAGES), "/unit?per=user")
"""With ``--all``: every other page, whose goal is a second of CPU."""
SLOW = 1_000
COMMANDS = (
    "report --by team,model", "report --by user --since 7d", "report --by trace --since 24h", "top --once", "why",
    "forecast", "anomalies ls", "metrics --by team", "savings", "allocate run", "allocate untagged", "chargeback",
    "unit --per user", "maturity", "governance", "status", "requests", "budget ls", "optimize", "experiment ls",
    "trace 00000000000000000000000000000017", "sql 'SELECT count(*) FROM entries WHERE received_at_ms > 1'",
)  # fmt: skip
"""With ``--commands``: report commands and the CPU of their whole process, start included."""
CHECKED = (
    LedgerQuery(group_by=("team", "model")),
    LedgerQuery(group_by=("day", "feature", "provider", "model", "kind", "reason")),
    LedgerQuery(group_by=("user",), where=(("team", "search"),)),
    LedgerQuery(group_by=("model", "status"), where=(("user", "user-1999"),)),  # from the blocks that have the user
)
BY = (
    "team", "feature", "model", "provider", "user", "customer", "project", "key", "endpoint", "status",  # in the menu
    "team", "feature", "model", "user", "session", "org", "kind", "state", "source", "day", "hour", "week", "tag:env",
)  # fmt: skip
"""What Explore is grouped by: what is in its menu more often than what must be typed."""
ONLY = {
    "team": ("search", "", "legal", "nobody"),
    "feature": ("agent", "chat", ""),
    "model": ("gpt-4o", "claude-haiku-4-5", "gpt-17"),
    "provider": ("openai", "mistral"),
    "user": ("user-1", "user-40", "user-1999", "o'brien", "nobody"),
    "customer": ("customer-1", "customer-499", ""),
    "project": ("project-2", "project-39"),
    "key": ("key-3", "key-59", "key-none"),
    "session": ("session-7-2", "session-1999-3", "run-77", "run-none"),
    "status": ("502", "200", "429"),
    "endpoint": ("embeddings", "chat"),
    "tag:env": ("prod",),
    "kind": ("adjustment", "reversal"),
}
"""Frequent, rare and absent values."""
SINCE = ("24h", "7d", "30d", "30d", "90d", "all")
WORST = 12
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
    start = time.time_ns() // 1_000_000 - MONTH_MS
    base = home / "base.db"
    made = -(-count // COPIES)
    importer = SqliteImporter(base)
    for part in batches(lifelike_entries(made, seed=SEED, start_ms=start)):
        importer.import_batch(part, ())
    importer.close()
    SqliteImporter(home / bootstrap.LEDGER_FILE).close()  # makes the schema
    copied(home / bootstrap.LEDGER_FILE, base, made)
    for file in home.glob("base.db*"):
        file.unlink()
    marker.touch()
    say(f"{made * COPIES:,} entries in {time.monotonic() - began:.0f} s")


def copied(ledger: Path, base: Path, made: int) -> None:
    """Every entry ``COPIES`` times, of another team and feature each; a sixth are steps of agents' runs."""
    changed = {
        "id": "id || '-' || k",
        "request_id": "request_id || '-' || k",
        "corrects": "iif(corrects = '', '', corrects || '-' || k)",
        "received_at_ms": "received_at_ms + 37 * k",
        "booked_at_ms": "booked_at_ms + 37 * k",
        "team": _turned("team", TEAMS),
        "feature": "feature_now",
        "session": f"iif(feature_now = 'agent', 'run-' || (number / 120 * {COPIES} + k), session)",
        "tags": "iif(feature_now = 'agent', json_set(coalesce(tags, '{}'),"
        f" '$.trace', printf('%032x', number / 120 * {COPIES} + k), '$.agent', 'agent-' || (number % 7),"
        " '$.step', 'step-' || (number % 3)), tags)",
    }
    values = ", ".join(changed.get(name, f'"{name}"') for name in ENTRY_COLUMNS)
    connection = sqlite3.connect(ledger, isolation_level=None)
    connection.execute("ATTACH ? AS base", (str(base),))
    for low in range(0, made, BATCH // COPIES):
        connection.execute(
            f"WITH RECURSIVE copies(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM copies WHERE k < {COPIES - 1})"
            f" INSERT INTO main.entries ({quoted(ENTRY_COLUMNS)}) SELECT {values} FROM ("
            f"SELECT *, {_turned('feature', FEATURES)} AS feature_now,"
            " CAST(substr(request_id, -8) AS INTEGER) AS number FROM base.entries CROSS JOIN copies"
            " WHERE seq > ? AND seq <= ? ORDER BY seq, k)",
            (low, low + BATCH // COPIES),
        )
    connection.close()


def _turned(column: str, known: Sequence[str]) -> str:
    """SQL for the ``k``-th of these after the column's own."""
    whens = " ".join(f"WHEN '{one}' THEN {at}" for at, one in enumerate(known))
    thens = " ".join(f"WHEN {at} THEN '{one}'" for at, one in enumerate(known))
    return f"(CASE (CASE {column} {whens} END + k) % {len(known)} {thens} END)"


def roll_up(home: Path) -> float | None:
    """The CPU-microseconds that an entry took; None where all of them were in the roll-ups before."""
    rollups = Rollups(home / bootstrap.LEDGER_FILE, home / FILE)
    began, added = time.process_time(), 0
    while True:
        step = rollups.step(now_ms=time.time_ns() // 1_000_000)
        added += step.entries
        if not step.entries:
            break
    took = time.process_time() - began
    while rollups.step(now_ms=time.time_ns() // 1_000_000).left:  # what earlier runs asked for; not beside the pages
        pass
    rollups.close()
    size = (home / FILE).stat().st_size / 2**20
    say(f"{added:,} entries rolled up in {took:.0f} CPU-s; the file has {size:,.0f} MiB")
    return round(took / added * 1e6, 1) if added else None


def differences(home: Path) -> int:
    """Answers from the roll-ups that are not the sums over all entries; some of the last days, odd edges included."""
    ledger = SqliteLedger(home / bootstrap.LEDGER_FILE)
    rolled = RollupLedger(ledger, home / FILE)
    since, until = (time.time_ns() // 1_000_000 - days * 24 * HOUR_MS - 12_345 for days in (16, 2))
    found = 0
    for query in (*CHECKED, LedgerQuery(group_by=("hour", "team"), since_ms=since, until_ms=until)):
        assert rolled.cells(query) is not None, query
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


def settings(reports: str) -> str:
    return f'{PROVIDERS}[analytics]\nreports = "{reports}"\nrollups = {str(reports == "ledger").lower()}\n'


def opened(home: Path, reports: str, deep: int, *, all_pages: bool) -> dict[str, dict[str, float]]:
    """Every page three times: the first look, at once again, and when what is kept of the present is over."""
    results: dict[str, dict[str, float]] = {}
    toml = settings(reports)
    asked = PAGES | dict.fromkeys(OTHERS if all_pages else (), 0)
    with GatewayServer(home, toml) as server, httpx.Client(base_url=server.url, timeout=600) as client:
        client.get("/").raise_for_status()  # templates and price book are loaded by the first page of a process
        time.sleep(31)  # until no answer is remembered
        for pattern, goal in asked.items():
            path = pattern.format(deep=deep)
            before = time.process_time()
            first = look(client, path)
            process = (time.process_time() - before) * 1000
            again = look(client, path)
            time.sleep(2.5)
            later = look(client, path)
            results[path] = {
                "goal_ms": goal, "first_ms": first[0], "first_cpu_ms": first[1], "process_cpu_ms": round(process, 1),
                "again_ms": again[0], "later_ms": later[0], "later_cpu_ms": later[1],
            }  # fmt: skip
            say(
                f"{path:45} limit {goal or '-':>4} ms | first {first[0]:8.1f} ms, {first[1]:8.1f} CPU-ms"
                f" | again {again[0]:7.1f} ms | later {later[0]:7.1f} ms, {later[1]:7.1f} CPU-ms"
            )
    return results


def sampled(count: int, seed: int, entries: int) -> dict[str, int]:
    """So many addresses, two thirds of them of Explore, with their goals."""
    chance, found = random.Random(seed), dict[str, int]()
    while len(found) < count:
        explores = chance.random() < 0.65
        names = chance.sample(sorted(ONLY), k=chance.choice((0, 0, 1, 1, 2) if explores else (1, 1, 1, 2, 3)))
        said = [("where", f"{name}={chance.choice(ONLY[name])}") for name in names]
        said.append(("since", chance.choice(SINCE)))
        if explores:
            by = dict.fromkeys(chance.choice(BY) for _ in range(chance.choice((1, 1, 2, 2, 3, 4))))
            said += [("by", ",".join(by)), ("grain", chance.choice(("day", "day", "hour", "week", "month")))]
            said += [("compare", "1")] * (chance.random() < 0.2)
        else:
            said += [("before", str(chance.randrange(1, entries)))] * (chance.random() < 0.4)
            said += [("show", chance.choice(("booked", "all")))]
        found[f"/{'explore' if explores else 'requests'}?{urlencode(said)}"] = EXPLORE if explores else REQUESTS
    return found


def looked(home: Path, toml: str, addresses: dict[str, int], *, cold: bool = False) -> dict[str, dict[str, float]]:
    """Every address once, the dearest told. ``cold``: ledger and roll-ups come from the disk for every one."""
    results: dict[str, dict[str, float]] = {}
    files = [os.open(home / name, os.O_RDONLY) for name in (bootstrap.LEDGER_FILE, FILE)] if cold else []
    with GatewayServer(home, toml) as server, httpx.Client(base_url=server.url, timeout=600) as client:
        for path in ("/", "/explore", "/requests"):  # what a process does once, it has done
            client.get(path).raise_for_status()
        for path, goal in addresses.items():
            for file in files:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            before = read_kb()
            wall, cpu = look(client, path)
            results[path] = {
                "goal_ms": goal, "first_ms": wall, "first_cpu_ms": cpu, "read_kb": read_kb() - before,
            }  # fmt: skip
    for file in files:  # not earlier: closing takes back the locks that SQLite has in this process
        os.close(file)
    dearest = sorted(results.items(), key=lambda one: -one[1]["first_cpu_ms"] / one[1]["goal_ms"])
    for path, one in dearest[:WORST]:
        say(
            f"limit {one['goal_ms']:>4} ms | {one['first_ms']:8.1f} ms, {one['first_cpu_ms']:8.1f} CPU-ms"
            f" | {one['read_kb']:7,} KiB read | {path}"
        )
    return results


def read_kb() -> int:
    """What this process has had from disks so far."""
    said = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(said["read_bytes"]) // 1024


def figures(found: dict[str, dict[str, float]], name: str) -> dict[str, object]:
    """Median, 95th percentile and largest of each kind of page by wall-clock and by CPU, and what is over; told."""
    result: dict[str, object] = {}
    for measure, over in (("first_ms", "over"), ("first_cpu_ms", "over_cpu")):
        for goal in (EXPLORE, REQUESTS):
            taken = sorted(one[measure] for one in found.values() if one["goal_ms"] == goal)
            if not taken:
                continue
            p50, p95 = taken[len(taken) // 2], taken[len(taken) * 95 // 100]
            beyond = sum(one > goal for one in taken)
            result[f"{measure}_limit_{goal}"] = {"p50": p50, "p95": p95, "max": taken[-1]}
            say(
                f"{name:4} {measure:12} limit {goal}: p50 {p50:.0f}, p95 {p95:.0f}, max {taken[-1]:.0f},"
                f" {beyond} of {len(taken)} over"
            )
        result[over] = [path for path, one in found.items() if one[measure] > one["goal_ms"]]
    return result


def busy(results: dict[str, dict[str, float]]) -> float:
    """Wall-clock by CPU over all looks: 1 on an idle machine; at 5 only the CPU says something of the pages."""
    wall = sum(one["first_ms"] + one["later_ms"] for one in results.values())
    cpu = sum(max(one["process_cpu_ms"], one["first_cpu_ms"]) + one["later_cpu_ms"] for one in results.values())
    return round(wall / cpu, 2) if cpu else 0.0


def ran(home: Path) -> dict[str, dict[str, float]]:
    """Every command once: CPU-seconds of its process, seconds, exit code."""
    found = {}
    for command in COMMANDS:
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        line = [sys.executable, "-m", "farthing", "--home", str(home), *shlex.split(command)]
        code = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found[command] = {"cpu_s": round(cpu, 2), "wall_s": round(time.monotonic() - began, 2), "exit": code}
        say(f"farthing {command:55} {cpu:8.2f} CPU-s {found[command]['wall_s']:8.2f} s, exit {code}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--reports", choices=("ledger", "parquet"), default="ledger")
    parser.add_argument("--keep", "--home", type=Path)
    parser.add_argument("--check", action=argparse.BooleanOptionalAction, default=True, help="compare the answers")
    parser.add_argument("--all", action="store_true", help="open every page")
    parser.add_argument("--commands", action="store_true", help="run the report commands, too")
    parser.add_argument("--sample", type=int, default=80, help="addresses that are opened once besides")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--cold", action="store_true", help="open these from a cold disk, too")
    parser.add_argument("--only-sample", action="store_true", help="open nothing else")
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
        deep = options.entries // 2
        results = {} if options.only_sample else opened(home, options.reports, deep, all_pages=options.all)
        drawn = sampled(options.sample, options.seed, options.entries)
        chosen = {}
        for name in ("cold", "warm") if options.cold else ("warm",):
            chosen[name] = looked(home, settings(options.reports), drawn, cold=name == "cold") if drawn else {}
        told = {name: figures(found, name) for name, found in chosen.items()}
        commands = ran(home) if options.commands else {}
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
                "slow": [p for p, one in results.items() if max(one["first_cpu_ms"], one["later_cpu_ms"]) > SLOW],
                "sampled": told,
                "wall_per_cpu": busy(results),
                "pages": results,
                "sample": chosen,
                "commands": commands,
            }
        )
    )


if __name__ == "__main__":
    main()
