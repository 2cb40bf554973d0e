"""Images, transcription, realtime sessions and batch files."""

import json

import pytest

from farthing.core.types import Usage
from farthing.wire.usage import SseMeter, reader
from farthing.wire.usage.batches import BatchReader
from farthing.wire.usage.registry import reader as registered


def lines(usage: Usage, part: int = 0) -> dict[str, int]:
    return dict(usage.parts[part].lines)


def body(flavour: str, given: object) -> Usage:
    return reader(flavour).from_body(json.dumps(given).encode())


IMAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 1056,
    "total_tokens": 1106,
}


def test_image_output_without_a_breakdown_is_all_image_tokens() -> None:
    usage = body(
        "openai.images", {"created": 1, "data": [{}], "size": "1024x1024", "quality": "high", "usage": IMAGE}
    )
    assert lines(usage) == {"input": 10, "input_image": 40, "output_image": 1056}
    assert usage.facets == (("image_quality", "high"), ("image_size", "1024x1024"))


def test_image_output_with_a_breakdown_keeps_its_text_and_svg_has_its_own_model() -> None:
    svg = {"model": "gpt-5-svg", "input_tokens": 5, "output_tokens": 9, "reasoning_tokens": 4, "total_tokens": 14}
    details = {"text_tokens": 56, "image_tokens": 1000}
    usage = body("openai.images", {"usage": {**IMAGE, "output_tokens_details": details}, "svg_usage": svg})
    assert lines(usage) == {"input": 10, "input_image": 40, "output": 56, "output_image": 1000}
    assert (usage.parts[1].model, lines(usage, 1)) == ("gpt-5-svg", {"input": 5, "output": 5, "output_reasoning": 4})


def test_pictures_without_tokens_are_counted() -> None:
    usage = body("openai.images", {"data": [{"url": "a"}, {"url": "b"}]})
    assert (lines(usage), usage.source) == ({"image": 2}, "estimated")
    assert body("openai.images", {"created": 1}).source == "missing"


def test_an_image_stream_adds_its_finished_pictures() -> None:
    meter = SseMeter(reader("openai.images").meter())
    partial = {"type": "image_generation.partial_image", "b64_json": "x"}
    done = {"type": "image_generation.completed", "size": "auto", "usage": IMAGE}
    meter.feed(f"data: {json.dumps(partial)}\n\n".encode())
    assert meter.usage(complete=False).source == "partial"
    meter.feed(f"data: {json.dumps(done)}\n\ndata: {json.dumps(done)}\n\n".encode())
    assert [dict(part.lines)["output_image"] for part in meter.usage(complete=True).parts] == [1056, 1056]


def test_transcription_is_billed_by_tokens_or_by_length() -> None:
    tokens = {"type": "tokens", "input_tokens": 14, "input_token_details": {"audio_tokens": 12, "text_tokens": 2},
              "output_tokens": 45, "total_tokens": 59}  # fmt: skip
    assert lines(body("openai.transcription", {"text": "a", "usage": tokens})) == {
        "input": 2,
        "input_audio": 12,
        "output": 45,
    }
    usage = body("openai.transcription", {"text": "a", "usage": {"type": "duration", "seconds": 4.0001}})
    assert (lines(usage), usage.source) == ({"input_audio_ms": 4001}, "reported")


def test_a_transcription_stream_ends_with_its_usage() -> None:
    meter = SseMeter(reader("openai.transcription").meter())
    done = {"type": "transcript.text.done", "text": "a", "usage": {"type": "duration", "seconds": 3}}
    meter.feed(f"data: {json.dumps(done)}\n\n".encode())
    assert lines(meter.usage(complete=True)) == {"input_audio_ms": 3000}


