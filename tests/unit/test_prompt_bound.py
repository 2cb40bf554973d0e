"""The counted bound of a prompt: never below what a provider bills, and near it for a plain conversation."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farthing.adapters.tokenizers import BpeTokenizer
from farthing.core.types import Bounds, Request, Scope, Target
from farthing.engine.reading import counted_bound
from farthing.sim.anthropic_wire import messages_prompt
from farthing.sim.catalog import load_catalog
from farthing.sim.openai_wire import chat_prompt
from farthing.wire import anthropic, openai

COUNTER = BpeTokenizer()
GPT = load_catalog().find("openai", "gpt-4o")
CLAUDE = load_catalog().find("anthropic", "claude-haiku-4-5")
TEXTS = st.text(max_size=60) | st.sampled_from(
    ["", "\n", " \n\n ", "Wie geht es?", "x" * 200, "ü☂\U0001f600", "    a"]
)
PARTS = st.lists(TEXTS.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@st.composite
def chats(draw: Any) -> dict[str, Any]:
    roles = st.sampled_from(["system", "user", "assistant", "developer"])
    turns = []
    for role in draw(st.lists(roles, min_size=1, max_size=5)):
        turns.append({"role": role, "content": draw(TEXTS | PARTS)})
        if draw(st.booleans()):
            turns[-1]["name"] = draw(st.sampled_from(["ada", "a_long_name_for_a_person"]))
    body = {"model": "gpt-4o", "messages": turns, "max_tokens": 9, "temperature": 0.2}
    return {**body, "tools": [TOOL]} if draw(st.booleans()) else body


def bound(body: dict[str, Any], dialect: Any) -> int:
    data = json.dumps(body).encode()
    view = openai.view_chat(data) if dialect == "openai" else anthropic.view_messages(data)
    request = Request(id="r", received_at_ms=0, dialect=dialect, body=data, headers=(), view=view, scope=Scope())
    target = Target(provider=dialect, model=body["model"], price_as=dialect)
    return counted_bound(COUNTER, request, target, Bounds(input_tokens=10**9, output_tokens=9))


@settings(max_examples=150, deadline=None)
@given(body=chats())
@example(body={"model": "gpt-4o", "messages": [{"role": "user", "content": ""}]})
def test_no_prompt_is_billed_more_than_its_bound(body):
    assert chat_prompt(body, GPT).tokens <= bound(body, "openai")


@pytest.mark.parametrize("turns", [1, 40])
def test_the_bound_of_a_plain_conversation_is_near_what_is_billed(turns):
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello to them."}] * turns}
    billed = chat_prompt(body, GPT).tokens
    assert billed <= bound(body, "openai") <= 16 + billed + 16 * turns


def test_what_nobody_here_knows_is_counted_whole():
    plain = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
    more = "a field that some server puts into its prompt " * 20
    assert bound({**plain, "guided_regex": more}, "openai") > bound(plain, "openai") + 100
    odd = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi", "reasoning_content": more}]}
    assert bound(odd, "openai") > bound(plain, "openai") + 100


def test_numbers_that_a_schema_or_a_tool_call_lists_are_counted():
    plain = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "tools": [TOOL]}
    values = [10**17 + number for number in range(200)]
    more = {**TOOL, "function": {**TOOL["function"], "parameters": {"type": "integer", "enum": values}}}
    asked = [*plain["messages"], {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "input": values}]}]
    text = COUNTER.count(json.dumps(values).encode(), model="gpt-4o").tokens
    assert bound({**plain, "tools": [more]}, "openai") >= bound(plain, "openai") + text
    assert bound({**plain, "messages": asked}, "openai") >= bound(plain, "openai") + text


def test_texts_to_embed_are_counted_and_tokens_are_not_taken_for_texts():
    def bound_of(given: Any) -> int:
        data = json.dumps({"model": "text-embedding-3-small", "input": given}).encode()
        request = Request(
            id="r", received_at_ms=0, dialect="openai", body=data, headers=(), view=openai.VIEWS["embeddings"](data),
            scope=Scope(),
        )  # fmt: skip
        target = Target(provider="openai", model="text-embedding-3-small", price_as="openai")
        return counted_bound(COUNTER, request, target, Bounds(input_tokens=10**9, output_tokens=0))

    assert 2 <= bound_of(["Hi", "you"]) <= 40
    assert bound_of([1, 2, 3] * 100) >= 300


def test_a_message_with_a_system_prompt_is_bounded_too():
    turns = [{"role": "user", "content": "Hi"}]
    body = {"model": "claude-haiku-4-5", "system": "You are brief. " * 30, "messages": turns, "max_tokens": 9}
    billed = messages_prompt(body, CLAUDE).tokens
    assert billed <= bound(body, "anthropic")
