"""Measured savings: intervals that cover, headlines that wait, parts that sum. More seeds: ``bench/savings.py``."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.savings import Conversation, benjamini_hochberg, in_order, measure, shapley, student

TRUE = 0.2


def arms(seed: int, control: int, treated: int, tail: float = 1.2):
    """Heavy-tailed conversations; the treated ones save 20 % on average, each by its own share."""
    rng = random.Random(seed)

    def one(saves: float) -> list[tuple[float, float]]:
        """(booked, baseline) of each request of a conversation."""
        heft = rng.lognormvariate(0, tail)
        noise = math.exp(rng.gauss(0, 0.2))
        kept = 1 - saves * rng.uniform(0.2, 1.8)
        made = [heft * rng.lognormvariate(0, 0.5) for _ in range(max(1, int(rng.lognormvariate(1, 1))))]
        return [(cost * kept, cost * noise) for cost in made]

    return [one(0.0) for _ in range(control)], [one(TRUE) for _ in range(treated)]


def whole(conversations) -> list[Conversation]:
    return [Conversation(sum(c for c, _ in one), sum(b for _, b in one)) for one in conversations]


def single(conversations) -> list[Conversation]:
    """What must not be done: every request as if it stood alone."""
    return [Conversation(cost, base) for one in conversations for cost, base in one]


def coverage(seeds: int, control: int, unit) -> float:
    hits = 0
    for seed in range(seeds):
        a, b = arms(seed, control, control * 6)
        found = measure(unit(a), unit(b))
        hits += found.low <= TRUE <= found.high
    return hits / seeds


def test_intervals_cover_from_fifty_control_conversations_on():
    assert 0.92 <= coverage(400, 50, whole) <= 0.98


def test_treating_requests_as_independent_is_caught_by_its_coverage():
    assert coverage(300, 50, single) < 0.90 < coverage(300, 50, whole)


def test_looking_often_at_the_plain_interval_lies_and_at_the_always_valid_one_does_not():
    plain = safe = 0
    for seed in range(100):
        a, b = (whole(arm) for arm in arms(seed, 400, 400))
        looks = [(measure(a[:n], b[:n]), measure(a[:n], b[:n], always_valid=True)) for n in range(50, 401, 10)]
        plain += all(one.low <= TRUE <= one.high for one, _ in looks)
        safe += all(one.low <= TRUE <= one.high for _, one in looks)
    assert plain < 88 <= safe


def test_no_headline_below_fifty_control_conversations_however_clear_it_looks():
    even = [Conversation(100.0 + n % 2, 100.0) for n in range(49)]
    cheap = [Conversation(80.0 + n % 2, 100.0) for n in range(500)]
    found = measure(even, cheap)
    assert (found.verdict, found.missing) == ("not_enough_evidence", 1)
    assert found.half_width < 0.01
    assert measure([*even, Conversation(100.0, 100.0)], cheap).verdict == "measured"


def test_a_wide_interval_says_how_many_more_conversations_it_needs():
    a, b = (whole(arm) for arm in arms(5, 60, 300, tail=2.0))
    found = measure(a, b)
    assert found.half_width > 0.1
    assert found.verdict == "not_enough_evidence"
    assert found.missing > 30


def test_a_policy_that_costs_more_is_reported_with_its_sign():
    found = measure([Conversation(10.0, 10.0)] * 60, [Conversation(13.0, 10.0)] * 60)
    assert found.estimate == pytest.approx(-0.3)


def test_conversations_without_a_baseline_are_refused_by_name():
    with pytest.raises(ValueError, match="treated conversation 1 has baseline 0"):
        measure([Conversation(1.0, 1.0)], [Conversation(1.0, 1.0), Conversation(1.0, 0)])


def teststudent_quantiles_agree_with_the_tables():
    table = {2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    for freedom, quantile in table.items():
        assert student(freedom, 0.95) == pytest.approx(quantile, rel=0.01)


LEVERS = ["cache", "route", "trim", "batch"]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 10**18), min_size=16, max_size=16))
def test_levers_parts_sum_to_the_saving_and_do_not_depend_on_their_names_order(bills):
    def cost(on):
        return bills[sum(1 << LEVERS.index(lever) for lever in on)]

    total = bills[0] - bills[15]
    parts = shapley(LEVERS, cost)
    assert sum(parts.values()) == total == sum(in_order(LEVERS, cost).values())
    turned = shapley(LEVERS[::-1], cost)
    assert all(abs(parts[lever] - turned[lever]) <= max(4, 2**-40 * 10**18) for lever in LEVERS)


def test_two_levers_that_overlap_share_the_overlap():
    bills = {frozenset(): 100, frozenset("a"): 60, frozenset("b"): 70, frozenset("ab"): 50}
    assert shapley(["a", "b"], bills.__getitem__) == {"a": 30, "b": 20}
    assert in_order(["a", "b"], bills.__getitem__) == {"a": 40, "b": 10}


def test_false_discoveries_are_held_back():
    assert benjamini_hochberg([0.001, 0.04, 0.03, 0.9]) == [True, False, False, False]
    assert benjamini_hochberg([0.01, 0.02, 0.03, 0.04]) == [True] * 4


AMOUNTS = st.floats(1e-6, 1e15)


@settings(max_examples=200)
@given(*[st.lists(st.builds(Conversation, AMOUNTS, AMOUNTS), min_size=2, max_size=12)] * 2, st.booleans())
def test_whatever_conversations_cost_the_interval_is_finite_and_holds_the_estimate(control, treated, always):
    found = measure(control, treated, always_valid=always)
    assert all(map(math.isfinite, (found.low, found.high, found.estimate)))
    assert found.low <= found.estimate <= found.high <= 1
    assert 0 <= found.p_value <= 1
    assert found.missing >= 38


def test_the_p_value_is_that_of_the_interval_that_just_touches_nothing():
    for seed in range(20):
        a, b = (whole(arm) for arm in arms(seed, 60, 200))
        p = measure(a, b).p_value
        for shift, covers in ((0.9, False), (1.1, True)):
            confidence = 1 - p * (2 - shift)
            if 0.5 < confidence < 0.9999 and p < 0.4:
                found = measure(a, b, confidence=confidence)
                assert (found.low <= 0 <= found.high) == covers
