"""What holds for every usage any provider could state: lines are disjoint, sum to the totals, and nothing raises."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.types import Usage
from farthing.core.units import UNITS, is_input, is_output
from farthing.wire.usage import FLAVOURS, SseMeter, reader
from farthing.wire.usage.bedrock_frames import FrameMeter

QUICK = settings(max_examples=150, deadline=None)

counts = st.integers(0, 5000)
maybe = st.none() | counts


def record(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def inputs(usage: Usage) -> int:
    return sum(quantity for part in usage.parts for unit, quantity in part.lines if is_input(unit))


def outputs(usage: Usage) -> int:
    return sum(quantity for part in usage.parts for unit, quantity in part.lines if is_output(unit))


def assert_sound(usage: Usage) -> None:
    """Known units, each once per part, no zeros, nothing negative; and the record survives the ledger's encoding."""
    for part in usage.parts:
        units = [unit for unit, _ in part.lines]
        assert set(units) <= UNITS
        assert len(units) == len(set(units)) > 0
        assert all(type(quantity) is int and quantity > 0 for _, quantity in part.lines)
        assert part.tier_basis >= 0
    assert msgspec.json.decode(msgspec.json.encode(usage), type=Usage) == usage
    assert usage.facets == tuple(sorted(usage.facets))
    assert usage.stated_pusd is None or usage.stated_pusd >= 0


kinds = record(text_tokens=maybe, audio_tokens=maybe, image_tokens=maybe)
openai_usages = st.fixed_dictionaries(
    {"prompt_tokens": counts, "completion_tokens": counts},
    optional={
        "prompt_tokens_details": st.none()
        | record(
            cached_tokens=maybe,
            cache_write_tokens=maybe,
            cache_write_tokens_details=st.none() | record(ttl_30m_tokens=maybe, ttl_12h_tokens=maybe),
            text_tokens=maybe,
            audio_tokens=maybe,
            image_tokens=maybe,
            cached_tokens_details=st.none() | kinds,
        ),
        "completion_tokens_details": st.none()
        | record(
            reasoning_tokens=maybe,
            audio_tokens=maybe,
            image_tokens=maybe,
            rejected_prediction_tokens=maybe,
            accepted_prediction_tokens=maybe,
        ),
        "prompt_cache_hit_tokens": maybe,
        "prompt_cache_miss_tokens": maybe,
        "cached_tokens": maybe,
    },
)


@given(openai_usages)
@QUICK
def test_openai_lines_sum_to_the_reported_totals_however_the_parts_contradict(usage: dict[str, Any]) -> None:
    usage = {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}
    for flavour in ("openai.chat", "openrouter.chat", "mistral.chat"):
        found = reader(flavour).from_usage(usage, context={})
        assert_sound(found)
        assert (inputs(found), outputs(found)) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert found.source == "reported"


@given(openai_usages)
@QUICK
def test_xai_and_perplexity_outputs_have_reasoning_on_top(usage: dict[str, Any]) -> None:
    details = usage.get("completion_tokens_details") or {}
    reasoning = details.get("reasoning_tokens") or 0
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    xai = reader("xai.chat").from_usage({**usage, "total_tokens": prompt + completion + reasoning}, context={})
    assert_sound(xai)
    assert (inputs(xai), outputs(xai)) == (prompt, completion + reasoning)
    plain = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    sonar = reader("perplexity.chat").from_usage({**plain, "reasoning_tokens": reasoning}, context={})
    assert (inputs(sonar), outputs(sonar), sonar.anomalies) == (prompt, completion + reasoning, ())


runs = st.fixed_dictionaries(
    {"input_tokens": counts, "output_tokens": counts},
    optional={
        "cache_read_input_tokens": maybe,
        "cache_creation_input_tokens": maybe,
        "cache_creation": st.none() | record(ephemeral_5m_input_tokens=maybe, ephemeral_1h_input_tokens=maybe),
        "output_tokens_details": st.none() | record(thinking_tokens=maybe),
    },
)


