"""How fast and in how much memory a log replays through the full policy.

A lifelike log (seeded) is replayed in one process under four nested hard budgets, and under the same with a cache, a
route, a cap and a lever, thresholds, all of these, and with less money, so that some calls are refused; beside each,
a part of it through the whole pipeline, as the baseline of the same run. Prints requests per CPU-second, how quick
the machine was then (see ``calibrate.py``), what that would be on the machine of the published figures, and the peak
of memory.

Usage: python bench/replay.py [--requests 100000]      from memory, call by call
       python bench/replay.py --stream --requests 10000000    made as it is read: for memory
       python bench/replay.py --ledger --requests 1000000     from a ledger on disk, whole, as the command does it
       python bench/replay.py --ledger --parquet --jobs 1     from its export, in one process
"""

import argparse
import gc
import itertools
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable

from calibrate import REFERENCE_MS, piece

from farthing import bootstrap
from farthing.cli.replay_run import cores, spread
from farthing.config import Settings
from farthing.core.types import Exchange
from farthing.lab.compare import Tally
from farthing.lab.estimate import Estimator
from farthing.lab.replay import Replayed, replay
from farthing.lab.replay_apart import SAMPLE, Split, best, splits
from farthing.lab.replay_parts import Job, Period, survey, within
from farthing.testing.replays import busy_log

LONGEST_MS = 20_000
BASELINE = 10_000
"""Calls of the log that also go through the whole pipeline."""
SETTINGS = """
[[providers]]
name = "openai"
api_key_env = "NO_KEY"

[[budgets]]
name = "org"
per = "month"
usd = "1000000"

[[budgets]]
name = "team"
per = "day"
usd = "{team}"
each = ["team"]

[[budgets]]
name = "user"
per = "day"
usd = "50"
each = ["user"]

[[budgets]]
name = "model"
per = "week"
tokens = 100000000000
each = ["model"]
"""
CACHE = '[[cache]]\nname = "all"\nttl = "5m"\npartition = ["team"]\n'
CAP = """
[limits]
output_tokens_max = 900

[[levers]]
kind = "cap_output"
tokens = 900
"""
THROTTLE = """
[[budgets]]
name = "rushes"
per = "day"
usd = "200000"
each = ["team"]
thresholds = [{ at = 80, do = "throttle", per_minute = 600 }, { at = 95, do = "degrade", to = "gpt-4o-mini" }]
"""
ROUTE = """
[[routes]]
name = "short"
models = ["gpt-4.1"]
tiers = { simple = "gpt-4o-mini", complex = "gpt-4.1" }
by = ["tag", "length"]
length_tokens = 800
"""
BUDGETS = SETTINGS.format(team=5000)
POLICIES = {
    "four budgets": BUDGETS,
    "four budgets and a cache": BUDGETS + CACHE,
    "four budgets and a route": BUDGETS + ROUTE,
    "four budgets, a cap and a lever": CAP + BUDGETS,
    "five budgets, one with thresholds": BUDGETS + THROTTLE,
    "all of it": CAP + BUDGETS + THROTTLE + CACHE + ROUTE,
    "budgets that refuse": SETTINGS.format(team=10),
    "throttled": BUDGETS + THROTTLE.replace("200000", "4"),
}


def settings_of(folder: str, policy: str) -> Settings:
    """An installation's settings with a policy."""
    path = pathlib.Path(folder) / "farthing.toml"
    path.write_text(policy, encoding="utf-8")
    return bootstrap.load_settings(str(path), folder)


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(
    settings: Settings, log: Iterable[Exchange], *, pipeline_only: bool = False, trace: bool = False
) -> tuple[float, Replayed, Tally]:
    """(CPU-seconds, what was done, the sums)."""
    prices, estimator = bootstrap.price_book(settings), Estimator()
    if not trace:
        estimator.learn(log)
    tally = Tally(estimator)
    started = time.process_time()
    done = replay(
        log,
        lambda loop, provider, sink: bootstrap.replay_services(settings, loop, provider, sink, prices=prices),
        tally,
        estimate=estimator.usage,
        longest_ms=LONGEST_MS,
        pipeline_only=pipeline_only,
        progress=traced if trace else None,
    )
    return time.process_time() - started, done, tally


def pieces_ms(count: int = 8) -> list[float]:
    """CPU time of so many of the calibration's pieces."""
    taken = []
    for _ in range(count):
        began = time.process_time()
        piece()
        taken.append((time.process_time() - began) * 1e3)
    return taken


