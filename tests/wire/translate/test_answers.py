"""Answers and streams: whole or in pieces, in any dialect, they say the same."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.core.errors import StreamBroken
from farthing.sim.bedrock_frames import frame
from farthing.testing.conversations import answers, collected, same_json, told
from farthing.wire.canonical import Answer, Refusal, Text, Thinking, ToolCall
from farthing.wire.frames import as_events
from farthing.wire.sse import SseSplitter
from farthing.wire.translate import Frame, StreamTranslator, failure_for, translate_answer
from farthing.wire.translate.returns import READERS, STREAM_READERS, WRITERS, stream_writer
from farthing.wire.usage.bedrock_frames import FrameSplitter

CALLERS = ("chat", "responses", "messages")
FRAME = Frame(id="id_1", model="m-1", now_s=1_700_000_000)
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def plain(answer: Answer) -> Answer:
    """With one spelling for arguments, and no time that only some dialects tell."""
    parts = [
        msgspec.structs.replace(part, arguments=same_json(part.arguments)) if isinstance(part, ToolCall) else part
        for part in answer.parts
    ]
    return msgspec.structs.replace(answer, parts=tuple(parts), created=0)


def unrefused(answer: Answer) -> Answer:
    """A stream of Anthropic's says only at its end that its words were a refusal."""
    parts = [Text(text=part.text) if isinstance(part, Refusal) else part for part in answer.parts]
    return msgspec.structs.replace(answer, parts=tuple(parts))


def same(found: Answer, wanted: Answer, *forms: str) -> None:
    """Equal; Anthropic has one word for a refusal and a filter, and calls both a refusal."""
    ends = {"refusal", "content_filter"}
    if "messages" in forms and {found.stop, wanted.stop} <= ends:
        found, wanted = (msgspec.structs.replace(unrefused(one), stop="refusal") for one in (found, wanted))
    assert plain(found) == plain(wanted)


def spoken(form, events):
    writer = stream_writer(form, FRAME, include_usage=True)
    return b"".join(writer.write(event) for event in events)


def heard(form, data, cuts=()):
    splitter, reader = SseSplitter(), STREAM_READERS[form]()
    events = []
    ends = [*sorted(cuts), len(data)]
    for start, end in zip([0, *ends], ends, strict=False):
        for one in splitter.feed(data[start:end]):
            events += reader.event(one.name, one.data)
    for one in splitter.finish():
        events += reader.event(one.name, one.data)
    return events + reader.finish()


@pytest.mark.parametrize("there", CALLERS)
@pytest.mark.parametrize("here", CALLERS)
@QUICK
@given(answer=answers())
def test_a_whole_answer_says_the_same_in_every_dialect(here, there, answer):
    original = READERS[here](WRITERS[here](answer, FRAME))
    same(original, answer, here)
    same(READERS[there](translate_answer(WRITERS[here](answer, FRAME), source=here, target=there, frame=FRAME)),
         original, here, there)  # fmt: skip


@pytest.mark.parametrize("there", CALLERS)
@pytest.mark.parametrize("here", CALLERS)
@QUICK
@given(data=st.data())
def test_a_stream_adds_up_to_the_whole_answer_however_it_is_cut(here, there, data):
    answer = data.draw(answers())
    stream = spoken(here, data.draw(told(answer)))
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=12))
    translator = StreamTranslator(source=here, target=there, frame=FRAME, include_usage=True)
    ends = [*sorted(cuts), len(stream)]
    out = b"".join(translator.feed(stream[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    out += translator.finish()
    whole = StreamTranslator(source=here, target=there, frame=FRAME, include_usage=True)
    assert out == whole.feed(stream) + whole.finish(), "cutting must not show"
    same(unrefused(collected(heard(there, out))), unrefused(answer), here, there)


@pytest.mark.parametrize("form", CALLERS)
@QUICK
@given(data=st.data())
def test_events_are_heard_alike_cut_at_every_byte_or_not_at_all(form, data):
    answer = data.draw(answers())
    stream = spoken(form, data.draw(told(answer)))
    assert heard(form, stream, range(len(stream))) == heard(form, stream)


@pytest.mark.parametrize("there", CALLERS)
def test_nothing_waits_for_the_end_of_the_stream(there):
    """Each piece leaves with the chunk that brought it."""
    translator = StreamTranslator(source="messages", target=there, frame=FRAME, include_usage=False)
    translator.feed(b'data: {"type":"message_start","message":{"id":"m","model":"c","usage":{"input_tokens":1}}}\n\n')
    for word in (b"first", b"second"):
        delta = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}}\n\n' % word
        assert word in translator.feed(delta)


# -- recorded shapes


def gemini(*parts, finish=None, usage=None, **more):
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r1", "usageMetadata": usage} | more


SAY = {"text": "Hi"}
CALL = {"functionCall": {"name": "w", "args": {"a": 1}}}
GEMINI_STOPS = [
    (gemini(SAY, finish="STOP"), "stop", "end_turn"),
    (gemini(SAY, CALL, finish="STOP"), "tool_calls", "tool_use"),
    (gemini(SAY, finish="MAX_TOKENS"), "length", "max_tokens"),
    (gemini(SAY, finish="SAFETY"), "content_filter", "refusal"),
    (gemini(SAY, finish="RECITATION"), "content_filter", "refusal"),
    (gemini(finish="MALFORMED_FUNCTION_CALL"), "content_filter", "refusal"),
    ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "responseId": "r1"}, "content_filter", "refusal"),
]