def input_of(run: dict[str, Any]) -> int:
    split = run.get("cache_creation") or {}
    written = run.get("cache_creation_input_tokens")
    if written is None:
        written = sum(quantity or 0 for quantity in split.values())
    return int(run["input_tokens"] + (run.get("cache_read_input_tokens") or 0) + written)


@given(runs)
@QUICK
def test_anthropic_lines_sum_to_input_cache_and_output(usage: dict[str, Any]) -> None:
    found = reader("anthropic.messages").from_usage(usage, context={})
    assert_sound(found)
    assert (inputs(found), outputs(found)) == (input_of(usage), usage["output_tokens"])
    assert sum(part.tier_basis for part in found.parts) in (input_of(usage), 0)


@given(runs, st.lists(runs, min_size=1, max_size=4), st.data())
@QUICK
def test_iterations_are_all_billed_and_never_less_than_the_totals(
    top: dict[str, Any], given_runs: list[dict[str, Any]], data: st.DataObject
) -> None:
    kind = st.sampled_from(["message", "compaction", "advisor_message", "fallback_message", "new"])
    typed = [{**run, "type": data.draw(kind)} for run in given_runs]
    found = reader("anthropic.messages").from_usage({**top, "iterations": typed}, context={})
    assert_sound(found)
    assert inputs(found) >= sum(input_of(run) for run in typed)
    assert outputs(found) >= max(top["output_tokens"], sum(run["output_tokens"] for run in typed))


modalities = st.sampled_from(["TEXT", "AUDIO", "IMAGE", "VIDEO", "DOCUMENT", "MODALITY_UNSPECIFIED", "NEW"])
details = st.none() | st.lists(st.fixed_dictionaries({"modality": modalities, "tokenCount": counts}), max_size=4)


@given(
    st.fixed_dictionaries(
        {"promptTokenCount": counts},
        optional={
            "candidatesTokenCount": maybe,
            "thoughtsTokenCount": maybe,
            "cachedContentTokenCount": maybe,
            "toolUsePromptTokenCount": maybe,
            "promptTokensDetails": details,
            "cacheTokensDetails": details,
            "candidatesTokensDetails": details,
        },
    ),
    st.booleans(),
)
@QUICK
def test_gemini_lines_sum_to_prompt_tool_candidates_and_thoughts(usage: dict[str, Any], inside: bool) -> None:
    prompt = usage["promptTokenCount"] + (usage.get("toolUsePromptTokenCount") or 0)
    shown, thoughts = usage.get("candidatesTokenCount") or 0, usage.get("thoughtsTokenCount") or 0
    inside = inside and 0 < thoughts <= shown
    total = prompt + shown + (0 if inside else thoughts)
    found = reader("google.gemini").from_usage({**usage, "totalTokenCount": total}, context={})
    assert_sound(found)
    assert (inputs(found), outputs(found)) == (prompt, total - prompt)


@given(
    record(
        inputTokens=counts,
        outputTokens=counts,
        cacheReadInputTokens=maybe,
        cacheWriteInputTokens=maybe,
        cacheDetails=st.none()
        | st.lists(record(ttl=st.sampled_from(["5m", "1h", "1d"]), inputTokens=maybe), max_size=3),
    )
)
@QUICK
def test_bedrock_lines_sum_to_input_cache_and_output(usage: dict[str, Any]) -> None:
    found = reader("aws.converse").from_usage(usage, context={})
    assert_sound(found)
    if found.source == "missing":
        return
    written = usage.get("cacheWriteInputTokens")
    if written is None:
        known = [one for one in usage.get("cacheDetails") or [] if one.get("ttl") in ("5m", "1h")]
        written = sum(one.get("inputTokens") or 0 for one in known)
    expected = (usage.get("inputTokens") or 0) + (usage.get("cacheReadInputTokens") or 0) + written
    assert (inputs(found), outputs(found)) == (expected, usage.get("outputTokens") or 0)


