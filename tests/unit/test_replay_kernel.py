"""The short way of a replay decides as the pipeline does: entry by entry, sum by sum, over random traffic."""

import random
from dataclasses import fields

import msgspec
import pytest

from farthing import bootstrap, config
from farthing.core.errors import ConfigError
from farthing.core.types import Exchange, Usage
from farthing.engine.services import Services
from farthing.lab.compare import Tally
from farthing.lab.estimate import Estimator, Late
from farthing.lab.replay import replay
from farthing.lab.replay_kernel import unfit
from farthing.lab.replay_state import decoded, encoded
from farthing.testing.replays import live, policy, shared, thresholds


def logs(seed: int) -> tuple[list[Exchange], dict]:
    """A random workload's traffic log, as a store gives it back, and its entries."""
    world = live(seed)
    exchanges = [msgspec.json.decode(msgspec.json.encode(one), type=Exchange) for one in world.exchanges()]
    return exchanges, world.entries()


def replayed(exchanges, settings, sink, *, entries=None, pipeline_only=False, estimate=None, keep=None):
    prices, tokens = shared()
    return replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(
            settings, loop, provider, log, prices=prices, tokens=tokens
        ),
        sink,
        estimate=estimate or (lambda logged, target: logged.usage or Usage(source="estimated")),
        entries_of=None if entries is None else lambda request_id: entries.get(request_id, ()),
        pipeline_only=pipeline_only,
        keep=keep,
        longest_ms=60_000,
    )


def other(seed: int):
    """Another random policy; every second one acts on thresholds."""
    rng = random.Random(seed + 10_000)
    text = policy(rng) + (thresholds(rng) if seed % 2 else "")
    return config.parse(text, env={}, source="t")


def told(outcomes):
    """Everything that a replay says of each request, in the order in which it says it."""
    names = ("entries", "decisions", "outcome", "status", "error", "latency_ms", "fidelity", "guesses")
    return [(one.logged, *[getattr(one, name) for name in names]) for one in outcomes]


@pytest.mark.parametrize("block", range(8))
def test_every_request_ends_as_in_the_pipeline_under_any_policy(block):
    plain = 0
    for seed in range(block * 10, block * 10 + 10):
        exchanges, entries = logs(seed)
        settings = other(seed)
        for known in (entries, None):
            short, long = [], []
            done = replayed(exchanges, settings, short.append, entries=known)
            replayed(exchanges, settings, long.append, entries=known, pipeline_only=True)
            assert told(short) == told(long), seed
            plain += done.plain
    assert plain > 100


@pytest.mark.parametrize("block", range(4))
def test_sums_are_those_of_the_pipelines_outcomes(block):
    for seed in range(100 + block * 10, 110 + block * 10):
        exchanges, _ = logs(seed)
        settings = other(seed)
        found = []
        for pipeline_only in (False, True):
            estimator = Estimator()
            estimator.learn(exchanges)
            tally = Tally(estimator)
            replayed(exchanges, settings, tally, estimate=estimator.usage, pipeline_only=pipeline_only)
            found.append((tally.finish(), tally.changed()))
        assert found[0] == found[1], seed
        assert found[0][0].requests == len(exchanges)


def test_most_calls_of_ordinary_traffic_go_the_short_way():
    counts = [
        replayed(logs(seed)[0], config.parse(policy_without_caches(seed), env={}, source="t"), lambda one: None)
        for seed in range(8)
    ]
    assert sum(one.plain for one in counts) > 0.5 * sum(one.requests for one in counts)
    assert {one.why for one in counts} == {""}


def policy_without_caches(seed: int) -> str:
    return policy(random.Random(seed)).partition("[[cache]]")[0]


def test_what_the_short_way_does_not_know_goes_through_the_pipeline_and_is_named():
    exchanges, _ = logs(1)
    head = policy_without_caches(1)
    for text, why in (
        ('[[levers]]\nkind = "compact_json"\n', "levers edit calls"),
        (
            '[[budgets]]\nname = "t"\nper = "day"\nusd = "1"\n'
            'thresholds = [{ at = 5, do = "throttle", per_minute = 3 }]\n',
            "a threshold slows calls down",
        ),
    ):
        done = replayed(exchanges, config.parse(head + text, env={}, source="t"), lambda one: None)
        assert (done.plain, done.why) == (0, why)


def test_every_service_that_can_change_a_call_is_known_to_the_short_way():
    """A new field of ``Services`` fails here until ``unfit`` or the kernel has been taught what it does."""
    known = {
        "policy", "routes", "upstreams", "prices", "budgets", "books", "clock", "tokens", "telemetry", "background",
        "salt", "policy_ref", "routing", "request_limits", "watch", "actions", "usage_listener", "caching", "levers",
        "trials", "timeouts", "acts", "steady",
    }  # fmt: skip
    assert {one.name for one in fields(Services)} == known
    assert unfit.__doc__


class Kept:
    """Keeps every stand of a replay as bytes; goes on from one."""

    key = "k"

    def __init__(self, data: bytes | None = None) -> None:
        self.stand = None if data is None else decoded(data, source="t")
        self.all: list[bytes] = []

    def due(self, begun: int) -> bool:
        return True

    def save(self, stand) -> None:
        self.all.append(encoded(stand))


@pytest.mark.parametrize("seed", range(8))
def test_a_replay_that_goes_on_from_any_stand_ends_as_one_that_was_never_interrupted(seed):
    world = live(seed, 500)
    exchanges = [msgspec.json.decode(msgspec.json.encode(one), type=Exchange) for one in world.exchanges()]
    settings = other(seed)

    def run(part, keep):
        estimator = Late(lambda: exchanges)
        tally = Tally(estimator)
        done = replayed(part, settings, tally, estimate=estimator.usage, keep=keep)
        return done, tally.finish(), tally.changed()

    whole = Kept()
    uninterrupted = run(exchanges, whole)
    assert run(exchanges, None) == uninterrupted
    assert whole.all
    names = [one.request_id for one in exchanges]
    for data in whole.all:
        kept = Kept(data)
        rest = exchanges[names.index(kept.stand.last) + 1 :]
        assert kept.stand.read + len(rest) == len(exchanges)
        assert run(rest, kept) == uninterrupted


def test_the_state_of_something_else_is_refused_and_says_what_to_do():
    with pytest.raises(ConfigError, match="remove it"):
        decoded(b"nothing of ours", source="replay.state")
