"""Similar questions in a replay: hits, misses and what comparing cost, again under the policy that served."""

import random
from pathlib import Path

import msgspec
import pytest

from farthing import bootstrap, config
from farthing.bootstrap.caching import similar_of
from farthing.core.types import Exchange, Scope
from farthing.lab.compare import Tally
from farthing.lab.estimate import Estimator
from farthing.lab.replay import replay
from farthing.lab.replay_outcome import Outcome
from farthing.sim.settings import SimSettings
from farthing.testing.replays import PROVIDERS, shared
from farthing.testing.tiny_embedder import make_tiny_embedder
from farthing.testing.world import Ask, World

WORDS = ("how do i reset my account password", "where is my order now", "please cancel the plan today")
TAILS = ("", " please", " again", " then", " now please", " today")
ON = '[[cache]]\nname = "all"\nttl = "1h"\n[cache.semantic]\nmode = "on"\nthreshold = 0.6\nshadow_share = {share}\n'
BUDGET = '[[budgets]]\nname = "b"\nper = "hour"\nusd = "{}"\n'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = tuple(words + tail for words in WORDS for tail in TAILS)
    return make_tiny_embedder(tmp_path_factory.mktemp("encoder"), texts)


def traffic(seed: int, count: int) -> list[Ask]:
    rng = random.Random(seed)
    at, asks = 0, []
    for _ in range(count):
        at += rng.choice((0, 20, 3_000, 9_000))
        text = rng.choice(WORDS) + rng.choice(TAILS)
        body = {"model": rng.choice(("gpt-4o", "gpt-4o-mini")), "messages": [{"role": "user", "content": text}]}
        if rng.random() < 0.3:
            body["stream"] = True
        asks.append(Ask(at_ms=at, body=body, scope=Scope(org="o", team="a", key="k")))
    return asks


def served(seed: int, policy: str, encoder: Path, home: Path, count: int = 50) -> World:
    text = f'{PROVIDERS}{policy}[embedder]\nkind = "onnx"\nfolder = "{encoder}"\n'
    settings = msgspec.structs.replace(config.parse(text, env={}, source="t"), home=str(home))
    prices, tokens = shared()
    world = World(
        settings,
        prices=prices,
        tokens=tokens,
        sim=SimSettings(seed=seed),
        similar=lambda services, recorder: similar_of(settings, services, recorder, {}, {}),
    )
    world.run(traffic(seed, count))
    return world


def replayed(world: World, other: str | None = None, *, pipeline_only: bool = False) -> list[Outcome]:
    prices, tokens = shared()
    booked, found = world.entries(), []
    exchanges = [msgspec.json.decode(msgspec.json.encode(one), type=Exchange) for one in world.exchanges()]
    settings = world.settings if other is None else config.parse(PROVIDERS + other, env={}, source="t")
    estimator = Estimator()
    estimator.learn(exchanges)
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(
            settings, loop, provider, log, prices=prices, tokens=tokens
        ),
        found.append,
        estimate=estimator.usage,
        verdicts=estimator.verdicts,
        entries_of=lambda request_id: booked.get(request_id, ()),
        pipeline_only=pipeline_only,
    )
    return found


def layers(world: World) -> set[str]:
    return {
        dict(decision.evidence).get("layer", decision.reason)
        for one in world.exchanges()
        for decision in one.decisions
        if decision.stage == "cache"
    }


def again(outcomes: list[Outcome], world: World) -> set[str]:
    """Requests that did not end in the replay as they did."""
    booked, wrong = world.entries(), set()
    for one in outcomes:
        source = one.logged.source
        mine = [msgspec.structs.replace(entry, booked_at_ms=0) for entry in one.entries]
        theirs = [msgspec.structs.replace(entry, booked_at_ms=0) for entry in booked.get(source.request_id, [])]
        if (mine, one.outcome, one.status, one.error) != (theirs, source.outcome, source.status, source.error):
            wrong.add(source.request_id)
    return wrong


@pytest.mark.parametrize("block", range(2))
def test_similar_hits_and_what_was_asked_aside_come_again(block: int, encoder: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    aside = 0
    for seed in range(block * 8, block * 8 + 8):
        policy = ON.format(share=(0, 0.5)[seed % 2]) + (BUDGET.format("0.5") if seed % 3 == 0 else "")
        world = served(seed, policy, encoder, tmp_path / str(seed))
        outcomes = replayed(world)
        assert again(outcomes, world) == set(), seed
        assert {one.fidelity for one in outcomes} == {"exact"}
        seen |= layers(world)
        aside += sum(entry.charge.reason == "lever:cache" for one in outcomes for entry in one.entries)
    assert {"semantic", "memory", "no_candidate"} <= seen
    assert aside


def test_a_log_in_which_nothing_was_compared_does_not_say_what_similar_questions_would_save(
    encoder: Path, tmp_path: Path
) -> None:
    world = served(1, '[[cache]]\nname = "all"\nttl = "1h"\n', encoder, tmp_path)
    outcomes = replayed(world, ON.format(share=0))
    hits = [one for one in outcomes if one.amount == 0]
    assert hits
    assert {one.fidelity for one in hits} == {"exact"}
    assert {one.fidelity for one in outcomes if one not in hits} == {"unknown"}


def test_under_another_policy_similar_hits_are_estimates_with_an_interval(encoder: Path, tmp_path: Path) -> None:
    world = served(3, ON.format(share=0), encoder, tmp_path)
    outcomes = replayed(world, ON.format(share=0) + BUDGET.format("900"))
    kinds = {one.fidelity for one in outcomes if any(d.reason == "semantic_hit" for d in one.logged.source.decisions)}
    assert kinds == {"estimated"}
    estimator = Estimator()
    tally = Tally(estimator)
    for one in outcomes:
        tally(one)
    bill = tally.finish()
    assert {one.amount for one in outcomes if any(d.reason == "semantic_hit" for d in one.decisions)} == {0}
    assert bill.interval.above > 0
    assert any("similar" in one for one in bill.interval.priors)


def test_whoever_comes_while_its_leader_is_being_booked_waited_for_it(encoder: Path, tmp_path: Path) -> None:
    """A settlement takes 400 ms: callers within them are told the leader's answer, which memory has already here."""
    plain, late = '[[cache]]\nname = "all"\nttl = "1h"\n', 0
    for seed in range(6):
        settings = config.parse(PROVIDERS + plain, env={}, source="t")
        prices, tokens = shared()
        world = World(settings, prices=prices, tokens=tokens, sim=SimSettings(seed=seed), commit_ms=400)
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello [sim: tokens=20]"}]}
        world.run(Ask(at_ms=at, body=body, scope=Scope(org="o", key="k")) for at in range(0, 4_000, 90))
        for pipeline_only in (True, False):
            outcomes = replayed(world, pipeline_only=pipeline_only)
            assert again(outcomes, world) == set(), seed
        ended = next(one.booked_at_ms for entries in world.entries().values() for one in entries if one.attempt)
        waited = [one for one in world.exchanges() if any(("layer", "flight") in d.evidence for d in one.decisions)]
        late += sum(one.received_at_ms > ended for one in waited)
    assert late
