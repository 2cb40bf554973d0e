"""Intervals of estimates hold the truth as often as they say: over skewed answers, few verdicts, uneven sizes."""

import math
import random

import msgspec
import pytest

from farthing.core.types import AttemptFact, Exchange, PromptView, Scope, Target, Usage, UsagePart
from farthing.lab.estimate import Estimator, Interval
from farthing.lab.estimate_error import Chance, Error, Sample, bent, moments
from farthing.lab.estimate_levels import At, smoothed, wandering
from farthing.lab.estimate_moved import trusted
from farthing.lab.estimate_seen import likeness
from farthing.lab.estimate_verdicts import Drawings
from farthing.lab.replay_log import logged
from farthing.lab.replay_provider import Drawn

MEDIAN = {"a": 250, "b": 260}
RATE = {"a": 10_000, "b": 8_000}
INPUT = 2_500
RUNS = 160


def call(
    number: int, model: str, size: int, given: int, *, answered: bool, session: str = "", digest: str = ""
) -> Exchange:
    fact = AttemptFact(
        attempt=1, provider="p", model=model, status=200, started_at_ms=number, latency_ms=5, entry_id=f"{number}-1"
    )
    usage = Usage(
        parts=(UsagePart(lines=(("input", size // 5), ("output", given))),), source="reported", finish_reason="stop"
    )
    return Exchange(
        request_id=str(number),
        received_at_ms=number,
        scope=Scope(session=session),
        dialect="openai",
        view=PromptView(endpoint="chat", model=model, body_bytes=size),
        outcome="answered" if answered else "refused",
        status=200,
        attempts=(fact,) if answered else (),
        received_digest=digest or str(number),
        usage=usage if answered else None,
    )


def predicted(seed: int, known: int, refused: int) -> tuple[int, int, Interval]:
    """(what refused calls are estimated at, what they would have cost, the interval)."""
    rng = random.Random(seed)
    calls = []
    for number in range(known + refused):
        model, size = rng.choice("aab"), rng.randrange(100, 900)
        median = MEDIAN[model] * (0.6 if size < 260 else 1)
        given = max(1, round(median * rng.lognormvariate(0, 0.55)))
        calls.append((call(number, model, size, given, answered=number < known), given))
    estimator = Estimator()
    estimator.learn([one for one, _ in calls])
    guess = truth = 0
    for one, given in calls[known:]:
        model, size = one.view.model, one.view.body_bytes
        usage = estimator.usage(logged(one), Target(provider="p", price_as="p", model=model))
        lines = dict(usage.parts[0].lines)
        taken, made = lines["input"] * INPUT, lines["output"] * RATE[model]
        guess += taken + made
        truth += size // 5 * INPUT + given * RATE[model]
        estimator.booked(logged(one), model, usage, taken, made)
    return guess, truth, estimator.interval()


@pytest.mark.parametrize(("known", "refused"), [(90, 120), (400, 400)])
def test_an_interval_holds_the_truth_and_errs_to_both_sides(known: int, refused: int) -> None:
    found = [predicted(seed, known, refused) for seed in range(RUNS)]
    low = sum(truth > guess + one.above for guess, truth, one in found)
    high = sum(truth < guess - one.below for guess, truth, one in found)
    assert 0.91 <= 1 - (low + high) / RUNS <= 0.99
    bias = sum((guess - truth) / one.half for guess, truth, one in found) / RUNS
    assert abs(bias) < 0.12  # sizes of which little is known are not taken for the average of all
    assert all(one.above > one.below for _, _, one in found)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_few_verdicts_say_how_many_calls_may_escalate(share: float) -> None:
    covered = 0
    for seed in range(RUNS):
        rng = random.Random(seed)
        seen = sum(rng.random() < share for _ in range(40))
        chance = (seen + 0.5) / 41
        costs = [int(2e6 * rng.lognormvariate(0, 0.5)) for _ in range(35)]
        truth = sum(cost for cost in costs if rng.random() < share)
        drawings, error = Drawings(), Error()
        for number, cost in enumerate(costs):
            drawings.add(Drawn("m", chance, True, 40, cost), str(number))
        drawings.into(error)
        below, above = error.reach()
        covered += chance * sum(costs) - below <= truth <= chance * sum(costs) + above
    assert 0.92 <= covered / RUNS <= 0.99


def test_the_spread_of_verdicts_is_known_from_their_share() -> None:
    """With Student's t, and the variance of a sample, intervals of fifteen verdicts held the truth in 98 of 100."""
    drawings, error = Drawings(), Error()
    drawings.add(Drawn("m", 0.5, True, 15, 1_000_000), "")
    drawings.into(error)
    sd = (0.25 * (16 / 17 + 1 / 17)) ** 0.5 * 1e6
    assert sum(error.reach()) / 2 == pytest.approx(1.96 * sd, rel=0.01)


def test_equal_questions_have_equal_verdicts_so_their_chance_adds_up() -> None:
    widths = []
    for same in (True, False):
        drawings, error = Drawings(), Error()
        for number in range(30):
            drawings.add(Drawn("m", 0.5, True, 10_000, 1_000_000), "q" if same else str(number))
        drawings.into(error)
        widths.append(sum(error.reach()))
    assert widths[0] > 4 * widths[1]


def test_errors_of_one_mean_add_up_and_those_of_two_do_not() -> None:
    def width(*names: str) -> float:
        error = Error()
        for name in names:
            error.rests_on(name, Sample(400, 100.0), 1_000.0)
        return sum(error.reach())

    assert width("m", "m") == pytest.approx(2 * width("m"))
    assert width("m", "n") == pytest.approx(2**0.5 * width("m"), rel=0.01)
    assert Error().reach() == (0.0, 0.0)


def test_a_skewed_sample_reaches_further_up() -> None:
    rng = random.Random(1)
    mean, sample = moments([rng.lognormvariate(5, 0.8) for _ in range(60)])
    assert sample.third > 0
    error = Error()
    error.rests_on("m", sample, 100.0)
    error.varies_with("m", Chance(100 * sample.variance, 100 * sample.third))
    below, above = error.reach()
    assert above > 1.15 * below
    assert mean > 0


def test_an_error_that_scales_with_a_mean_that_is_a_third_off_reaches_as_far_as_its_logarithm_says() -> None:
    """Whose spread is known in parts of its mean only: found too low, it is found too narrow."""
    error = Error()
    third = 3 * (144.0 / 12) ** 2 / 40.0 * 12**2  # of a log-normal mean
    error.rests_on("m", Sample(12, 144.0, third, pull=2 * 144.0 / 40.0, freedom=1e9), 1.0)
    below, above = error.reach()
    relative = (144.0 / 12) ** 0.5 / 40.0
    assert 40.0 + above == pytest.approx(40.0 * math.exp(1.96 * relative + relative**2 / 2), rel=0.01)
    assert 40.0 - below == pytest.approx(40.0 * math.exp(-1.96 * relative + relative**2 / 2), rel=0.01)


@pytest.mark.parametrize("width", [0.05, 0.3, 0.6])
def test_a_skewed_error_has_the_ends_of_a_log_normal_one(width: float) -> None:
    base = math.sqrt(math.expm1(width * width))
    skew = (math.exp(width * width) + 2) * base
    for times in (-1.96, 0.0, 2.5):
        standard = math.expm1(width * times - width * width / 2) / base
        assert bent(times, skew) == pytest.approx(standard, abs=1e-6)
        assert bent(-times, -skew) == pytest.approx(-standard, abs=1e-6)
    assert bent(1.96, 0.0) == 1.96


def test_two_spreads_that_are_known_from_the_same_answers_are_not_known_twice_as_well() -> None:
    def times(*freedoms: float) -> float:
        error = Error()
        for place, freedom in enumerate(freedoms):
            error.rests_on(f"m{place}", Sample(100, 100.0, freedom=freedom), 1.0)
        return sum(error.reach()) / 2 / len(freedoms) ** 0.5

    assert times(8.0, 8.0) == pytest.approx(times(8.0))
    assert times(0.0, 0.0) <= times(0.0)


def test_what_makes_up_for_a_mean_s_error_takes_its_skewness_too() -> None:
    """A conversation that is known in part: its answers are in the mean and in the truth."""
    reaches = []
    for both in (0.0, -1.6e6):
        error = Error()
        error.rests_on("m", Sample(10, 1e4, 2e6), 31.6)
        error.varies_with("m", Chance(1e6, 1e9))
        error.also("m", both)
        reaches.append(error.reach())
    (below, above), (less_below, less_above) = reaches
    assert less_below + less_above == pytest.approx(0.2**0.5 * (below + above), rel=0.1)
    assert abs(math.log(less_above / less_below)) < 0.6


def moved(seed: int, *, talks: int = 0, share: float = 1.0, longer: float = 1.0) -> tuple[int, int, Interval]:
    """A replay that moves a share of one model's calls to another; answers of a conversation may be alike."""
    rng = random.Random(seed)
    traits = [rng.choice((0.4, 1.0, 1.6)) for _ in range(2 * talks)]
    log, wanted = [], []
    for number in range(300):
        model, size, kind = rng.choice("ab"), rng.randrange(100, 900), rng.random() < share
        talk = rng.randrange(talks) + talks * (model == "a") if talks else 0
        trait = traits[talk] if talks else 1.0
        trait *= longer if kind else 1.0
        lengths = {name: max(1, round(MEDIAN[name] * trait * rng.lognormvariate(0, 0.4))) for name in "ab"}
        session = f"s{talk}" if talks else ""
        one = call(number, model, size, lengths[model], answered=True, session=session)
        log.append(one)
        if model == "a" and kind:
            wanted.append((one, lengths["b"]))
    estimator = Estimator()
    estimator.learn(log)
    guess = truth = 0
    for one, given in wanted:
        usage = estimator.usage(logged(one), Target(provider="p", price_as="p", model="b"))
        lines = dict(usage.parts[0].lines)
        guess += lines["output"] * RATE["b"]
        truth += given * RATE["b"]
        estimator.booked(logged(one), "b", usage, 0, lines["output"] * RATE["b"])
    return guess, truth, estimator.interval()


@pytest.mark.parametrize(("talks", "share", "longer"), [(0, 0.4, 1.0), (0, 0.4, 2.0), (24, 1.0, 1.0)])
def test_calls_that_move_cost_what_the_interval_says(talks: int, share: float, longer: float) -> None:
    found = [moved(seed, talks=talks, share=share, longer=longer) for seed in range(60)]
    covered = sum(one.covers(truth, guess) for guess, truth, one in found)
    assert covered >= 52


def test_answers_of_a_few_conversations_say_less_than_as_many_of_strangers() -> None:
    """Taken one by one they would make an interval that holds the truth in 80 of 100."""
    widths = [sum(moved(seed, talks=24)[2].half for seed in range(12))]
    widths.append(sum(moved(seed)[2].half for seed in range(12)))
    assert widths[0] > 1.8 * widths[1]


def test_answers_of_the_model_that_calls_leave_count_once() -> None:
    """Where all of them move, what the log has of them says nothing that their mean does not."""
    whole = sum(moved(seed)[2].half / moved(seed)[1] for seed in range(12)) / 12
    own = (2.0**0.5) * 1.96 * 0.42 / 150**0.5  # the mean of 150 answers, and 150 new ones
    assert whole == pytest.approx(own, rel=0.12)


def test_a_question_that_the_model_has_answered_costs_what_it_did() -> None:
    rng = random.Random(4)
    log = [call(at, "a", 300, rng.randrange(100, 900), answered=True, digest=f"q{at % 20}") for at in range(20)]
    twice = [call(100 + at, "a", 300, 70, answered=False, digest=f"q{at}") for at in range(3)]
    for sure in (False, True):
        estimator = Estimator()
        more = [call(50 + at, "a", 300, one.usage.parts[0].lines[1][1], answered=True, digest=one.received_digest)
                for at, one in enumerate(log)]  # fmt: skip
        estimator.learn([*log, *(more if sure else ())])
        for one, first in zip(twice, log, strict=False):
            usage = estimator.usage(logged(one), Target(provider="p", price_as="p", model="a"))
            assert usage.parts[0].lines[1][1] == first.usage.parts[0].lines[1][1]
            estimator.booked(logged(one), "a", usage, 0, 1_000)
        found = estimator.interval()
        assert bool(found.priors) is not sure  # nobody knows how much answers to one question differ, or they do not
        assert (found.half == 0) is sure


def test_a_distance_is_taken_for_a_difference_when_chance_does_not_make_it() -> None:
    assert trusted(1.0, 100.0, 50.0)[0] < 0.2
    assert trusted(100.0, 100.0, 50.0)[0] > 0.9
    assert trusted(5.0, 0.0, 50.0) == (1.0, 0.0)
    assert trusted(25.0, 100.0, 50.0)[1] > 100.0  # it may be either


def test_means_lean_on_their_neighbours_as_far_as_these_differ_by_chance_only() -> None:
    flat = {at: At(5, 1.0 + 0.1 * (-1) ** at) for at in range(8)}
    assert wandering([(flat, 0.3)]) == 0
    assert smoothed(flat, 0.3, 0.0).at(3) == pytest.approx(1.0, abs=0.01)
    step = {at: At(50, 1.0 + (at > 3)) for at in range(8)}
    levels = smoothed(step, 0.3, wandering([(step, 0.3)]))
    assert levels.at(0) == pytest.approx(1.0, abs=0.05)
    assert levels.at(7) == pytest.approx(2.0, abs=0.05)
    assert levels.variance({12: 1.0}) > 3 * levels.variance({7: 1.0})  # five steps away from all that is known
    assert levels.variance({at: 1 / 8 for at in range(8)}) == pytest.approx(0.3 / 400, rel=0.05)


def test_likeness_is_the_share_between_conversations() -> None:
    rng = random.Random(9)
    groups = []
    for _ in range(300):
        own = rng.gauss(0, 1)
        groups.append([own + rng.gauss(0, 1) for _ in range(4)])
    assert likeness(groups) == pytest.approx(0.5, abs=0.06)
    assert likeness([[one] for group in groups for one in group]) == 0


def test_answers_that_the_replayed_policy_caps_are_estimated_as_capped_ones() -> None:
    rng = random.Random(5)
    given = {(model, at): round(MEDIAN[model] * rng.lognormvariate(0, 0.7)) for model in "ab" for at in range(200)}
    log = [call(at, model, 400, length, answered=True) for (model, at), length in given.items()]
    widths = {}
    for cap in (None, 200):
        other = Estimator()
        other.learn(log)
        total = 0
        for one in log[:200]:
            asked = msgspec.structs.replace(logged(one), stated=cap)
            lines = dict(other.usage(asked, Target(provider="p", price_as="p", model="b")).parts[0].lines)
            total += lines["output"]
            other.booked(asked, "b", usage_of(lines), lines["input"] * INPUT, lines["output"] * RATE["b"])
        lengths = [
            length if cap is None else min(length, cap) for (model, _), length in given.items() if model == "b"
        ]
        assert total == pytest.approx(sum(lengths), rel=0.03)
        widths[cap] = other.interval().half
    assert widths[200] < 0.6 * widths[None]


def usage_of(lines: dict[str, int]) -> Usage:
    return Usage(parts=(UsagePart(lines=tuple(lines.items())),), source="estimated")
