"""Choosing a cascade on recorded answers: which models, in which order, at what quality and cost.

Every plan asks models one after another and accepts as soon as two answers agree; when none do, the strong model
decides. Plans are compared on the same prompts, with real token costs; one is chosen on the calibration part only.
"""

from collections.abc import Sequence
from itertools import permutations
from statistics import fmean
from typing import NamedTuple

from farthing.core.gate import Evidence, judge
from farthing.core.route_pool import Member, prune


class Recorded(NamedTuple):
    """One model's answer to one prompt."""

    said: str
    """Its comparable form (``core.cascade_checks.comparable``); empty: nothing to compare."""
    quality: float
    cost: int
    """Nano-USD."""


Prompt = dict[str, Recorded]
"""Answers by model."""


class Plan(NamedTuple):
    """Models asked in order until two agree, then the strong one."""

    asks: tuple[str, ...]
    strong: str


class Result(NamedTuple):
    """What a plan does on a set of prompts."""

    plan: Plan
    quality: float
    cost: int
    escalated: float
    """Share of prompts that reached the strong model."""
    differences: tuple[float, ...]
    """Quality of always-strong minus the plan's, per prompt."""


def run(plan: Plan, prompts: Sequence[Prompt]) -> Result:
    """The plan on recorded answers; every call that it makes is paid for."""
    quality = 0.0
    cost = escalated = 0
    differences = []
    for prompt in prompts:
        got, paid, strong = _one(plan, prompt)
        quality += got
        cost += paid
        escalated += strong
        differences.append(prompt[plan.strong].quality - got)
    count = max(1, len(prompts))
    return Result(plan, quality / count, cost, escalated / count, tuple(differences))


def _one(plan: Plan, prompt: Prompt) -> tuple[float, int, bool]:
    said: set[str] = set()
    paid = 0
    for model in plan.asks:
        answer = prompt[model]
        paid += answer.cost
        if answer.said:
            if answer.said in said:
                return answer.quality, paid, False
            said.add(answer.said)
    last = prompt[plan.strong]
    return last.quality, paid + last.cost, True


def plans(prompts: Sequence[Prompt], strong: str, *, longest: int = 4) -> tuple[Plan, ...]:
    """Every plan over the models that are worth having: cheaper than the strong one and not dominated.

    Mean cost and quality are taken from these prompts, so they must be the calibration part.
    """
    members = []
    for model in prompts[0]:
        cost = sum(prompt[model].cost for prompt in prompts)
        members.append(Member(model, cost, sum(prompt[model].quality for prompt in prompts) / len(prompts)))
    limit = next(member.cost for member in members if member.model == strong) or 0
    kept, _ = prune(members)
    cheap = [member.model for member in kept if member.model != strong and (member.cost or 0) < limit]
    return tuple(
        Plan(order, strong) for size in range(2, longest + 1) for order in permutations(cheap, size) if order
    )


def cheapest_that_holds(
    prompts: Sequence[Prompt], candidates: Sequence[Plan], *, margin: float, alpha: float = 0.05
) -> tuple[Result | None, Evidence | None]:
    """The cheapest plan whose loss of quality the gate shows to be within the margin on these prompts.

    Plans are ranked on one half of the prompts and tested on the other half, dearest first, until one fails: the
    order is fixed before the tested results are seen.
    """
    first, second = prompts[0::2], prompts[1::2]
    ladder = _frontier([run(plan, first) for plan in candidates])
    best: tuple[Result | None, Evidence | None] = (None, None)
    for rough in sorted(ladder, key=lambda result: -result.cost):
        result = run(rough.plan, second)
        evidence = judge(result.differences, margin=margin, alpha=alpha)
        if evidence.verdict != "holds":
            break
        best = (result, evidence)
    return best


def best_within(prompts: Sequence[Prompt], candidates: Sequence[Plan], *, cost_share: float) -> Result | None:
    """The best plan that costs at most a share of always-strong.

    The plan of highest quality is partly the luckiest. Of all plans that are not worse than it by more than one
    standard error, the one whose models are the strongest on average is taken; the cheaper of equals.
    """
    results = [run(plan, prompts) for plan in candidates]
    limit = cost_share * sum(prompt[candidates[0].strong].cost for prompt in prompts)
    able = [result for result in results if result.cost <= limit]
    if not able:
        return None
    top = max(able, key=lambda result: (result.quality, -result.cost))
    means = {model: sum(prompt[model].quality for prompt in prompts) / len(prompts) for model in prompts[0]}
    tied = [result for result in able if _not_worse(result, top)]
    return max(tied, key=lambda one: (fmean([means[model] for model in one.plan.asks]), -one.cost))


def cheapest_near(
    prompts: Sequence[Prompt], candidates: Sequence[Plan], *, keep: float, reserve: float = 0.5
) -> Result | None:
    """The cheapest plan that keeps ``keep`` of always-strong's quality on these prompts with some of the allowed
    loss in reserve, because the cheapest of many is partly the luckiest. It is an estimate; the gate is the proof.
    """
    strong = candidates[0].strong
    target = (1 - (1 - keep) * (1 - reserve)) * fmean([prompt[strong].quality for prompt in prompts])
    able = [result for result in (run(plan, prompts) for plan in candidates) if result.quality >= target]
    return min(able, key=lambda result: result.cost, default=None)


def _not_worse(result: Result, top: Result) -> bool:
    """Within one standard error of the paired difference."""
    apart = [mine - best for mine, best in zip(result.differences, top.differences, strict=True)]
    mean = fmean(apart)
    error = (fmean([(value - mean) ** 2 for value in apart]) / len(apart)) ** 0.5
    return bool(mean <= error)


def _frontier(results: Sequence[Result]) -> list[Result]:
    """Results that no cheaper one equals or beats, cheapest first."""
    best: list[Result] = []
    for result in sorted(results, key=lambda one: (one.cost, -one.quality)):
        if not best or result.quality > best[-1].quality:
            best.append(result)
    return best
