"""Bedrock: Converse, InvokeModel bodies and headers, and AWS event-stream frames."""

import base64
import json
import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.errors import StreamBroken
from farthing.core.types import Usage
from farthing.wire.usage import reader
from farthing.wire.usage.bedrock_frames import FrameMeter, FrameSplitter, unwrap
from farthing.wire.usage.bedrock_invoke import InvokeReader

CONVERSE = reader("aws.converse")
INVOKE = InvokeReader("aws.invoke")

USAGE = {
    "inputTokens": 1000,
    "outputTokens": 200,
    "totalTokens": 8200,
    "cacheReadInputTokens": 5000,
    "cacheWriteInputTokens": 2000,
    "cacheDetails": [{"ttl": "5m", "inputTokens": 1500}, {"ttl": "1h", "inputTokens": 400}],
}


def lines(usage: Usage) -> dict[str, int]:
    return dict(usage.parts[0].lines)


def frame(event: str, payload: bytes) -> bytes:
    """A frame as AWS sends it, made from the documented layout."""
    headers = b""
    for name, value in ((b":event-type", event.encode()), (b":message-type", b"event")):
        headers += bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
    headers += bytes([2]) + b"id" + b"\x04" + struct.pack(">i", 7)
    prelude = struct.pack(">II", 12 + len(headers) + len(payload) + 4, len(headers))
    head = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return head + struct.pack(">I", zlib.crc32(head))


def converse_stream() -> bytes:
    metadata = {"usage": USAGE, "metrics": {"latencyMs": 9}, "serviceTier": {"type": "flex"}}
    return (
        frame("messageStart", b'{"role":"assistant"}')
        + frame("contentBlockDelta", json.dumps({"contentBlockIndex": 0, "delta": {"text": "né"}}).encode())
        + frame("contentBlockDelta", json.dumps({"delta": {"reasoningContent": {"text": "hm"}}}).encode())
        + frame("messageStop", b'{"stopReason":"end_turn"}')
        + frame("metadata", json.dumps(metadata).encode())
    )


EXPECTED = {
    "input": 1000,
    "input_cache_read": 5000,
    "input_cache_write_5m": 1500,
    "input_cache_write_1h": 400,
    "input_cache_write": 100,
    "output": 200,
}


def test_converse_input_excludes_the_cache() -> None:
    body = {"output": {"message": {}}, "stopReason": "end_turn", "usage": USAGE, "serviceTier": {"type": "priority"},
            "performanceConfig": {"latency": "optimized"}}  # fmt: skip
    usage = CONVERSE.from_body(json.dumps(body).encode())
    assert lines(usage) == EXPECTED
    assert (usage.parts[0].tier_basis, usage.source, usage.anomalies) == (8000, "reported", ())
    assert (usage.service_tier, usage.finish_reason) == ("priority", "end_turn")
    assert usage.facets == (("latency", "optimized"),)


def test_a_converse_stream_ends_with_its_usage() -> None:
    meter = FrameMeter(CONVERSE.meter())
    meter.feed(converse_stream())
    usage = meter.usage(complete=False)
    assert (lines(usage), usage.source, usage.service_tier) == (EXPECTED, "reported", "flex")
    assert meter.text_bytes == 5


def test_a_cut_converse_stream_is_partial_and_empty() -> None:
    meter = FrameMeter(CONVERSE.meter())
    meter.feed(converse_stream()[:-1])
    usage = meter.usage(complete=False)
    assert (usage.source, usage.parts, usage.finish_reason) == ("partial", (), "end_turn")


@given(st.lists(st.integers(0, len(converse_stream())), max_size=6))
@settings(max_examples=60, deadline=None)
def test_frames_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    data = converse_stream()
    bounds = [0, *sorted(cuts), len(data)]
    splitter = FrameSplitter()
    found = [item for start, end in pairwise(bounds) for item in splitter.feed(data[start:end])]
    assert found == FrameSplitter().feed(data)
    assert [item.event for item in found] == [
        "messageStart",
        "contentBlockDelta",
        "contentBlockDelta",
        "messageStop",
        "metadata",
    ]


@pytest.mark.parametrize("place", [2, 9, 20, -20, -2])
def test_a_damaged_frame_is_refused(place: int) -> None:
    data = bytearray(frame("metadata", b'{"usage":{}}'))
    data[place] ^= 1
    with pytest.raises(StreamBroken):
        FrameSplitter().feed(bytes(data))