@pytest.mark.parametrize(("body", "chat", "messages"), GEMINI_STOPS)
def test_geminis_reasons_to_stop(body, chat, messages):
    data = json.dumps(body).encode()
    assert json.loads(translate_answer(data, source="gemini", target="chat", frame=FRAME))["choices"][0][
        "finish_reason"
    ] == chat  # fmt: skip
    whole = json.loads(translate_answer(data, source="gemini", target="messages", frame=FRAME))
    assert whole["stop_reason"] == messages
    streamed = collected(heard("gemini", b"data: " + data + b"\r\n\r\n"))
    assert plain(streamed) == plain(READERS["gemini"](data))


@pytest.mark.parametrize(
    ("said", "chat", "messages"),
    [
        ("end_turn", "stop", "end_turn"),
        ("tool_use", "tool_calls", "tool_use"),
        ("max_tokens", "length", "max_tokens"),
        ("stop_sequence", "stop", "stop_sequence"),
        ("guardrail_intervened", "content_filter", "refusal"),
        ("content_filtered", "content_filter", "refusal"),
        ("malformed_tool_use", "content_filter", "refusal"),
        ("model_context_window_exceeded", "length", "max_tokens"),
        ("tomorrows_reason", "stop", "end_turn"),
    ],
)
def test_converses_reasons_to_stop(said, chat, messages):
    body = {"output": {"message": {"role": "assistant", "content": [SAY]}}, "stopReason": said, "usage": {}}
    data = json.dumps(body).encode()
    choice = json.loads(translate_answer(data, source="converse", target="chat", frame=FRAME))["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == (chat, "Hi")
    whole = json.loads(translate_answer(data, source="converse", target="messages", frame=FRAME))
    assert whole["stop_reason"] == messages


@pytest.mark.parametrize(
    ("said", "chat", "status"),
    [
        ("end_turn", "stop", "completed"),
        ("max_tokens", "length", "incomplete"),
        ("tool_use", "tool_calls", "completed"),
        ("stop_sequence", "stop", "completed"),
        ("refusal", "stop", "completed"),
        ("pause_turn", "stop", "completed"),
        ("model_context_window_exceeded", "length", "incomplete"),
    ],
)
def test_anthropics_reasons_to_stop(said, chat, status):
    data = json.dumps({"id": "m", "content": [{"type": "text", "text": "x"}], "stop_reason": said}).encode()
    whole = json.loads(translate_answer(data, source="messages", target="chat", frame=FRAME))
    assert whole["choices"][0]["finish_reason"] == chat
    assert (whole["choices"][0]["message"]["refusal"] == "x") == (said == "refusal")
    assert json.loads(translate_answer(data, source="messages", target="responses", frame=FRAME))["status"] == status


@pytest.mark.parametrize(
    ("said", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use"), ("content_filter", "refusal"),
     ("function_call", "tool_use")],
)  # fmt: skip
def test_openais_reasons_to_stop(said, reason):
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": said}]}
    data = json.dumps(body).encode()
    assert json.loads(translate_answer(data, source="chat", target="messages", frame=FRAME))["stop_reason"] == reason


CONVERSE = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "Hm"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": {"signature": "s"}}}),
    ("contentBlockStop", {"contentBlockIndex": 0}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "He"}}),
    ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "llo"}}),
    ("contentBlockStop", {"contentBlockIndex": 1}),
    ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": {"toolUseId": "t1", "name": "w"}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": '{"a"'}}}),
    ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": ":1}"}}}),
    ("contentBlockStop", {"contentBlockIndex": 2}),
    ("contentBlockStart", {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t2", "name": "v"}}}),
    ("contentBlockStop", {"contentBlockIndex": 3}),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": {"inputTokens": 5, "outputTokens": 7, "cacheReadInputTokens": 3}, "metrics": {}}),
]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_converses_frames_become_every_callers_stream(size):
    data = b"".join(frame(name, json.dumps(body).encode()) for name, body in CONVERSE)
    splitter = FrameSplitter()
    events = b"".join(as_events(splitter, data[start : start + size]) for start in range(0, len(data), size))
    answer = collected(heard("converse", events))
    assert answer.parts == (
        Thinking(text="Hm"),
        Text(text="Hello"),
        ToolCall(id="t1", name="w", arguments='{"a":1}'),
        ToolCall(id="t2", name="v", arguments="{}"),
    )
    assert (answer.stop, answer.usage.input, answer.usage.cache_read, answer.usage.output) == ("tool", 5, 3, 7)
    for there in CALLERS:
        translator = StreamTranslator(source="converse", target=there, frame=FRAME, include_usage=True)
        again = collected(heard(there, translator.feed(events) + translator.finish()))
        assert (again.parts, again.stop, again.usage) == (answer.parts, answer.stop, answer.usage)


def test_a_frame_that_says_exception_is_an_error_in_the_callers_words():
    data = frame("throttlingException", b'{"message":"slow down"}', kind="exception")
    events = as_events(FrameSplitter(), data)
    chat = StreamTranslator(source="converse", target="chat", frame=FRAME, include_usage=True)
    error = json.loads(chat.feed(events).removeprefix(b"data: "))["error"]
    assert (error["message"], error["type"]) == ("slow down", "rate_limit_error")
    messages = StreamTranslator(source="converse", target="messages", frame=FRAME, include_usage=True)
    said = messages.feed(events)
    assert said.startswith(b"event: error\n")
    assert b'"rate_limit_error"' in said


def test_parallel_calls_that_openai_streams_by_turns_stay_apart():
    def chunk(*calls):
        return b"data: " + json.dumps({"choices": [{"delta": {"tool_calls": list(calls)}}]}).encode() + b"\n\n"

    stream = chunk({"index": 0, "id": "a", "function": {"name": "w", "arguments": ""}})
    stream += chunk({"index": 0, "function": {"arguments": '{"x":'}})
    stream += chunk({"index": 1, "id": "b", "function": {"name": "v", "arguments": "{"}})
    stream += chunk({"index": 0, "function": {"arguments": "1}"}}, {"index": 1, "function": {"arguments": "}"}})
    stream += b'data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}\n\ndata: [DONE]\n\n'
    for there in CALLERS:
        translator = StreamTranslator(source="chat", target=there, frame=FRAME, include_usage=True)
        answer = collected(heard(there, translator.feed(stream) + translator.finish()))
        assert [(call.id, call.arguments) for call in answer.parts] == [("a", '{"x":1}'), ("b", "{}")]


def test_a_stream_that_was_cut_off_is_never_ended_for_its_provider():
    begun = b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"Hal"}}]}\n\n'
    for there, end in (("chat", b"[DONE]"), ("messages", b"message_stop"), ("responses", b"response.completed")):
        translator = StreamTranslator(source="chat", target=there, frame=FRAME, include_usage=True)
        said = translator.feed(begun) + translator.finish()
        assert b"Hal" in said
        assert end not in said


