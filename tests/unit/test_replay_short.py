"""The shortest way of a replay: sums of crowded traffic are those of the pipeline, to the last nano-dollar."""

import random

import msgspec
import pytest

from farthing import bootstrap, config
from farthing.lab.compare import Tally
from farthing.lab.estimate import Estimator
from farthing.lab.replay import replay
from farthing.testing.replays import PROVIDERS, busy_log, shared

CACHE = '[[cache]]\nname = "all"\nttl = "8s"\npartition = ["team"]\n'
LEVER = '[limits]\noutput_tokens_max = 300\n[[levers]]\nkind = "cap_output"\ntokens = 300\n'
ROUTE = """
[[routes]]
name = "short"
models = ["gpt-4.1"]
tiers = { simple = "gpt-4o-mini", complex = "gpt-4.1" }
by = ["tag", "length"]
length_tokens = 800
"""
BUDGETS = """
[[budgets]]
name = "org"
per = "month"
usd = "{org}"

[[budgets]]
name = "user"
per = "hour"
tokens = {tokens}
each = ["user"]
"""
ACTS = """
[[budgets]]
name = "team"
per = "day"
usd = "0.5"
each = ["team"]
thresholds = [{ at = 20, do = "throttle", per_minute = 200 }, { at = 60, do = "degrade", to = "gpt-4o-mini" }]
"""
POLICIES = {
    "cached": CACHE + BUDGETS.format(org=2, tokens=60_000),
    "cached by nobody's leave": CACHE + "single_flight = false\n" + BUDGETS.format(org=2, tokens=60_000),
    "routed": ROUTE + BUDGETS.format(org=3, tokens=40_000),
    "slowed": ACTS + BUDGETS.format(org=9, tokens=90_000),
    "all of it": LEVER + CACHE + ROUTE + ACTS + BUDGETS.format(org=2, tokens=60_000),
}


def crowded(seed: int, count: int = 350):
    """Calls of few users that come on each other's heels, most of them equal ones; some end before they are due."""
    rng = random.Random(seed)
    for one in busy_log(count, seed=seed, every_ms=60):
        scope = msgspec.structs.replace(one.scope, user=f"u{rng.randrange(9)}", team=rng.choice("ab"))
        digest = f"again-{rng.randrange(30)}" if rng.random() < 0.7 else one.received_digest
        took = rng.choice((0, 1, 40, 900, 6_000))
        fact = msgspec.structs.replace(one.attempts[0], latency_ms=took, ttft_ms=rng.choice((took, took // 2, None)))
        acts = ((0, one.acts[0][1]), (took, one.acts[1][1]))
        policy_ref = rng.choice(("", "other"))
        if rng.random() < 0.05:
            acts = ()
        yield msgspec.structs.replace(
            one,
            scope=scope,
            received_digest=digest,
            attempts=(fact,),
            latency_ms=took,
            acts=acts,
            policy_ref=policy_ref,
        )


def sums(log, settings, *, pipeline_only):
    estimator = Estimator()
    estimator.learn(log)
    tally = Tally(estimator)
    prices, tokens = shared()
    done = replay(
        log,
        lambda loop, provider, sink: bootstrap.replay_services(
            settings, loop, provider, sink, prices=prices, tokens=tokens
        ),
        tally,
        estimate=estimator.usage,
        longest_ms=20_000,
        pipeline_only=pipeline_only,
    )
    return done, tally.finish(), tally.changed()


@pytest.mark.parametrize("name", POLICIES)
def test_sums_of_crowded_traffic_are_those_of_the_pipeline(name):
    settings = config.parse(PROVIDERS + POLICIES[name], env={}, source="t")
    shown = {"cached": 0, "refused": 0, "rerouted": 0}
    for seed in range(2):
        log = list(crowded(seed))
        done, bill, changed = sums(log, settings, pipeline_only=False)
        assert (bill, changed) == sums(log, settings, pipeline_only=True)[1:], seed
        assert done.plain > len(log) / 2
        shown = {key: many + getattr(bill, key) for key, many in shown.items()}
    assert shown["refused"] > 5, shown
    assert shown["cached"] > 20 or "cache" not in POLICIES[name], shown
    assert shown["rerouted"] > 5 or name not in ("routed", "slowed", "all of it"), shown
