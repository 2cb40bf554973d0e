"""Checks of answers, the form in which two of them are compared, and the steps of a cascade."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.cascade import agree, break_even, judge_mark, next_step, self_confident, worth_it
from farthing.core.cascade_checks import Answer, comparable, deterministic
from farthing.core.json_schema import schema_problem
from farthing.core.policy_routes import CascadeRules, Route, route_problems

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def said(text: str, **more: object) -> Answer:
    return Answer(model="m", text=text, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("18", "18.0"),
        ("$1,200", "1200.00"),
        ("The answer is: 42", "42"),
        ("so\nFinal answer: 7", "\\boxed{7}"),
        ('{"b": 1, "a": [1, 2]}', '{"a":[1,2],"b":1}'),
        ("[(4, 1), (2, 3)]", "[(4,1),(2,3)]"),
        ("Paris.", "paris"),
    ],
)
def test_answers_that_say_the_same_agree(one: str, other: str) -> None:
    assert agree(said(one), said(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [("18", "19"), ("1.5", "15"), ("", ""), ("true", "1"), ("Paris", "London"), ("a" * 300, "a" * 300), ("-5", "5")],
)
def test_answers_that_do_not_or_cannot_be_compared_do_not_agree(one: str, other: str) -> None:
    assert not agree(said(one), said(other))


def test_tool_calls_agree_by_name_and_arguments_in_any_order() -> None:
    one = said("", tool_calls=(("tides", '{"port": "Kiel", "day": 1}'), ("wind", "{}")))
    other = said("", tool_calls=(("wind", "{}"), ("tides", '{"day":1,"port":"Kiel"}')))
    assert agree(one, other)
    assert not agree(one, said("", tool_calls=(("tides", '{"day":2,"port":"Kiel"}'), ("wind", "{}"))))


@given(
    st.recursive(st.integers() | st.booleans() | st.text(max_size=5), lambda v: st.lists(v, max_size=3), max_leaves=6)
)
def test_json_compares_by_value_however_it_is_written(value: object) -> None:
    tight, loose = json.dumps(value, separators=(",", ":")), json.dumps(value, indent=2)
    assert comparable(said(tight)) == comparable(said(loose))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"name": "Ann", "age": 3}, ""),
        ({"name": "Ann"}, ""),
        ({"age": 3}, "$.name is missing"),
        ({"name": "Ann", "age": 3.5}, "$.age is not of type integer"),
        ({"name": "Ann", "age": True}, "$.age is not of type integer"),
        ({"name": "Ann", "age": -1}, "$.age is out of bounds"),
        ({"name": ""}, "$.name has a wrong length"),
        ({"name": "Ann", "job": 1}, "$.job is not allowed"),
        ([], "$ is not of type object"),
    ],
)
def test_a_schema_names_the_first_fault_and_its_place(value: object, problem: str) -> None:
    assert schema_problem(value, PERSON) == problem


def test_schemas_refer_combine_and_never_loop() -> None:
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    }
    assert schema_problem({"next": {"next": {}}}, tree) == ""
    assert schema_problem({"next": {"next": 1}}, tree) == "$.next.next is not of type object"
    assert schema_problem(1, {"anyOf": [{"type": "string"}, {"const": 1}]}) == ""
    assert schema_problem(True, {"const": 1}) != ""
    assert schema_problem(3, {"oneOf": [{"minimum": 1}, {"minimum": 2}]}) == "$ fits 2 of oneOf"
    assert schema_problem(1, {"$ref": "#"}) == ""
    assert schema_problem(1, {"not": {"type": "integer"}}) != ""


@pytest.mark.parametrize(
    ("check", "text", "fine"),
    [
        ("json", '{"a": 1}', True),
        ("json", '```json\n{"a": 1}\n```', True),
        ("json", "Sure! {}", False),
        ("regex", "order 123", True),
        ("regex", "order", False),
        ("code", "```python\nprint(1)\n```", True),
        ("code", "```python\nprint(1\n```", False),
        ("code", "no code", False),
        ("code", "```rust\nfn main( {\n```", True),
        ("json_schema", '{"name": "Ann"}', True),
        ("json_schema", '{"name": 1}', False),
    ],
)
def test_deterministic_checks(check: str, text: str, fine: bool) -> None:
    problem = deterministic(check, said(text), schema=json.dumps(PERSON), pattern=r"\d+")
    assert (problem == "") == fine


def test_tool_arguments_are_checked_against_the_requests_own_tools() -> None:
    tools = (("person", json.dumps(PERSON)),)
    ok = said("", tool_calls=(("person", '{"name": "Ann"}'),), finish="tool_calls")
    assert not deterministic("tool_arguments", ok, tools=tools)
    for calls in ((("person", '{"age": 1}'),), (("other", "{}"),), (("person", "{"),)):
        assert deterministic("tool_arguments", said("", tool_calls=calls), tools=tools)


def rules(*verify: str, **more: object) -> CascadeRules:
    return CascadeRules(verify=verify, peer="p", judge="j", pattern="x", **more)  # type: ignore[arg-type]


def test_surer_checks_come_first_and_a_failed_one_escalates_at_once() -> None:
    step = next_step(rules("json", "agreement", "judge"), said("no json"))
    assert (step.kind, step.reason) == ("escalate", "json_failed")


def test_each_check_is_asked_for_only_when_those_before_it_have_no_opinion() -> None:
    both = rules("logprob", "agreement", "judge")
    assert next_step(both, said("42", logprob=-0.01)).reason == "logprob_high"
    assert next_step(both, said("42", logprob=-3.0)).kind == "peer"
    assert next_step(both, said("42")).kind == "peer"
    assert next_step(both, said("42"), peer=said("42.0")).kind == "accept"
    assert next_step(both, said("42"), peer=said("41")).kind == "judge"
    assert next_step(both, said("42"), peer=said("41"), mark=9).kind == "accept"
    assert next_step(both, said("42"), peer=said("41"), mark=3).kind == "escalate"
    assert next_step(both, said("42"), peer=said("41"), mark=-1).kind == "escalate"
    assert next_step(rules("agreement"), said("42"), peer=said("41")).reason == "unverified"
    assert next_step(rules("self_check"), said("42")).kind == "self_check"
    assert next_step(rules("self_check"), said("42"), confident=False).kind == "escalate"


def test_an_answer_that_was_cut_or_refused_is_never_accepted() -> None:
    for finish in ("length", "content_filter", "max_tokens", "refusal", "", "incomplete"):
        assert next_step(rules("json"), said("{}", finish=finish)).kind == "escalate"


@pytest.mark.parametrize(
    ("text", "mark"), [("8", 8), (" 10/10", 10), ("**7**\nbecause", 7), ("11", -1), ("good", -1), ("", -1)]
)
def test_a_judge_is_only_understood_in_numbers(text: str, mark: int) -> None:
    assert judge_mark(text) == mark


def test_confidence_is_the_word_and_not_a_fragment_of_another() -> None:
    assert self_confident(" High.")
    assert not self_confident("highly unlikely")
    assert not self_confident("low")


def test_the_break_even_of_the_worked_example() -> None:
    assert break_even(195, 109.35, 3_250) == pytest.approx(0.906, abs=0.001)
    assert worth_it(195, 109.35, 3_250, 0.9)
    assert not worth_it(195, 109.35, 3_250, 0.91)


def test_a_route_that_contradicts_itself_is_told_everything() -> None:
    route = Route(
        name="r",
        models=("*",),
        tiers=(("simple", "a"),),
        by=("learned", "classifier"),
        tags=(("x", "gold"),),
        cascade=CascadeRules(verify=("agreement", "judge", "regex")),
    )
    assert len(route_problems(route)) == 7
