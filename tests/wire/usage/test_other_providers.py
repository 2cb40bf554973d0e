"""xAI, Perplexity, OpenRouter, Mistral and Cohere: what each adds to, or counts unlike, OpenAI."""

import json

import pytest

from farthing.core.types import Usage
from farthing.wire.usage import FLAVOURS, SseMeter, reader, reader_for


def lines(usage: Usage) -> dict[str, int]:
    return dict(usage.parts[0].lines)


def bare(flavour: str, **usage: object) -> Usage:
    return reader(flavour).from_usage(usage, context={})


def test_xai_chat_counts_reasoning_beside_the_output() -> None:
    usage = bare(
        "xai.chat",
        prompt_tokens=1000,
        completion_tokens=50,
        total_tokens=1350,
        prompt_tokens_details={"text_tokens": 1000, "cached_tokens": 600},
        completion_tokens_details={"reasoning_tokens": 300},
        cost_in_usd_ticks=1_234_567,
        num_sources_used=4,
        server_side_tool_usage_details={"web_search_calls": 2, "x_search_calls": 1, "code_interpreter_calls": 1},
    )
    assert lines(usage) == {
        "input": 400,
        "input_cache_read": 600,
        "output": 50,
        "output_reasoning": 300,
        "search_unit": 4,
        "web_search": 3,
        "tool_call": 1,
    }
    assert (usage.stated_pusd, usage.anomalies) == (123_456_700, ())


def test_xai_chat_that_counts_reasoning_inside_is_recognised_by_its_total() -> None:
    details = {"reasoning_tokens": 30}
    usage = bare(
        "xai.chat", prompt_tokens=10, completion_tokens=50, total_tokens=60, completion_tokens_details=details
    )
    assert lines(usage) == {"input": 10, "output": 20, "output_reasoning": 30}
    assert usage.anomalies == ("reasoning_inside_output:60=10+50",)


def test_xai_text_tokens_include_images_and_cached_tokens_overlap_them() -> None:
    details = {"text_tokens": 2000, "image_tokens": 1500, "cached_tokens": 1800}
    usage = bare(
        "xai.chat", prompt_tokens=2000, completion_tokens=100, total_tokens=2100, prompt_tokens_details=details
    )
    assert lines(usage) == {
        "input_cache_read": 500,
        "input_image": 200,
        "input_image_cache_read": 1300,
        "output": 100,
    }
    assert usage.anomalies == ()


def test_xai_responses_count_reasoning_inside_the_output() -> None:
    details = {"reasoning_tokens": 30}
    usage = bare("xai.responses", input_tokens=10, output_tokens=50, total_tokens=60, output_tokens_details=details)
    assert lines(usage) == {"input": 10, "output": 20, "output_reasoning": 30}
    assert usage.anomalies == ()


def test_perplexity_charges_a_request_fee_by_search_context() -> None:
    usage = bare("perplexity.chat", prompt_tokens=9, completion_tokens=8, total_tokens=17, search_context_size="low")
    assert lines(usage) == {"input": 9, "output": 8, "request": 1}
    assert usage.facets == (("search_context", "low"),)


def test_perplexity_deep_research_adds_reasoning_citations_and_searches() -> None:
    usage = bare(
        "perplexity.chat",
        prompt_tokens=33,
        completion_tokens=7163,
        total_tokens=7196,
        citation_tokens=20_016,
        num_search_queries=30,
        reasoning_tokens=500,
        cost={"total_cost": 0.533317, "request_cost": None},
    )
    assert lines(usage) == {
        "input": 33,
        "output": 7163,
        "output_reasoning": 500,
        "output_citation": 20_016,
        "web_search": 30,
    }
    assert (usage.stated_pusd, usage.anomalies) == (533_317_000_000, ())


def test_perplexitys_own_cost_decides_whether_a_request_was_charged() -> None:
    totals = {"prompt_tokens": 1, "completion_tokens": 1, "search_context_size": "high"}
    paid = bare("perplexity.chat", **totals, cost={"total_cost": 0.006, "request_cost": 0.005})
    free = bare("perplexity.chat", **totals, cost={"total_cost": 0.001})
    assert ("request" in lines(paid), "request" in lines(free)) == (True, False)
    assert (
        bare("perplexity.responses", input_tokens=1, output_tokens=1, cost={"total_cost": "0.1"}).stated_pusd
        == 10**11
    )


def test_openrouter_states_its_charge_exactly() -> None:
    body = b'{"model":"a/b","usage":{"prompt_tokens":1,"completion_tokens":2,"cost":0.0174000000001}}'
    usage = reader("openrouter.chat").from_body(body)
    assert (usage.stated_pusd, usage.facets) == (17_400_000_000, ())


def test_openrouter_with_the_callers_own_key_shows_the_second_bill() -> None:
    usage = bare(
        "openrouter.chat",
        prompt_tokens=1,
        completion_tokens=2,
        cost=0.001,
        is_byok=True,
        cost_details={"upstream_inference_cost": 0.02},
        server_tool_use={"web_search_requests": 2},
    )
    assert usage.stated_pusd == 1_000_000_000
    assert usage.facets == (("byok", "true"), ("byok_upstream_pusd", "20000000000"))
    assert usage.anomalies == ("second_bill:upstream_inference_cost=0.02",)
    assert lines(usage)["web_search"] == 2


