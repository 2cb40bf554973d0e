"""Metrics are a projection of exchanges and entries, in names that dashboards know."""

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from farthing.core.types import AttemptFact, PromptView
from farthing.server.metrics import SERIES_MAX, Metrics
from farthing.testing.records import an_entry, an_exchange


def scrape(metrics):
    families = text_string_to_metric_families(metrics.render().decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def value(found, name, **labels):
    matches = [
        number for (one, pairs), number in found.items() if one == name and labels.items() <= dict(pairs).items()
    ]
    assert len(matches) == 1, (name, labels, matches)
    return matches[0]


def answered(request_id="r", **fields):
    fact = AttemptFact(attempt=1, provider="openai", model="gpt-4o", status=200, started_at_ms=0, latency_ms=5)
    view = PromptView(endpoint="chat", model="gpt-4o", stream=True)
    given = {"attempts": (fact,), "latency_ms": 700, "ttft_ms": 90, "view": view}
    return msgspec.structs.replace(an_exchange(request_id), **{**given, **fields})


def test_requests_tokens_and_cost_are_counted():
    metrics = Metrics(lambda: {"requests_in_flight": 3})
    metrics.exchange(answered(), (an_entry("e1", 2_500_000_000),))
    metrics.exchange(answered("s"), (an_entry("e2", None),))
    found = scrape(metrics)
    assert value(found, "farthing_requests_total", outcome="answered", gen_ai_provider_name="openai") == 2
    assert value(found, "farthing_cost_usd_total", team="search", usage_source="reported") == 2.5
    assert value(found, "farthing_unpriced_entries_total") == 1
    assert value(found, "gen_ai_client_inference_usage_input_tokens_total") == 28
    assert value(found, "gen_ai_client_inference_usage_cache_read_input_tokens_total") == 8
    assert value(found, "gen_ai_client_inference_usage_output_tokens_total") == 6
    assert value(found, "farthing_requests_in_flight") == 3


def test_latencies_fall_into_cumulative_buckets():
    metrics = Metrics()
    for latency in (5, 700, 400_000):
        metrics.exchange(answered(latency_ms=latency), ())
    found = scrape(metrics)
    name = "gen_ai_client_operation_duration_seconds"
    counts = {bound: value(found, f"{name}_bucket", le=bound) for bound in ("0.01", "0.5", "1.0", "300.0", "+Inf")}
    assert counts == {"0.01": 1, "0.5": 1, "1.0": 2, "300.0": 2, "+Inf": 3}
    assert value(found, f"{name}_count") == 3
    assert value(found, "gen_ai_server_time_to_first_token_seconds_count") == 3


def test_refusals_are_counted_by_code_and_budget():
    metrics = Metrics()
    metrics.exchange(answered(outcome="refused", status=429, error="budget_exceeded:team", attempts=()), ())
    metrics.attempt_failed("openai", "provider_overloaded")
    metrics.store_failed("store_unavailable")
    found = scrape(metrics)
    assert value(found, "farthing_refusals_total", code="budget_exceeded", budget="team") == 1
    assert value(found, "farthing_upstream_failures_total", code="provider_overloaded") == 1
    assert value(found, "farthing_store_failures_total", code="store_unavailable") == 1


def test_callers_cannot_make_series_without_end():
    metrics = Metrics()
    for number in range(SERIES_MAX + 50):
        metrics.exchange(answered(view=PromptView(endpoint="chat", model=f"m{number}")), ())
    found = scrape(metrics)
    requests = [number for (name, _), number in found.items() if name == "farthing_requests_total"]
    assert len(requests) == SERIES_MAX + 1
    assert sum(requests) == SERIES_MAX + 50
    assert value(found, "farthing_requests_total", outcome="other") == 50


def test_label_values_from_callers_are_escaped():
    metrics = Metrics()
    metrics.exchange(answered(view=PromptView(endpoint="chat", model='a"b\\c')), ())
    assert value(scrape(metrics), "farthing_requests_total", gen_ai_request_model='a"b\\c') == 1
