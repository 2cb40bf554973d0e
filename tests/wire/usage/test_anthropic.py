"""Anthropic messages: exclusive input, cumulative stream counters, iterations with their own models."""

import json

import pytest

from farthing.core.types import Usage
from farthing.wire.usage import SseMeter, reader, reader_for

MESSAGES = reader("anthropic.messages")

USAGE = {
    "input_tokens": 100,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 5000,
    "cache_creation": {"ephemeral_5m_input_tokens": 120, "ephemeral_1h_input_tokens": 130},
    "output_tokens": 700,
    "output_tokens_details": {"thinking_tokens": 450},
    "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 2},
    "service_tier": "standard",
    "inference_geo": "us",
    "speed": "fast",
    "of_tomorrow": {"a": 1},
}


def message(usage: object, **members: object) -> Usage:
    body = {"id": "msg_1", "type": "message", "model": "claude-opus-5", "stop_reason": "end_turn", "content": []}
    return MESSAGES.from_body(json.dumps({**body, "usage": usage, **members}).encode())


def lines(usage: Usage, part: int = 0) -> dict[str, int]:
    return dict(usage.parts[part].lines)


def events(*given: dict[str, object]) -> bytes:
    return b"".join(
        b"event: " + str(event["type"]).encode() + b"\ndata: " + json.dumps(event).encode() + b"\n\n"
        for event in given
    )


def metered(data: bytes, *, complete: bool = True) -> Usage:
    meter = SseMeter(MESSAGES.meter())
    meter.feed(data)
    return meter.usage(complete=complete)


def start(**usage: object) -> dict[str, object]:
    inner = {"id": "msg_2", "model": "claude-opus-5", "content": [], "stop_reason": None, "usage": usage}
    return {"type": "message_start", "message": inner}


def delta(stop: str | None = "end_turn", **usage: object) -> dict[str, object]:
    return {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage}


TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}
STOP = {"type": "message_stop"}


def test_a_full_message_becomes_disjoint_lines_with_its_facts() -> None:
    usage = message(USAGE)
    assert usage.parts[0].lines == (
        ("input", 100),
        ("input_cache_read", 5000),
        ("input_cache_write_5m", 120),
        ("input_cache_write_1h", 130),
        ("input_cache_write", 50),
        ("output", 250),
        ("output_reasoning", 450),
        ("web_search", 3),
        ("web_fetch", 2),
    )
    assert usage.parts[0].tier_basis == 5400
    assert (usage.source, usage.model, usage.service_tier) == ("reported", "claude-opus-5", "default")
    assert usage.facets == (("region", "us"), ("speed", "fast"))
    assert (usage.finish_reason, usage.upstream_id, usage.anomalies) == ("end_turn", "msg_1", ())
    assert json.loads(usage.raw) == USAGE


def test_input_is_never_reduced_by_the_cache() -> None:
    usage = message({"input_tokens": 50, "cache_read_input_tokens": 10_000, "output_tokens": 200})
    assert lines(usage) == {"input": 50, "input_cache_read": 10_000, "output": 200}


def test_a_cache_write_split_beyond_its_total_keeps_the_total() -> None:
    split = {"ephemeral_5m_input_tokens": 80, "ephemeral_1h_input_tokens": 40}
    usage = message(
        {"input_tokens": 0, "output_tokens": 1, "cache_creation_input_tokens": 100, "cache_creation": split}
    )
    assert lines(usage) == {"input_cache_write_5m": 80, "input_cache_write_1h": 20, "output": 1}
    assert usage.anomalies == ("cache_write_split_gt_total:40>20",)


def test_a_cache_write_split_without_total_is_the_total() -> None:
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 40}
    assert lines(message({"input_tokens": 0, "output_tokens": 1, "cache_creation": split})) == {
        "input_cache_write_1h": 40,
        "output": 1,
    }


