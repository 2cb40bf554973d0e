"""Bodies that say one thing twice."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.errors import BadRequest
from farthing.engine.prompt_strings import billed_strings
from farthing.wire import anthropic, openai
from farthing.wire.duplicates import repeated, says_twice, without

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"max_tokens":5}'
NAMES = st.sampled_from(["model", "max_tokens", "n", "service_tier", "messages", "x", "mod\u00e9l"])


def written(pairs: list[tuple[str, object]], escape: bool) -> bytes:
    name = (lambda text: '"' + "".join(f"\\u{ord(one):04x}" for one in text) + '"') if escape else json.dumps
    return ("{" + ",".join(f"{name(key)}:{json.dumps(value)}" for key, value in pairs) + "}").encode()


VALUES = st.integers() | st.text() | st.dictionaries(NAMES, NAMES)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.booleans())
def test_a_deciding_field_that_stands_twice_is_found_however_it_is_written(pairs, escape):
    names = [name for name, _ in pairs if name in ("model", "max_tokens", "n", "service_tier")]
    found = repeated(written(pairs, escape))
    assert (found is not None) == (len(set(names)) < len(names))
    assert found is None or names.count(found) > 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (CHAT[:-1] + b',"model":"gpt-4o-mini"}', "model"),
        (CHAT[:-1] + b',"max_tokens":1}', "max_tokens"),
        (CHAT[:-1] + b',"n":9,"n":1}', "n"),
        (CHAT[:-1] + b',"\\u006dodel":"gpt-4o-mini"}', "model"),
        (CHAT[:-1] + b',"model":' + b"1" * 5000 + b"}", "model"),
    ],
)
def test_it_is_refused_in_every_api(body, param):
    for view in (openai.view_chat, anthropic.view_messages):
        with pytest.raises(BadRequest) as refused:
            view(body)
        assert refused.value.param == param


def test_the_same_names_elsewhere_are_nobodys_business():
    tools = b'"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"model":{},"n":{}}}}}]'
    body = CHAT[:-1] + b"," + tools + b',"user":"\\u00e9"}'
    assert openai.view_chat(body).model == "gpt-4o"


def test_a_turn_that_says_two_things_is_bounded_by_its_bytes():
    long = b"word " * 400
    body = b'{"model":"gpt-4o","messages":[{"role":"user","content":"%b","content":"hi"}]}' % long
    assert says_twice(body)
    assert billed_strings(body) is None
    assert not says_twice(CHAT)


@given(
    st.lists(st.tuples(NAMES, VALUES | st.lists(VALUES, max_size=2)), max_size=6), st.integers(0, 8),
    st.lists(VALUES, max_size=3), st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]),
)  # fmt: skip
def test_what_stands_twice_is_found_the_same_without_the_messages(pairs, place, messages, escape, between):
    pairs = [pair for pair in pairs if pair[0] != "messages"]
    pairs.insert(place, ("messages", messages))
    comma, colon = between
    value = json.dumps(messages, separators=between).encode()
    written_pairs = (json.dumps(key) + colon + json.dumps(item, separators=between) for key, item in pairs)
    body = ("{" + comma.join(written_pairs) + "}").encode()
    if escape:
        body = body.replace(b'"n"', b'"\\u006e"')
    rest = without(body, b'"messages":', value)
    assert json.loads(rest) == {**json.loads(body), "messages": 0} or rest is body or value in rest
    assert repeated(rest) == repeated(body)
