"""Chat, completions and embeddings in OpenAI's format, from OpenAI and from those who copy it."""

import json

import pytest

from farthing.core.types import Usage
from farthing.wire.usage import SseMeter, reader, reader_for

CHAT = reader("openai.chat")


def chat(usage: object, **members: object) -> Usage:
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "future": {"x": [1, None]}}
    return CHAT.from_body(json.dumps({**body, "usage": usage, **members}).encode())


def lines(usage: Usage, part: int = 0) -> dict[str, int]:
    return dict(usage.parts[part].lines)


def stream(*events: object, end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + end


def metered(data: bytes, *, complete: bool = True, flavour: str = "openai.chat") -> Usage:
    meter = SseMeter(reader(flavour).meter())
    meter.feed(data)
    return meter.usage(complete=complete)


def chunk(**members: object) -> dict[str, object]:
    return {"id": "chatcmpl-9", "object": "chat.completion.chunk", "model": "gpt-5", "choices": [], **members}


FULL = {
    "prompt_tokens": 2006,
    "completion_tokens": 900,
    "total_tokens": 2906,
    "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 500, "audio_tokens": 0, "new": 1},
    "completion_tokens_details": {
        "reasoning_tokens": 600,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 40,
        "rejected_prediction_tokens": 60,
    },
}


def test_a_full_answer_becomes_disjoint_lines_with_its_facts() -> None:
    usage = chat(FULL, service_tier="priority", choices=[{"index": 0, "finish_reason": "stop", "message": {}}])
    assert usage.source == "reported"
    assert usage.parts[0].lines == (
        ("input", 506),
        ("input_cache_read", 1000),
        ("input_cache_write", 500),
        ("output", 240),
        ("output_reasoning", 600),
        ("output_prediction_rejected", 60),
    )
    assert usage.parts[0].tier_basis == 2006
    assert (usage.model, usage.service_tier, usage.finish_reason) == ("gpt-4o-2024-08-06", "priority", "stop")
    assert (usage.upstream_id, usage.anomalies) == ("chatcmpl-1", ())
    assert json.loads(usage.raw) == FULL


def test_the_raw_usage_is_the_providers_own_bytes() -> None:
    body = b'{"model":"m","usage": {"total_tokens" : 3,"prompt_tokens":1,  "completion_tokens":2} }'
    assert CHAT.from_body(body).raw == b'{"total_tokens" : 3,"prompt_tokens":1,  "completion_tokens":2}'


def test_audio_is_split_off_text_on_both_sides() -> None:
    usage = chat(
        {
            "prompt_tokens": 1200,
            "completion_tokens": 600,
            "total_tokens": 1800,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 1000},
            "completion_tokens_details": {"audio_tokens": 500},
        }
    )
    assert lines(usage) == {"input": 200, "input_audio": 1000, "output": 100, "output_audio": 500}


def test_cached_tokens_beyond_all_text_take_from_images_then_audio() -> None:
    details = {"cached_tokens": 950, "audio_tokens": 100, "image_tokens": 600}
    usage = chat({"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": details})
    assert lines(usage) == {
        "input_cache_read": 300,
        "input_image_cache_read": 600,
        "input_audio": 50,
        "input_audio_cache_read": 50,
    }


def test_an_explicit_zero_is_reported_and_is_not_missing() -> None:
    usage = chat({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    assert (usage.source, usage.parts, usage.anomalies) == ("reported", (), ())


@pytest.mark.parametrize("usage", [None, {}, [], "x", 7])
def test_an_answer_without_usable_usage_is_missing(usage: object) -> None:
    assert chat(usage).source == "missing"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"<html>", b"\xff\xfe", b'{"usage":' + b"[" * 5000])
def test_a_body_that_is_no_json_object_is_missing_and_says_so(body: bytes) -> None:
    assert CHAT.from_body(body) == Usage(source="missing", anomalies=("body_not_json",))


