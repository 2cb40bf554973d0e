"""How fast a log replays through the full policy: budgets, ceilings, prices, holds and entries.

A lifelike log is made in memory (seeded), then replayed under four nested hard budgets, in one process. Prints
requests per CPU-second and the growth of memory. Usage: python bench/replay.py [--requests 100000]
"""

import argparse
import gc
import pathlib
import random
import resource
import tempfile
import time
from collections.abc import Iterator

from farthing import bootstrap
from farthing.core.types import AttemptFact, Exchange, PromptView, Scope, Usage, UsagePart
from farthing.lab.compare import Tally
from farthing.lab.replay import replay

START_MS = 1_795_000_000_000
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o3-mini")
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
usd = "5000"
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


def log(requests: int, seed: int = 1) -> Iterator[Exchange]:
    """Requests a tenth of a second apart on average, with answers of one to twenty seconds."""
    rng = random.Random(seed)
    at = START_MS
    for number in range(requests):
        at += rng.randrange(200)
        model = rng.choice(MODELS)
        took = rng.randrange(1_000, 20_000)
        taken, given = rng.randrange(100, 4_000), rng.randrange(10, 800)
        usage = Usage(
            parts=(UsagePart(lines=(("input", taken), ("output", given)), tier_basis=taken),),
            source="reported",
            model=model,
            finish_reason="stop",
        )
        fact = AttemptFact(
            attempt=1,
            provider="openai",
            model=model,
            status=200,
            started_at_ms=at,
            latency_ms=took,
            ttft_ms=took // 4,
            entry_id=f"r{number}-1",
        )
        yield Exchange(
            request_id=f"r{number}",
            received_at_ms=at,
            scope=Scope(org="o", team=f"t{number % 7}", user=f"u{rng.randrange(500)}", key="k"),
            dialect="openai",
            view=PromptView(endpoint="chat", model=model, body_bytes=taken * 4, output_tokens_max=1_000),
            outcome="answered",
            status=200,
            attempts=(fact,),
            usage=usage,
            latency_ms=took,
            ttft_ms=took // 4,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--stream", action="store_true", help="make the log as it is read: for memory")
    requests = parser.parse_args().requests
    stream = parser.parse_args().stream
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "farthing.toml"
        path.write_text(SETTINGS, encoding="utf-8")
        settings = bootstrap.load_settings(str(path), folder)
        prices = bootstrap.price_book(settings)
        made = None if stream else list(log(requests))
        gc.collect()
        gc.freeze()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tally = Tally()
        started = time.process_time()
        count = replay(
            log(requests) if made is None else made,
            lambda loop, provider, sink: bootstrap.replay_services(settings, loop, provider, sink, prices=prices),
            tally,
            estimate=lambda logged, target: logged.usage or Usage(),
        )
        used = time.process_time() - started
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bill = tally.finish()
    print(f"{count} requests replayed, {bill.answered} answered, {bill.refused} refused, ${bill.nusd / 1e9:.2f}")
    print(f"{count / used:.0f} requests per CPU-second ({used / count * 1e6:.1f} CPU-µs each)")
    print(f"memory {before / 1024:.0f} -> {after / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
