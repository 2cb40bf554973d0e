"""Partitions of the semantic cache: only the question may differ, and answers are compared with care."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.caching_key import digest_of
from farthing.core.semantic_answers import compare_texts, judge_prompt, verdict_of
from farthing.core.semantic_question import question_of, semantic_partition

USER = {"role": "user", "content": "where is my card"}


def part(fields: dict[str, Any], *, caller: str = "t", embedder: str = "e", turns: Any = "last") -> str:
    question = question_of("chat", fields, turns=turns)
    assert question is not None
    return semantic_partition(caller, question, embedder)


def draw(rng: random.Random) -> tuple[tuple[Any, ...], dict[str, Any], str, str]:
    """What must be equal for a hit, as a tuple, and a request that has it."""
    tenant, model = rng.choice("ab"), rng.choice(("m1", "m2"))
    system, tools = rng.choice(("", "be kind", "be kin")), rng.choice((0, 1, 2))
    form, embedder = rng.choice(("", "json_object")), rng.choice(("e1", "e2"))
    turns = tuple(rng.choice(("x", "y", "xy")) for _ in range(rng.choice((0, 0, 1, 2))))
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for number, turn in enumerate(turns):
        messages.append({"role": ("user", "assistant")[number % 2], "content": turn})
    messages.append({"role": "user", "content": f"question {rng.random()}"})
    fields: dict[str, Any] = {"model": model, "messages": messages}
    if tools:
        fields["tools"] = [{"type": "function", "function": {"name": f"f{n}"}} for n in range(tools)]
    if form:
        fields["response_format"] = {"type": form}
    return (tenant, model, system, tools, form, embedder, turns), fields, tenant, embedder


def test_no_two_of_a_hundred_thousand_requests_share_a_partition_that_must_not() -> None:
    rng = random.Random(11)
    owners: dict[str, tuple[Any, ...]] = {}
    partitions: dict[tuple[Any, ...], str] = {}
    for _ in range(100_000):
        facts, fields, tenant, embedder = draw(rng)
        name = part(fields, caller=digest_of((tenant.encode(),)), embedder=embedder)
        assert owners.setdefault(name, facts) == facts
        assert partitions.setdefault(facts, name) == name
    assert len(owners) > 1_000


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_question_cannot_reach_out_of_its_place(text: str, other: str) -> None:
    plain = {"model": "m", "messages": [{"role": "user", "content": text}]}
    parts = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}
    longer = {"model": "m", "messages": [{"role": "user", "content": other}, {"role": "user", "content": text}]}
    found = [question_of("chat", one, turns="last") for one in (plain, parts, longer)]
    if not text.strip():
        assert found == [None, None, None]
        return
    assert all(one is not None and one.text == text for one in found)
    assert len({one.rest for one in found if one is not None}) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": "where is my card"},
        {"messages": [USER, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "tool", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        {"messages": [{"role": "user", "content": "  "}]},
        {"messages": [{"role": "user", "content": None}]},
        {"prompt": ["a", "b"]},
        {},
    ],
)
def test_what_is_no_plain_question_has_none(fields: dict[str, Any]) -> None:
    assert question_of("chat", fields, turns="last") is None
    assert question_of("completions", fields, turns="last") is None
    assert question_of("embeddings", {"input": "a"}, turns="last") is None


def test_routes_may_keep_to_first_turns() -> None:
    first = {"messages": [{"role": "system", "content": "s"}, USER]}
    later = {"messages": [USER, {"role": "assistant", "content": "a"}, USER]}
    assert question_of("chat", first, turns="first_only") is not None
    assert question_of("chat", later, turns="first_only") is None
    assert question_of("chat", later, turns="last") is not None


def test_every_text_endpoint_has_its_question() -> None:
    assert question_of("completions", {"prompt": "hello"}, turns="last") is not None
    assert question_of("responses", {"input": "hello"}, turns="last") is not None
    found = question_of(
        "responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, turns="last"
    )
    assert found is not None
    assert found.text == "hi"
    assert question_of("messages", {"messages": [USER]}, turns="last") is not None


def test_answers_are_told_apart_by_what_matters_in_them() -> None:
    assert compare_texts("It takes 3 days.", "it takes 3 days") is True
    assert compare_texts("It takes 3 days.", "It takes 5 days.") is False
    assert compare_texts("You can do that.", "You cannot do that.") is False
    assert compare_texts("It depends on where you live", "Some places differ from others here") is None


@pytest.mark.parametrize(
    ("reply", "same"), [("SAME", True), (" same.", True), ("**DIFFERENT**", False), ("different, because", False)]
)
def test_a_judges_word_is_read(reply: str, same: bool) -> None:
    assert verdict_of(reply) is same
    assert verdict_of(f"I think {reply}") is None
    assert "where is it" in judge_prompt("where is it", "a", "b")
