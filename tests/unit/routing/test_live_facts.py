"""What a route knows of the moment: latencies, pools, the last turns of conversations, decisions made again."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.policy_routes import Route
from farthing.core.route_check import left_out, recheck
from farthing.core.route_decide import Artefact, Thresholds
from farthing.core.route_model import RouteModel
from farthing.core.types import Decision, PromptView, Usage, UsagePart
from farthing.engine.route_latency import CALLS_MIN, RECENT_MS, Latencies
from farthing.engine.route_prefix import TURNS_MAX, Prefixes, cache_rule, input_of, unread, with_read
from farthing.lab.route_train import train
from farthing.testing.labels import labelled

CHAT = PromptView(endpoint="chat", model="m")
MESSAGES = PromptView(endpoint="messages", model="m")
MARKED = PromptView(endpoint="messages", model="m", cache_marks=1)


def usage(**lines: int) -> Usage:
    return Usage(parts=(UsagePart(lines=tuple((unit, many) for unit, many in lines.items() if many)),))


# -- latency


@given(st.lists(st.integers(1, 10_000), min_size=CALLS_MIN, max_size=120))
def test_nineteen_of_twenty_recent_calls_are_within_the_figure(times: list[int]) -> None:
    known = Latencies()
    for took in times:
        known.heard("m", at_ms=5, took_ms=took)
    found = known.p95("m", now_ms=10)
    assert found is not None
    assert sum(took <= found for took in times) >= 0.95 * len(times)
    assert sum(took < found for took in times) < 0.95 * len(times)


def test_few_or_old_calls_say_nothing() -> None:
    known = Latencies()
    assert known.p95("m", now_ms=0) is None
    for at_ms in range(CALLS_MIN):
        assert known.p95("m", now_ms=at_ms) is None
        known.heard("m", at_ms=at_ms, took_ms=7)
    assert known.p95("m", now_ms=CALLS_MIN) == 7
    assert known.p95("m", now_ms=CALLS_MIN + RECENT_MS) is None


# -- the prompt cache


def test_only_the_turn_on_another_model_lost_something() -> None:
    turns = Prefixes()
    assert turns.turn("t", "a", 5_000, at_ms=0) == (0, 0)
    assert turns.turn("t", "a", 5_100, at_ms=10) == (0, 0)
    assert turns.turn("t", "b", 5_200, at_ms=30) == (5_100, 20)
    assert turns.turn("t", "b", 5_300, at_ms=40) == (0, 0)
    assert turns.turn("other", "a", 1, at_ms=40) == (0, 0)
    assert turns.turn("t", "a", 5_400, at_ms=50) == (5_300, 10)


def test_conversations_are_forgotten_in_the_order_of_their_last_turn() -> None:
    turns = Prefixes()
    for number in range(TURNS_MAX + 1):
        turns.turn(str(number), "a", 2_000, at_ms=0)
    assert turns.turn("0", "b", 2_000, at_ms=0) == (0, 0)
    assert turns.turn(str(TURNS_MAX), "b", 2_000, at_ms=0) == (2_000, 0)


@pytest.mark.parametrize(
    ("before", "ago_ms", "view", "speaks", "model", "expected"),
    [
        (2_000, 0, CHAT, "openai", "gpt-4o", 1_920),  # 1,024 and seven steps of 128
        (1_023, 0, CHAT, "openai", "gpt-4o", 0),
        (2_000, 300_000, CHAT, "openai", "gpt-4o", 0),
        (2_000, 0, MESSAGES, "anthropic", "claude-sonnet-4-5", 0),  # nothing was marked, so nothing was cached
        (2_000, 0, MARKED, "anthropic", "claude-sonnet-4-5", 2_000),
        (2_000, 0, MARKED, "anthropic", "claude-haiku-4-5", 0),  # caches from 4,096 tokens on
        (2_000, 0, MARKED, "bedrock", "anthropic.claude-3-haiku-20240307-v1:0", 0),  # from 2,048
        (600, 0, MARKED, "anthropic", "claude-opus-5", 600),  # from 512
        (2_000, 0, MARKED, "gemini", "gemini-2.5-pro", 0),
    ],
)
def test_what_would_have_been_read_follows_the_providers_rules(
    before: int, ago_ms: int, view: PromptView, speaks, model: str, expected: int
) -> None:
    assert unread(usage(input=3_000, output=5), before, ago_ms, cache_rule(view, speaks, model)) == expected


@given(st.integers(0, 9_000), st.integers(0, 9_000), st.integers(0, 9_000), st.integers(0, 30_000))
def test_reading_more_moves_tokens_and_makes_none(plain: int, read: int, written: int, more: int) -> None:
    before = usage(input=plain, input_cache_read=read, input_cache_write=written, output=9)
    after = with_read(before, more)
    assert input_of(after) == input_of(before)
    lines = dict(after.parts[0].lines)
    assert lines["input_cache_read"] == read + min(more, plain + written)
    assert lines["output"] == 9


# -- decisions made again

ROUTE = Route(
    name="r", models=("auto",), tiers=(("simple", "gpt-4o-mini"), ("complex", "gpt-4o")), by=("learned",), table="t"
)


def decision(reason: str, **evidence: str) -> Decision:
    return Decision(stage="route", action="choose", reason=reason, evidence=tuple(evidence.items()))


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    table = train(labelled(300)).table
    return Artefact(table=table, thresholds=Thresholds(gains=(("gpt-4o-mini", 0.3),)))


def scores(gain: float, **more: str) -> dict[str, str]:
    return {"coverage": "1.000", "p:gpt-4o": "0.9000", "p:gpt-4o-mini": f"{0.9 - gain:.4f}", **more}


@pytest.mark.parametrize(
    ("logged", "agrees"),
    [
        (decision("route_learned", model="gpt-4o-mini", **scores(0.1)), True),
        (decision("route_learned", model="gpt-4o", **scores(0.1)), False),
        (decision("route_learned", model="gpt-4o", **scores(0.5)), True),
        (decision("route_drift", model="gpt-4o", wanted="gpt-4o-mini", frozen="psi", **scores(0.1)), True),
        (decision("route_rolled_back", model="gpt-4o", wanted="gpt-4o-mini", **scores(0.1)), True),
        (decision("route_holdout", model="gpt-4o", wanted="gpt-4o-mini", **scores(0.5)), False),
        (decision("route_unsupported", model="gpt-4o", **{**scores(0.1), "coverage": "0.100"}), True),
        (decision("route_learned", model="gpt-4o", left_out="gpt-4o-mini: takes 9 ms, the route allows 1 ms",
                  **scores(0.1)), True),
        (decision("route_classifier", model="gpt-4o", said="not understood"), True),
        (decision("route_classifier", model="gpt-4o-mini", said="simple"), True),
        (decision("route_classifier", model="gpt-4o", said="simple"), False),
        (decision("somebody_else", model="gpt-4o"), None),
    ],
)  # fmt: skip
def test_a_logged_decision_is_made_again_from_its_evidence(
    artefact: Artefact, logged: Decision, agrees: bool | None
) -> None:
    assert artefact.table is not None
    learned = RouteModel(artefact.table)
    checked = recheck(ROUTE, logged, text=None, tools=0, learned=learned, artefact=artefact)
    assert checked.agrees is agrees
    assert any("prompt was not kept" in note for note in checked.notes)


def test_models_left_out_are_read_from_the_evidence() -> None:
    found = left_out("a: takes 5 ms, the route allows 1 ms; b: dominated by a: costs 2×")
    assert [one.model for one in found] == ["a", "b"]
    assert left_out("") == ()
    assert msgspec.json.encode(found)
