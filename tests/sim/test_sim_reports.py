"""The report APIs add up to the invoice, bucket by bucket."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings

# Plain HTTP on loopback: loading CA certificates for each call would only cost time.
fetch = partial(httpx.get, verify=False)

START = datetime(2026, 11, 18, tzinfo=UTC)
START_S = int(START.timestamp())
HOUR_MS = 3_600_000
OPENAI_ADMIN = {"authorization": "Bearer sk-admin-sim"}
ANTHROPIC_ADMIN = {"x-api-key": "sk-ant-admin-sim", "anthropic-version": "2023-06-01"}
SYSTEM = "The harbour opens at dawn. " * 400


@pytest.fixture(scope="module")
def sim() -> Iterator[SimServer]:
    """Three days of traffic: two keys, several models, tiers, embeddings, cache writes of both kinds."""
    now = [START_S * 1000]
    with SimServer(SimSettings(now_ms=lambda: now[0])) as server, httpx.Client(verify=False, timeout=60) as client:

        def chat(key: str, **body: Any) -> None:
            wanted = {
                "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Why?"}],
                **body,
            }
            headers = {"authorization": f"Bearer {key}"}
            assert client.post(f"{server.url}/v1/chat/completions", json=wanted, headers=headers).is_success

        def message(key: str, ttl: str, **body: Any) -> None:
            system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral", "ttl": ttl}}]
            wanted = {"max_tokens": 50, "system": system, "messages": [{"role": "user", "content": "Why?"}], **body}
            headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
            assert client.post(f"{server.url}/v1/messages", json=wanted, headers=headers).is_success

        for step in range(24):
            now[0] = START_S * 1000 + step * 3 * HOUR_MS + step * 1_234
            key = f"sk-{step % 2}"
            chat(key, model="gpt-4o")
            chat(key, model="gpt-5", service_tier="flex")
            for _ in range(2):  # the second call reads the first one's prompt from the cache
                chat(key, model="gpt-5-nano", service_tier="flex")
            message(key, "1h" if step % 3 else "5m", model="claude-sonnet-4-6", inference_geo="us")
            message(key, "5m", model="claude-haiku-4-5")
            wanted = {"model": "text-embedding-3-small", "input": "a b c"}
            headers = {"authorization": f"Bearer {key}"}
            client.post(f"{server.url}/v1/embeddings", json=wanted, headers=headers)
        yield server


def get(sim: SimServer, path: str, headers: dict[str, str], **query: Any) -> Any:
    answer = fetch(f"{sim.url}{path}", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json(parse_float=Decimal)


def pages(sim: SimServer, path: str, headers: dict[str, str], **query: Any) -> list[dict[str, Any]]:
    """Every bucket, following ``next_page``."""
    found: list[dict[str, Any]] = []
    while True:
        answer = get(sim, path, headers, **query)
        found.extend(answer["data"])
        if not answer["has_more"]:
            assert answer["next_page"] is None
            return found
        query["page"] = answer["next_page"]


def billed(sim: SimServer, provider: str, day: int | None = None, **wanted: Any) -> int:
    return sum(
        line.amount_nusd
        for line in sim.account.invoice.lines
        if line.provider == provider
        and (day is None or (line.at // 1000 - START_S) // 86_400 == day)
        and all(getattr(line, name) == value for name, value in wanted.items())
    )


def test_openai_costs_by_day_equal_the_invoice_to_the_nano_dollar(sim: SimServer) -> None:
    buckets = pages(sim, "/v1/organization/costs", OPENAI_ADMIN, start_time=START_S, limit=2)
    assert [bucket["start_time"] for bucket in buckets] == [START_S + day * 86_400 for day in range(3)]
    for day, bucket in enumerate(buckets):
        (result,) = bucket["results"]
        assert result["amount"]["currency"] == "usd"
        assert result["amount"]["value"] * 1_000_000_000 == billed(sim, "openai", day)


def test_openai_costs_by_line_item_split_the_same_sum_and_carry_quantities(sim: SimServer) -> None:
    query = {"start_time": START_S, "group_by[]": ["line_item", "api_key_id"]}
    results = [
        row for bucket in pages(sim, "/v1/organization/costs", OPENAI_ADMIN, **query) for row in bucket["results"]
    ]
    assert sum(row["amount"]["value"] for row in results) * 1_000_000_000 == billed(sim, "openai")
    flex = [row for row in results if row["line_item"] == "gpt-5-nano-2025-08-07, cached input, flex"]
    lines = [line for line in sim.account.invoice.lines if line.model.startswith("gpt-5-nano")]
    assert sum(row["quantity"] for row in flex) == sum(line.tokens.cache_read for line in lines)
    assert {row["api_key_id"] for row in results} == {f"key_{line.key}" for line in lines}


@pytest.mark.parametrize(("width", "limit", "buckets"), [("1d", 31, 3), ("1h", 168, 70), ("1m", 1440, 4144)])
def test_openai_usage_sums_to_the_invoice_at_every_width(
    sim: SimServer, width: str, limit: int, buckets: int
) -> None:
    found = pages(
        sim,
        "/v1/organization/usage/completions",
        OPENAI_ADMIN,
        start_time=START_S,
        bucket_width=width,
        limit=limit,
        group_by="model,service_tier",
    )
    lines = [line for line in sim.account.invoice.lines if line.endpoint == "/v1/chat/completions"]
    rows = [row for bucket in found for row in bucket["results"]]
    assert abs(len(found) - buckets) <= 3
    assert sum(row["input_tokens"] for row in rows) == sum(line.tokens.prompt for line in lines)
    assert sum(row["input_cached_tokens"] for row in rows) == sum(line.tokens.cache_read for line in lines) > 0
    assert sum(row["output_tokens"] for row in rows) == sum(line.tokens.generated for line in lines)
    assert sum(row["num_model_requests"] for row in rows) == len(lines)
    assert {(row["model"], row["service_tier"]) for row in rows} == {(line.model, line.tier) for line in lines}


def test_openai_embeddings_have_their_own_report_and_filters_hold(sim: SimServer) -> None:
    rows = [
        row
        for bucket in pages(sim, "/v1/organization/usage/embeddings", OPENAI_ADMIN, start_time=START_S)
        for row in bucket["results"]
    ]
    assert sum(row["num_model_requests"] for row in rows) == 24
    one = pages(
        sim, "/v1/organization/usage/completions", OPENAI_ADMIN, start_time=START_S, models="gpt-4o-2024-08-06"
    )
    assert sum(row["num_model_requests"] for bucket in one for row in bucket["results"]) == 24


def test_the_official_client_reads_the_usage_and_cost_reports(sim: SimServer) -> None:
    with openai.OpenAI(
        base_url=f"{sim.url}/v1", api_key="sk-admin-sim", admin_api_key="sk-admin-sim", max_retries=0
    ) as client:
        usage = client.admin.organization.usage.completions(start_time=START_S, bucket_width="1d")
        costs = client.admin.organization.usage.costs(start_time=START_S)
    assert sum(row.num_model_requests for bucket in usage.data for row in bucket.results) == 96
    total = sum(row.amount.value for bucket in costs.data for row in bucket.results)
    assert total == pytest.approx(billed(sim, "openai") / 1e9)


def test_anthropic_usage_sums_to_the_invoice_class_by_class(sim: SimServer) -> None:
    found = pages(
        sim,
        "/v1/organizations/usage_report/messages",
        ANTHROPIC_ADMIN,
        starting_at="2026-11-18T00:00:00Z",
        bucket_width="1h",
        limit=24,
        **{"group_by[]": ["model", "api_key_id", "service_tier", "context_window", "inference_geo"]},
    )
    rows = [row for bucket in found for row in bucket["results"]]
    tokens = [line.tokens for line in sim.account.invoice.lines if line.provider == "anthropic"]
    assert sum(row["uncached_input_tokens"] for row in rows) == sum(item.input for item in tokens)
    assert sum(row["cache_read_input_tokens"] for row in rows) == sum(item.cache_read for item in tokens)
    for name, field in (
        ("ephemeral_5m_input_tokens", "cache_write_5m"),
        ("ephemeral_1h_input_tokens", "cache_write_1h"),
    ):
        assert sum(row["cache_creation"][name] for row in rows) == sum(getattr(item, field) for item in tokens) > 0
    assert sum(row["output_tokens"] for row in rows) == sum(item.generated for item in tokens)
    assert {row["inference_geo"] for row in rows} == {"us", "not_available"}
    assert {row["context_window"] for row in rows} == {"0-200k"}


@pytest.mark.parametrize("group", ["", "description"])
def test_anthropic_costs_are_decimal_cents_that_equal_the_invoice(sim: SimServer, group: str) -> None:
    found = pages(
        sim,
        "/v1/organizations/cost_report",
        ANTHROPIC_ADMIN,
        starting_at="2026-11-18T00:00:00Z",
        ending_at="2026-11-21T00:00:00Z",
        limit=1,
        **{"group_by[]": group},
    )
    assert [bucket["starting_at"] for bucket in found] == [f"2026-11-{day}T00:00:00Z" for day in (18, 19, 20)]
    for day, bucket in enumerate(found):
        assert all(isinstance(row["amount"], str) and row["currency"] == "USD" for row in bucket["results"])
        total = sum(Decimal(row["amount"]) for row in bucket["results"])
        assert total * 10_000_000 == billed(sim, "anthropic", day)
    if group:
        kinds = {row["token_type"] for bucket in found for row in bucket["results"]}
        assert {"uncached_input_tokens", "output_tokens", "cache_creation.ephemeral_1h_input_tokens"} <= kinds


@pytest.mark.parametrize(
    ("path", "headers", "query"),
    [
        ("/v1/organization/costs", {"authorization": "Bearer sk-0"}, {"start_time": START_S}),
        ("/v1/organizations/cost_report", {"x-api-key": "sk-0"}, {"starting_at": "2026-11-18T00:00:00Z"}),
    ],
)
def test_reports_need_an_admin_key(sim: SimServer, path: str, headers: dict[str, str], query: dict[str, Any]) -> None:
    assert fetch(f"{sim.url}{path}", params=query, headers=headers).status_code == 401


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"start_time": "soon"},
        {"start_time": START_S, "bucket_width": "1w"},
        {"start_time": START_S, "limit": 0},
        {"start_time": START_S, "group_by": "colour"},
        {"start_time": START_S, "page": "page_%%"},
    ],
)
def test_a_wrong_report_query_is_refused_with_a_reason(sim: SimServer, query: dict[str, Any]) -> None:
    answer = fetch(f"{sim.url}/v1/organization/usage/completions", params=query, headers=OPENAI_ADMIN)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