@pytest.mark.parametrize("source", [*CALLERS, "gemini", "converse"])
@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"choices":'])
def test_an_answer_that_is_no_answer_is_the_providers_failure(source, body):
    with pytest.raises(StreamBroken):
        translate_answer(body, source=source, target="chat", frame=FRAME)


@pytest.mark.parametrize(
    ("status", "body", "dialect", "expected"),
    [
        (429, b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}', "openai",
         (429, "rate_limit_error", "slow")),
        (529, b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}', "openai",
         (503, "server_error", "busy")),
        (400, b'{"error":{"message":"bad","type":"invalid_request_error","param":"x","code":"y"}}', "anthropic",
         (400, "invalid_request_error", "bad")),
        (503, b'{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}', "anthropic",
         (503, "overloaded_error", "busy")),
        (404, b'{"error":{"code":404,"message":"no model","status":"NOT_FOUND"}}', "openai",
         (404, "invalid_request_error", "no model")),
        (400, b'{"message":"alternate"}', "openai", (400, "invalid_request_error", "alternate")),
        (424, b'{"message":"model failed"}', "anthropic", (502, "api_error", "model failed")),
        (500, b"<html>", "openai", (500, "server_error", "The provider answered 500.")),
        (401, b"", "anthropic", (401, "authentication_error", "The provider answered 401.")),
    ],
)  # fmt: skip
def test_a_providers_error_in_the_callers_words(status, body, dialect, expected):
    said, data = failure_for(dialect, status, body, "req_1")
    error = json.loads(data)["error"]
    assert (said, error["type"], error["message"]) == expected


def test_unsigned_or_foreign_thinking_is_never_signed_for_anthropic():
    parts = (Thinking(text="a", signature="sealed", signer="openai"), Text(text="b"))
    said = json.loads(WRITERS["messages"](Answer(parts=parts), FRAME))
    assert said["content"][0] == {"type": "thinking", "thinking": "a", "signature": ""}
