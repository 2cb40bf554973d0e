"""What Farthing reads from a request body, endpoint by endpoint."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from farthing.core.errors import BadRequest
from farthing.wire import anthropic, openai

ASK = [{"role": "user", "content": "Hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def view(endpoint, **fields):
    views = {**openai.VIEWS, **anthropic.VIEWS}
    return views[endpoint](json.dumps(fields).encode())


def chat(**fields):
    return view("chat", **{"model": "gpt-4o", "messages": ASK, **fields})


def responses(**fields):
    return view("responses", **{"model": "gpt-4o", "input": "Hi", **fields})


def messages(**fields):
    return view("messages", **{"model": "claude", "messages": ASK, "max_tokens": 9, **fields})


def test_a_chat_is_read_with_all_that_decides_its_price():
    read = chat(
        stream=True,
        stream_options={"include_usage": True},
        n=3,
        max_completion_tokens=7,
        max_tokens=9,
        tools=[{"type": "function", "function": {"name": "f"}}] * 2,
        service_tier="flex",
        temperature=0.5,
        user="ada",
        metadata={"b": "2", "a": "1"},
        web_search_options={},
        messages=[{"role": "user", "content": [IMAGE, IMAGE]}],
    )
    assert (read.stream, read.include_usage, read.choices, read.output_tokens_max) == (True, True, 3, 7)
    assert (read.tools, read.images, read.service_tier, read.temperature) == (2, 4, "flex", 0.5)
    assert (read.user, read.metadata) == ("ada", (("a", "1"), ("b", "2")))
    assert read.hosted_tools == (("web_search", 0),)
    assert not read.unbounded
    assert read.body_bytes > 200


def test_null_means_not_said():
    names = ("stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "tools", "functions", "user",
             "metadata", "web_search_options", "service_tier", "temperature")  # fmt: skip
    said = chat(**dict.fromkeys(names))
    plain = chat()
    for name in plain.__struct_fields__:
        if name != "body_bytes":
            assert getattr(said, name) == getattr(plain, name), name
    assert (plain.output_tokens_max, plain.choices, plain.tools, plain.hosted_tools) == (None, 1, 0, ())


@pytest.mark.parametrize("kind", ["file_id", "file_data", "input_audio"])
def test_content_outside_the_body_makes_a_prompt_unbounded(kind):
    part = {"type": "file", "file": {kind: "x"}} if kind != "input_audio" else {"type": "input_audio", kind: {}}
    assert chat(messages=[{"role": "user", "content": [part]}]).unbounded


def test_a_safety_identifier_is_the_user_where_no_user_is_said():
    assert chat(safety_identifier="s").user == "s"
    assert chat(safety_identifier="s", user="u").user == "u"
    assert len(chat(user="u" * 1000).user) == 256


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": ["a", "b", "c"]}, 3),
        ({"prompt": ["a", "b"], "n": 2}, 4),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1], [2]], "best_of": 3}, 6),
        ({"prompt": []}, 1),
        ({}, 1),
        ({"prompt": None}, 1),
    ],
)
def test_a_batch_of_legacy_prompts_is_billed_for_each(fields, choices):
    assert view("completions", model="m", **fields).choices == choices


def test_a_legacy_completion_has_its_own_default_cap():
    assert view("completions", model="m", prompt="a").output_tokens_max == 16
    assert view("completions", model="m", prompt="a", max_tokens=0).output_tokens_max == 0


def test_an_embedding_has_no_output():
    assert view("embeddings", model="m", input=["a"]).output_tokens_max == 0


def test_responses_know_hosted_tools_and_what_lies_outside():
    plain = responses(tools=[{"type": "function", "name": "f"}], max_output_tokens=5)
    assert (plain.tools, plain.hosted_tools, plain.unbounded, plain.output_tokens_max) == (1, (), False, 5)
    hosted = responses(
        tools=[{"type": "web_search_preview_2025_03_11"}, {"type": "code_interpreter"}, {"type": "mcp"}],
        max_tool_calls=4,
    )
    assert hosted.hosted_tools == (("code_session", 4), ("tool_call", 4), ("web_search", 4))
    assert hosted.unbounded
    assert responses(previous_response_id="r").unbounded
    assert responses(conversation="c").unbounded
    assert not responses(conversation=None).unbounded
    assert responses(input=[{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]).unbounded
    assert responses(input=[{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]).images == 1


def test_a_background_response_is_refused_because_it_cannot_be_metered():
    with pytest.raises(BadRequest, match="background") as caught:
        responses(background=True)
    assert caught.value.param == "background"


def test_a_message_is_read_with_its_cache_marks_and_facets():
    read = messages(
        system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        tools=[{"name": "f", "input_schema": {}}, {"type": "web_search_20250305", "name": "s", "max_uses": 3}],
        service_tier="standard_only",
        speed="fast",
        inference_geo="us",
        metadata={"user_id": "ada"},
        stream=True,
    )
    assert (read.cache_marks, read.cache_ttl_long, read.tools) == (1, True, 1)
    assert read.hosted_tools == (("web_search", 3),)
    assert read.facets == (("region", "us"), ("speed", "fast"))
    assert (read.service_tier, read.user, read.stream, read.unbounded) == ("default", "ada", True, True)


@pytest.mark.parametrize(
    ("fields", "unbounded"),
    [
        ({}, False),
        ({"mcp_servers": []}, False),
        ({"mcp_servers": [{"url": "x"}]}, True),
        ({"container": "c"}, True),
        ({"container": None}, False),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"file_id": "f"}}]}]}, True),
        ({"tools": [{"type": "code_execution_20250522", "name": "c"}]}, True),
    ],
)
def test_what_lies_outside_a_messages_body_makes_it_unbounded(fields, unbounded):
    assert messages(**fields).unbounded is unbounded


def test_counting_tokens_needs_no_cap():
    assert view("count_tokens", model="claude", messages=ASK).output_tokens_max is None
    with pytest.raises(BadRequest, match="max_tokens"):
        view("messages", model="claude", messages=ASK)


def test_every_metered_path_has_a_view():
    assert set(openai.PATHS.values()) == set(openai.VIEWS)
    assert set(anthropic.PATHS.values()) == set(anthropic.VIEWS)


TRAPS = st.sampled_from(["hi", [], [{"role": "user"}], {"messages": []}, {"messages": [{"role": "user"}]}, "x_1"])
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": st.sampled_from(["hi", "file_id", "a_b"])})
    | st.just({"type": "image_url", "file_id": "f"}),
    max_size=2,
)
SETTINGS = st.dictionaries(
    st.sampled_from(["max_tokens", "stream", "user", "metadata", "tools", "other", "service_tier"]), TRAPS, max_size=3
)


@given(st.lists(st.tuples(SETTINGS, TURNS, st.booleans()), min_size=2, max_size=6))
def test_what_is_remembered_of_a_body_without_its_messages_is_what_reading_it_says(bodies):
    for settings, turns, first in bodies:
        given_first = {"messages": turns, **settings} if first else {**settings, "messages": turns}
        body = json.dumps({"model": "gpt-4o", **given_first}, separators=(",", ":")).encode()
        long = body[:-1] + b',"zzz":"' + b"z" * 600 + b'"}'  # too long to be remembered
        try:
            fresh = openai.view_chat(long)
        except BadRequest:
            with pytest.raises(BadRequest):
                openai.view_chat(body)
            continue
        assert replace(fresh, body_bytes=len(body)) == openai.view_chat(body)
