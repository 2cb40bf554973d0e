"""Bodies are edited without touching anything else, and read with errors that say what and where."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.errors import BadRequest
from farthing.core.types import PromptView
from farthing.wire import anthropic, body, openai

KEYS = st.sampled_from(["model", "messages", "max_tokens", "stream", "x", "ü", 'q"uote', "stream_options"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
SPACED = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")])
QUICK = settings(max_examples=150, deadline=None)


def raw_fields(data: bytes) -> dict[str, bytes]:
    return {key: bytes(value) for key, value in msgspec.json.decode(data, type=dict[str, msgspec.Raw]).items()}


@QUICK
@given(value=OBJECTS, separators=SPACED, key=KEYS)
def test_setting_a_value_keeps_the_bytes_and_order_of_all_others(value, separators, key):
    before = json.dumps(value, separators=separators).encode()
    after = body.set_value(before, key, b'{"new":1}')
    kept = raw_fields(before)
    assert raw_fields(after) == {**kept, key: b'{"new":1}'}
    assert list(raw_fields(after)) == list({**kept, key: b""})


@QUICK
@given(value=OBJECTS, separators=SPACED)
def test_inserting_a_value_changes_no_byte_of_the_rest(value, separators):
    before = b" \n" + json.dumps(value, separators=separators).encode() + b"\n"
    after = body.insert_value(before, b"new", b"[1]")
    assert raw_fields(after) == {"new": b"[1]", **raw_fields(before)}
    rest = before.lstrip().removeprefix(b"{")
    assert after.endswith(rest)


@QUICK
@given(options=st.none() | st.dictionaries(st.sampled_from(["include_usage", "a", "b"]), st.booleans()))
def test_asking_for_usage_keeps_the_callers_other_stream_options(options):
    before = json.dumps({"model": "m", "stream": True, "stream_options": options}).encode()
    after = json.loads(openai.ask_for_usage(before))
    assert after == {"model": "m", "stream": True, "stream_options": {**(options or {}), "include_usage": True}}


def test_a_nested_stream_options_is_not_mistaken_for_the_requests_own():
    before = b'{"model":"m","tools":[{"stream_options":{"a":1}}]}'
    after = json.loads(openai.ask_for_usage(before))
    assert after["stream_options"] == {"include_usage": True}
    assert after["tools"] == [{"stream_options": {"a": 1}}]


@pytest.mark.parametrize(
    ("endpoint", "given_body", "expected"),
    [
        ("chat", {}, {"max_completion_tokens": 5}),
        ("chat", {"max_tokens": 9}, {"max_tokens": 5}),
        ("chat", {"max_completion_tokens": 9}, {"max_completion_tokens": 5}),
        ("chat", {"max_tokens": 9, "max_completion_tokens": 9}, {"max_tokens": 5, "max_completion_tokens": 5}),
        ("chat", {"max_tokens": None}, {"max_tokens": 5}),
        ("chat", {"tools": [{"max_tokens": 1}]}, {"tools": [{"max_tokens": 1}], "max_completion_tokens": 5}),
        ("completions", {}, {"max_tokens": 5}),
        ("responses", {}, {"max_output_tokens": 5}),
    ],
)
def test_a_cap_goes_where_the_caller_or_the_endpoint_expects_it(endpoint, given_body, expected):
    view = PromptView(endpoint=endpoint, model="m")
    assert json.loads(openai.cap_output(json.dumps(given_body).encode(), view, 5)) == expected


def test_anthropics_cap_and_model_are_set_in_place():
    assert anthropic.cap_output(b'{"max_tokens":9,"a":1.0}', 5) == b'{"max_tokens":5,"a":1.0}'
    assert anthropic.set_model(b'{"model":"a","b":[1 ,2]}', 'n"') == b'{"model":"n\\"","b":[1 ,2]}'
    assert openai.set_model(b'{"model":"a"}', "b") == b'{"model":"b"}'


@QUICK
@given(content=st.binary(max_size=40))
def test_any_bytes_are_a_view_or_a_bad_request(content):
    for view in (*openai.VIEWS.values(), *anthropic.VIEWS.values()):
        with contextlib.suppress(BadRequest):
            view(content)


def test_the_text_of_an_answer_leaves_its_frame_out():
    answer = {
        "id": "x",
        "model": "gpt-4o",
        "choices": [{"message": {"role": "assistant", "content": "hello"}}],
        "content": [{"type": "text", "text": "there"}, {"type": "tool_use", "name": "f", "input": {"city": "X"}}],
    }
    words = body.answer_text(json.dumps(answer).encode())
    assert sorted(words.split(b"\n")) == sorted([b"hello", b"there", b"f", b'{"city":"X"}'])
    assert body.answer_text(b"{broken") == b"{broken"


def test_metadata_pairs_are_the_string_values_sorted_and_bounded():
    pairs = body.text_pairs(msgspec.Raw(b'{"b":"2","a":"1","n":3,"x":null}'))
    assert pairs == (("a", "1"), ("b", "2"))
    assert body.text_pairs(msgspec.Raw(b"[1]")) == ()
    assert body.text_pairs(body.NULL) == ()
    many = {f"k{number:03}": "v" * 500 for number in range(100)}
    found = body.text_pairs(msgspec.Raw(json.dumps(many).encode()))
    assert len(found) == 32
    assert all(len(value) == 256 for _, value in found)