@pytest.mark.parametrize("cost", [-1, "NaN", "free", [1], 1e300])
def test_a_cost_that_makes_no_sense_is_not_stated(cost: object) -> None:
    usage = bare("openrouter.chat", prompt_tokens=1, completion_tokens=2, cost=cost)
    assert usage.stated_pusd is None
    assert len(usage.anomalies) == 1
    assert lines(usage) == {"input": 1, "output": 2}


def test_mistral_audio_prompts_have_a_length() -> None:
    totals = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert lines(bare("mistral.chat", **totals, prompt_audio_seconds=3.2)) == {
        "input": 5,
        "output": 6,
        "input_audio_ms": 3200,
    }
    assert lines(bare("mistral.chat", **totals, prompt_audio_seconds={})) == {"input": 5, "output": 6}


def test_mistral_ocr_is_billed_by_the_page() -> None:
    body = {"pages": [], "model": "mistral-ocr-2512", "usage_info": {"pages_processed": 12, "doc_size_bytes": 9}}
    usage = reader("mistral.ocr").from_body(json.dumps(body).encode())
    assert (lines(usage), usage.source, usage.model) == ({"page": 12}, "reported", "mistral-ocr-2512")
    assert reader("mistral.ocr").from_body(b'{"usage_info":{}}').source == "missing"


COHERE = {
    "billed_units": {"input_tokens": 12.0, "output_tokens": 5.0, "search_units": 1},
    "tokens": {"input_tokens": 512.0, "output_tokens": 9.0},
    "cached_tokens": 8,
}


def test_cohere_bills_billed_units_and_not_tokens() -> None:
    body = {"id": "c1", "finish_reason": "COMPLETE", "message": {}, "usage": COHERE}
    usage = reader("cohere.chat").from_body(json.dumps(body).encode())
    assert lines(usage) == {"input": 4, "input_cache_read": 8, "output": 5, "search_unit": 1}
    assert (usage.finish_reason, usage.upstream_id, usage.anomalies) == ("COMPLETE", "c1", ())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"meta": {"billed_units": {"search_units": 2}}}, {"search_unit": 2}),
        ({"meta": {"billed_units": {"input_tokens": 3, "images": 4}}}, {"input": 3, "image": 4}),
    ],
)
def test_cohere_rerank_and_embed_bill_their_own_units(given: object, expected: dict[str, int]) -> None:
    assert lines(reader_for("cohere", "embeddings").from_body(json.dumps(given).encode())) == expected


def test_cohere_bare_units_are_billed_units_and_tokens_the_last_resort() -> None:
    assert lines(bare("cohere.chat", input_tokens=3, output_tokens=4)) == {"input": 3, "output": 4}
    usage = bare("cohere.chat", tokens={"input_tokens": 3, "output_tokens": 4})
    assert (lines(usage), usage.anomalies) == ({"input": 3, "output": 4}, ("billed_units_missing",))


def test_cohere_streams_say_their_usage_at_the_end() -> None:
    events = [
        {"type": "message-start", "id": "c2"},
        {"type": "content-delta", "delta": {"message": {"content": {"text": "né"}}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": COHERE}},
    ]
    meter = SseMeter(reader("cohere.chat").meter())
    for event in events[:2]:
        meter.feed(f"data: {json.dumps(event)}\n\n".encode())
    assert meter.usage(complete=False).source == "partial"
    meter.feed(f"data: {json.dumps(events[2])}\n\n".encode())
    usage = meter.usage(complete=False)
    assert (lines(usage)["output"], usage.source, usage.upstream_id, meter.text_bytes) == (5, "reported", "c2", 3)


def test_every_flavour_is_found_by_its_name() -> None:
    assert len(FLAVOURS) == len(set(FLAVOURS)) >= 20
    assert all(reader(flavour).flavour == flavour for flavour in FLAVOURS)


@pytest.mark.parametrize(
    ("provider", "api", "flavour"),
    [
        ("openai", "chat", "openai.chat"),
        ("openai", "responses", "openai.responses"),
        ("anthropic", "default", "anthropic.messages"),
        ("anthropic", "chat", "openai.chat"),
        ("google", "default", "google.gemini"),
        ("google", "anthropic", "anthropic.messages"),
        ("google", "chat", "google.chat"),
        ("aws", "default", "aws.converse"),
        ("aws", "anthropic", "anthropic.messages"),
        ("azure", "responses", "openai.responses"),
        ("x-ai", "chat", "xai.chat"),
        ("groq", "default", "openai.chat"),
        ("a-private-server", "chat", "openai.chat"),
        ("a-private-server", "", "openai.chat"),
    ],
)
def test_providers_are_read_by_their_formats(provider: str, api: str, flavour: str) -> None:
    assert reader_for(provider, api).flavour == flavour


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"openai\.chat"):
        reader("nonsense")
    with pytest.raises(KeyError, match="embeddings"):
        reader_for("openai", "nonsense")