def paced(per_s: float, ms: float) -> str:
    """A speed, and what it would be where a piece takes ``REFERENCE_MS``."""
    scaled = per_s * ms / REFERENCE_MS
    return f"{per_s:,.0f} requests per CPU-second (calibration {ms:.1f} ms; at {REFERENCE_MS} ms: {scaled:,.0f})"


def traced(count: int) -> None:
    """Memory on the way."""
    if count % 500_000 == 0:
        print(f"  after {count:>10,} requests: peak {peak_mib():.0f} MiB", flush=True)


def from_memory(folder: str, requests: int) -> None:
    """Every policy over a log in memory."""
    log = list(busy_log(requests))
    gc.collect()
    gc.freeze()
    for name, policy in POLICIES.items():
        settings = settings_of(folder, policy)
        pieces = pieces_ms()
        used, done, tally = timed(settings, log)
        ms = statistics.median(pieces + pieces_ms())
        base, slow, _ = timed(settings, log[-BASELINE:], pipeline_only=True)
        bill = tally.finish()
        print(f"{name}: {bill.answered} answered, {bill.cached} of them from the cache, {bill.refused} refused")
        each, before = used / done.requests, base / slow.requests
        print(f"  {paced(1 / each, ms)}; {done.plain / done.requests:.1%} went the short way", flush=True)
        print(f"  the whole pipeline, same run: {1 / before:,.0f} per CPU-second; {before / each:.1f} times as much")
    print(f"peak memory {peak_mib():.0f} MiB, the log in it")


def streamed(folder: str, requests: int) -> None:
    """One policy over a log that is made as it is read."""
    before = peak_mib()
    used, done, _ = timed(settings_of(folder, SETTINGS.format(team=5000)), busy_log(requests), trace=True)
    print(f"{done.requests:,} requests, {used / done.requests * 1e6:.0f} CPU-µs each with making them")
    print(f"peak memory {before:.0f} -> {peak_mib():.0f} MiB")


def cpu_s() -> float:
    """CPU-seconds of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def from_ledger(folder: str, requests: int, policy: str, *, jobs: int, parquet: bool, log: str) -> None:
    """One policy over a ledger on disk, or over its export: survey, reading, replay, in so many processes."""
    home = log or folder
    settings = settings_of(home, POLICIES[policy])
    source = f"parquet:{home}/export" if parquet else ""
    if not (pathlib.Path(home) / "farthing.db").exists():
        bootstrap.open_importer(settings).import_batch((), busy_log(requests))
    if parquet and not (pathlib.Path(home) / "export").exists():
        bootstrap.export_parquet(settings, pathlib.Path(home) / "export", since_ms=0)
    period = Period(since_ms=0, until_ms=2**60)
    pieces = pieces_ms()
    started, wall = cpu_s(), time.monotonic()
    opened = bootstrap.open_log(settings, source)
    found = survey(opened, period)
    sample = list(itertools.islice(within(opened, period), SAMPLE))
    split = best(splits(settings.policy), sample, jobs) or Split("", ())
    surveyed = cpu_s() - started
    job = Job(
        settings=settings,
        period=period,
        source=source,
        longest_ms=found.longest_ms,
        dimension=split.dimension,
        shared=split.shared,
    )
    (result,) = spread([job], jobs) if jobs > 1 else (bootstrap.replay_part(job),)
    used, took = cpu_s() - started, time.monotonic() - wall
    ms = statistics.median(pieces + pieces_ms())
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    bill = result.bill
    print(f"{policy}, {jobs} processes, split by {split.dimension or 'nothing'}: {bill.answered} answered, ", end="")
    print(f"{bill.cached} of them from the cache, {bill.refused} refused; {bill.nusd} nano-USD")
    print(f"{bill.requests:,} requests in {used:.1f} CPU-s, {surveyed:.1f} of them to survey the log")
    print(f"{took:.1f} s on the clock; all in {paced(bill.requests / used, ms)}")
    print(f"peak memory {peak_mib():.0f} MiB here, {children:.0f} MiB in the largest of the others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--stream", action="store_true", help="make the log as it is read: for memory")
    parser.add_argument("--ledger", action="store_true", help="from a ledger on disk")
    parser.add_argument("--parquet", action="store_true", help="from an export of that ledger")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes, from a ledger")
    parser.add_argument("--policy", choices=list(POLICIES), default="four budgets", help="from a ledger")
    parser.add_argument("--log", default="", help="keep the ledger in this folder, and take it from there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.ledger:
            how = {"jobs": given.jobs, "parquet": given.parquet, "log": given.log}
            from_ledger(folder, given.requests, given.policy, **how)
        elif given.stream:
            streamed(folder, given.requests)
        else:
            from_memory(folder, given.requests)


if __name__ == "__main__":
    main()