REALTIME = {
    "input_tokens": 1000,
    "output_tokens": 300,
    "total_tokens": 1300,
    "input_token_details": {
        "text_tokens": 400,
        "audio_tokens": 600,
        "image_tokens": 0,
        "cached_tokens": 500,
        "cached_tokens_details": {"text_tokens": 200, "audio_tokens": 300, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 100, "audio_tokens": 200},
}
REALTIME_LINES = {
    "input": 200,
    "input_cache_read": 200,
    "input_audio": 300,
    "input_audio_cache_read": 300,
    "output": 100,
    "output_audio": 200,
}


def test_realtime_kinds_are_joined_with_the_cache() -> None:
    done = {"type": "response.done", "response": {"id": "r", "status": "completed", "usage": REALTIME}}
    usage = body("openai.realtime", done)
    assert (lines(usage), usage.anomalies, usage.finish_reason) == (REALTIME_LINES, (), "completed")
    assert lines(reader("openai.realtime").from_usage(REALTIME, context={})) == REALTIME_LINES


def test_a_session_is_one_part_per_response_and_per_transcription() -> None:
    session = {"model": "gpt-realtime", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
    heard = "conversation.item.input_audio_transcription.completed"
    meter = reader("openai.realtime").meter()
    for event in (
        {"type": heard, "usage": {"type": "duration", "seconds": 1}},
        {"type": "session.updated", "session": session},
        {"type": heard, "usage": {"type": "duration", "seconds": 2}},
        {"type": "response.output_text.delta", "delta": "hello"},
        {"type": "response.done", "response": {"usage": REALTIME}},
        {"type": "response.done", "response": {"usage": REALTIME}},
    ):
        meter.event(json.dumps(event).encode())
    usage = meter.usage(complete=True)
    assert [part.model for part in usage.parts] == ["input_audio_transcription", "gpt-4o-transcribe", "", ""]
    assert [part.tier_basis for part in usage.parts] == [0, 0, 1000, 1000]
    assert (usage.model, meter.text_bytes, len(json.loads(usage.raw))) == ("gpt-realtime", 5, 4)


def test_a_session_in_which_nothing_finished_has_no_usage() -> None:
    assert reader("openai.realtime").meter().usage(complete=False).source == "partial"
    assert body("openai.realtime", {"type": "response.done", "response": {}}).source == "missing"


def batch(flavour: str) -> BatchReader:
    found = registered(flavour)
    assert isinstance(found, BatchReader)
    return found


def test_batch_lines_are_read_by_the_answer_they_hold_and_rated_as_batch() -> None:
    chat = {"object": "chat.completion", "model": "gpt-4o", "service_tier": "default",
            "usage": {"prompt_tokens": 3, "completion_tokens": 4}}  # fmt: skip
    response = {"object": "response", "usage": {"input_tokens": 5, "output_tokens": 6}}
    vectors = {"object": "list", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    rows = [
        {"custom_id": str(place), "response": {"status_code": 200, "body": inner}, "error": None}
        for place, inner in enumerate((chat, response, vectors))
    ]
    data = b"\n".join(json.dumps(row).encode() for row in rows) + b"\n"
    found = list(batch("openai.batch").lines(data))
    assert [line.custom_id for line in found] == ["0", "1", "2"]
    assert [lines(line.usage) for line in found] == [
        {"input": 3, "output": 4},
        {"input": 5, "output": 6},
        {"input": 7},
    ]
    assert {line.usage.service_tier for line in found} == {"batch"}


@pytest.mark.parametrize(
    ("flavour", "row"),
    [
        ("openai.batch", {"custom_id": "a", "response": None, "error": {"code": "batch_expired"}}),
        ("openai.batch", {"custom_id": "a", "response": {"status_code": 400, "body": {"error": {}}}}),
        ("anthropic.batch", {"custom_id": "a", "result": {"type": "expired"}}),
    ],
)
def test_failed_batch_lines_consumed_nothing(flavour: str, row: dict[str, object]) -> None:
    usage = batch(flavour).from_body(json.dumps(row).encode())
    assert (usage.source, usage.parts) == ("reported", ())


def test_a_failed_batch_line_with_usage_is_billed() -> None:
    row = {"response": {"status_code": 500, "body": {"usage": {"prompt_tokens": 3, "completion_tokens": 0}}}}
    assert lines(batch("openai.batch").from_body(json.dumps(row).encode())) == {"input": 3}


def test_anthropic_batch_results_hold_messages() -> None:
    message = {"model": "claude", "usage": {"input_tokens": 3, "output_tokens": 4, "service_tier": "batch"}}
    row = {"custom_id": "b", "result": {"type": "succeeded", "message": message}}
    line = batch("anthropic.batch").line(json.dumps(row).encode())
    assert (line.custom_id, lines(line.usage), line.usage.service_tier) == ("b", {"input": 3, "output": 4}, "batch")


@pytest.mark.parametrize("row", [b"", b"[]", b"{}", b"x"])
def test_lines_that_hold_nothing_are_missing(row: bytes) -> None:
    assert batch("openai.batch").from_body(row).source == "missing"
