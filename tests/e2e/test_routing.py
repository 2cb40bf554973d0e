"""Routes and cascades through HTTP: who is asked, what is booked to whom, and what the caller gets."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

S3 = """
[[routes]]
name = "tiers"
models = ["auto", "gpt-4o"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = ["tag", "tools", "length"]
"""

CASCADE = """
[[routes]]
name = "checked"
models = ["gpt-4o"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = []
cascade = {verify = ["json"]}
"""

AGREE = """
[[routes]]
name = "agreed"
models = ["gpt-4o"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = []
cascade = {verify = ["agreement"], peer = "gpt-4.1-mini"}
"""


def ask(
    stand: Any, text: str, *, model: str = "gpt-4o", headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{stand.gateway.url}/v1/chat/completions", json=body, headers=headers or {}, timeout=60)


def test_a_short_call_goes_to_the_small_model_and_saves_against_the_asked_for_one(stand: Callable[..., Any]) -> None:
    here = stand(S3)
    answer = ask(here, "What is a harbour?")
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"].startswith("gpt-4o-mini")
    assert answer.headers["x-farthing-route"] == "openai/gpt-4o-mini"
    assert answer.headers["x-farthing-route-reason"] == "route_length"
    (entry,) = here.gateway.books.settled(1)
    assert entry.model_requested == "gpt-4o"
    assert entry.baseline > entry.charge.total * 10
    (decision,) = [one for one in entry.decisions if one.stage == "route"]
    assert dict(decision.evidence)["route"] == "tiers"
    assert dict(decision.evidence)["tokens"] == "5"


def test_long_calls_and_calls_with_tools_stay_with_the_strong_model(stand: Callable[..., Any]) -> None:
    here = stand(S3)
    tool = {"type": "function", "function": {"name": "tides", "parameters": {"type": "object"}}}
    assert ask(here, "word " * 200).headers["x-farthing-route"] == "openai/gpt-4o"
    answer = ask(here, "Tides?", tools=[tool])
    assert answer.headers["x-farthing-route"] == "openai/gpt-4o"
    assert answer.headers["x-farthing-route-reason"] == "route_tools"


def test_the_callers_tag_beats_the_rules(stand: Callable[..., Any]) -> None:
    here = stand(S3)
    answer = ask(here, "word " * 200, headers={"x-farthing-route": "simple"})
    assert answer.headers["x-farthing-route"] == "openai/gpt-4o-mini"
    assert answer.headers["x-farthing-route-reason"] == "route_tag"


def test_an_alias_is_measured_against_the_strong_model(stand: Callable[..., Any]) -> None:
    here = stand(S3)
    answer = ask(here, "What is a harbour?", model="auto")
    assert answer.status_code == 200, answer.text
    (entry,) = here.gateway.books.settled(1)
    assert entry.model_requested == "auto"
    assert entry.baseline > entry.charge.total * 10


def test_a_model_outside_the_route_is_left_alone(stand: Callable[..., Any]) -> None:
    here = stand(S3)
    answer = ask(here, "What is a harbour?", model="gpt-4.1")
    assert answer.headers["x-farthing-route-reason"] == "direct"


def test_a_failing_small_model_is_answered_for_by_the_strong_one(stand: Callable[..., Any]) -> None:
    here = stand("[retries]\nattempts_max = 1\n" + S3.replace('"gpt-4o-mini"', '"no-such-model-1"'))
    answer = ask(here, "What is a harbour?")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-farthing-route"] == "openai/gpt-4o"


def test_a_cheap_answer_that_fails_its_check_is_paid_for_by_the_lever_and_escalated(
    stand: Callable[..., Any],
) -> None:
    here = stand(CASCADE)
    answer = ask(here, "Say something about harbours.")
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"].startswith("gpt-4o-2")
    entries = here.gateway.books.settled(2)
    assert len({entry.request_id for entry in entries}) == 1
    assert len({entry.id for entry in entries}) == 2
    cheap, strong = entries
    assert cheap.model.startswith("gpt-4o-mini")
    assert cheap.baseline == 0
    assert cheap.charge.reason == "lever:cascade"
    assert strong.baseline == strong.charge.total
    exchange = here.gateway.books.exchange(strong.request_id)
    assert exchange.amount == cheap.charge.total + strong.charge.total
    assert [fact.model for fact in exchange.attempts] == ["gpt-4o-mini", "gpt-4o"]
    reasons = [one.reason for one in exchange.decisions if one.stage == "cascade"]
    assert "json_failed" in reasons


def test_a_cheap_answer_that_passes_is_given_and_saves(stand: Callable[..., Any]) -> None:
    here = stand(CASCADE)
    answer = ask(here, "Give me JSON", response_format={"type": "json_object"})
    assert answer.status_code == 200, answer.text
    json.loads(answer.json()["choices"][0]["message"]["content"])
    assert answer.json()["model"].startswith("gpt-4o-mini")
    (entry,) = here.gateway.books.settled(1)
    assert entry.baseline > entry.charge.total * 10
    exchange = here.gateway.books.exchange(entry.request_id)
    assert exchange.view.model == "gpt-4o"
    assert exchange.amount == entry.charge.total


@pytest.mark.parametrize("usage", [True, False])
def test_a_verified_answer_reaches_a_streaming_caller_as_a_stream(stand: Callable[..., Any], usage: bool) -> None:
    here = stand(CASCADE)
    client = openai.OpenAI(base_url=f"{here.gateway.url}/v1", api_key="sk-sim", max_retries=0)
    text, seen = "", 0
    with (
        client,
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Give me JSON"}],
            response_format={"type": "json_object"},
            stream=True,
            **({"stream_options": {"include_usage": True}} if usage else {}),
        ) as stream,
    ):
        for chunk in stream:
            seen += chunk.usage is not None
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    json.loads(text)
    assert seen == int(usage)


def test_the_peer_is_asked_and_paid_for(stand: Callable[..., Any]) -> None:
    here = stand(AGREE)
    assert ask(here, "Say something about harbours.").status_code == 200
    entries = here.gateway.books.settled(
        3
    )  # two texts of the simulator never agree, so the strong model is asked too
    assert len({entry.id for entry in entries}) == 3
    costs = {entry.model.rsplit("-", 3)[0]: entry.baseline for entry in entries}
    assert costs["gpt-4o-mini"] == costs["gpt-4.1-mini"] == 0
    assert costs["gpt-4o"] > 0
    assert here.gateway.open_reservations() == ()


def test_a_classifier_that_is_not_understood_costs_its_call_and_the_strong_model_answers(
    stand: Callable[..., Any],
) -> None:
    here = stand(S3.replace('by = ["tag", "tools", "length"]', 'by = ["classifier"]\nclassifier = "gpt-4.1-nano"'))
    first = ask(here, "What is a harbour?")
    assert first.status_code == 200, first.text
    assert first.headers["x-farthing-route"] == "openai/gpt-4o"
    entries = here.gateway.books.settled(2)
    assert len({entry.id for entry in entries}) == 2
    small = next(entry for entry in entries if "nano" in entry.model)
    assert small.charge.reason == "lever:route"
    assert small.baseline == 0
    exchange = here.gateway.books.exchange(small.request_id)
    (decision,) = [one for one in exchange.decisions if one.stage == "route" and one.action == "choose"]
    assert dict(decision.evidence)["said"] == "not understood"
    ask(here, "What is a harbour?")
    assert len(here.gateway.books.settled(3)) == 3  # the conversation is known: the classifier is not asked again


def test_bounds_of_a_route_leave_models_out_and_the_next_above_takes_their_place(stand: Callable[..., Any]) -> None:
    toml = S3.replace("{simple", '{tiny = "gpt-4.1-nano", simple').replace(
        'by = ["tag", "tools", "length"]', "by = []"
    )
    assert ask(stand(toml), "Hello?").headers["x-farthing-route"] == "openai/gpt-4.1-nano"
    dear = toml + 'cost_usd_max = "0.0001"\n'
    assert ask(stand(dear), "Hello?").headers["x-farthing-route"] == "openai/gpt-4.1-nano"
    other = toml + 'providers = ["anthropic"]\n'
    refused = ask(stand(other), "Hello?")
    assert refused.status_code == 404
    assert "allows anthropic" in refused.json()["error"]["message"]


def test_only_allowed_providers_serve_a_route_its_fallbacks_included(stand: Callable[..., Any]) -> None:
    route = """
[retries]
attempts_max = 1
[[fallbacks]]
model = "*"
to = ["gpt-4o-mini"]
[[routes]]
name = "eu"
models = ["auto"]
tiers = {simple = "gpt-4o-mini", complex = "claude-haiku-4-5"}
by = []
providers = ["anthropic"]
"""
    here = stand(route)
    answer = ask(here, "Hello?", model="auto")
    assert answer.headers["x-farthing-route"] == "anthropic/claude-haiku-4-5"
    (entry,) = here.gateway.books.settled(1)
    (decision,) = [one for one in entry.decisions if one.stage == "route"]
    assert dict(decision.evidence)["left_out"] == "gpt-4o-mini: provider 'openai' is not allowed"
    fault = {"x-sim-fault": "500"}
    assert ask(here, "Hello?", model="auto", headers=fault).status_code >= 500  # no way to the other provider


def test_a_model_that_is_slow_at_the_moment_is_left_out_and_the_decision_says_why(stand: Callable[..., Any]) -> None:
    here = stand(S3.replace('by = ["tag", "tools", "length"]', 'by = []\nlatency_max = "150ms"'))
    slow = {"x-sim-fault": "slow-first-byte:200"}
    for number in range(20):
        ask(here, f"Hello {number}?", headers=slow)
    due = time.monotonic() + 60
    while True:
        answer = ask(here, "Hello again?")
        if answer.headers["x-farthing-route"] == "openai/gpt-4o" or time.monotonic() > due:
            break
        time.sleep(0.1)
    assert answer.headers["x-farthing-route"] == "openai/gpt-4o"
    entry = here.gateway.books.entries(answer.headers["x-farthing-request-id"])[0]
    why = dict(entry.decisions[0].evidence)["left_out"]
    assert why.startswith("gpt-4o-mini: takes ")
    assert why.endswith("the route allows 150 ms")


def test_a_shadow_answers_aside_is_paid_for_by_the_lever_and_moves_the_roll_out(stand: Callable[..., Any]) -> None:
    toml = S3.replace('by = ["tag", "tools", "length"]', "by = []\nrollout = {shadow_share = 1.0}")
    here = stand(toml)
    answer = ask(here, "Give me JSON", response_format={"type": "json_object"})
    assert answer.headers["x-farthing-route"] == "openai/gpt-4o"  # in shadow nobody is served otherwise
    assert answer.headers["x-farthing-route-reason"] == "route_control"
    entries = here.gateway.books.settled(2)
    assert len({entry.id for entry in entries}) == 2
    shadow = next(entry for entry in entries if "mini" in entry.model)
    assert shadow.charge.reason == "lever:route"
    assert shadow.baseline == 0
    routing = here.gateway.installation.services.routing
    due = time.monotonic() + 60
    while not routing.state("tiers").pairs and time.monotonic() < due:
        time.sleep(0.02)
    state = routing.state("tiers")
    assert (state.stage, state.pairs, state.shadow_nusd) == ("shadow", 1, shadow.charge.total)
    assert here.gateway.open_reservations() == ()


def test_no_shadow_is_cast_past_the_days_cap(stand: Callable[..., Any]) -> None:
    rollout = 'rollout = {shadow_share = 1.0, shadow_usd_per_day = "0"}'
    here = stand(S3.replace('by = ["tag", "tools", "length"]', f"by = []\n{rollout}"))
    ask(here, "Hello?")
    time.sleep(0.3)
    assert len(here.gateway.books.entries()) == 1
