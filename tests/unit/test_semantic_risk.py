"""The promise of the semantic cache: at most δ of what it serves is wrong, from the first request on."""

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.semantic import FEATURES, Neighbour, candidate, rivals
from farthing.core.semantic_risk import REFIT, Logistic, RiskControl, Tally, risk_limit, wrong_upper
from farthing.lab.semantic_streams import Workload, fixed, ours


def world(rng: random.Random) -> tuple[tuple[float, ...], float]:
    """A neighbourhood and the probability that its answer is wrong; the model is told neither."""
    clear = rng.gauss(0, 1)
    features = [1.0, clear + rng.gauss(0, 0.5), 2 * clear + rng.gauss(0, 1), *(rng.gauss(0, 0.5) for _ in range(4))]
    return tuple(features), 1 / (1 + math.exp(2.0 + 2.2 * clear))


def play(control: RiskControl, rng: random.Random, requests: int, *, twist: bool = False) -> tuple[int, int]:
    """(served, wrong) of a stream; ``twist`` turns what looked safe into what is wrong."""
    served = wrong = 0
    for _ in range(requests):
        features, chance = world(rng)
        mistaken = rng.random() < (max(chance, 0.5) if twist else chance)
        verdict = control.verdict(features)
        if not verdict.serve:
            control.missed(features, mistaken)
            continue
        served += 1
        wrong += mistaken
        if rng.random() < verdict.shadow_share:
            control.shadowed(features, mistaken, share=verdict.shadow_share)
        else:
            control.served(features)
    return served, wrong


@pytest.mark.parametrize(("delta", "least"), [(0.02, 0.03), (0.05, 0.2)])
def test_a_promise_is_kept_on_stream_after_stream_and_still_serves(delta: float, least: float) -> None:
    hits, rates = [], []
    for seed in range(10):
        served, wrong = play(RiskControl(delta), random.Random(seed), 3_000)
        hits.append(served / 3_000)
        rates.append(wrong / max(1, served))
    assert sum(rate > delta for rate in rates) <= 1
    assert sum(rates) / len(rates) < delta
    assert sum(hits) / len(hits) > least


def test_streams_of_questions_keep_the_promise_where_a_fixed_cosine_does_not() -> None:
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(40, 24))
    intents = rng.integers(0, 40, 2_500)
    vectors = (centres[intents] + rng.normal(scale=0.75, size=(2_500, 24))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"question {number}" for number in range(2_500)]
    work = Workload(texts, vectors, intents)
    loose = fixed(work, 0.6, seed=1, requests=2_000)
    assert loose.wrong > 0.02
    for seed in (1, 2, 3):
        kept = ours(work, 0.02, seed=seed, requests=2_000, guards=False)
        assert kept.wrong <= 0.02
        assert kept.hits > 0.2
    noisy = ours(work, 0.02, seed=1, requests=2_000, guards=False, judge_error=0.05)
    assert noisy.wrong <= 0.02


def test_without_comparisons_nothing_is_ever_served() -> None:
    control, rng = RiskControl(0.05), random.Random(1)
    for _ in range(1_000):
        features, _ = world(rng)
        assert not control.verdict(features).serve
        control.missed(features, None)


def test_a_world_that_turned_is_served_no_more() -> None:
    control, rng = RiskControl(0.05), random.Random(3)
    before, _ = play(control, rng, 4_000)
    assert before > 800
    play(control, rng, 400, twist=True)
    assert play(control, rng, 1_000, twist=True)[0] < 50


def test_errors_among_the_served_raise_the_alarm_and_close_the_cache_at_once() -> None:
    control, rng = RiskControl(0.05), random.Random(3)
    play(control, rng, 3_000)
    safe = (1.0, 3.0, 6.0, 0.0, 0.0, 0.0, 0.0)
    assert control.verdict(safe).serve
    for _ in range(100):
        control.shadowed(safe, False, share=0.05)
    assert control.alarms == 0
    while not control.alarms:
        control.shadowed(safe, True, share=0.05)
    assert control.tally.wrong < 30
    assert control.limit == 0
    control.refit()
    assert control.limit == 0  # what was seen before counts no more


def test_a_new_family_takes_the_weights_of_another_and_none_of_its_licence() -> None:
    elder, rng = RiskControl(0.05), random.Random(4)
    play(elder, rng, 3_000)
    assert elder.limit > 0
    young = RiskControl.cold(0.05, shadow_share=0.05, prior=elder.learned())
    features, _ = world(rng)
    assert young.limit == 0
    assert young.verdict(features).risk == pytest.approx(elder.verdict(features).risk)
    assert young.tally == Tally()


