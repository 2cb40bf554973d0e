"""Budgets over HTTP: refusals say which, what is left and when it starts anew, and no client hammers them."""

import json
import runpy
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer

ROOT = Path(__file__).parents[2]
ASK = [{"role": "user", "content": "Harbours?"}]
CHAT = {"model": "gpt-4o", "messages": ASK, "max_tokens": 100}


def post(gateway: Any, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers or {}, timeout=60)


TINY = '[[budgets]]\nname = "tiny"\nper = "day"\nusd = "0.0001"\n'


def test_a_refusal_names_the_budget_what_is_left_and_when_it_starts_anew(stand):
    sim, gateway = stand(TINY)
    answer = post(gateway, CHAT)
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("budget_exceeded", "insufficient_quota", None)
    for part in ("Budget 'tiny'", "$0.0001", "this call can need $0.00", "it resets at 20", "Lower max_tokens"):
        assert part in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-farthing-budget"] == "tiny"
    assert Decimal(answer.headers["x-farthing-budget-left"].removeprefix("$")) == Decimal("0.0001")
    assert sim.account.requests == 0
    exchange = gateway.books.exchange(answer.headers["x-farthing-request-id"])
    assert (exchange.outcome, exchange.status, exchange.error) == ("refused", 429, "budget_exceeded:tiny")
    assert gateway.books.entries() == []
    assert gateway.open_reservations() == ()


def test_anthropics_client_gets_its_own_dialect_and_neither_client_tries_again(stand):
    _, gateway = stand(TINY)
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=3) as one,
        pytest.raises(openai.RateLimitError) as first,
    ):
        one.chat.completions.create(**CHAT)
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="x", max_retries=3) as other,
        pytest.raises(anthropic.RateLimitError) as second,
    ):
        other.messages.create(model="claude-sonnet-4-6", messages=ASK, max_tokens=100)
    assert first.value.code == "budget_exceeded"
    body = second.value.response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")
    assert "Budget 'tiny'" in body["error"]["message"]
    assert body["request_id"] == second.value.response.headers["x-farthing-request-id"]
    gateway.books.exchange(body["request_id"])
    assert len(gateway.books.exchanges()) == 2


def test_nested_budgets_hold_all_or_none(stand):
    toml = """
[[budgets]]
name = "everyone"
per = "month"
usd = "100"
[[budgets]]
name = "team"
per = "day"
requests = 2
each = ["team"]
[[budgets]]
name = "user"
per = "day"
tokens = 400
each = ["user"]
"""
    _, gateway = stand(toml)
    for _ in range(2):
        assert post(gateway, CHAT, {"x-farthing-team": "a", "x-farthing-user": "ada"}).status_code == 200
    refused = post(gateway, CHAT, {"x-farthing-team": "a", "x-farthing-user": "bob"})
    assert refused.headers["x-farthing-budget"] == "team"
    assert refused.headers["x-farthing-budget-left"] == "0 requests"
    assert gateway.open_reservations() == ()
    assert post(gateway, CHAT, {"x-farthing-team": "b", "x-farthing-user": "bob"}).status_code == 200
    refused = post(gateway, {**CHAT, "max_tokens": 500}, {"x-farthing-team": "c", "x-farthing-user": "ada"})
    assert refused.headers["x-farthing-budget"] == "user"
    assert "tokens" in refused.headers["x-farthing-budget-left"]


def test_a_soft_budget_refuses_nobody(stand):
    _, gateway = stand('[[budgets]]\nname = "soft"\nper = "day"\nrequests = 1\nhard = false\n')
    assert [post(gateway, CHAT).status_code for _ in range(3)] == [200, 200, 200]


def test_a_budget_counts_what_was_really_spent_not_what_was_held(stand):
    _, gateway = stand('[[budgets]]\nname = "b"\nper = "day"\noutput_tokens = 260\n')
    small = {**CHAT, "max_tokens": 250}
    assert post(gateway, small, {"x-sim-tokens": "5"}).status_code == 200
    assert post(gateway, small, {"x-sim-tokens": "5"}).status_code == 200
    assert post(gateway, small, {"x-sim-tokens": "5"}).status_code == 200  # ten posted, 250 held: exactly the limit
    assert post(gateway, {**CHAT, "max_tokens": 251}).status_code == 429


