"""Routers without training, pools, and the price of changing a conversation's model."""

from itertools import permutations
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.route_pool import Member, prune
from farthing.core.route_rules import by_length, complexity, tier_word
from farthing.core.route_sticky import Rates, Turn, break_even_calls, conversation_cost

OPUS = Rates(5_000_000, 25_000_000, 500_000, 6_250_000)
SONNET = Rates(3_000_000, 15_000_000, 300_000, 3_750_000)
HAIKU = Rates(1_000_000, 5_000_000, 100_000, 1_250_000)


@pytest.mark.parametrize(
    ("text", "score", "tier", "kind"),
    [
        ("What's your return policy?", 0.2, "simple", "factual"),
        ("What is the capital of France?", 0.2, "simple", "factual"),
        ("Show me the map", 0.4, "medium", "general"),
        ("How to reset my password", 0.4, "medium", "procedural"),
        ("Why is the sky blue?", 0.6, "medium", "analytical"),
        ("Is this a redesigned showroom?", 0.4, "medium", "general"),
        ("Summarise what I mentioned earlier", 0.6, "medium", "general"),
        (
            "Compare our enterprise and business plans, analyze which would be better for a mid-sized company with "
            "500 employees, considering scalability and cost over 3 years",
            1.0,
            "complex",
            "analytical",
        ),
        ("", 0.4, "medium", "general"),
    ],
)
def test_the_heuristic_scores_whole_words(text: str, score: float, tier: str, kind: str) -> None:
    found = complexity(text)
    assert (found.score, found.tier, found.kind) == (score, tier, kind)


def test_short_without_tools_is_simple() -> None:
    assert by_length(49, 0) == "simple"
    assert by_length(50, 0) == "complex"
    assert by_length(49, 1) == "complex"


@pytest.mark.parametrize(
    ("answer", "tier"),
    [("Simple.", "simple"), (" complex\n", "complex"), ("not simple", None), ("simplest", None), ("", None)],
)
def test_a_classifier_is_only_understood_when_it_says_one_word(answer: str, tier: str | None) -> None:
    assert tier_word(answer) == tier


def test_a_dearer_model_that_is_not_better_is_left_out_with_the_reason() -> None:
    turbo = Member("gpt-4-turbo", 17_500_000, quality=0.86)
    large = Member("gpt-4o", 5_000_000, quality=0.88)
    small = Member("gpt-4o-mini", 300_000, quality=0.80)
    kept, left = prune([turbo, large, small])
    assert [member.model for member in kept] == ["gpt-4o-mini", "gpt-4o"]
    assert [(one.model, one.reason) for one in left] == [
        ("gpt-4-turbo", "dominated by gpt-4o: costs 3.50×, quality 0.860 against 0.880")
    ]


def test_bounds_leave_out_what_breaks_them_and_only_that() -> None:
    pool = [
        Member("a", 1, quality=0.5, provider="x", latency_ms=900),
        Member("b", 2, quality=0.9, provider="y"),
        Member("c", None, quality=0.95, provider="y"),
    ]
    assert [one.model for one in prune(pool, quality_min=0.6)[0]] == ["b"]
    assert [one.model for one in prune(pool, latency_ms_max=500)[0]] == ["b"]
    assert [one.model for one in prune(pool, cost_max=1)[0]] == ["a"]
    assert [one.model for one in prune(pool, providers=["x"])[0]] == ["a"]


members = st.lists(
    st.builds(
        Member,
        model=st.uuids().map(str),
        cost=st.integers(0, 5),
        quality=st.sampled_from([0.1, 0.5, 0.9]),
    ),
    min_size=1,
    max_size=6,
)


@given(members)
def test_pruning_keeps_a_best_model_for_every_wish_and_nothing_dominated(pool: list[Member]) -> None:
    kept, left = prune(pool)
    assert len(kept) + len(left) == len(pool)
    for one, other in permutations(kept, 2):
        assert not (one.cost <= other.cost and one.quality >= other.quality)
    for member in pool:
        assert any(one.cost <= member.cost and one.quality >= member.quality for one in kept)


def test_the_break_even_is_the_one_of_the_formula() -> None:
    assert break_even_calls(OPUS, HAIKU, prefix=10_000, output=80) == pytest.approx(2.05, abs=0.06)
    assert break_even_calls(SONNET, HAIKU, prefix=10_000, output=80) == pytest.approx(4.1, abs=0.1)
    assert break_even_calls(HAIKU, OPUS, prefix=10_000, output=80) == inf


@given(st.integers(2, 12), st.integers(2_000, 20_000), st.integers(1, 11), st.integers(0, 500))
def test_a_change_pays_exactly_past_the_break_even(calls: int, prefix: int, left: int, output: int) -> None:
    """The differential: what the rest of the conversation costs when it stays, and when it goes."""
    stays = left * (prefix * OPUS.cache_read + output * OPUS.output)
    goes = prefix * (HAIKU.cache_write - HAIKU.cache_read) + left * (
        prefix * HAIKU.cache_read + output * HAIKU.output
    )
    needed = break_even_calls(OPUS, HAIKU, prefix=prefix, output=output)
    assert (left > needed) == (goes < stays)


def test_a_conversation_reads_what_it_wrote_before() -> None:
    turns = [Turn(0, 1_000, 10), Turn(1_000, 100, 10)]
    expected = 1_000 * 1_250_000 + 1_000 * 100_000 + 100 * 1_250_000 + 20 * 5_000_000
    assert conversation_cost(HAIKU, turns) == expected
    assert conversation_cost(HAIKU, turns, minimum=2_000) == 2_100 * 1_000_000 + 20 * 5_000_000
