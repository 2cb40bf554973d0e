"""How fast and in how much memory a log replays through the full policy.

A lifelike log (seeded) is replayed in one process under four nested hard budgets, under the same with a cache, and
under budgets that refuse a part of the calls; beside each, a part of it through the whole pipeline, as the baseline
of the same run. Prints requests per CPU-second and the peak of memory.

Usage: python bench/replay.py [--requests 100000]      from memory, call by call
       python bench/replay.py --stream --requests 10000000    made as it is read: for memory
       python bench/replay.py --ledger --requests 1000000     from a ledger on disk, whole, as the command does it
"""

import argparse
import gc
import pathlib
import resource
import tempfile
import time
from collections.abc import Iterable

from farthing import bootstrap
from farthing.config import Settings
from farthing.core.types import Exchange, Usage
from farthing.lab.compare import Tally
from farthing.lab.replay import Replayed, replay
from farthing.lab.replay_parts import Job, Period, partition, survey
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
POLICIES = {
    "four budgets": SETTINGS.format(team=5000),
    "four budgets and a cache": SETTINGS.format(team=5000) + CACHE,
    "budgets that refuse": SETTINGS.format(team=10),
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
    prices, tally = bootstrap.price_book(settings), Tally()
    started = time.process_time()
    done = replay(
        log,
        lambda loop, provider, sink: bootstrap.replay_services(settings, loop, provider, sink, prices=prices),
        tally,
        estimate=lambda logged, target: logged.usage or Usage(),
        longest_ms=LONGEST_MS,
        pipeline_only=pipeline_only,
        progress=traced if trace else None,
    )
    return time.process_time() - started, done, tally


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
        used, done, tally = timed(settings, log)
        base, slow, _ = timed(settings, log[:BASELINE], pipeline_only=True)
        bill = tally.finish()
        print(f"{name}: {bill.answered} answered, {bill.cached} of them from the cache, {bill.refused} refused")
        each, before = used / done.requests, base / slow.requests
        print(f"  {1 / each:,.0f} requests per CPU-second; {done.plain / done.requests:.1%} went the short way")
        print(f"  the whole pipeline, same run: {1 / before:,.0f} per CPU-second; {before / each:.1f} times as much")
    print(f"peak memory {peak_mib():.0f} MiB, the log in it")


def streamed(folder: str, requests: int) -> None:
    """One policy over a log that is made as it is read."""
    before = peak_mib()
    used, done, _ = timed(settings_of(folder, SETTINGS.format(team=5000)), busy_log(requests), trace=True)
    print(f"{done.requests:,} requests, {used / done.requests * 1e6:.0f} CPU-µs each with making them")
    print(f"peak memory {before:.0f} -> {peak_mib():.0f} MiB")


def from_ledger(folder: str, requests: int) -> None:
    """One policy over a ledger on disk: survey, reading, replay."""
    settings = settings_of(folder, SETTINGS.format(team=5000))
    bootstrap.open_importer(settings).import_batch((), busy_log(requests))
    period = Period(since_ms=0, until_ms=2**60)
    started, wall = time.process_time(), time.monotonic()
    found = survey(bootstrap.open_log(settings), period)
    surveyed = time.process_time() - started
    dimension = partition(settings.policy)
    result = bootstrap.replay_part(
        Job(settings=settings, period=period, longest_ms=found.longest_ms, dimension=dimension)
    )
    used = time.process_time() - started
    print(
        f"{result.bill.requests:,} requests from the ledger in {used:.1f} CPU-s, {surveyed:.1f} of them to survey it"
    )
    print(f"{time.monotonic() - wall:.1f} s on the clock; {requests / used:,.0f} requests per CPU-second, all in")
    print(f"peak memory {peak_mib():.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--stream", action="store_true", help="make the log as it is read: for memory")
    parser.add_argument("--ledger", action="store_true", help="from a ledger on disk")
    given = parser.parse_args()
    way = streamed if given.stream else from_ledger if given.ledger else from_memory
    with tempfile.TemporaryDirectory() as folder:
        way(folder, given.requests)


if __name__ == "__main__":
    main()