@pytest.mark.parametrize(("given", "tier"), [("standard", "default"), ("priority", "priority"), ("batch", "batch")])
def test_the_served_tier_is_in_farthings_words(given: str, tier: str) -> None:
    assert message({"input_tokens": 1, "output_tokens": 1, "service_tier": given}).service_tier == tier


def test_a_geography_that_is_not_available_is_no_region() -> None:
    assert message({"input_tokens": 1, "output_tokens": 1, "inference_geo": "not_available"}).facets == ()


def run(kind: str, tokens: tuple[int, int], model: str | None = None) -> dict[str, object]:
    made: dict[str, object] = {"type": kind, "input_tokens": tokens[0], "output_tokens": tokens[1]}
    return made if model is None else {**made, "model": model}


def test_iterations_are_parts_with_their_own_tier_test() -> None:
    runs = [run("message", (150_000, 400)), run("message", (150_000, 600))]
    usage = message({"input_tokens": 300_000, "output_tokens": 1000, "iterations": runs})
    assert [(part.lines, part.tier_basis) for part in usage.parts] == [
        ((("input", 150_000), ("output", 400)), 150_000),
        ((("input", 150_000), ("output", 600)), 150_000),
    ]
    assert usage.anomalies == ()


def test_advisors_and_fallbacks_are_rated_by_their_own_model_and_compaction_is_added() -> None:
    runs = [
        run("compaction", (180_000, 3500)),
        run("message", (23_000, 1000), "claude-opus-5"),
        run("advisor_message", (823, 1612), "claude-advisor"),
        run("fallback_message", (500, 60), "claude-fallback"),
    ]
    usage = message(
        {
            "input_tokens": 23_500,
            "output_tokens": 1060,
            "iterations": runs,
            "server_tool_use": {"web_search_requests": 1},
        }
    )
    assert [part.model for part in usage.parts] == ["", "", "claude-advisor", "claude-fallback"]
    assert lines(usage, 0) == {"input": 180_000, "output": 3500, "web_search": 1}
    assert lines(usage, 2) == {"input": 823, "output": 1612}
    assert usage.anomalies == ()


def test_a_top_level_that_repeats_one_runs_input_agrees_with_the_iterations() -> None:
    runs = [run("message", (412, 89)), run("message", (1348, 442))]
    usage = message({"input_tokens": 412, "output_tokens": 531, "iterations": runs})
    assert usage.anomalies == ()
    assert sum(quantity for part in usage.parts for _, quantity in part.lines) == 412 + 89 + 1348 + 442


def test_totals_that_no_iteration_accounts_for_are_billed_and_noted() -> None:
    usage = message({"input_tokens": 500, "output_tokens": 90, "iterations": [run("message", (400, 90))]})
    assert [dict(part.lines) for part in usage.parts] == [{"input": 400, "output": 90}, {"input": 100}]
    assert usage.anomalies == ("iterations_mismatch:input_tokens:400!=500",)


def test_searches_of_an_answer_whose_runs_all_have_other_models_keep_the_answers_own() -> None:
    runs = [run("fallback_message", (5, 6), "other")]
    given = {"input_tokens": 5, "output_tokens": 6, "iterations": runs, "server_tool_use": {"web_search_requests": 2}}
    usage = message(given)
    assert [(part.model, dict(part.lines)) for part in usage.parts] == [
        ("other", {"input": 5, "output": 6}),
        ("", {"web_search": 2}),
    ]


def test_stream_counters_are_cumulative_and_merged_field_by_field() -> None:
    first = start(
        input_tokens=100,
        cache_read_input_tokens=10,
        cache_creation_input_tokens=40,
        cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 40},
        output_tokens=1,
        service_tier="priority",
    )
    last = delta(input_tokens=160, cache_read_input_tokens=10, output_tokens=70)
    usage = metered(events(first, TEXT, delta(None, output_tokens=30), last, STOP))
    assert lines(usage) == {"input": 160, "input_cache_read": 10, "input_cache_write_1h": 40, "output": 70}
    assert (usage.service_tier, usage.source, usage.finish_reason) == ("priority", "reported", "end_turn")
    assert json.loads(usage.raw)["message_delta"]["output_tokens"] == 70
    assert usage.anomalies == ()


