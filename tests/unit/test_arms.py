"""Rates of two arms: intervals that cover, a gate that errs on the safe side, and a draw that is checked exactly."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.arms import Part, difference, gate, mismatch


def talks(rng: random.Random, count: int, rate: float, spread: float = 0.1) -> list[Part]:
    """Conversations of several calls, each with a rate of its own around ``rate``."""
    found = []
    for _ in range(count):
        calls = 1 + int(rng.lognormvariate(0.8, 1))
        own = min(1.0, max(0.0, rate + rng.uniform(-spread, spread)))
        found.append(Part(float(sum(rng.random() < own for _ in range(calls))), float(calls)))
    return found


def test_the_interval_of_a_difference_covers_it():
    covered = 0
    for seed in range(300):
        rng = random.Random(seed)
        found = difference(talks(rng, 80, 0.8), talks(rng, 300, 0.7))
        covered += found.low <= -0.1 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_it_is_a_difference_of_ratios_of_sums():
    found = difference([Part(1, 2), Part(0, 2), Part(3, 4)], [Part(1, 1), Part(1, 3)])
    assert (found.control, found.treated) == (0.5, 0.5)
    assert found.value == 0.0
    assert found.low == -found.high < 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=1))
def test_fewer_than_two_conversations_have_no_interval(parts):
    assert difference([Part(*part) for part in parts], [Part(1, 1), Part(0, 1)]) is None


def test_a_loss_beyond_the_margin_rarely_passes_the_gate():
    passed = 0
    for seed in range(200):
        rng = random.Random(seed)
        verdict, _ = gate(talks(rng, 300, 0.8, 0.0), talks(rng, 300, 0.78, 0.0), 0.02)
        passed += verdict == "holds"
    assert passed / 200 <= 0.10  # 5 % are allowed at the margin itself


def test_the_gate_needs_evidence_and_many_conversations_where_all_went_well():
    good = [Part(1, 1)] * 100
    assert gate([], [], 0.02) == ("not measured", None)
    assert gate([Part(1, 1)], good, 0.02)[0] == "not enough evidence"
    assert gate(good, good, 0.02)[0] == "not enough evidence"
    assert gate(good * 2, good * 2, 0.02)[0] == "holds"
    assert gate(good * 2, [Part(0, 1)] * 100, 0.02)[0] == "regressed"


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@given(data=st.data())
def test_the_draws_p_value_is_that_of_the_exact_binomial(share, data):
    count = data.draw(st.integers(1, 60))
    control = data.draw(st.integers(0, count))
    chances = [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]
    exact = sum(one for one in chances if one <= chances[control] * (1 + 1e-9))
    assert mismatch(control, count - control, share) == pytest.approx(min(1.0, exact), rel=1e-6)


def test_large_draws_are_judged_like_small_ones():
    assert mismatch(200, 801, 0.2) > 0.9
    assert mismatch(250, 800, 0.2) < 0.05
    assert mismatch(400, 800, 0.2) < 1e-6
    assert mismatch(0, 0, 0.2) == 1.0
