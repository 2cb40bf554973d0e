"""Gemini: thoughts beside the candidates, kinds joined with the cache, traffic types, cumulative streams."""

import json

import pytest

from farthing.core.types import Usage
from farthing.wire.usage import SseMeter, reader

GEMINI = reader("google.gemini")


def bare(**usage: object) -> Usage:
    return GEMINI.from_usage(usage, context={})


def lines(usage: Usage) -> dict[str, int]:
    return dict(usage.parts[0].lines)


def kind(modality: str, count: int) -> dict[str, object]:
    return {"modality": modality, "tokenCount": count}


def answer(usage: object, **candidate: object) -> dict[str, object]:
    return {
        "candidates": [{"content": {"parts": [{"text": "né"}], "role": "model"}, "index": 0, **candidate}],
        "usageMetadata": usage,
        "modelVersion": "gemini-3-pro",
        "responseId": "r1",
        "unknown": 1,
    }


def test_thoughts_are_added_to_the_candidates() -> None:
    usage = bare(
        promptTokenCount=250_000,
        candidatesTokenCount=1000,
        totalTokenCount=253_500,
        thoughtsTokenCount=2000,
        cachedContentTokenCount=100_000,
        toolUsePromptTokenCount=500,
    )
    assert lines(usage) == {
        "input": 150_000,
        "input_cache_read": 100_000,
        "input_tool": 500,
        "output": 1000,
        "output_reasoning": 2000,
    }
    assert (usage.parts[0].tier_basis, usage.anomalies) == (250_500, ())


def test_a_server_that_counts_thoughts_inside_is_recognised_by_its_total() -> None:
    usage = bare(promptTokenCount=10, candidatesTokenCount=50, thoughtsTokenCount=30, totalTokenCount=60)
    assert lines(usage) == {"input": 10, "output": 20, "output_reasoning": 30}
    assert usage.anomalies == ("thoughts_inside_candidates:60=10+50",)


def test_a_total_that_fits_no_reading_is_noted() -> None:
    usage = bare(promptTokenCount=10, candidatesTokenCount=50, thoughtsTokenCount=30, totalTokenCount=61)
    assert lines(usage) == {"input": 10, "output": 50, "output_reasoning": 30}
    assert usage.anomalies == ("total_mismatch:90!=61",)


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        ([kind("TEXT", 4000)], {"input": 2000, "input_cache_read": 4000, "input_audio": 4000}),
        ([kind("AUDIO", 4000)], {"input": 6000, "input_audio_cache_read": 4000}),
        (
            [kind("TEXT", 1000), kind("AUDIO", 3000)],
            {"input": 5000, "input_cache_read": 1000, "input_audio": 1000, "input_audio_cache_read": 3000},
        ),
        (None, {"input": 2000, "input_cache_read": 4000, "input_audio": 4000}),
    ],
)
def test_cached_tokens_are_joined_with_their_kind(cached: object, expected: dict[str, int]) -> None:
    usage = bare(
        promptTokenCount=10_000,
        totalTokenCount=10_000,
        cachedContentTokenCount=4000,
        promptTokensDetails=[kind("TEXT", 6000), kind("AUDIO", 4000)],
        cacheTokensDetails=cached,
    )
    assert lines(usage) == expected
    assert usage.anomalies == ()


def test_cached_text_beyond_all_text_spills_and_is_noted() -> None:
    usage = bare(
        promptTokenCount=100,
        totalTokenCount=100,
        cachedContentTokenCount=70,
        promptTokensDetails=[kind("TEXT", 40), kind("VIDEO", 60)],
        cacheTokensDetails=[kind("TEXT", 70)],
    )
    assert lines(usage) == {"input_cache_read": 40, "input_video": 30, "input_video_cache_read": 30}
    assert usage.anomalies == ("cached_text_gt_text:70>40",)


def test_kinds_of_output_are_split_and_unknown_kinds_stay_text() -> None:
    usage = bare(
        promptTokenCount=5,
        candidatesTokenCount=1300,
        totalTokenCount=1305,
        candidatesTokensDetails=[kind("IMAGE", 1290), kind("DOCUMENT", 10)],
    )
    assert lines(usage) == {"input": 5, "output": 10, "output_image": 1290}
    assert usage.anomalies == ("unknown_kind_as_text:document=10",)


