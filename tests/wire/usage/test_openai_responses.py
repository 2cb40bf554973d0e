"""The Responses API: usage in the terminal event, hosted tools apart from it."""

import json

import pytest

from farthing.core.types import Usage
from farthing.wire.usage import SseMeter, reader

RESPONSES = reader("openai.responses")

USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {
        "cached_tokens": 300,
        "cache_write_tokens": 500,
        "cache_write_tokens_details": {"ttl_30m_tokens": 200, "ttl_12h_tokens": 250},
    },
    "output_tokens": 90,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 1090,
}
OUTPUT = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "a"}},
    {"type": "web_search_call", "id": "ws_2", "action": {"type": "open_page", "url": "b"}},
    {"type": "file_search_call", "id": "fs_1"},
    {"type": "code_interpreter_call", "id": "ci_1", "container_id": "c1"},
    {"type": "code_interpreter_call", "id": "ci_2", "container_id": "c1"},
    {"type": "message", "id": "m_1", "content": [{"type": "output_text", "text": "web_search_call"}]},
]


def response(**members: object) -> dict[str, object]:
    made = {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-5.6-sol",
        "status": "completed",
        "output": [],
        "x": {},
    }
    return {**made, "usage": USAGE, "service_tier": "flex", **members}


def read(**members: object) -> Usage:
    return RESPONSES.from_body(json.dumps(response(**members)).encode())


def lines(usage: Usage, part: int = 0) -> dict[str, int]:
    return dict(usage.parts[part].lines)


def events(*given: dict[str, object]) -> bytes:
    return b"".join(
        b"event: " + str(event["type"]).encode() + b"\ndata: " + json.dumps(event).encode() + b"\n\n"
        for event in given
    )


def metered(data: bytes, *, complete: bool = True) -> Usage:
    meter = SseMeter(RESPONSES.meter())
    meter.feed(data)
    return meter.usage(complete=complete)


CREATED = {"type": "response.created", "response": response(usage=None, status="in_progress", service_tier="auto")}
TEXT = {"type": "response.output_text.delta", "delta": "né"}
SEARCHED = {"type": "response.output_item.done", "item": OUTPUT[1]}


def test_a_full_response_becomes_disjoint_lines_with_its_facts() -> None:
    usage = read(output=OUTPUT)
    assert usage.parts[0].lines == (
        ("input", 200),
        ("input_cache_read", 300),
        ("input_cache_write_30m", 200),
        ("input_cache_write_12h", 250),
        ("input_cache_write", 50),
        ("output", 26),
        ("output_reasoning", 64),
        ("web_search", 1),
        ("file_search", 1),
        ("code_session", 1),
    )
    assert (usage.parts[0].tier_basis, usage.source, usage.anomalies) == (1000, "reported", ())
    assert (usage.model, usage.service_tier, usage.upstream_id) == ("gpt-5.6-sol", "flex", "resp_1")
    assert usage.finish_reason == "completed"
    assert json.loads(usage.raw) == USAGE


def test_the_providers_own_count_of_searches_goes_before_the_items() -> None:
    used = {
        "web_search": {"num_requests": 0},
        "image_gen": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
    }
    usage = read(output=OUTPUT[:3], tool_usage=used)
    assert "web_search" not in lines(usage)
    assert len(usage.parts) == 1


def test_hosted_image_generation_is_a_part_with_its_own_model() -> None:
    generated = {
        "input_tokens": 100,
        "input_tokens_details": {"text_tokens": 40, "image_tokens": 60},
        "cached_tokens": 50,
        "cached_tokens_details": {"cached_text_tokens": 20, "cached_image_tokens": 30},
        "output_tokens": 1000,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 1000},
        "total_tokens": 1100,
    }
    used = {"image_gen": generated, "web_search": {"num_requests": 0}}
    usage = read(tool_usage=used, tools=[{"type": "image_generation", "model": "gpt-image-2"}])
    assert usage.parts[1].model == "gpt-image-2"
    assert lines(usage, 1) == {
        "input": 20,
        "input_cache_read": 20,
        "input_image": 30,
        "input_image_cache_read": 30,
        "output_image": 1000,
    }
    assert read(tool_usage=used).parts[1].model == "image_generation"


def test_an_incomplete_response_still_bills_and_says_why() -> None:
    usage = read(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert (usage.source, usage.finish_reason) == ("reported", "max_output_tokens")


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_every_terminal_event_carries_the_usage(kind: str) -> None:
    usage = metered(
        events(CREATED, TEXT, SEARCHED, {"type": kind, "response": response(output=OUTPUT)}), complete=False
    )
    assert usage == read(output=OUTPUT)


def test_a_cut_stream_knows_its_finished_tool_calls_and_no_tokens() -> None:
    usage = metered(events(CREATED, TEXT, SEARCHED), complete=False)
    assert (usage.source, lines(usage)) == ("partial", {"web_search": 1})
    assert (usage.model, usage.service_tier) == ("gpt-5.6-sol", "")


def test_a_failed_response_without_usage_is_missing() -> None:
    failed = {"type": "response.failed", "response": response(usage=None, status="failed")}
    usage = metered(events(CREATED, failed))
    assert (usage.source, usage.finish_reason, usage.parts) == ("missing", "failed", ())


def test_text_bytes_count_text_reasoning_and_arguments_but_no_audio() -> None:
    meter = SseMeter(RESPONSES.meter())
    kinds = ["reasoning_summary_text", "function_call_arguments", "refusal", "custom_tool_call_input"]
    given = [{"type": f"response.{kind}.delta", "delta": "abc"} for kind in kinds]
    meter.feed(events(TEXT, *given, {"type": "response.audio.delta", "delta": "QUJD"}))
    assert meter.text_bytes == 3 + 3 * len(kinds)


def test_skipping_events_without_a_mark_changes_no_usage() -> None:
    given = [CREATED, TEXT, SEARCHED, {"type": "response.completed", "response": response(output=OUTPUT)}]
    for end in (3, 4):
        meter = RESPONSES.meter()
        fed = [json.dumps(event).encode() for event in given[:end]]
        kept = [data for data in fed if any(mark in data for mark in meter.marks)]
        assert len(kept) == end - 1
        for data in kept:
            meter.event(data)
        assert meter.usage(complete=False) == metered(events(*given[:end]), complete=False)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"usage":'])
def test_a_body_that_is_no_json_object_is_missing(body: bytes) -> None:
    assert RESPONSES.from_body(body).anomalies == ("body_not_json",)


def test_a_response_in_the_background_has_no_usage_yet() -> None:
    assert read(usage=None, status="queued").source == "missing"