def test_what_was_learned_survives_being_stored() -> None:
    control, rng = RiskControl(0.05), random.Random(5)
    play(control, rng, 2_000)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(control.learned()), type=type(control.learned()))
    again = RiskControl(0.05, learned=stored)
    for _ in range(50):
        features, _ = world(rng)
        assert again.verdict(features) == control.verdict(features)
    assert again.tally == control.tally
    tighter = RiskControl(0.01, learned=stored)
    tighter.refit()
    assert tighter.limit < control.limit


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(-1, 1)), max_size=60), st.floats(0.001, 0.3))
def test_the_limit_is_what_a_plain_reading_of_its_rule_gives(rows: list[tuple[float, int]], delta: float) -> None:
    ranked = sorted(rows)
    least = most = 0.0
    for count in range(1, len(ranked) + 1):
        head = ranked[:count]
        expected = math.fsum(risk for risk, seen in head if seen >= 0)
        if not expected:
            continue
        bound = wrong_upper(sum(seen == 1 for _, seen in head), math.fsum(risk for risk, _ in head) / expected)
        least = head[-1][0] if bound <= delta * count * (1 - 1e-9) else least
        most = head[-1][0] if bound <= delta * count * (1 + 1e-9) else most
    assert least <= risk_limit(ranked, delta)[0] <= most


def test_the_bound_covers_what_comes() -> None:
    rng = np.random.default_rng(1)
    for rate in (2.0, 8.0, 40.0):
        for scale in (0.5, 1.0, 3.0):
            seen, coming = rng.poisson(rate, 5_000), rng.poisson(rate * scale, 5_000)
            covered = np.mean([wrong_upper(int(a), scale) >= b for a, b in zip(seen, coming, strict=True)])
            assert covered >= 0.93


def test_the_model_learns_a_known_slope() -> None:
    rng, model = random.Random(6), Logistic.fresh()
    for _ in range(4_000):
        features, chance = world(rng)
        model.learn(features, rng.random() < chance)
    safe = (1.0, 2.0, 4.0, 0.0, 0.0, 0.0, 0.0)
    unsafe = (1.0, -2.0, -4.0, 0.0, 0.0, 0.0, 0.0)
    assert model.probability(safe) < 0.02
    assert model.probability(unsafe) > 0.8


def test_a_rate_weighs_shadows_by_how_seldom_they_are_drawn() -> None:
    control = RiskControl(0.05)
    features = (1.0,) * len(FEATURES)
    control.shadowed(features, True, share=0.5)
    for _ in range(9):
        control.shadowed(features, False, share=0.1)
    assert control.tally.rate == pytest.approx(2 / 92)
    low, high = control.tally.interval()
    assert 0 <= low < 2 / 92 < high < 0.5
    assert Tally().interval() == (0.0, 1.0)


def near(*rows: tuple[str, float, str, int]) -> list[Neighbour]:
    return [Neighbour(key=k, similarity=s, cluster=c, members=m) for k, s, c, m in rows]


def test_many_agreeing_neighbours_outvote_the_nearest() -> None:
    found = candidate(near(("a", 0.90, "x", 1), ("b", 0.89, "y", 3), ("c", 0.88, "y", 3), ("d", 0.88, "y", 3)))
    assert found is not None
    assert (found.cluster, found.keys, found.similarity) == ("y", ("b", "c", "d"), 0.89)
    assert len(found.features) == len(FEATURES)


def test_an_answer_nobody_compared_does_not_vote_beside_compared_ones() -> None:
    found = candidate(near(("a", 0.90, "x", 0), ("b", 0.85, "y", 1)))
    assert found is not None
    assert found.cluster == "y"
    alone = candidate(near(("a", 0.90, "x", 0), ("b", 0.70, "y", 1)))
    assert alone is not None
    assert alone.cluster == "x"


def test_distant_neighbours_are_no_candidates() -> None:
    assert candidate(near(("a", 0.59, "x", 1))) is None
    assert candidate([]) is None
    some = near(("a", 0.9, "x", 1), ("b", 0.8, "x", 1), ("c", 0.7, "y", 1), ("d", 0.65, "z", 1), ("e", 0.5, "w", 1))
    assert [one.key for one in rivals(some, "x", most=5)] == ["c", "d"]


def test_the_limit_is_computed_again_every_so_many_requests() -> None:
    control = RiskControl(0.3)
    features = (1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0)
    for _ in range(REFIT - 1):
        control.missed(features, False)
    assert control.limit == 0
    control.missed(features, False)
    assert control.limit >= 0
