"""The accuracy–cost table of an eval run, with intervals, verdicts and the Pareto set."""

from collections.abc import Sequence
from math import sqrt
from random import Random
from statistics import NormalDist, fmean, median
from typing import NamedTuple

from farthing.core.gate import Evidence, judge
from farthing.lab.evals import Reply

_RESAMPLES = 1_000
Interval = tuple[float, float]


class Line(NamedTuple):
    """One model in one variant."""

    model: str
    variant: str
    cases: int
    accuracy: float
    accuracy_range: Interval
    cost: float | None
    """Nano-USD a request; None when any is unpriced."""
    per_success: float | None
    """Nano-USD for each unit of quality: what one good answer costs, failed ones included."""
    per_success_range: Interval | None
    judge_cost: int
    latency_ms: float
    errors: int
    verdict: Evidence | None
    """Against the reference model, None for that one itself."""
    pareto: bool
    """No other line is cheaper and at least as good."""

    @property
    def name(self) -> str:
        """Model and variant."""
        return self.model if self.variant == "plain" else f"{self.model} · {self.variant}"


def lines(replies: Sequence[Reply], *, reference: str, margin: float, seed: int = 0) -> tuple[Line, ...]:
    """One line for each model and variant; ``reference`` is the model that the others must not fall behind.

    Failed calls count as wrong answers. In its own variants the reference is compared with its first one.
    """
    groups: dict[tuple[str, str], list[Reply]] = {}
    for reply in replies:
        groups.setdefault((reply.model, reply.variant), []).append(reply)
    base = next((group for (model, _), group in groups.items() if model == reference), None)
    found = [_line(key, group, base, margin, seed) for key, group in groups.items()]
    return tuple(one._replace(pareto=_on_frontier(one, found)) for one in found)


def _line(
    key: tuple[str, str], group: Sequence[Reply], base: Sequence[Reply] | None, margin: float, seed: int
) -> Line:
    quality = [reply.quality for reply in group]
    costs = [reply.cost for reply in group if reply.cost is not None]
    priced = len(costs) == sum(not reply.error for reply in group) and bool(costs)
    total = sum(costs)
    good = sum(quality)
    return Line(
        model=key[0],
        variant=key[1],
        cases=len(group),
        accuracy=fmean(quality),
        accuracy_range=wilson(good, len(group)),
        cost=total / len(group) if priced else None,
        per_success=total / good if priced and good else None,
        per_success_range=_ratio_range(group, seed) if priced and good else None,
        judge_cost=sum(reply.judge_cost for reply in group),
        latency_ms=median(reply.latency_ms for reply in group),
        errors=sum(bool(reply.error) for reply in group),
        verdict=None if base is None or group is base else _verdict(group, base, margin),
        pareto=False,
    )


def wilson(good: float, count: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = good / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _ratio_range(group: Sequence[Reply], seed: int) -> Interval | None:
    """Bootstrap interval (95 %) of cost per success."""
    chance = Random(seed)
    found = []
    for _ in range(_RESAMPLES):
        drawn = chance.choices(group, k=len(group))
        good = sum(reply.quality for reply in drawn)
        if good:
            found.append(sum(reply.cost or 0 for reply in drawn) / good)
    found.sort()
    return (found[int(0.025 * len(found))], found[int(0.975 * len(found))]) if found else None


def _verdict(group: Sequence[Reply], base: Sequence[Reply], margin: float) -> Evidence:
    strong = {reply.case: reply.quality for reply in base}
    return judge([strong[reply.case] - reply.quality for reply in group if reply.case in strong], margin=margin)


def _on_frontier(line: Line, others: Sequence[Line]) -> bool:
    if line.cost is None:
        return False
    return not any(
        other.cost is not None
        and other.cost <= line.cost
        and other.accuracy >= line.accuracy
        and (other.cost < line.cost or other.accuracy > line.accuracy)
        for other in others
    )
