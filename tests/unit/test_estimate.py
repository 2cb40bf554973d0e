"""Intervals of estimates hold the truth as often as they say: over skewed answers, few verdicts, uneven sizes."""

import random

import pytest

from farthing.core.types import AttemptFact, Exchange, PromptView, Scope, Target, Usage, UsagePart
from farthing.lab.estimate import Estimator, Interval
from farthing.lab.estimate_error import Chance, Error, Sample, moments
from farthing.lab.estimate_verdicts import Drawings
from farthing.lab.replay_log import logged
from farthing.lab.replay_provider import Drawn

MEDIAN = {"a": 250, "b": 260}
RATE = {"a": 10_000, "b": 8_000}
INPUT = 2_500
RUNS = 160


def call(number: int, model: str, size: int, given: int, *, answered: bool) -> Exchange:
    fact = AttemptFact(
        attempt=1, provider="p", model=model, status=200, started_at_ms=number, latency_ms=5, entry_id=f"{number}-1"
    )
    usage = Usage(
        parts=(UsagePart(lines=(("input", size // 5), ("output", given))),), source="reported", finish_reason="stop"
    )
    return Exchange(
        request_id=str(number),
        received_at_ms=number,
        scope=Scope(),
        dialect="openai",
        view=PromptView(endpoint="chat", model=model, body_bytes=size),
        outcome="answered" if answered else "refused",
        status=200,
        attempts=(fact,) if answered else (),
        received_digest=str(number),
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
    assert covered / RUNS >= 0.92


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