def test_more_cached_than_prompt_keeps_the_total_and_is_noted() -> None:
    usage = chat({"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 120}})
    assert lines(usage) == {"input_cache_read": 100, "output": 5}
    assert usage.anomalies == ("cached_gt_input:120>100",)


def test_contradicting_output_parts_keep_the_total_and_are_noted() -> None:
    details = {"reasoning_tokens": 8, "audio_tokens": 4, "rejected_prediction_tokens": 1}
    usage = chat({"prompt_tokens": 1, "completion_tokens": 10, "completion_tokens_details": details})
    assert lines(usage) == {"input": 1, "output_reasoning": 8, "output_prediction_rejected": 1, "output_audio": 1}
    assert usage.anomalies == ("audio_gt_output:4>1",)


def test_a_grand_total_that_does_not_add_up_is_noted() -> None:
    usage = chat({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 17})
    assert lines(usage) == {"input": 10, "output": 5}
    assert usage.anomalies == ("total_mismatch:15!=17",)


def test_a_server_that_counts_reasoning_beside_the_output_is_recognised_by_its_total() -> None:
    usage = chat(
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        }
    )
    assert lines(usage) == {"input": 10, "output": 5, "output_reasoning": 20}
    assert usage.anomalies == ("reasoning_beside_output:35=10+5+20",)


@pytest.mark.parametrize(
    ("given", "read", "note"),
    [
        ('"12"', 12, 'not_an_integer:prompt_tokens="12"'),
        ("12.0", 12, "not_an_integer:prompt_tokens=12.0"),
        ("1.2e1", 12, "not_an_integer:prompt_tokens=1.2e1"),
        ("11.2", 12, "not_an_integer:prompt_tokens=11.2"),
        ("-12", 0, "negative:prompt_tokens=-12"),
        ("true", 0, "not_a_number:prompt_tokens=true"),
        ('"many"', 0, 'not_a_number:prompt_tokens="many"'),
        ("[1]", 0, "not_a_number:prompt_tokens=[1]"),
        ("1e400", 0, "absurd:prompt_tokens=1e400"),
        ("9" * 40, 0, "absurd:prompt_tokens=" + "9" * 32),
    ],
)
def test_a_wrongly_typed_total_is_read_as_honestly_as_it_allows(given: str, read: int, note: str) -> None:
    body = '{"usage":{"prompt_tokens":GIVEN,"completion_tokens":5,"prompt_tokens_details":null}}'.replace(
        "GIVEN", given
    )
    usage = CHAT.from_body(body.encode())
    assert lines(usage) == ({"input": read, "output": 5} if read else {"output": 5})
    assert note in usage.anomalies
    assert usage.source == ("reported" if read else "partial")


def test_an_unreadable_total_follows_from_the_grand_total() -> None:
    usage = chat({"prompt_tokens": -1, "completion_tokens": 5, "total_tokens": 12})
    assert lines(usage) == {"input": 7, "output": 5}
    assert usage.source == "reported"
    assert usage.anomalies == ("negative:prompt_tokens=-1", "input_total_missing")


def test_one_wrong_part_costs_no_other_part() -> None:
    details = {"cached_tokens": 40, "audio_tokens": "x"}
    usage = chat({"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": details}, model=7)
    assert lines(usage) == {"input": 60, "input_cache_read": 40, "output": 5}
    assert usage.anomalies == ("not_text:model", 'not_a_number:prompt_tokens_details.audio_tokens="x"')


def test_null_details_are_no_anomaly() -> None:
    usage = chat({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": None, "prompt_tokens_details": None})
    assert usage.anomalies == ()


def test_embeddings_have_no_output_and_miss_none() -> None:
    body = {
        "object": "list",
        "model": "text-embedding-3-small",
        "data": [],
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    usage = reader("openai.embeddings").from_body(json.dumps(body).encode())
    assert (lines(usage), usage.source, usage.anomalies) == ({"input": 8}, "reported", ())


@pytest.mark.parametrize(
    ("provider", "usage"),
    [
        ("deepseek", {"prompt_cache_hit_tokens": 80, "prompt_cache_miss_tokens": 20}),
        ("together", {"cached_tokens": 80}),
        ("groq", {"prompt_tokens_details": {"cached_tokens": 80}, "queue_time": 0.1}),
        ("vllm", {"prompt_tokens_details": {"cached_tokens": 80}}),
        ("azure", {"prompt_tokens_details": {"cached_tokens": 80, "audio_tokens": 0}}),
    ],
)
def test_compatible_providers_say_cached_tokens_in_their_own_place(provider: str, usage: dict[str, object]) -> None:
    totals = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
    found = reader_for(provider, "chat").from_usage({**totals, **usage}, context={})
    assert lines(found) == {"input": 20, "input_cache_read": 80, "output": 7}
    assert found.anomalies == ()


def test_disagreeing_cache_figures_are_noted() -> None:
    given = {
        "prompt_tokens": 100,
        "completion_tokens": 0,
        "prompt_cache_hit_tokens": 80,
        "prompt_cache_miss_tokens": 30,
    }
    assert CHAT.from_usage(given, context={}).anomalies == ("cache_hit_miss_mismatch:110!=100",)


def test_the_context_fills_in_tier_region_and_batch() -> None:
    given = {"prompt_tokens": 1, "completion_tokens": 1}
    found = CHAT.from_usage(given, context={"service_tier": "default", "processing": "batch", "region": "eu"})
    assert (found.service_tier, found.facets) == ("batch", (("region", "eu"),))


def test_a_mapping_that_json_cannot_hold_is_still_read() -> None:
    found = CHAT.from_usage({"prompt_tokens": 10**30, "completion_tokens": 4, "when": {1, 2}}, context={})
    assert lines(found) == {"output": 4}
    assert found.source == "partial"


TEXT = chunk(
    choices=[{"index": 0, "delta": {"role": "assistant", "content": "Hé\n"}, "finish_reason": None}], usage=None
)
STOP = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None)
LAST = chunk(usage=FULL, service_tier="default")


def test_a_stream_ends_with_a_usage_chunk_without_choices() -> None:
    usage = metered(stream(TEXT, STOP, LAST))
    assert lines(usage)["output_reasoning"] == 600
    assert (usage.source, usage.model, usage.finish_reason) == ("reported", "gpt-5", "stop")
    assert (usage.service_tier, usage.upstream_id) == ("default", "chatcmpl-9")


def test_azure_openrouter_and_crlf_oddities_change_nothing() -> None:
    first = chunk(model="", id="", prompt_filter_results=[{"prompt_index": 0}])
    plain = stream(first, TEXT, STOP, LAST)
    odd = b": OPENROUTER PROCESSING\r\n\r\n" + plain.replace(b"\n", b"\r\n") + b": bye\r\n\r\n"
    assert metered(odd) == metered(plain) == metered(stream(TEXT, STOP, LAST))


def test_a_complete_stream_without_usage_is_missing_and_a_cut_one_partial() -> None:
    assert metered(stream(TEXT, STOP)).source == "missing"
    cut = metered(stream(TEXT, end=b""), complete=False)
    assert (cut.source, cut.parts, cut.model) == ("partial", (), "gpt-5")


def test_a_stream_that_breaks_after_its_usage_is_reported() -> None:
    assert metered(stream(TEXT, STOP, LAST, end=b""), complete=False).source == "reported"


def test_usage_that_repeats_in_every_chunk_is_cumulative_and_partial_until_the_end() -> None:
    def step(count: int, finish: str | None) -> dict[str, object]:
        usage = {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}
        return chunk(choices=[{"index": 0, "delta": {"content": "a"}, "finish_reason": finish}], usage=usage)

    cut = metered(stream(step(1, None), step(2, None), end=b""), complete=False)
    assert (lines(cut), cut.source) == ({"input": 10, "output": 2}, "partial")
    whole = metered(stream(step(1, None), step(2, None), step(3, "stop"), end=b""), complete=False)
    assert (lines(whole), whole.source) == ({"input": 10, "output": 3}, "reported")


def test_two_choices_are_final_only_when_both_finished() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    one = chunk(
        choices=[{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}], usage=usage
    )
    half = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=usage)
    assert metered(stream(one, half, end=b""), complete=False).source == "partial"


@pytest.mark.parametrize(
    "last",
    [
        chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "usage": FULL}]),
        chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], x_groq={"id": "r", "usage": FULL}),
    ],
)
def test_stream_usage_is_found_where_moonshot_and_groq_put_it(last: dict[str, object]) -> None:
    assert lines(metered(stream(TEXT, last)))["output_prediction_rejected"] == 60


