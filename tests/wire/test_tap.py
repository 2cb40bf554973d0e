"""The tap on a stream: however the bytes are cut, the same passes, the same is held, the same is measured."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.errors import StreamBroken
from farthing.wire import tap
from farthing.wire.tap import MESSAGES_TERMINALS, OPENAI_TERMINALS, RESPONSES_TERMINALS, StreamTap
from farthing.wire.usage import reader_for

QUICK = settings(max_examples=120, deadline=None)
TRAPS = [
    "plain",
    "data: [DONE]",
    "event: message_stop",
    "\n\ndata: [DONE]\n\n",
    '"usage"',
    "\r\n\r\n",
    "ü☂",
    ',"usage":null',
]


def event(payload: Any, name: str = "", end: str = "\n") -> bytes:
    head = f"event: {name}{end}" if name else ""
    return f"{head}data: {json.dumps(payload, ensure_ascii=False)}{end}{end}".encode()


def chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": text}}], **more}


@st.composite
def chat_streams(draw: Any) -> bytes:
    """An OpenAI stream as it comes when usage was asked for."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    texts = draw(st.lists(st.sampled_from(TRAPS), min_size=1, max_size=6))
    parts = [event(chunk(text, usage=None), end=end) for text in texts]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), f": ping{end}{end}".encode())
    usage = {"prompt_tokens": 3, "completion_tokens": draw(st.integers(0, 9)), "total_tokens": 12}
    parts.append(event({"id": "c", "model": "gpt-4o", "choices": [], "usage": usage}, end=end))
    parts.append(f"data: [DONE]{end}{end}".encode())
    return b"".join(parts)


@st.composite
def message_streams(draw: Any) -> bytes:
    texts = draw(st.lists(st.sampled_from(TRAPS), min_size=1, max_size=6))
    usage = {"input_tokens": 5, "output_tokens": 1}
    message = {"id": "m", "model": "claude-haiku-4-5", "usage": usage}
    parts = [event({"type": "message_start", "message": message}, "message_start")]
    for text in texts:
        delta = {"type": "text_delta", "text": text}
        parts.append(event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta"))
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
    parts += [event(end, "message_delta"), event({"type": "message_stop"}, "message_stop")]
    return b"".join(parts)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges) if start < stop]


def run(chunks: list[bytes], endpoint: str, terminals: tuple[bytes, ...], *, strip: bool) -> tuple[bytes, bytes, Any]:
    meter = reader_for("anthropic" if endpoint == "messages" else "openai", endpoint).meter()
    made = StreamTap(meter, marks=meter.marks, terminals=terminals, strip_usage=strip)
    passed = b"".join(made.feed(part) for part in chunks)
    held = (b"" if made.ended else made.finish()) + made.held
    return passed, held, meter.usage(complete=True)


@QUICK
@given(data=chat_streams(), places=st.lists(st.integers(0, 5000), max_size=30), strip=st.booleans())
def test_any_cut_of_a_chat_stream_gives_the_same(data, places, strip):
    whole = run([data], "chat", OPENAI_TERMINALS, strip=strip)
    assert run(cut(data, places), "chat", OPENAI_TERMINALS, strip=strip) == whole
    passed, held, usage = whole
    assert held.rstrip() == b"data: [DONE]"
    assert usage.source == "reported"
    if not strip:
        assert passed + held == data


@QUICK
@given(data=message_streams(), places=st.lists(st.integers(0, 5000), max_size=30))
def test_any_cut_of_a_message_stream_gives_the_same(data, places):
    whole = run([data], "messages", MESSAGES_TERMINALS, strip=False)
    assert run(cut(data, places), "messages", MESSAGES_TERMINALS, strip=False) == whole
    passed, held, usage = whole
    assert passed + held == data
    assert held == event({"type": "message_stop"}, "message_stop")
    assert (usage.source, dict(usage.parts[0].lines)) == ("reported", {"input": 5, "output": 7})


@QUICK
@given(data=chat_streams())
def test_stripping_gives_what_a_caller_that_asked_for_no_usage_would_get(data):
    compact = data.replace(b'"usage": null', b'"usage":null').replace(b', "usage"', b',"usage"')
    passed, held, _ = run([compact], "chat", OPENAI_TERMINALS, strip=True)
    said = [
        json.loads(part[6:])
        for part in (passed + held).replace(b"\r\n", b"\n").split(b"\n\n")
        if part[:7] == b"data: {"
    ]
    assert said
    assert all("usage" not in one and one["choices"] for one in said)
    texts = [one["choices"][0]["delta"]["content"] for one in said]
    before = [
        json.loads(part[6:]) for part in compact.replace(b"\r\n", b"\n").split(b"\n\n") if part[:7] == b"data: {"
    ]
    assert texts == [one["choices"][0]["delta"]["content"] for one in before if one["choices"]]


@pytest.mark.parametrize("text", TRAPS)
def test_text_that_looks_like_an_end_is_none(text):
    data = event(chunk(text)) + event(chunk("more"))
    passed, held, _ = run([data], "chat", OPENAI_TERMINALS, strip=False)
    assert (passed, held) == (data, b"")


@pytest.mark.parametrize("mark", ["response.completed", "response.incomplete", "response.failed", "error"])
def test_every_end_of_a_responses_stream_is_held(mark):
    begin = event({"type": "response.created", "response": {"id": "r", "model": "gpt-4o"}}, "response.created")
    trap = event({"type": "response.output_text.delta", "delta": f"event: {mark}"}, "response.output_text.delta")
    end = event({"type": mark, "response": {"id": "r", "usage": None}}, mark)
    passed, held, _ = run([begin + trap + end], "responses", RESPONSES_TERMINALS, strip=False)
    assert (passed, held) == (begin + trap, end)


def test_what_follows_the_end_is_held_with_it():
    data = event(chunk("a"))
    passed, held, _ = run([data + b"data: [DONE]\n\n", b": bye\n\n"], "chat", OPENAI_TERMINALS, strip=False)
    assert (passed, held) == (data, b"data: [DONE]\n\n: bye\n\n")


def test_a_stream_without_its_last_blank_line_is_measured_to_the_end():
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    data = event(chunk("a")) + event(chunk("", usage=usage)).rstrip()
    passed, held, found = run([data], "chat", OPENAI_TERMINALS, strip=False)
    assert passed + held == data
    assert dict(found.parts[0].lines) == {"input": 3, "output": 4}


def test_an_event_that_never_ends_is_given_up():
    meter = reader_for("openai", "chat").meter()
    made = StreamTap(meter, marks=meter.marks, terminals=OPENAI_TERMINALS)
    for _ in range(tap.EVENT_BYTES_MAX // 2**20):
        assert made.feed(b"a" * 2**20) == b""
    with pytest.raises(StreamBroken):
        made.feed(b"a")


def test_the_payload_of_an_event_joins_its_data_lines():
    assert tap.payload_of(b"data: {}\n\n") == b"{}"
    assert tap.payload_of(b"event: x\ndata:a\r\ndata: b\n\n") == b"a\nb"
    assert tap.payload_of(b": comment\n\n") == b""