def test_a_server_that_says_its_input_only_in_the_delta_is_understood() -> None:
    usage = metered(
        events(start(input_tokens=0, output_tokens=0), TEXT, delta(input_tokens=90, output_tokens=7), STOP)
    )
    assert lines(usage) == {"input": 90, "output": 7}


def test_a_delta_that_takes_tokens_back_takes_nothing_back() -> None:
    usage = metered(events(start(input_tokens=90), delta(input_tokens=0, output_tokens=7), STOP))
    assert lines(usage) == {"input": 90, "output": 7}
    assert usage.anomalies == ("decreased:input_tokens:90>0",)


def test_the_placeholder_of_the_first_event_is_no_output() -> None:
    cut = metered(events(start(input_tokens=100, output_tokens=1), TEXT), complete=False)
    assert (lines(cut), cut.source, cut.parts[0].tier_basis) == ({"input": 100}, "partial", 100)
    closed = metered(events(start(input_tokens=100, output_tokens=1), TEXT))
    assert (lines(closed), closed.source) == ({"input": 100}, "partial")


def test_a_stream_that_breaks_after_its_last_delta_is_reported() -> None:
    usage = metered(events(start(input_tokens=5), delta(output_tokens=7)), complete=False)
    assert usage.source == "reported"


def test_a_stream_without_any_usage_is_missing_or_partial() -> None:
    assert metered(events(TEXT, STOP)).source == "missing"
    assert metered(events(TEXT), complete=False).source == "partial"


def test_text_bytes_count_text_thinking_and_tool_input() -> None:
    pieces = [{"text": "né"}, {"thinking": "hmm"}, {"partial_json": '{"a"'}, {"signature": "xxxx"}]
    meter = SseMeter(MESSAGES.meter())
    meter.feed(events(*[{"type": "content_block_delta", "delta": piece} for piece in pieces]))
    assert meter.text_bytes == 3 + 3 + 4


def test_skipping_events_without_a_mark_changes_no_usage() -> None:
    given = [start(input_tokens=5), {"type": "ping"}, TEXT, delta(output_tokens=7), STOP]
    meter = MESSAGES.meter()
    fed = [json.dumps(event).encode() for event in given]
    kept = [data for data in fed if any(mark in data for mark in meter.marks)]
    assert len(kept) == 3
    for data in kept:
        meter.event(data)
    assert meter.usage(complete=True) == metered(events(*given))


@pytest.mark.parametrize("usage", [None, {}, [], "x", {"iterations": []}])
def test_a_message_without_usable_usage_is_missing(usage: object) -> None:
    assert message(usage).source == "missing"


def test_wrong_types_cost_only_themselves() -> None:
    given = {
        "input_tokens": "90",
        "output_tokens": 7,
        "cache_read_input_tokens": -5,
        "cache_creation": 3,
        "iterations": 9,
    }
    usage = message(given)
    assert lines(usage) == {"input": 90, "output": 7}
    assert usage.anomalies == (
        'not_an_integer:input_tokens="90"',
        "negative:cache_read_input_tokens=-5",
        "not_an_object:cache_creation",
        "not_a_list:iterations",
    )


def test_vertex_regions_come_from_the_context() -> None:
    found = reader_for("google", "anthropic").from_usage(
        {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard"}, context={"vertex_location": "us-east5"}
    )
    assert (found.facets, found.service_tier) == ((("region", "us-east5"),), "default")


def test_a_redeemed_fallback_credit_is_a_facet() -> None:
    credit = {"status": {"type": "redeemed"}}
    usage = message({"input_tokens": 1, "output_tokens": 1, "fallback_credit": credit})
    assert usage.facets == (("fallback_credit", "redeemed"),)
