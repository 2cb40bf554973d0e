"""A kept answer becomes a stream and comes back the same; what cannot be put together is not kept."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.wire.replay import collected, objection, streamed, with_usage
from farthing.wire.replay_json import Unreplayable

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
CALL = st.fixed_dictionaries(
    {
        "id": st.text("abc123", min_size=1, max_size=5),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": st.text("abc", min_size=1), "arguments": TEXT}),
    }
)


def chat(message: dict[str, Any], finish: str = "stop", **choice: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "system_fingerprint": "fp",
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
            | choice
        ],
        "usage": USAGE,
    }  # fmt: skip


def through(endpoint: Any, answer: dict[str, Any]) -> dict[str, Any]:
    events, last = streamed(endpoint, json.dumps(answer).encode(), include_usage=True)
    return dict(json.loads(collected(endpoint, events + last)))


@settings(max_examples=60)
@given(TEXT, st.one_of(st.none(), TEXT.filter(bool)), st.lists(CALL, max_size=3))
def test_a_chat_survives_the_way_through_a_stream(text: str, reasoning: str | None, calls: list[Any]) -> None:
    message: dict[str, Any] = {"content": text if text or not calls else None, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    answer = chat(message, "tool_calls" if calls else "stop")
    assert through("chat", answer) == answer


def test_log_probabilities_and_several_choices_survive() -> None:
    probabilities = {"content": [{"token": "a", "logprob": -1}, {"token": "b", "logprob": -2}], "refusal": None}
    answer = chat({"content": "ab", "refusal": None}, logprobs=probabilities)
    answer["choices"].append({**answer["choices"][0], "index": 1})
    assert through("chat", answer) == answer


@settings(max_examples=30)
@given(TEXT)
def test_a_legacy_completion_survives(text: str) -> None:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    answer = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    assert through("completions", answer) == answer


@settings(max_examples=40)
@given(TEXT, TEXT, st.dictionaries(st.text("ab", max_size=3), st.integers() | TEXT, max_size=3))
def test_a_message_survives(text: str, thought: str, given_: dict[str, Any]) -> None:
    content: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": thought, "signature": "sig=="},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": text, "citations": [{"type": "char_location", "cited_text": "x"}]},
        {"type": "tool_use", "id": "t1", "name": "f", "input": given_},
    ]
    usage = {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 0, "service_tier": "standard"}
    answer = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "content": content,
              "stop_reason": "tool_use", "stop_sequence": None, "usage": usage}  # fmt: skip
    assert through("messages", answer) == answer


@settings(max_examples=30)
@given(TEXT, TEXT)
def test_a_response_survives_and_its_events_are_numbered(text: str, summary: str) -> None:
    output = [
        {"id": "r", "type": "reasoning", "summary": [{"type": "summary_text", "text": summary}]},
        {"id": "m", "type": "message", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": text, "annotations": [{"type": "url_citation"}]}]},
        {"id": "f", "type": "function_call", "status": "completed", "name": "f", "arguments": text, "call_id": "c"},
        {"id": "w", "type": "web_search_call", "status": "completed"},
    ]  # fmt: skip
    answer = {
        "id": "resp",
        "object": "response",
        "status": "completed",
        "output": output,
        "usage": {"total_tokens": 1},
    }
    assert through("responses", answer) == answer
    events, last = streamed("responses", json.dumps(answer).encode(), include_usage=True)
    payloads = [json.loads(line[6:]) for line in (events + last).decode().split("\n") if line.startswith("data: ")]
    assert [one["sequence_number"] for one in payloads] == list(range(len(payloads)))
    deltas = [one["delta"] for one in payloads if one["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text


def test_usage_is_in_a_stream_only_when_asked_for() -> None:
    body = json.dumps(chat({"content": "ab", "refusal": None})).encode()
    events, last = streamed("chat", body, include_usage=False)
    assert b"usage" not in events
    assert last == b"data: [DONE]\n\n"
    bare = collected("chat", events + last)
    assert b'"usage"' not in bare
    assert json.loads(with_usage(bare, json.dumps(USAGE).encode()))["usage"] == USAGE
    assert with_usage(body, b'{"total_tokens": 9}') == body, "what the answer says itself stands"


def chunk(**choice: Any) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (chunk(delta={"content": "a"}) + b"data: [DONE]\n\n", "unfinished"),
        (chunk(delta={"unheard_of": {"x": 1}}, finish_reason="stop"), "unknown_delta"),
        (chunk(delta={"audio": {"data": "AA"}}, finish_reason="stop"), "unknown_delta"),
        (chunk(delta={"content": 7}, finish_reason="stop"), "unreadable"),
        (b'data: {"error":{"message":"no"}}\n\n', "error"),
        (b"data: {broken\n\n", "unreadable"),
        (b"", "unfinished"),
    ],
)
def test_a_stream_that_does_not_add_up_is_refused(stream: bytes, why: str) -> None:
    with pytest.raises(Unreplayable, match=why):
        collected("chat", stream)


@pytest.mark.parametrize(
    "stream",
    [
        b'data: {"type":"message_start","message":{"content":[]}}\n\n',
        b'data: {"type":"error","error":{"type":"overloaded_error"}}\n\n',
        b'data: {"type":"message_start","message":{}}\n\ndata: {"type":"new_thing"}\n\n'
        b'data: {"type":"message_stop"}\n\n',
    ],
)
def test_a_message_that_was_cut_is_refused(stream: bytes) -> None:
    with pytest.raises(Unreplayable):
        collected("messages", stream)


OK = {"content": "x", "refusal": None}


@pytest.mark.parametrize(
    ("endpoint", "answer", "why"),
    [
        ("chat", chat(OK), ""),
        ("chat", chat(OK, "length"), "length"),
        ("chat", chat(OK, "content_filter"), "content_filter"),
        ("chat", chat(OK, "new_reason"), "unfinished"),
        ("chat", chat({"content": None, "refusal": "I cannot."}), "refusal"),
        ("chat", chat({"content": ""}), "empty"),
        ("chat", chat({"content": None, "tool_calls": [{}]}, "tool_calls"), "tool_call"),
        ("chat", chat({"content": "x", "audio": {"id": "a"}}), "modality"),
        ("chat", {"error": {"message": "no"}}, "error"),
        ("chat", {"choices": []}, "empty"),
        ("messages", {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"}, ""),
        ("messages", {"content": [{"type": "text", "text": "x"}], "stop_reason": "max_tokens"}, "length"),
        ("messages", {"content": [{"type": "text", "text": "x"}], "stop_reason": "refusal"}, "refusal"),
        ("messages", {"content": [{"type": "text", "text": "x"}], "stop_reason": "pause_turn"}, "unfinished"),
        ("messages", {"content": [{"type": "server_tool_use"}], "stop_reason": "end_turn"}, "tool_call"),
        ("messages", {"type": "error", "error": {"type": "x"}}, "error"),
        ("responses", {"status": "completed", "output": [{"type": "message", "content": [{"text": "x"}]}]}, ""),
        ("responses", {"status": "completed", "output": [{"type": "function_call"}]}, "tool_call"),
        ("responses", {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("responses", {"status": "in_progress", "output": []}, "unfinished"),
        ("embeddings", {"data": [{"embedding": [1]}]}, ""),
        ("embeddings", {"data": []}, "empty"),
    ],
)
def test_only_whole_answers_may_be_kept(endpoint: Any, answer: dict[str, Any], why: str) -> None:
    assert objection(endpoint, json.dumps(answer).encode(), tools=False) == why
    assert objection(endpoint, json.dumps(answer).encode(), tools=True) == ("" if why == "tool_call" else why)
