"""Whatever arrives, a translation ends in an answer or in an error that says whose fault it was."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from farthing.core.errors import BadRequest, StreamBroken, Untranslatable
from farthing.wire.translate import Frame, StreamTranslator, translate_answer, translate_request

FRAME = Frame(id="id", model="m", now_s=1)
KEYS = (
    "type", "text", "content", "role", "messages", "input", "tools", "function", "name", "arguments",
    "tool_calls", "id", "system", "tool_choice", "thinking", "source", "data", "url", "image_url", "output",
    "summary", "choices", "delta", "message", "usage", "candidates", "parts", "functionCall", "args",
    "stopReason", "toolUse", "finishReason", "index", "content_block", "response", "item", "error",
    "stop_reason", "model", "response_format", "json_schema", "schema", "contentBlockIndex", "start",
    "input_schema", "output_config", "format", "reasoning", "metadata", "stop",
)  # fmt: skip
WORDS = (
    "text", "user", "assistant", "tool", "function", "tool_use", "tool_result", "image", "input_image",
    "reasoning", "function_call", "message", "json_schema", "auto", "{}", "[1]", "data:image/png;base64,AA",
    "base64", "refusal", "function_call_output", "content_block_start", "content_block_delta",
    "message_delta", "message_start", "input_json_delta", "response.output_item.added",
    "response.output_item.done", "response.completed", "thinking",
)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.sampled_from(WORDS)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6)
CALLERS = ("chat", "responses", "messages")
HARD = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("source", CALLERS)
@HARD
@given(body=OBJECTS, target=st.sampled_from((*CALLERS, "gemini", "converse")))
@example(body={"messages": [{"role": "user", "content": "\ud800"}]}, target="messages")
@example(body={"tools": [{"name": "x", "input_schema": {"maximum": 2**70}}]}, target="chat")
def test_any_body_is_translated_or_refused_as_the_callers_mistake(source, body, target):
    data = json.dumps(body).encode("utf-8", "replace")
    with contextlib.suppress(BadRequest, Untranslatable):
        json.loads(translate_request(data, source=source, target=target, model="m").body)


@pytest.mark.parametrize("source", [*CALLERS, "gemini", "converse"])
@HARD
@given(body=OBJECTS, target=st.sampled_from(CALLERS))
def test_any_answer_is_translated_or_the_providers_failure(source, body, target):
    with contextlib.suppress(StreamBroken):
        json.loads(translate_answer(json.dumps(body).encode(), source=source, target=target, frame=FRAME))


@pytest.mark.parametrize("source", [*CALLERS, "gemini", "converse"])
@HARD
@given(
    events=st.lists(st.tuples(st.sampled_from(("", "messageStart", "contentBlockStart", "metadata", "x")), JSON)),
    target=st.sampled_from(CALLERS),
)
def test_any_stream_is_translated_or_the_providers_failure(source, events, target):
    translator = StreamTranslator(source=source, target=target, frame=FRAME, include_usage=True)
    with contextlib.suppress(StreamBroken):
        for name, body in events:
            translator.feed(f"event: {name}\ndata: {json.dumps(body)}\n\n".encode())
        translator.finish()