NAMES = [
    "id", "model", "service_tier", "choices", "usage", "index", "finish_reason", "delta", "content",
    "reasoning", "text", "tool_calls", "function", "name", "arguments", "x_groq", "type", "message",
    "stop_reason", "thinking", "partial_json", "response", "item", "action", "container_id", "output",
    "tools", "tool_usage", "web_search", "image_gen", "num_requests", "incomplete_details", "reason",
    "status", "prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens",
    "prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details",
    "cached_tokens", "cache_write_tokens", "cached_tokens_details", "audio_tokens", "image_tokens",
    "reasoning_tokens", "thinking_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "cache_creation", "iterations", "ephemeral_1h_input_tokens", "server_tool_use", "web_search_requests",
    "speed", "inference_geo", "candidates", "usageMetadata", "promptTokenCount", "candidatesTokenCount",
    "totalTokenCount", "thoughtsTokenCount", "cacheTokensDetails", "modality", "tokenCount",
    "groundingMetadata", "webSearchQueries", "groundingChunks", "maps", "parts", "modelVersion",
    "inputTokens", "outputTokens", "cacheDetails", "ttl", "serviceTier", "stopReason", "results",
    "inputTextTokenCount", "billed_units", "meta", "search_units", "cost", "cost_details", "total_cost",
    "is_byok", "cost_in_usd_ticks", "prompt_audio_seconds", "seconds", "usage_info", "pages_processed",
    "data", "size", "svg_usage", "session", "custom_id", "result", "error", "body", "status_code", "object",
]  # fmt: skip
TYPES = ["message_start", "message_delta", "content_block_delta", "response.completed", "response.output_item.done",
         "response.done", "message-end", "image_generation.completed", "message", "compaction", "TEXT"]  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.integers(0, 100)
    | st.floats(allow_nan=False)
    | st.sampled_from([*TYPES, "12", "-3", "1e5", "\ud800", "", "x" * 50])
)
json_values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=25,
)


@pytest.mark.parametrize("flavour", FLAVOURS)
@given(given_values=st.lists(json_values, min_size=1, max_size=3), kind=st.sampled_from(TYPES))
@settings(max_examples=60, deadline=None)
def test_no_json_makes_a_reader_raise_or_an_unsound_usage(flavour: str, given_values: list[Any], kind: str) -> None:
    found = reader(flavour)
    meter = SseMeter(found.meter())
    for value in given_values:
        body = json.dumps(value).encode()
        assert_sound(found.from_body(body))
        for name in ("usage", "usageMetadata", "meta", "usage_info"):
            assert_sound(found.from_body(json.dumps({name: value}).encode()))
        if isinstance(value, dict):
            assert_sound(found.from_usage(value, context={"batch": True, "region": None}))
            meter.feed(b"data: " + json.dumps({"type": kind, **value}).encode() + b"\n\n")
        meter.feed(b"data: " + body + b"\n\n")
        assert_sound(meter.usage(complete=False))
    assert_sound(meter.usage(complete=True))


@pytest.mark.parametrize("flavour", FLAVOURS)
@given(data=st.binary(max_size=200))
@settings(max_examples=30, deadline=None)
def test_no_bytes_make_a_reader_raise(flavour: str, data: bytes) -> None:
    assert_sound(reader(flavour).from_body(data))
    meter = SseMeter(reader(flavour).meter())
    meter.feed(b"data: " + data)
    assert_sound(meter.usage(complete=True))


def test_absurd_nesting_is_no_json() -> None:
    deep = b'{"usage":' * 20_000
    assert all(reader(flavour).from_body(deep).source == "missing" for flavour in FLAVOURS)
    meter = FrameMeter(reader("aws.converse").meter())
    assert meter.usage(complete=False).source == "partial"