def test_the_prompt_is_really_counted_before_a_call_is_refused(stand):
    words = "harbour " * 2000  # 16 kB, but two thousand tokens
    toml = '[[budgets]]\nname = "b"\nper = "day"\ninput_tokens = 3000\n'
    _, gateway = stand(toml)
    assert post(gateway, {**CHAT, "messages": [{"role": "user", "content": words}]}).status_code == 200
    assert post(gateway, {**CHAT, "messages": [{"role": "user", "content": words}]}).status_code == 429


def test_a_limit_per_request_refuses_a_long_prompt_and_caps_the_answer(stand):
    toml = '[[budgets]]\nname = "one-call"\nper = "request"\ninput_tokens = 500\noutput_tokens = 40\n'
    sim, gateway = stand(toml)
    long = post(gateway, {**CHAT, "messages": [{"role": "user", "content": "harbour " * 900}]})
    assert long.status_code == 429
    assert "'one-call' allows per request" in long.json()["error"]["message"]
    assert long.headers["x-farthing-budget"] == "one-call"
    for body in (CHAT, {**CHAT, "max_tokens": None}, {"model": "gpt-4o", "messages": ASK, "n": 2}):
        answer = post(gateway, body, {"x-sim-tokens": "90"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 40
        entry = gateway.books.entries(answer.headers["x-farthing-request-id"])[0]
        assert entry.decisions[0].reason == "output_capped"
        assert ("by", "one-call") in entry.decisions[0].evidence
    exchange = gateway.books.exchange(answer.headers["x-farthing-request-id"])
    assert exchange.sent_digest != exchange.received_digest
    assert sim.account.invoice.total_nusd == sum(entry.charge.total for entry in gateway.books.entries())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": ASK}),
        ("/v1/chat/completions", {"model": "o4-mini", "messages": ASK, "max_completion_tokens": 9000}),
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": ASK, "max_tokens": 90, "max_completion_tokens": 90}),
        ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Once", "max_tokens": 90}),
        ("/v1/responses", {"model": "gpt-4o", "input": "Harbours?"}),
        ("/v1/messages", {"model": "claude-sonnet-4-6", "messages": ASK, "max_tokens": 90}),
    ],
)
def test_the_installations_cap_reaches_every_dialect(stand, path, body):
    sim, gateway = stand("[limits]\noutput_tokens_max = 20\n")
    headers = {"anthropic-version": "2023-06-01", "x-sim-tokens": "80"}
    assert httpx.post(gateway.url + path, json=body, headers=headers, timeout=60).status_code == 200
    line = sim.account.invoice.lines[-1]
    assert line.tokens.generated == 20


NO_PRICE = '[[providers]]\nname = "office"\nbase_url = "{url}/v1"\napi_key_env = "SIM_KEY"\n'


@pytest.mark.parametrize(("action", "status"), [("refuse", 422), ("ceiling", 200), ("allow", 200)])
def test_a_model_without_a_price_meets_a_budget_in_dollars(stand, tmp_path, action, status):
    budget = '[[budgets]]\nname = "b"\nper = "day"\nusd = "0.02"\nmatch = { team = "a" }\n'
    toml = budget + f'[unpriced]\naction = "{action}"\n'
    with SimServer() as sim, GatewayServer(tmp_path, toml + NO_PRICE.format(url=sim.url)) as gateway:
        free = post(gateway, CHAT)
        assert free.status_code == 200
        assert free.headers["x-farthing-cost-usd"] == "unpriced"
        assert gateway.books.entries()[0].charge.total is None
        answer = post(gateway, CHAT, {"x-farthing-team": "a"})
        assert answer.status_code == status
        if action == "refuse":
            assert answer.json()["error"]["code"] == "unpriced"
            assert "farthing price set" in answer.json()["error"]["message"]
            assert answer.headers["x-should-retry"] == "false"
            assert len(gateway.books.entries()) == 1
        entry = gateway.books.entries()[-1]
        assert entry.charge.total is None
        assert dict(entry.usage.parts[0].lines)["output"] > 0
        statuses = [post(gateway, CHAT, {"x-farthing-team": "a"}).status_code for _ in range(3)]
        assert statuses == {"refuse": [422] * 3, "ceiling": [429] * 3, "allow": [200] * 3}[action]
        assert gateway.open_reservations() == ()


