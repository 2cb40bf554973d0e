"""The short way of a replay decides as the pipeline does: entry by entry, sum by sum, over random traffic."""

import random
from dataclasses import fields
from dataclasses import replace as dataclass_replace

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
from farthing.testing.replay_mixes import shaping, varied
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


def mixed(seed: int, *, within: bool):
    """A log and a policy that shapes calls; ``within``: what shaped them shapes them again, so the log knows it."""
    rng = random.Random(seed)
    shapes = shaping(rng)
    world = live(seed, 60, more=shapes if within else "")
    exchanges = [msgspec.json.decode(msgspec.json.encode(one), type=Exchange) for one in world.exchanges()]
    if not within:
        exchanges = varied(rng, exchanges)
    text = policy(random.Random(seed + 20_000)) + shapes
    return exchanges, config.parse(text, env={}, source="t")


@pytest.mark.parametrize("block", range(8))
def test_routes_levers_and_thresholds_do_the_same_on_both_ways(block):
    plain, acts = 0, set()
    for seed in range(1_000 + block * 15, 1_015 + block * 15):
        exchanges, settings = mixed(seed, within=seed % 3 == 0)
        short, long, sums = [], [], []
        done = replayed(exchanges, settings, short.append)
        replayed(exchanges, settings, long.append, pipeline_only=True)
        assert told(short) == told(long), seed
        assert done.why == ""
        plain += done.plain
        acts |= {(each.stage, each.action) for one in short for each in one.decisions}
        acts |= {("error", one.error.partition(":")[0]) for one in short if one.outcome == "refused"}
        for pipeline_only in (False, True):
            estimator = Estimator()
            estimator.learn(exchanges)
            tally = Tally(estimator)
            replayed(exchanges, settings, tally, estimate=estimator.usage, pipeline_only=pipeline_only)
            sums.append((tally.finish(), tally.changed()))
        assert sums[0] == sums[1], seed
    assert plain > 400
    shown = {
        ("route", "choose"), ("threshold", "degrade"), ("threshold", "cap"), ("limits", "cap"),
        ("error", "throttled"),
        ("cache", "hit"), ("levers", "cap_output"),
    }  # fmt: skip
    assert len(shown & acts) >= 5, acts


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
    settings = config.parse(policy_without_caches(1), env={}, source="t")
    prices, tokens = shared()

    def make(loop, provider, log):
        made = bootstrap.replay_services(settings, loop, provider, log, prices=prices, tokens=tokens)
        return dataclass_replace(made, usage_listener=Deaf())

    done = replay(exchanges, make, lambda one: None, estimate=lambda logged, target: Usage(), longest_ms=60_000)
    assert (done.plain, done.why) == (0, "somebody watches the calls")


class Deaf:
    def heard(self, body: bytes, *, model: str, billed: int) -> None:
        """Nothing."""


def test_every_service_that_can_change_a_call_is_known_to_the_short_way():
    """A new field of ``Services`` fails here until ``unfit`` or the kernel has been taught what it does."""
    known = {
        "policy", "routes", "upstreams", "prices", "budgets", "books", "clock", "tokens", "telemetry", "background",
        "salt", "policy_ref", "routing", "request_limits", "watch", "actions", "usage_listener", "caching", "levers",
        "trials", "timeouts", "acts", "steady", "logs",
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