def test_kinds_that_do_not_sum_to_their_total_are_noted() -> None:
    usage = bare(promptTokenCount=100, totalTokenCount=100, promptTokensDetails=[kind("TEXT", 80)])
    assert (lines(usage), usage.anomalies) == ({"input": 100}, ("prompt_kinds_mismatch:80!=100",))


@pytest.mark.parametrize(
    ("given", "tier", "traffic"),
    [
        ({"trafficType": "ON_DEMAND"}, "default", "on_demand"),
        ({"trafficType": "ON_DEMAND_FLEX"}, "flex", "on_demand_flex"),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, "provisioned", "provisioned_throughput"),
        ({"serviceTier": "SERVICE_TIER_PRIORITY"}, "priority", None),
        ({"serviceTier": "standard"}, "default", None),
        ({}, "", None),
    ],
)
def test_the_tier_comes_from_the_traffic_type_or_the_service_tier(
    given: dict[str, str], tier: str, traffic: str | None
) -> None:
    usage = bare(promptTokenCount=1, totalTokenCount=1, **given)
    assert usage.service_tier == tier
    assert usage.facets == (() if traffic is None else (("traffic", traffic),))


def test_the_live_api_says_response_instead_of_candidates() -> None:
    usage = bare(
        promptTokenCount=10, responseTokenCount=20, totalTokenCount=30, responseTokensDetails=[kind("AUDIO", 20)]
    )
    assert lines(usage) == {"input": 10, "output_audio": 20}


def test_grounding_is_billed_by_query_or_by_prompt_depending_on_the_generation() -> None:
    grounded = {
        "groundingMetadata": {"webSearchQueries": ["a", "b", "a"], "groundingChunks": [{"maps": {"uri": "x"}}]}
    }
    body = answer({"promptTokenCount": 1, "totalTokenCount": 1}, finishReason="STOP", **grounded)
    assert lines(GEMINI.from_body(json.dumps(body).encode())) == {"input": 1, "grounding": 2, "maps_grounding": 1}
    body["modelVersion"] = "gemini-2.5-pro"
    assert lines(GEMINI.from_body(json.dumps(body).encode()))["grounding"] == 1


STEPS = [
    answer({"promptTokenCount": 10, "totalTokenCount": 10}),
    answer({"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 14}),
    answer(
        {"promptTokenCount": 10, "candidatesTokenCount": 9, "totalTokenCount": 24, "thoughtsTokenCount": 5},
        finishReason="STOP",
    ),
]


def stream(steps: list[dict[str, object]]) -> bytes:
    return b"".join(b"data: " + json.dumps(step).encode() + b"\r\n\r\n" for step in steps)


def test_every_chunk_repeats_cumulative_usage_and_the_last_one_counts() -> None:
    meter = SseMeter(GEMINI.meter())
    meter.feed(stream(STEPS))
    usage = meter.usage(complete=False)
    assert lines(usage) == {"input": 10, "output": 9, "output_reasoning": 5}
    assert (usage.source, usage.model, usage.finish_reason) == ("reported", "gemini-3-pro", "STOP")
    assert meter.text_bytes == 9


def test_a_cut_stream_is_partial_with_what_it_had_said() -> None:
    meter = SseMeter(GEMINI.meter())
    meter.feed(stream(STEPS[:2]))
    usage = meter.usage(complete=False)
    assert (lines(usage), usage.source) == ({"input": 10, "output": 4}, "partial")


def test_a_stream_in_its_array_form_is_a_body() -> None:
    body = b"\n" + json.dumps(STEPS).encode()
    assert lines(GEMINI.from_body(body)) == {"input": 10, "output": 9, "output_reasoning": 5}


def test_a_blocked_prompt_bills_its_input() -> None:
    body = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7},
    }
    usage = GEMINI.from_body(json.dumps(body).encode())
    assert (lines(usage), usage.finish_reason) == ({"input": 7}, "SAFETY")


@pytest.mark.parametrize("body", [b"", b"[", b"7", b"[7]", b"{}", b'{"usageMetadata":{}}'])
def test_answers_without_usage_are_missing(body: bytes) -> None:
    assert GEMINI.from_body(body).source == "missing"


def test_wrong_types_cost_only_themselves() -> None:
    usage = bare(
        promptTokenCount="10",
        candidatesTokenCount=None,
        totalTokenCount=10,
        promptTokensDetails=[3, kind("TEXT", 10)],
    )
    assert lines(usage) == {"input": 10}
    assert usage.anomalies == ('not_an_integer:promptTokenCount="10"', "not_an_object:promptTokensDetails[0]")