def test_a_frame_beyond_the_bound_is_refused_before_it_arrives() -> None:
    with pytest.raises(StreamBroken, match="announces a frame"):
        FrameSplitter(frame_bytes_max=64).feed(frame("x", b"y" * 100)[:12])


def wrapped(event: dict[str, object]) -> bytes:
    return frame("chunk", json.dumps({"bytes": base64.b64encode(json.dumps(event).encode()).decode()}).encode())


def test_an_invoked_anthropic_stream_is_read_as_messages() -> None:
    metrics = {"inputTokenCount": 10, "outputTokenCount": 7, "cacheReadInputTokenCount": 3, "invocationLatency": 1}
    begun = {"id": "m", "usage": {"input_tokens": 10, "cache_read_input_tokens": 3, "output_tokens": 1}}
    meter = FrameMeter(INVOKE.meter())
    meter.feed(wrapped({"type": "message_start", "message": begun}))
    meter.feed(
        wrapped({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}})
    )
    meter.feed(wrapped({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}))
    usage = meter.usage(complete=True)
    assert lines(usage) == {"input": 10, "input_cache_read": 3, "output": 7}
    assert (usage.source, usage.finish_reason) == ("reported", "end_turn")


def test_an_invoked_stream_without_usage_of_its_own_is_read_from_the_metrics() -> None:
    meter = FrameMeter(INVOKE.meter())
    meter.feed(
        wrapped({"generation": "a", "prompt_token_count": 9, "generation_token_count": 1, "stop_reason": None})
    )
    cut = meter.usage(complete=False)
    assert (lines(cut), cut.source) == ({"input": 9, "output": 1}, "partial")
    metrics = {"inputTokenCount": 9, "outputTokenCount": 2, "firstByteLatency": 1.5}
    meter.feed(wrapped({"generation": "b", "stop_reason": "stop", "amazon-bedrock-invocationMetrics": metrics}))
    usage = meter.usage(complete=True)
    assert (lines(usage), usage.source, usage.finish_reason) == ({"input": 9, "output": 2}, "reported", "stop")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"usage": {"input_tokens": 5, "output_tokens": 6, "cache_read_input_tokens": 1}, "type": "message"},
         {"input": 5, "input_cache_read": 1, "output": 6}),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}}, {"input": 5, "output": 6}),
        ({"usage": {"inputTokens": 5, "outputTokens": 6, "cacheReadInputTokenCount": 2}},
         {"input": 5, "input_cache_read": 2, "output": 6}),
        ({"generation": "x", "prompt_token_count": 5, "generation_token_count": 6, "stop_reason": "stop"},
         {"input": 5, "output": 6}),
        ({"inputTextTokenCount": 5, "results": [{"tokenCount": 6, "completionReason": "FINISH"}]},
         {"input": 5, "output": 6}),
        ({"embedding": [0.1], "inputTextTokenCount": 5}, {"input": 5}),
    ],
)  # fmt: skip
def test_invoked_bodies_of_every_family_are_understood(body: dict[str, object], expected: dict[str, int]) -> None:
    usage = INVOKE.from_body(json.dumps(body).encode())
    assert (lines(usage), usage.source) == (expected, "reported")


def test_headers_fill_in_for_a_body_without_counts() -> None:
    headers = [(b"X-Amzn-Bedrock-Input-Token-Count", b"12"), (b"x-amzn-bedrock-output-token-count", b"3")]
    assert lines(INVOKE.from_body(b'{"outputs":[]}', headers)) == {"input": 12, "output": 3}
    assert INVOKE.from_body(b'{"outputs":[]}').source == "missing"
    assert INVOKE.from_body(b"audio").anomalies == ("body_not_json",)


@pytest.mark.parametrize("payload", [b"{}", b'{"bytes":7}', b'{"bytes":"%"}', b'{"bytes"', b""])
def test_payloads_that_wrap_nothing_stay_as_they_are(payload: bytes) -> None:
    assert unwrap(payload) == payload


def test_a_total_that_does_not_add_up_is_noted() -> None:
    usage = CONVERSE.from_usage({"inputTokens": 5, "outputTokens": 6, "totalTokens": 12}, context={})
    assert usage.anomalies == ("total_mismatch:11!=12",)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"usage":null}', b'{"usage":{"totalTokens":3}}'])
def test_answers_without_usage_are_missing(body: bytes) -> None:
    assert CONVERSE.from_body(body).source == "missing"
