"""The gate keeps its promise, and a roll-out comes back when it must."""

import random
from statistics import NormalDist

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farthing.core.gate import (
    Candidate,
    bounds,
    corrected,
    fixed_sequence,
    judge,
    judge_corrected,
    needed,
)
from farthing.core.rollout import (
    STEPS,
    RolloutRules,
    RolloutState,
    arm_of,
    observed,
    restarted,
    shadow_spent,
    shadows,
)
from farthing.core.route_drift import PSI_FREEZE, calibration_error, drift, with_drift

RULES = RolloutRules()


def pairs(chance: random.Random, count: int, better: float, worse: float) -> list[float]:
    """Differences: +1 with probability ``worse`` (the cheap one fails), −1 with ``better``, else 0."""
    return [1.0 if (u := chance.random()) < worse else -1.0 if u > 1 - better else 0.0 for _ in range(count)]


@pytest.mark.parametrize("method", ["betting", "normal"])
@pytest.mark.parametrize("count", [60, 200])
def test_a_loss_just_beyond_the_margin_passes_in_at_most_one_run_of_twenty(method: str, count: int) -> None:
    chance = random.Random(count)
    passed = sum(
        judge(pairs(chance, count, 0.06, 0.101), margin=0.04, method=method).verdict == "holds"  # type: ignore[arg-type]
        for _ in range(250)
    )
    assert passed <= 250 * 0.05 + 2 * (250 * 0.05 * 0.95) ** 0.5


def test_equal_models_pass_and_bad_ones_are_called_so() -> None:
    chance = random.Random(1)
    assert judge(pairs(chance, 2_000, 0.03, 0.03)).verdict == "holds"
    assert judge(pairs(chance, 500, 0.02, 0.2)).verdict == "regressed"
    unsure = judge([1.0, -1.0, *[0.0] * 18] * 3)
    assert unsure.verdict == "not enough evidence"
    assert unsure.more > 100
    assert "more" in str(unsure)


def test_no_pairs_decide_nothing() -> None:
    assert judge([]).verdict == "not enough evidence"


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=80), st.sampled_from(["betting", "normal"]))
@example([-1.0] * 4 + [1.0] * 2 + [-1.0] * 4 + [0.0] + [1.0] * 3 + [-1.0, 1.0], "betting")
def test_bounds_enclose_the_mean_and_a_wider_margin_never_hurts(values: list[float], method: str) -> None:
    low, high = bounds(values, method=method)
    mean = sum(values) / len(values)
    assert -1 <= low <= mean <= high <= 1
    strict, loose = (judge(values, margin=margin, method=method) for margin in (0.02, 0.3))  # type: ignore[arg-type]
    assert not (strict.verdict == "holds" and loose.verdict != "holds")


def test_testing_stops_at_the_first_failure() -> None:
    good, bad = [0.0] * 600, [1.0] * 600
    best, evidence = fixed_sequence([Candidate(1, 0.1, good), Candidate(2, 0.2, bad), Candidate(3, 0.3, good)])
    assert best is not None
    assert best.threshold == 1
    assert len(evidence) == 2


def test_the_whole_sequence_keeps_the_promise() -> None:
    """Losses grow along the sequence: the chance to end beyond the margin is at most alpha, all steps together."""
    chance = random.Random(5)
    broken = 0
    for _ in range(120):
        everything = [pairs(chance, 60, 0.02, 0.02 + 0.03 * step) for step in range(6)]
        candidates = []
        for step in range(1, 7):
            inside = [value for part in everything[:step] for value in part]
            candidates.append(Candidate(step, step / 10, inside))
        best, _ = fixed_sequence(candidates, margin=0.02)
        if best is not None:
            true = best.share * sum(0.03 * step for step in range(int(best.threshold))) / int(best.threshold)
            broken += true > 0.02
    assert broken <= 120 * 0.05 + 5


def test_sizes_are_those_of_the_formula() -> None:
    assert needed(0.10, margin=0.03, power=0.8) == pytest.approx(690, rel=0.01)
    assert needed(0.12, share=0.5, margin=0.03, power=0.8) == pytest.approx(206, rel=0.02)
    assert needed(0.10, margin=0.03, drop=0.03) == 1_000_000


def test_a_biased_judge_is_corrected_by_the_humans() -> None:
    chance = random.Random(2)
    truth = pairs(chance, 4_000, 0.05, 0.10)
    judged = [
        0.0 if value > 0 and chance.random() < 0.7 else value for value in truth
    ]  # a judge blind to most losses
    mean, error = corrected(judged[1_000:], list(zip(truth[:1_000], judged[:1_000], strict=True)))
    assert abs(mean - 0.05) < NormalDist().inv_cdf(0.999) * error
    assert abs(sum(judged) / len(judged) - 0.05) > 0.05
    verdict = judge_corrected(judged[1_000:], list(zip(truth[:1_000], judged[:1_000], strict=True)), margin=0.02)
    assert verdict.verdict != "holds"
    with pytest.raises(ValueError, match="at least two"):
        corrected([0.0], [(0.0, 0.0)])