def test_text_bytes_count_what_the_model_said_in_utf8() -> None:
    call = {"index": 0, "function": {"name": "look", "arguments": '{"q":1}'}}
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "ok"}]
    meter = SseMeter(CHAT.meter())
    meter.feed(
        stream(
            TEXT,
            chunk(choices=[{"index": 0, "delta": {"reasoning_content": "why", "reasoning": "why"}}]),
            chunk(choices=[{"index": 0, "delta": {"tool_calls": [call]}}]),
            chunk(choices=[{"index": 0, "delta": {"content": parts}}]),
            chunk(choices=[{"index": 0, "text": "old"}]),
        )
    )
    assert meter.text_bytes == len("Hé\n".encode()) + 3 + len('look{"q":1}') + 4 + 3


def test_skipping_events_without_a_mark_changes_no_usage() -> None:
    events = [json.dumps(event).encode() for event in (TEXT, TEXT, STOP, LAST)] + [b"[DONE]"]
    meter = CHAT.meter()
    fed = [data for place, data in enumerate(events) if place == 0 or any(mark in data for mark in meter.marks)]
    assert len(fed) == 4
    for data in fed:
        meter.event(data)
    assert meter.usage(complete=True) == metered(stream(TEXT, TEXT, STOP, LAST))


def test_asking_for_usage_twice_gives_the_same_answer() -> None:
    meter = SseMeter(CHAT.meter())
    meter.feed(stream(TEXT, STOP, chunk(usage={**FULL, "prompt_tokens": 1})))
    assert meter.usage(complete=True) == meter.usage(complete=True)


def test_of_disagreeing_cache_figures_the_largest_is_taken() -> None:
    given = {
        "prompt_tokens": 100,
        "completion_tokens": 1,
        "cached_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 70},
    }
    usage = CHAT.from_usage(given, context={})
    assert (lines(usage), usage.anomalies) == (
        {"input": 30, "input_cache_read": 70, "output": 1},
        ("cached_tokens_disagree:70!=20",),
    )


def test_cache_writes_are_taken_from_text_before_images() -> None:
    details = {"cached_tokens": 100, "cache_write_tokens": 350, "image_tokens": 600}
    usage = chat({"prompt_tokens": 1000, "completion_tokens": 1, "prompt_tokens_details": details})
    assert lines(usage) == {"input_cache_read": 100, "input_cache_write": 350, "input_image": 550, "output": 1}
    less = chat(
        {
            "prompt_tokens": 1000,
            "completion_tokens": 1,
            "prompt_tokens_details": {**details, "cache_write_tokens": 200},
        }
    )
    assert lines(less) == {
        "input": 100,
        "input_cache_read": 100,
        "input_cache_write": 200,
        "input_image": 600,
        "output": 1,
    }