def test_the_storm_knows_a_needless_refusal_when_it_sees_one():
    storm = runpy.run_path(str(ROOT / "bench" / "storm.py"))
    call, phantoms = storm["Call"], storm["phantoms"]
    costs = {"a": (30, 60), "b": (30, 60)}
    early = call(0.0, 1.0, 200, "a", 0)
    late = call(2.5, 4.0, 200, "b", 0)
    refused = call(2.0, 3.0, 429, "r", 60)
    assert phantoms([early, refused], costs, 100) == 1  # 30 booked + 60 fits
    assert phantoms([early, late, refused], costs, 100) == 0  # 60 more may have been held
    assert phantoms([early, late, refused], costs, 150) == 1
    assert phantoms([early, refused], costs, 89) == 0


def test_two_hundred_callers_at_once_overspend_nothing_and_nobody_is_refused_without_need():
    command = [sys.executable, str(ROOT / "bench" / "storm.py"), "--clients", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["admitted"] + found["refused"] == found["calls"] > 200
    assert found["other"] == found["overspend_nusd"] == found["phantom_refusals"] == found["open_reservations"] == 0
    assert found["booked_nusd"] == found["invoice_nusd"] <= found["limit_nusd"]
    assert found["admitted"] >= 95


AGENTS = '[[budgets]]\nname = "agents"\nper = "session"\ntool_calls = 3\nturns_without_human = 4\n'
STEP = [
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "1", "content": "42"},
]  # fmt: skip


def test_an_agent_that_keeps_calling_tools_is_stopped_and_told_why(stand):
    _, gateway = stand(AGENTS)
    session = {"x-farthing-session": "s1"}
    answers = [post(gateway, {**CHAT, "messages": ASK + STEP * min(n, 3)}, session) for n in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
    for part in ("agents|session=s1", "0 tool calls of 3 tool calls left", "Stop the agent"):
        assert part in answers[-1].json()["error"]["message"]
    alone = post(gateway, {**CHAT, "messages": ASK + STEP * 4}, {"x-farthing-session": "s2"})
    for part in ("turn 5 of the model in session 's2'", "'agents' allows 4", "Let a person look"):
        assert part in alone.json()["error"]["message"]
    human = post(gateway, {**CHAT, "messages": ASK + STEP * 4 + ASK}, {"x-farthing-session": "s2"})
    assert human.status_code == 200
    assert post(gateway, {**CHAT, "messages": ASK + STEP * 9}).status_code == 200  # says no session


def test_a_shadow_budget_says_what_it_would_have_refused_and_refuses_nothing(stand):
    _, gateway = stand('[[budgets]]\nname = "two"\nper = "rolling"\nlength = "1h"\nrequests = 2\nmode = "shadow"\n')
    answers = [post(gateway, CHAT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    told = [gateway.books.exchange(answer.headers["x-farthing-request-id"]).decisions for answer in answers]
    assert [len(decisions) for decisions in told] == [0, 0, 1]
    assert (told[2][0].reason, dict(told[2][0].evidence)["left"]) == ("would_have_refused", "0 requests")


def test_a_rolling_limit_refuses_and_the_traffic_log_says_why(stand):
    _, gateway = stand('[[budgets]]\nname = "two"\nper = "rolling"\nlength = "1h"\nrequests = 2\n')
    answers = [post(gateway, CHAT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    (decision,) = gateway.books.exchange(answers[2].headers["x-farthing-request-id"]).decisions
    assert (decision.action, dict(decision.evidence)["budget"]) == ("refuse", "two")
