"""Lenient reading covers every field of every provider record, and the rare corners are read honestly."""

import importlib
import inspect
import json
import pkgutil
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import farthing.wire.usage as package
from farthing.core.types import Usage
from farthing.wire.usage import SseMeter, reader
from farthing.wire.usage.bedrock_invoke import InvokeReader
from farthing.wire.usage.reading import read, strict_json


def records() -> list[type[msgspec.Struct]]:
    """Every record that is decoded from provider bytes."""
    found = set()
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, msgspec.Struct) and kind.__module__.startswith(package.__name__):
                found.add(kind)
    ours = {"BatchLine", "Facts", "Totals"}
    return sorted(
        (kind for kind in found if kind.__name__ not in ours), key=lambda kind: (kind.__module__, kind.__name__)
    )


@pytest.mark.parametrize("kind", records(), ids=lambda kind: f"{kind.__module__.rsplit('.')[-1]}.{kind.__name__}")
def test_every_field_survives_every_type(kind: type[msgspec.Struct]) -> None:
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    decoder = msgspec.json.Decoder(kind)
    for value in (None, True, -1, 10**30, 1.5, "x", [], [None, [], {}, "x"], {}, {"a": 1}):
        assert read(decoder, json.dumps(dict.fromkeys(names, value)).encode(), []) is not None


def lines(usage: Usage) -> dict[str, int]:
    return dict(usage.parts[0].lines)


def bare(flavour: str, **usage: object) -> Usage:
    return reader(flavour).from_usage(usage, context={})


def test_a_mapping_that_cannot_be_written_down_is_missing_and_says_so() -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    usage = reader("openai.chat").from_usage(loop, context={})
    assert (usage.source, usage.anomalies) == ("missing", ("usage_unreadable", "usage_without_totals"))


def test_numbers_that_are_none_are_named() -> None:
    usage = bare("openai.chat", prompt_tokens="1-2", completion_tokens=3)
    assert 'not_a_number:prompt_tokens="1-2"' in usage.anomalies


def test_a_part_beyond_the_grand_total_is_noted() -> None:
    usage = bare("openai.chat", completion_tokens=9, total_tokens=5)
    assert lines(usage) == {"output": 9}
    assert usage.anomalies == ("input_total_missing", "part_gt_total:9>5", "total_mismatch:9!=5")


def test_a_tier_inside_the_usage_is_served_unless_the_answer_names_one() -> None:
    assert (
        bare("openai.chat", prompt_tokens=1, completion_tokens=1, service_tier="on_demand").service_tier == "default"
    )


def test_anomalies_are_bounded() -> None:
    runs = [{"input_tokens": -place - 1, "output_tokens": 1} for place in range(500)]
    usage = bare("anthropic.messages", input_tokens=1, output_tokens=500, iterations=runs)
    assert len(usage.anomalies) == 32


def test_gemini_without_a_prompt_total_takes_it_from_the_grand_total() -> None:
    usage = bare("google.gemini", candidatesTokenCount=4, totalTokenCount=10)
    assert (lines(usage), usage.anomalies) == ({"input": 6, "output": 4}, ("input_total_missing",))


def test_cohere_units_that_make_no_sense_are_named() -> None:
    usage = bare("cohere.chat", billed_units={"input_tokens": -1, "output_tokens": 2.5, "classifications": 3})
    assert lines(usage) == {"output": 3}
    assert usage.anomalies == (
        "not_a_quantity:input_tokens=-1",
        "not_an_integer:output_tokens=2.5",
        "unmetered:classifications=3",
    )


def test_cohere_streams_of_the_first_version_end_with_a_whole_response() -> None:
    end = {"event_type": "stream-end", "response": {"generation_id": "g", "finish_reason": "COMPLETE",
           "meta": {"billed_units": {"input_tokens": 3, "output_tokens": 4}}}}  # fmt: skip
    meter = SseMeter(reader("cohere.chat").meter())
    meter.feed(f"data: {json.dumps({'event_type': 'text-generation', 'text': 'ab'})}\n\n".encode())
    meter.feed(f"data: {json.dumps(end)}\n\n".encode())
    usage = meter.usage(complete=False)
    assert (lines(usage), usage.source, usage.upstream_id) == ({"input": 3, "output": 4}, "reported", "g")
    assert (meter.text_bytes, usage.finish_reason) == (2, "COMPLETE")


def test_annotated_pages_are_a_facet() -> None:
    usage = bare("mistral.ocr", pages_processed=3, pages_processed_annotation=2)
    assert (lines(usage), usage.facets) == ({"page": 3}, (("annotated_pages", "2"),))


def test_a_length_that_makes_no_sense_is_named() -> None:
    usage = bare("openai.transcription", seconds=-2)
    assert (usage.parts, usage.anomalies) == ((), ("not_a_length:seconds=-2",))


def test_an_invoked_stream_knows_its_text_and_its_end() -> None:
    meter = InvokeReader("aws.invoke").meter()
    meter.event(b'{"type":"content_block_delta","delta":{"text":"abc"}}')
    assert (meter.text_bytes, meter.ended) == (3, False)
    meter.event(b'{"type":"message_stop"}')
    assert meter.ended


def test_a_messages_stream_may_start_without_usage() -> None:
    meter = reader("anthropic.messages").meter()
    meter.event(b'{"type":"message_start","message":{"id":"m"}}')
    meter.event(
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":4,"output_tokens":5}}'
    )
    usage = meter.usage(complete=True)
    assert (lines(usage), usage.raw) == ({"input": 4, "output": 5}, b'{"input_tokens":4,"output_tokens":5}')


def test_text_of_the_older_function_call_counts() -> None:
    meter = reader("openai.chat").meter()
    meter.event(b'{"choices":[{"delta":{"function_call":{"name":"f","arguments":"{}"},"content":"\\ud800x"}}]}')
    assert meter.text_bytes == 3 + len("\ufffdx".encode())


TOKENS = b'"usage": {"prompt_tokens": 3,  "completion_tokens":4}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"a\\ud83d"}}],' + TOKENS + b"}",
        b'{"choices":[{"message":{"content":"\\uDE00 \\\\ud83d \\ud83d\\ude00 \\" NaN"}}],' + TOKENS + b"}",
        b'{"choices":[{"logprobs":{"content":[{"logprob":-Infinity},{"logprob":NaN}]}}],' + TOKENS + b"}",
        b"\xef\xbb\xbf{" + TOKENS + b"}",
    ],
)
def test_json_that_breaks_the_rules_as_servers_do_costs_no_usage(body: bytes) -> None:
    usage = reader("openai.chat").from_body(body)
    assert (lines(usage), usage.source, usage.anomalies) == ({"input": 3, "output": 4}, "reported", ())
    assert usage.raw == b'{"prompt_tokens": 3,  "completion_tokens":4}'


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
@settings(max_examples=60, deadline=None)
def test_json_that_keeps_the_rules_stays_byte_for_byte(value: Any) -> None:
    for ascii_only in (True, False):
        data = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert strict_json(data) == data


def test_mending_takes_linear_time_on_a_cut_string_full_of_quotes() -> None:
    data = b'{"a":"' + b'\\"' * 200_000
    assert strict_json(data) == data