def test_what_is_no_difference_is_refused() -> None:
    for call in (lambda: judge([2.0]), lambda: judge([0.0], share=0.0), lambda: judge([0.0], margin=0.0)):
        with pytest.raises(ValueError, match=r"\d|margin|differences"):
            call()


# -- roll-outs


def through(chance: random.Random, better: float, worse: float, count: int) -> RolloutState:
    state = RolloutState(route="r")
    for value in pairs(chance, count, better, worse):
        state = observed(state, RULES, value)
    return state


def test_an_equal_model_goes_live_step_by_step() -> None:
    state, stages = RolloutState(route="r"), []
    for value in pairs(random.Random(0), 8_000, 0.03, 0.02):
        state = observed(state, RULES, value)
        if (state.stage, state.step) not in stages:
            stages.append((state.stage, state.step))
    assert stages == [("shadow", -1), ("canary", 0), ("canary", 1), ("live", 2)]


def test_a_bad_model_is_rolled_back_and_stays_back() -> None:
    state = through(random.Random(0), 0.02, 0.15, 1_500)
    assert (state.stage, state.reason) == ("rolled_back", "loss_beyond_margin")
    assert observed(state, RULES, 0.0) == state
    assert restarted(state, "new").stage == "shadow"


def test_looking_after_every_pair_rolls_a_model_within_the_margin_back_in_few_runs() -> None:
    back = sum(through(random.Random(seed), 0.05, 0.069, 600).stage == "rolled_back" for seed in range(200))
    assert back <= 200 * RULES.alpha + 6


def test_a_conversation_keeps_its_arm_while_the_steps_rise() -> None:
    keys = [f"conversation-{number}" for number in range(4_000)]
    before: set[str] = set()
    for step, share in enumerate(STEPS):
        state = RolloutState(route="r", stage="canary", step=step)
        now = {key for key in keys if arm_of(state, RULES, key) == "candidate"}
        assert before <= now
        assert len(now) / len(keys) == pytest.approx(share * (1 - RULES.holdout), abs=0.03)
        before = now
    held = {key for key in keys if arm_of(RolloutState(route="r", stage="live", step=2), RULES, key) == "holdout"}
    assert len(held) / len(keys) == pytest.approx(RULES.holdout, abs=0.01)
    assert all(arm_of(RolloutState(route="r"), RULES, key) != "candidate" for key in keys)


def test_shadow_calls_stop_at_the_days_cap_and_go_on_the_next_day() -> None:
    rules = RolloutRules(shadow_share=1.0, shadow_usd_max=100)
    state = shadow_spent(RolloutState(route="r"), day="2026-01-01", nusd=95)
    assert shadows(state, rules, "a", day="2026-01-01", likely_nusd=5)
    assert not shadows(state, rules, "a", day="2026-01-01", likely_nusd=6)
    assert shadows(state, rules, "a", day="2026-01-02", likely_nusd=6)


def test_foreign_traffic_is_drift_and_the_same_traffic_is_not() -> None:
    chance = random.Random(0)
    weights = [chance.random() for _ in range(32)]
    expected = [0] * 32
    for place in chance.choices(range(32), weights, k=20_000):
        expected[place] += 1
    same = [0] * 32
    for place in chance.choices(range(32), weights, k=500):
        same[place] += 1
    assert drift(expected, same) < 0.15
    foreign = [0] * 32
    for place in chance.choices(range(32), weights[::-1], k=500):
        foreign[place] += 1
    assert drift(expected, foreign) > PSI_FREEZE
    live = RolloutState(route="r", stage="live", step=2)
    frozen = with_drift(live, psi=drift(expected, foreign))
    assert arm_of(frozen, RULES, "anyone") != "candidate"
    assert with_drift(frozen, psi=0.2).frozen  # below the freeze and above the alarm: not yet
    assert not with_drift(frozen, psi=0.1).frozen
    assert with_drift(live, psi=0.1, calibration=0.2).frozen


def test_calibration_error_is_nought_for_true_estimates_only() -> None:
    chance = random.Random(0)
    estimates = [chance.random() for _ in range(5_000)]
    outcomes = [float(chance.random() < estimate) for estimate in estimates]
    assert calibration_error(estimates, outcomes) < 0.03
    assert calibration_error([0.9] * 100, [0.0] * 100) == pytest.approx(0.9)


def test_a_state_survives_its_json() -> None:
    state = through(random.Random(0), 0.05, 0.05, 100)
    assert msgspec.json.decode(msgspec.json.encode(state), type=RolloutState) == state
