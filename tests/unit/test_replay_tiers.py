"""Calls that can wait, moved to the provider's cheaper tier: their replay is what the provider then bills."""

import pytest

from farthing import bootstrap, config
from farthing.core.types import Scope, Usage
from farthing.lab.replay import Replayed, replay
from farthing.lab.replay_outcome import Outcome
from farthing.sim.settings import SimSettings
from farthing.testing.replays import PROVIDERS, shared
from farthing.testing.world import Ask, World

FLEX = '[[levers]]\nkind = "service_tier"\nmatch = { feature = "nightly" }\n'
BUDGET = '[[budgets]]\nname = "b"\nper = "hour"\nusd = "0.05"\n'


def served(policy: str, model: str = "o4-mini") -> World:
    prices, tokens = shared()
    settings = config.parse(PROVIDERS + policy, env={}, source="t")
    world = World(settings, prices=prices, tokens=tokens, sim=SimSettings(seed=1))
    asks = []
    for number in range(60):
        body = {"model": model, "messages": [{"role": "user", "content": f"{number} " + "word " * (number % 9)}]}
        body["max_completion_tokens"] = 900
        if number % 5 == 0:
            body["service_tier"] = "default"
        scope = Scope(org="o", feature=("nightly", "chat")[number % 2], key="k")
        asks.append(Ask(at_ms=number * 40_000, body=body, scope=scope))
    world.run(asks)
    return world


def replayed(world: World, policy: str) -> tuple[Replayed, dict[str, Outcome]]:
    prices, tokens = shared()
    settings, found = config.parse(PROVIDERS + policy, env={}, source="t"), {}
    done = replay(
        world.exchanges(),
        lambda loop, provider, log: bootstrap.replay_services(
            settings, loop, provider, log, prices=prices, tokens=tokens
        ),
        lambda outcome: found.update({outcome.logged.request.id: outcome}),
        estimate=lambda logged, target: Usage(),
    )
    return done, found


@pytest.mark.parametrize("more", ["", BUDGET])
def test_a_tier_that_calls_are_moved_to_costs_what_the_provider_bills_there(more: str) -> None:
    plain, flex = served("" if not more else BUDGET.replace("0.05", "99")), served(FLEX + more)
    done, outcomes = replayed(plain, FLEX + more)
    assert sum(one.amount or 0 for one in outcomes.values()) == flex.billed() < plain.billed()
    moved = {key for key, one in outcomes.items() if one.fidelity == "repriced"}
    assert 0 < len(moved) < len(outcomes)
    assert {one.fidelity for key, one in outcomes.items() if key not in moved} == {"exact"}
    assert {entry.usage.service_tier for key in moved for entry in outcomes[key].entries} == {"flex"}
    assert done.why == "levers ask for another service tier"
    booked = flex.entries()
    for key, one in outcomes.items():
        assert [entry.charge for entry in one.entries] == [entry.charge for entry in booked.get(key, [])]
        assert [entry.baseline for entry in one.entries] == [entry.baseline for entry in booked.get(key, [])]


def test_a_model_without_a_cheaper_tier_stays_where_it_was() -> None:
    world = served("", "gpt-4o")
    _, outcomes = replayed(world, FLEX)
    assert {one.fidelity for one in outcomes.values()} == {"exact"}
    assert sum(one.amount or 0 for one in outcomes.values()) == world.billed()


SHORTER = '[[levers]]\nkind = "compact_json"\nmatch = { feature = "nightly" }\n'
ELSEWHERE = '[[levers]]\nkind = "service_tier"\nmatch = { feature = "nobody" }\n'


@pytest.mark.parametrize("more", ["", ELSEWHERE])
def test_what_a_lever_would_make_of_a_text_that_was_not_kept_is_unknown(more: str) -> None:
    """By the short way, and through the pipeline."""
    world = served("", "gpt-4o")
    features = {one.request_id: one.scope.feature for one in world.exchanges()}
    done, outcomes = replayed(world, SHORTER + more)
    assert bool(done.why) == bool(more)
    assert {key for key, one in outcomes.items() if one.fidelity == "unknown"} == {
        key for key, feature in features.items() if feature == "nightly"
    }
    assert {one.fidelity for one in outcomes.values()} == {"unknown", "exact"}


def test_a_lever_that_left_calls_as_they_were_does_so_again_under_the_policy_that_served() -> None:
    world = served(SHORTER, "gpt-4o")
    _, outcomes = replayed(world, SHORTER)
    assert {one.fidelity for one in outcomes.values()} == {"exact"}
