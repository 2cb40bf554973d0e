"""Digests of a prompt's prefix: two prompts share exactly their common leading blocks, and no text is kept."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.wire.prefix import BLOCK_BYTES, BLOCKS_MAX, SECTIONS_MAX, digest, sections

SALT = b"salt"
QUICK = settings(max_examples=60, deadline=None)


def body(**fields):
    return json.dumps({"model": "m", **fields}).encode()


def turn(text, role="user"):
    return {"role": role, "content": text}


def test_sections_come_in_the_order_in_which_providers_build_the_prefix():
    made = body(messages=[turn("a", "system"), turn("b")], tools=[{"a": 1}, {"b": 2}], system="s")
    found, _ = sections(made, SALT)
    assert [section.role for section in found] == ["tool", "tool", "system", "system", "user"]
    assert found[0].size == len(json.dumps({"a": 1}))
    assert found[0].digest == digest(json.dumps({"a": 1}).encode(), SALT)


def test_every_dialects_prompt_is_found():
    roles = {
        "input": [section.role for section in sections(body(input="x", instructions="i"), SALT)[0]],
        "items": [section.role for section in sections(body(input=[{"type": "reasoning"}, turn("a")]), SALT)[0]],
        "prompt": [section.role for section in sections(body(prompt=["a", [1, 2]]), SALT)[0]],
    }
    assert roles == {"input": ["instructions", "user"], "items": ["item", "user"], "prompt": ["item", "item"]}


@QUICK
@given(common=st.integers(0, 4000), left=st.integers(0, 3000), right=st.integers(0, 3000))
def test_two_prompts_share_exactly_their_common_leading_blocks(common, left, right):
    one = sections(body(prompt="c" * common + "l" * left), SALT)[1]
    two = sections(body(prompt="c" * common + "r" * right), SALT)[1]
    alike = 0
    for first, second in zip(one, two, strict=False):
        if first != second:
            break
        alike += 1
    same = 1 + common + (0 if left and right else min(left, right) + (not left and not right))  # with its quote
    assert alike == min(same // BLOCK_BYTES, len(one), len(two))
    assert not set(one[alike:]) & set(two[alike:])


def test_a_turn_more_keeps_all_blocks_of_the_shorter_conversation_but_its_last():
    first = [turn("a" * 1500), turn("b" * 1500, "assistant")]
    one = sections(body(messages=first), SALT)[1]
    two = sections(body(messages=[*first, turn("c" * 3000)]), SALT)[1]
    assert two[: len(one)] == one
    assert len(two) > len(one)


def test_another_salt_gives_other_digests():
    made = body(prompt="a" * 3000)
    assert sections(made, SALT)[1] != sections(made, b"other")[1]
    assert sections(made, SALT)[0][0].digest != sections(made, b"other")[0][0].digest


def test_what_is_kept_is_bounded():
    found, blocks = sections(body(messages=[turn("x" * 30_000)] * (SECTIONS_MAX + 20)), SALT)
    assert len(found) == SECTIONS_MAX
    assert len(blocks) == BLOCKS_MAX


@QUICK
@given(content=st.binary(max_size=60))
def test_any_bytes_have_sections_or_none(content):
    found, blocks = sections(content, SALT)
    assert isinstance(found, tuple)
    assert blocks == ()


def test_no_text_is_in_the_digests():
    found, blocks = sections(body(messages=[turn("secret word " * 200)]), SALT)
    assert "secret" not in repr((found, blocks))
