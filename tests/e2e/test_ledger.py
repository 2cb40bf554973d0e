"""One call, one entry: what is booked is what the provider's own invoice says, with the right owner and evidence."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import pytest

from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Harbours?"}]}
MESSAGE = {"model": "claude-sonnet-4-6", "max_tokens": 300, "messages": CHAT["messages"]}
TOOL = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
LONG = [{"role": "system", "content": "All about harbours. " * 400}, *CHAT["messages"]]
MARKED = [{"type": "text", "text": "All about harbours. " * 900, "cache_control": {"type": "ephemeral"}}]
FIVE = {**CHAT, "model": "gpt-5-mini"}

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "chat with cache": ("/v1/chat/completions", {**CHAT, "messages": LONG}),
    "chat with two choices": ("/v1/chat/completions", {**CHAT, "n": 2}),
    "reasoning": ("/v1/chat/completions", {**CHAT, "model": "o4-mini"}),
    "flex tier": ("/v1/chat/completions", {**FIVE, "service_tier": "flex"}),
    "priority tier": ("/v1/chat/completions", {**FIVE, "service_tier": "priority", "stream": True}),
    "cache writes": ("/v1/chat/completions", {**CHAT, "model": "gpt-5.6-luna", "messages": LONG}),
    "completion": ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Once"}),
    "embedding": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Harbours"}),
    "response": ("/v1/responses", {"model": "gpt-5-mini", "input": "Harbours?"}),
    "response streamed": ("/v1/responses", {"model": "gpt-4o", "input": "Harbours?", "stream": True}),
    "message": ("/v1/messages", MESSAGE),
    "message streamed": ("/v1/messages", {**MESSAGE, "stream": True}),
    "message with cache": ("/v1/messages", {**MESSAGE, "system": MARKED}),
    "message in the US": ("/v1/messages", {**MESSAGE, "inference_geo": "us", "stream": True}),
    "message thinking": (
        "/v1/messages",
        {**MESSAGE, "max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    ),
}


class Desk:
    def __init__(self, sim: SimServer, gateway: GatewayServer, http: httpx.Client) -> None:
        self.http = http
        self.sim = sim
        self.gateway = gateway

    def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx.Response:
        given = {"anthropic-version": "2023-06-01", **(headers or {})}
        return self.http.post(self.gateway.url + path, json=body, headers=given)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, http: httpx.Client) -> Iterator[Desk]:
    with SimServer() as sim:
        toml = "[retries]\nattempts_max = 2\nbackoff = '1ms'\nbackoff_max = '3s'\n" + simulated_providers(sim.url)
        with GatewayServer(tmp_path_factory.mktemp("ledger"), toml) as gateway:
            yield Desk(sim, gateway, http)


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
@pytest.mark.parametrize(("path", "body"), CALLS.values(), ids=CALLS)
def test_an_entry_equals_the_providers_invoice_line(desk, path, body, again):
    answer = desk.post(path, body)
    assert answer.status_code == 200, answer.text
    line = desk.sim.account.invoice.lines[-1]
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    assert entry.charge.total == line.amount_nusd
    assert entry.charge.total == sum(item.amount for item in entry.charge.lines)
    assert entry.usage.source == "reported"
    assert entry.fidelity == "exact"
    assert entry.model == line.model
    assert entry.model_requested == body["model"]
    assert (entry.status, entry.error, entry.stream) == (200, "", bool(body.get("stream")))
    assert sum(quantity for _, quantity in entry.usage.parts[0].lines) == line.tokens.prompt + line.tokens.generated
    assert entry.ceiling is not None
    assert entry.ceiling >= entry.charge.total
    exchange = desk.gateway.books.exchange(entry.request_id)
    assert (exchange.outcome, exchange.status, exchange.amount) == ("answered", 200, entry.charge.total)
    assert [fact.entry_id for fact in exchange.attempts] == [entry.id]
    assert exchange.prompt is None
    assert exchange.answer is None
    if body.get("stream"):
        assert Decimal(answer.headers["x-farthing-cost-ceiling-usd"]) * 10**9 == entry.ceiling
    else:
        assert Decimal(answer.headers["x-farthing-cost-usd"]) * 10**9 == entry.charge.total
    assert answer.headers["x-farthing-route"] == f"{entry.provider}/{body['model']}"
    assert answer.headers["x-farthing-route-reason"] == "direct"


def test_the_prompts_sections_are_kept_as_digests(desk):
    answer = desk.post("/v1/chat/completions", {**CHAT, "messages": LONG, "tools": [TOOL]})
    exchange = desk.gateway.books.exchange(answer.headers["x-farthing-request-id"])
    assert [section.role for section in exchange.sections] == ["tool", "system", "user"]
    assert len(exchange.blocks) == sum(section.size for section in exchange.sections) // 1024


def test_headers_user_and_metadata_become_the_scope(desk):
    headers = {
        "x-farthing-org": "acme",
        "x-farthing-team": "search",
        "x-farthing-project": "harbour",
        "x-farthing-feature": "ask",
        "x-farthing-customer": "c1",
        "x-farthing-session": "s1",
        "x-farthing-tags": "env=prod, tier = gold",
    }
    body = {**CHAT, "user": "ada", "metadata": {"farthing_feature": "lost to the header", "colour": "blue"}}
    answer = desk.post("/v1/chat/completions", body, headers)
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    scope = entry.scope
    assert (scope.org, scope.team, scope.project, scope.user) == ("acme", "search", "harbour", "ada")
    assert (scope.feature, scope.customer, scope.session) == ("ask", "c1", "s1")
    assert scope.tags == (("colour", "blue"), ("env", "prod"), ("tier", "gold"))


def test_anthropics_user_id_is_the_user(desk):
    answer = desk.post("/v1/messages", {**MESSAGE, "metadata": {"user_id": "grace"}})
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    assert entry.scope.user == "grace"


def test_an_answer_without_usage_is_estimated_and_says_so(desk):
    for stream in (False, True):
        answer = desk.post("/v1/chat/completions", {**CHAT, "stream": stream}, {"x-sim-fault": "no-usage"})
        assert answer.status_code == 200
        (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
        line = desk.sim.account.invoice.lines[-1]
        assert entry.usage.source == "estimated"
        assert entry.fidelity == "estimated"
        assert entry.charge.total is not None
        assert abs(entry.charge.total - line.amount_nusd) <= line.amount_nusd // 2


def test_a_malformed_answer_passes_as_it_came_and_is_booked_as_an_estimate(desk):
    answer = desk.post("/v1/chat/completions", CHAT, {"x-sim-fault": "malformed"})
    assert answer.status_code == 200
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    assert entry.usage.source == "estimated"
    streamed = desk.post("/v1/chat/completions", {**CHAT, "stream": True}, {"x-sim-fault": "malformed"})
    assert streamed.content.endswith(b"data: [DONE]\n\n")
    (entry,) = desk.gateway.books.entries(streamed.headers["x-farthing-request-id"])
    assert entry.usage.source == "reported"


def test_a_refused_call_costs_nothing_and_leaves_an_exchange(desk):
    before = len(desk.gateway.books.entries())
    answer = desk.post("/v1/chat/completions", CHAT, {"x-sim-fault": "400"})
    exchange = desk.gateway.books.exchange(answer.headers["x-farthing-request-id"])
    assert (exchange.outcome, exchange.status, exchange.error) == ("failed", 400, "provider_rejected")
    assert [fact.status for fact in exchange.attempts] == [400]
    assert len(desk.gateway.books.entries()) == before
    assert desk.gateway.quiet()


def test_both_official_clients_find_the_cost_in_the_headers(desk):
    with openai.OpenAI(base_url=f"{desk.gateway.url}/v1", api_key="x") as client:
        one = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=CHAT["messages"])
    with anthropic.Anthropic(base_url=desk.gateway.url, api_key="x") as other:
        two = other.messages.with_raw_response.create(**MESSAGE)
    for answer in (one, two):
        (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
        assert Decimal(answer.headers["x-farthing-cost-usd"]) * 10**9 == entry.charge.total


def test_metrics_tell_requests_cost_and_tokens(desk):
    desk.post("/v1/chat/completions", CHAT)
    text = httpx.get(f"{desk.gateway.url}/metrics", timeout=60).text
    assert 'farthing_requests_total{endpoint="chat"' in text
    assert "farthing_cost_usd_total{" in text
    assert "farthing_settlements_waiting 0.0" in text
