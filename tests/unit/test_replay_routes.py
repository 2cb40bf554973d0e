"""Routes in a replay: where calls went under the same policy, and where they would go under another."""

import msgspec
import pytest

from farthing import bootstrap, config
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.config import Settings
from farthing.core.experiment import READING, Assigned
from farthing.core.types import Exchange, Scope
from farthing.lab.estimate import Estimator
from farthing.lab.replay import replay
from farthing.lab.replay_outcome import Outcome
from farthing.sim.settings import SimSettings
from farthing.testing.world import Ask, World

PROVIDERS = '[[providers]]\nname = "openai"\napi_key_env = "NO_KEY"\nbase_url = "http://sim/v1"\n'
ROUTE = (
    '[[routes]]\nname = "r"\nmodels = ["gpt-4o", "auto"]\n'
    'tiers = {{simple = "gpt-4o-mini", medium = "gpt-4.1-mini", complex = "gpt-4o"}}\nby = {}\nlength_tokens = 60\n'
)
RUNGS = ('["tag"]', '["tools", "length"]', '["tag", "length"]', '["heuristic"]', "[]")
TEXTS = ("What is the capital of France?", "Explain why " + "the sky is blue and the sea is green " * 12, "Hello")


def parsed(policy: str) -> Settings:
    return config.parse(PROVIDERS + policy, env={}, source="test")


def traffic() -> list[Ask]:
    asks = []
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    for number in range(60):
        text = f"{number % 7} {TEXTS[number % 3]}"
        body = {"model": "auto" if number % 5 == 0 else "gpt-4o", "messages": [{"role": "user", "content": text}]}
        if number % 11 == 0:
            body["tools"] = [tool]
        tags = (("route", "medium"),) if number % 4 == 0 else ()
        scope = Scope(org="o", key="k", session=f"s{number % 9}" if number % 2 else "", tags=tags)
        asks.append(Ask(at_ms=number * 3_000, body=body, scope=scope))
    return asks


def served(policy: str, *, auto: bool = True) -> World:
    asks = [one for one in traffic() if auto or one.body["model"] != "auto"]
    world = World(parsed(policy), prices=PRICES, tokens=TOKENS, sim=SimSettings(seed=3))
    world.run(asks)
    return world


PRICES, TOKENS = bootstrap.price_book(parsed("")), BpeTokenizer()


def replayed(exchanges: list[Exchange], policy: str, world: World | None = None) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    estimator = Estimator()
    estimator.learn(exchanges)
    entries = world.entries() if world is not None else {}
    settings = parsed(policy)
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(
            settings, loop, provider, log, prices=PRICES, tokens=TOKENS
        ),
        lambda outcome: found.setdefault(outcome.logged.request.id, outcome) and None,
        estimate=estimator.usage,
        entries_of=(lambda request_id: entries.get(request_id, ())) if world is not None else None,
    )
    return found


def models(world: World) -> dict[str, str]:
    return {one.request_id: one.attempts[-1].model for one in world.exchanges() if one.attempts}


@pytest.mark.parametrize("by", RUNGS)
def test_under_the_policy_that_served_every_entry_comes_again(by: str) -> None:
    world = served(ROUTE.format(by))
    outcomes = replayed(world.exchanges(), ROUTE.format(by), world)
    for request_id, booked in world.entries().items():
        same = [msgspec.structs.replace(one, booked_at_ms=0) for one in outcomes[request_id].entries]
        assert same == [msgspec.structs.replace(one, booked_at_ms=0) for one in booked]
        assert outcomes[request_id].fidelity == "exact"
    assert (len(set(models(world).values())) > 1) is (by != "[]")


@pytest.mark.parametrize("by", ['["tag"]', '["tools", "length"]', '["tag", "length"]', "[]"])
def test_a_log_without_routes_and_text_shows_where_calls_would_go(by: str) -> None:
    plain, routed = served("", auto=False), served(ROUTE.format(by), auto=False)
    outcomes = replayed(plain.exchanges(), ROUTE.format(by))
    went = {request_id: one.entries[-1].model_requested for request_id, one in outcomes.items()}
    chosen = {request_id: one.decisions[0].reason for request_id, one in outcomes.items()}
    live = {one.request_id: one.decisions[0].reason for one in routed.exchanges()}
    assert chosen == live
    assert {
        key: one.entries[-1].model.startswith(models(routed)[key]) for key, one in outcomes.items()
    } == dict.fromkeys(went, True)
    moved = {key for key, model in models(routed).items() if model != "gpt-4o"}
    assert moved
    assert {key for key, one in outcomes.items() if one.fidelity == "estimated"} == moved


def test_control_of_an_experiment_on_routes_is_not_routed() -> None:
    plain = served("", auto=False)
    off = Assigned(experiment="e", arm="control", unit="request", off=("routes",))
    reading = {READING: msgspec.json.encode(off).decode()}
    control = {one.request_id for number, one in enumerate(plain.exchanges()) if number % 2}
    drawn = [
        msgspec.structs.replace(one, readings=one.readings | reading) if one.request_id in control else one
        for one in plain.exchanges()
    ]
    outcomes = replayed(drawn, ROUTE.format('["length"]'))
    assert {outcomes[key].entries[-1].model_requested for key in control} == {"gpt-4o"}
    assert all(outcomes[key].fidelity == "exact" for key in control)
    assert any(one.fidelity == "estimated" for key, one in outcomes.items() if key not in control)


def test_a_rung_that_reads_the_prompt_leaves_the_cost_unknown() -> None:
    plain = served("", auto=False)
    outcomes = replayed(plain.exchanges(), ROUTE.format('["tag", "heuristic"]'))
    tagged = {one.request_id for one in plain.exchanges() if one.scope.tags}
    unknown = {key for key, one in outcomes.items() if one.fidelity == "unknown"}
    assert unknown == set(outcomes) - tagged
    assert {outcomes[key].decisions[0].reason for key in unknown} == {"route_unread"}
    assert {one.entries[-1].model for key, one in outcomes.items() if key in unknown} == {"gpt-4o-2024-08-06"}


def test_a_log_with_text_is_decided_by_the_live_code() -> None:
    by = '["heuristic"]'
    plain, routed = served("", auto=False), served(ROUTE.format(by), auto=False)
    bodies = {
        f"r{number:05d}": one.body for number, one in enumerate(a for a in traffic() if a.body["model"] != "auto")
    }
    kept = [
        msgspec.structs.replace(one, prompt=msgspec.json.encode(bodies[one.request_id])) for one in plain.exchanges()
    ]
    outcomes = replayed(kept, ROUTE.format(by))
    live = {one.request_id: one.decisions[0].evidence[:6] for one in routed.exchanges()}
    assert {key: one.decisions[0].evidence[:6] for key, one in outcomes.items()} == live
    assert len({dict(one)["model"] for one in live.values()}) > 1
