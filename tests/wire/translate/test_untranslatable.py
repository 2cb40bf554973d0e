"""What other dialects have no words for is refused by its name, or declared lost by its name, never dropped."""

import json

import pytest

from farthing.core.errors import BadRequest, RequestError, Untranslatable
from farthing.wire.translate import translate_request

ASK = [{"role": "user", "content": "Hi"}]
CHAT = {"model": "m", "messages": ASK, "max_tokens": 9}
RESPONSES = {"model": "m", "input": "Hi", "max_output_tokens": 9}
MESSAGES = {"model": "m", "messages": ASK, "max_tokens": 9}
FUNCTION = {"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}
OTHER = {"chat": "messages", "responses": "messages", "messages": "chat"}
BODIES = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES}


def translated(source, more, target=""):
    body = json.dumps(BODIES[source] | more).encode()
    return translate_request(body, source=source, target=target or OTHER[source], model="m")


def user(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


REFUSED = [
    ("chat", {"n": 2}, "n"),
    ("chat", {"logprobs": True}, "logprobs"),
    ("chat", {"top_logprobs": 2}, "top_logprobs"),
    ("chat", {"logit_bias": {"1": 2}}, "logit_bias"),
    ("chat", {"modalities": ["text", "audio"]}, "modalities"),
    ("chat", {"audio": {"voice": "x"}}, "audio"),
    ("chat", {"functions": [{"name": "w"}]}, "functions"),
    ("chat", {"function_call": "auto"}, "function_call"),
    ("chat", {"web_search_options": {"a": 1}}, "web_search_options"),
    ("chat", {"tomorrows_field": 1}, "tomorrows_field"),
    ("chat", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ("chat", {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ("chat", {"response_format": {"type": "grammar"}}, "response_format.type"),
    ("chat", user({"type": "input_audio", "input_audio": {}}), "messages[0].content[0].type"),
    ("chat", user({"type": "file", "file": {"file_id": "f"}}), "messages[0].content[0].type"),
    ("chat", {"messages": [{"role": "function", "name": "w", "content": "x"}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": "assistant", "function_call": {"name": "w"}}]}, "messages[0].function_call"),
    ("chat", {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
    ("responses", {"previous_response_id": "r"}, "previous_response_id"),
    ("responses", {"conversation": "c"}, "conversation"),
    ("responses", {"prompt": {"id": "p"}}, "prompt"),
    ("responses", {"top_logprobs": 2}, "top_logprobs"),
    ("responses", {"tomorrows_field": 1}, "tomorrows_field"),
    ("responses", {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ("responses", {"tools": [{"type": "mcp", "server_url": "https://x"}]}, "tools[0].type"),
    ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
     "input[0].content[0].type"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
     "input[0].content[0].file_id"),
    ("messages", {"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
    ("messages", {"container": "c"}, "container"),
    ("messages", {"inference_geo": "us"}, "inference_geo"),
    ("messages", {"tomorrows_field": 1}, "tomorrows_field"),
    ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ("messages", {"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type"),
    ("messages", user({"type": "document", "source": {}}), "messages[0].content[0].type"),
    ("messages", user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
     "messages[0].content[0].source.type"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "more", "param"), REFUSED, ids=[f"{case[0]}-{case[2]}" for case in REFUSED])
def test_a_field_without_words_elsewhere_is_refused_by_its_name(source, more, param):
    with pytest.raises(Untranslatable, match="cannot be translated") as caught:
        translated(source, more)
    assert (caught.value.param, caught.value.code, caught.value.http_status) == (param, "not_translatable", 400)
    assert f"'{param}'" in str(caught.value)


WRONG = [
    ("chat", {"temperature": "hot"}, "temperature"),
    ("chat", {"stop": [1]}, "stop[0]"),
    ("chat", {"messages": ["x"]}, "messages[0]"),
    ("chat", {"tools": [{"type": "function", "function": {"name": 1}}]}, "tools[0].function.name"),
    ("chat", {"tool_choice": "maybe"}, "tool_choice"),
    ("chat", {"reasoning_effort": "extreme"}, "reasoning_effort"),
    ("chat", user({"type": "image_url", "image_url": {"url": "data:image/png,zzz"}}),
     "messages[0].content[0].image_url"),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [
        {"id": "a", "function": {"name": "w", "arguments": "[1]"}}]}]}, "tool_calls.function.arguments"),
    ("responses", {"input": [{"role": "pilot", "content": "x"}]}, "input[0].role"),
    ("messages", {"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
    ("messages", {"thinking": {"type": "enabled", "budget_tokens": 1.5}}, "thinking.budget_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "more", "param"), WRONG, ids=[f"{case[0]}-{case[2]}" for case in WRONG])
def test_a_wrong_field_is_named_where_it_stands(source, more, param):
    with pytest.raises(BadRequest) as caught:
        translated(source, more)
    assert caught.value.param == param


LOST = [
    ("chat", {"metadata": {"a": "b"}}, "", "metadata"),
    ("chat", {"store": True}, "", "store"),
    ("chat", {"seed": 7}, "", "seed"),
    ("chat", {"prediction": {"type": "content", "content": "x"}}, "", "prediction"),
    ("chat", {"verbosity": "low"}, "", "verbosity"),
    ("chat", {"presence_penalty": 1}, "", "presence_penalty"),
    ("chat", {"service_tier": "flex"}, "", "service_tier"),
    ("chat", {"service_tier": "scale"}, "", "service_tier"),
    ("chat", {"temperature": 1.7}, "", "temperature"),
    ("chat", {"reasoning_effort": "minimal"}, "", "reasoning_effort"),
    ("chat", {"response_format": {"type": "json_object"}}, "", "response_format"),
    ("chat", {"messages": [{"role": "user", "content": "x", "name": "ada"}]}, "", "messages.name"),
    ("chat", {"messages": [*ASK, {"role": "system", "content": "x"}]}, "", "messages.system"),
    ("chat", {"messages": [*ASK, {"role": "assistant", "content": "I"}]}, "", "messages.prefill"),
    ("chat", {"user": "u"}, "gemini", "user"),
    ("chat", {"tools": [FUNCTION], "parallel_tool_calls": False}, "gemini", "parallel_tool_calls"),
    ("chat", {"tools": [FUNCTION], "parallel_tool_calls": False}, "converse", "parallel_tool_calls"),
    ("chat", {"reasoning_effort": "low"}, "converse", "reasoning_effort"),
    ("responses", {"store": True}, "", "store"),
    ("responses", {"truncation": "auto"}, "", "truncation"),
    ("responses", {"include": ["message.output_text.logprobs"]}, "", "include"),
    ("responses", {"metadata": {"a": "b"}}, "", "metadata"),
    ("messages", {"top_k": 5}, "", "top_k"),
    ("messages", {"speed": "fast"}, "", "speed"),
    ("messages", {"thinking": {"type": "disabled"}}, "", "thinking"),
    ("messages", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, "", "thinking"),
    ("messages", {"metadata": {"user_id": "u", "other": 1}}, "", "metadata.other"),
    ("messages", {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, "",
     "cache_control"),
    ("messages", {"tools": [{"name": "w", "input_schema": {}, "defer_loading": True}]}, "", "tools.defer_loading"),
    ("messages", {"messages": [*ASK, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "t", "signature": "s"}, {"type": "text", "text": "x"}]}, *ASK]}, "",
     "messages.thinking"),
    ("messages", {"messages": [*ASK, {"role": "assistant", "content": [
        {"type": "tool_use", "id": "a", "name": "w", "input": {}}, {"type": "text", "text": "x"}]}, *ASK]}, "",
     "messages.order"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "more", "target", "name"), LOST, ids=[f"{case[0]}-{case[2]}-{case[3]}" for case in LOST]
)
def test_a_hint_without_words_elsewhere_is_declared_lost_in_the_callers_words(source, more, target, name):
    assert name in translated(source, more, target).losses


@pytest.mark.parametrize("source", BODIES)
def test_a_plain_request_loses_nothing(source):
    for target in ("chat", "messages", "gemini", "converse"):
        assert translated(source, {}, target).losses == ()


@pytest.mark.parametrize(("model", "cap"), [("claude-haiku-4-5", 4_096), ("claude-opus-5", 16_384)])
def test_a_missing_cap_is_declared_where_the_other_side_insists_on_one(model, cap):
    body = json.dumps({"model": "m", "messages": ASK}).encode()
    made = translate_request(body, source="chat", target="messages", model=model)
    assert json.loads(made.body)["max_tokens"] == made.output_cap == cap
    assert made.losses == ("max_completion_tokens",)


def test_the_cap_has_the_name_that_the_server_knows():
    body = json.dumps(MESSAGES).encode()
    for name in ("max_completion_tokens", "max_tokens"):
        made = translate_request(body, source="messages", target="chat", model="m", cap_name=name)
        assert (json.loads(made.body)[name], made.output_cap) == (9, 9)
        assert len([key for key in json.loads(made.body) if key.startswith("max_")]) == 1


def test_pictures_in_results_follow_as_the_users_where_results_are_words():
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    messages = [
        *ASK,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "w", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [picture]}]},
    ]
    made = translated("messages", {"messages": messages}, "chat")
    assert "messages.content.content.image" in made.losses
    said = json.loads(made.body)["messages"]
    assert [turn["role"] for turn in said] == ["user", "assistant", "tool", "user"]
    assert said[-1]["content"][0]["image_url"]["url"] == "data:image/png;base64,AAAA"


@pytest.mark.parametrize("target", ["gemini", "converse"])
def test_a_picture_by_url_is_refused_where_pictures_must_be_sent(target):
    more = user({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})
    with pytest.raises(Untranslatable, match="base64"):
        translated("chat", more, target)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-3-7-sonnet-20250219", {"type": "enabled", "budget_tokens": 2_048}),
        ("claude-sonnet-4-20250514", {"type": "enabled", "budget_tokens": 2_048}),
        ("claude-haiku-4-5-20251001", {"type": "enabled", "budget_tokens": 2_048}),
        ("claude-opus-4-6", {"type": "adaptive"}),
        ("claude-haiku-5-5", {"type": "adaptive"}),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", {"type": "enabled", "budget_tokens": 2_048}),
    ],
)
def test_effort_is_a_budget_for_older_claudes_and_adaptive_for_newer_ones(model, expected):
    body = json.dumps({"model": "m", "messages": ASK, "reasoning_effort": "low"}).encode()
    said = json.loads(translate_request(body, source="chat", target="messages", model=model).body)
    assert said["thinking"] == expected


@pytest.mark.parametrize(
    ("model", "kept"),
    [("claude-haiku-4-5", True), ("claude-opus-4-6", True), ("claude-opus-4-7", False), ("claude-sonnet-5", False)],
)
@pytest.mark.parametrize("target", ["messages", "converse"])
def test_sampling_is_declared_lost_where_newer_claudes_refuse_it(model, kept, target):
    body = json.dumps(CHAT | {"temperature": 0.5, "top_p": 0.9}).encode()
    made = translate_request(body, source="chat", target=target, model=model)
    said = json.loads(made.body)
    said |= said.get("inferenceConfig", {})
    assert ("temperature" in said, "top_p" in said or "topP" in said) == (kept, kept)
    assert ({"temperature", "top_p"} <= set(made.losses)) == (not kept)


def test_who_asks_for_no_thinking_gets_none_where_it_is_on_by_default():
    for model, expected in (("claude-opus-4-6", None), ("claude-opus-5", {"type": "disabled"})):
        body = json.dumps(CHAT | {"reasoning_effort": "none"}).encode()
        made = translate_request(body, source="chat", target="messages", model=model)
        assert json.loads(made.body).get("thinking") == expected


def test_thinking_stays_off_where_anthropic_would_refuse_it():
    """A tool loop whose calls carry no signed thinking, a forced tool, a cap too small to think in."""
    call = {"id": "a", "type": "function", "function": {"name": "w", "arguments": "{}"}}
    loop = [*ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "r"}]
    for more in (
        {"messages": loop},
        {"tools": [FUNCTION], "tool_choice": "required"},
        {"max_tokens": 1_000},
    ):
        body = json.dumps({"model": "m", "messages": ASK, "reasoning_effort": "high", **more}).encode()
        made = translate_request(body, source="chat", target="messages", model="claude-sonnet-4-5")
        assert "thinking" not in json.loads(made.body)
        assert "reasoning_effort" in made.losses


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model":', b'{"messages":[[[[[[[['])
def test_what_is_no_json_object_is_a_bad_request(body):
    with pytest.raises(RequestError):
        translate_request(body, source="chat", target="messages", model="m")
