"""Streams as recorded: the same usage however the bytes are cut, never more than the whole when cut off."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.types import Usage
from farthing.core.units import is_input, is_output
from farthing.wire.usage import SseMeter, reader

DETAILS = {"cached_tokens": 64, "audio_tokens": 0}
TOTALS = {
    "prompt_tokens": 100,
    "completion_tokens": 30,
    "total_tokens": 130,
    "prompt_tokens_details": DETAILS,
    "completion_tokens_details": {"reasoning_tokens": 12},
}


def chunk(delta: object, finish: str | None = None, **members: object) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m-é", "choices": choices, **members}


def sse(events: list[dict[str, Any]], *, names: bool = False, end: str = "", line: str = "\n") -> bytes:
    text = ""
    for event in events:
        text += f"event: {event['type']}{line}" if names else ""
        text += f"data: {json.dumps(event, ensure_ascii=False)}{line}{line}"
    return (text + end.replace("\n", line)).encode()


def running(count: int, finish: str | None = None) -> dict[str, Any]:
    usage = {"prompt_tokens": 100, "completion_tokens": count, "total_tokens": 100 + count}
    return chunk({"content": "ü"}, finish, usage=usage)


AZURE = chunk(None, prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {}}])
SAID = chunk({"role": "assistant", "content": 'naïve "usage": {"prompt_tokens": 9}'}, usage=None)
DONE = "data: [DONE]\n\n"
CHAT = sse([AZURE, SAID, chunk({}, "stop", usage=None), chunk(None, usage=TOTALS, service_tier="default")], end=DONE)
ROUTER = (
    b": OPENROUTER PROCESSING\r\n\r\n"
    + sse([SAID], line="\r\n")
    + b": OPENROUTER PROCESSING\r\n\r\n"
    + sse([chunk({"content": ""}, "stop", usage={**TOTALS, "cost": 0.0012, "is_byok": False})], end=DONE, line="\r\n")
)
START = {
    "type": "message_start",
    "message": {"id": "m1", "model": "claude", "usage": {"input_tokens": 90, "cache_creation_input_tokens": 50,
                "cache_creation": {"ephemeral_1h_input_tokens": 50}, "output_tokens": 1}},
}  # fmt: skip
SPOKEN = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "naïve"}}
FINAL = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"input_tokens": 120, "cache_creation_input_tokens": 50, "output_tokens": 40,
              "output_tokens_details": {"thinking_tokens": 40}, "server_tool_use": {"web_search_requests": 1}},
}  # fmt: skip
SEARCHED = {"type": "web_search_call", "action": {"type": "search"}}
STOP = {"type": "message_stop"}
RESPONSE = {
    "id": "r1",
    "model": "gpt-5",
    "status": "completed",
    "output": [SEARCHED],
    "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
}


def gemini(shown: int, thoughts: int, **members: object) -> dict[str, Any]:
    usage = {"promptTokenCount": 80, "candidatesTokenCount": shown, "thoughtsTokenCount": thoughts,
             "totalTokenCount": 80 + shown + thoughts}  # fmt: skip
    said = {"content": {"parts": [{"text": "naïve"}]}, **members}
    return {"candidates": [said], "usageMetadata": usage, "modelVersion": "gemini-2.5-pro"}


STREAMS: dict[str, tuple[str, bytes]] = {
    "chat": ("openai.chat", CHAT),
    "chat-cumulative": ("openai.chat", sse([running(1), running(2), running(3, "length")], end=DONE)),
    "chat-without-usage": ("openai.chat", sse([SAID, chunk({}, "stop")], end=DONE)),
    "openrouter": ("openrouter.chat", ROUTER),
    "xai": ("xai.chat", sse([SAID, chunk(None, usage={**TOTALS, "total_tokens": 142})], end=DONE, line="\r")),
    "mistral": ("mistral.chat", sse([SAID, chunk({"content": ""}, "stop", usage=TOTALS)], end=DONE)),
    "messages": ("anthropic.messages", sse([START, {"type": "ping"}, SPOKEN, FINAL, STOP], names=True)),
    "messages-crlf": ("anthropic.messages", sse([START, SPOKEN, FINAL], names=True, line="\r\n")),
    "responses": (
        "openai.responses",
        sse(
            [
                {"type": "response.created", "response": {**RESPONSE, "usage": None, "output": []}},
                {"type": "response.output_text.delta", "delta": "naïve"},
                {"type": "response.output_item.done", "item": SEARCHED},
                {"type": "response.completed", "response": RESPONSE},
            ],
            names=True,
        ),
    ),
    "gemini": ("google.gemini", sse([gemini(0, 7), gemini(4, 7), gemini(9, 7, finishReason="STOP")], line="\r\n")),
    "cohere": (
        "cohere.chat",
        sse(
            [
                {"type": "message-start", "id": "c"},
                {"type": "content-delta", "delta": {"message": {"content": {"text": "naïve"}}}},
                {"type": "message-end", "delta": {"finish_reason": "COMPLETE",
                 "usage": {"billed_units": {"input_tokens": 3, "output_tokens": 4}}}},
            ],
            names=True,
        ),
    ),
}  # fmt: skip


def metered(flavour: str, *chunks: bytes, complete: bool) -> tuple[Usage, int]:
    meter = SseMeter(reader(flavour).meter())
    for data in chunks:
        meter.feed(data)
    usage = meter.usage(complete=complete)
    return usage, meter.text_bytes


def sums(usage: Usage) -> dict[str, int]:
    """Quantities by side: input tokens, output tokens, and every other unit by itself."""
    found: dict[str, int] = {}
    for part in usage.parts:
        for unit, quantity in part.lines:
            side = "input" if is_input(unit) else "output" if is_output(unit) else unit
            found[side] = found.get(side, 0) + quantity
    return found


@pytest.mark.parametrize("name", STREAMS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_usage_is_the_same_however_the_bytes_are_cut(name: str, data: st.DataObject) -> None:
    flavour, stream = STREAMS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
    assert metered(flavour, *chunks, complete=True) == metered(flavour, stream, complete=True)


@pytest.mark.parametrize("name", STREAMS)
def test_the_usage_is_the_same_byte_by_byte(name: str) -> None:
    flavour, stream = STREAMS[name]
    single = [stream[place : place + 1] for place in range(len(stream))]
    assert metered(flavour, *single, complete=True) == metered(flavour, stream, complete=True)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_at_any_byte_is_never_more_than_the_whole(name: str) -> None:
    flavour, stream = STREAMS[name]
    whole, whole_text = metered(flavour, stream, complete=True)
    limits = sums(whole)
    grown = 0
    for end in range(len(stream)):
        cut, text = metered(flavour, stream[:end], complete=False)
        assert cut.source in ("partial", "reported") or (whole.source == "missing" and b"[DONE]" in stream[:end])
        assert text <= whole_text
        assert cut.source == "partial" or sums(cut) == limits
        assert all(quantity <= limits.get(side, 0) for side, quantity in sums(cut).items())
        assert sum(sums(cut).values()) >= grown
        grown = sum(sums(cut).values())


def test_a_stream_of_everything_odd_has_the_expected_lines() -> None:
    usage, text = metered("openai.chat", CHAT.replace(b"\n", b"\r\n"), complete=True)
    assert usage.parts[0].lines == (
        ("input", 36),
        ("input_cache_read", 64),
        ("output", 18),
        ("output_reasoning", 12),
    )
    assert (usage.source, usage.service_tier, usage.finish_reason, usage.anomalies) == (
        "reported",
        "default",
        "stop",
        (),
    )
    assert text == len('naïve "usage": {"prompt_tokens": 9}'.encode())


def test_openrouters_comments_and_cost_are_understood() -> None:
    usage, _ = metered("openrouter.chat", ROUTER, complete=True)
    assert (usage.stated_pusd, usage.source) == (1_200_000_000, "reported")
