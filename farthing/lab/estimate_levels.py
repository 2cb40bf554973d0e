"""The mean of something that changes slowly along a scale, from a few values at each step of it.

Mean lengths of answers go with the size of prompts, nobody knows how. They are taken to wander from one size class
to the next (a random walk, as in Kalman's smoother), as much as the means of the classes say beyond their chance. A
class with many answers stands on its own; one with few leans on its neighbours; one with none lies between them, and
is known the less the further they are. That answers to one size stand in for those to another is an error like all
others then, and in the interval.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

STILL: Final = 1e-6
"""The least wandering, in mean squares of a step: without any, the sums would have no solution."""

LEAST: Final = 1e-3
"""The least mean, of what is about 1: where all values are 0, others are not divided by that."""

_ROUNDS: Final = 5


class At(NamedTuple):
    """Values at one step of a scale."""

    number: int
    mean: float


class Levels:
    """Smoothed means with the covariance of their errors."""

    def __init__(self, first: int, means: Sequence[float], rows: Sequence[Sequence[float]], step: float) -> None:
        self._first = first
        self._means = means
        self._rows = rows
        self._step = step
        self._known: dict[int, float] = {}

    def at(self, place: int) -> float:
        """The mean at a step; beyond the first and last one that is known: theirs."""
        found = self._known.get(place)
        if found is None:
            found = self._known[place] = max(LEAST, self._means[self._inside(place)])
        return found

    def variance(self, weights: Mapping[int, float]) -> float:
        """Of the error of a weighted sum of the means."""
        inside: dict[int, float] = {}
        beyond = 0.0
        for side in (-1, 1):
            beyond += self._beyond({at: weight for at, weight in weights.items() if self._out(at) * side > 0}, side)
        for at, weight in weights.items():
            place = self._inside(at)
            inside[place] = inside.get(place, 0.0) + weight
        return beyond + sum(
            [one * other * self._rows[at][to] for at, one in inside.items() for to, other in inside.items()]
        )

    def _beyond(self, weights: Mapping[int, float], side: int) -> float:
        """What steps on one side of all that is known wander away from its end."""
        total, steps = 0.0, 0
        passed = 0.0
        for at in sorted(weights, key=lambda one: -abs(self._out(one))):
            if steps:
                total += self._step * passed * passed * (steps - abs(self._out(at)))
            passed += weights[at]
            steps = abs(self._out(at))
        return total + self._step * passed * passed * steps

    def _out(self, place: int) -> int:
        """How many steps before the first (negative) or behind the last."""
        at = place - self._first
        return at if at < 0 else max(0, at - len(self._means) + 1)

    def _inside(self, place: int) -> int:
        return min(max(place - self._first, 0), len(self._means) - 1)


def smoothed(found: Mapping[int, At], noise: float, step: float) -> Levels:
    """``noise``: the variance of one value about its mean; ``step``: of the difference of two neighbouring means."""
    first, last = min(found), max(found)
    number = last - first + 1
    step = max(step, STILL * max(noise, 1e-12))
    tie = 1 / step
    diagonal = [tie * ((at > 0) + (at < number - 1)) for at in range(number)]
    pulls = [0.0] * number
    for place, one in found.items():
        weight = one.number / max(noise, 1e-12)
        diagonal[place - first] += weight
        pulls[place - first] += weight * one.mean
    rows = [_solved(diagonal, tie, [float(at == column) for at in range(number)]) for column in range(number)]
    means = [sum([row[at] * pulls[at] for at in range(number)]) for row in rows]
    return Levels(first, means, rows, step)


def _solved(diagonal: Sequence[float], tie: float, right: list[float]) -> list[float]:
    """The solution of a system with ``diagonal`` and −``tie`` beside it (Thomas)."""
    number = len(diagonal)
    above, values = [0.0] * number, list(right)
    for at in range(number):
        pivot = diagonal[at] + (tie * above[at - 1] if at else 0.0)
        values[at] = (values[at] + (tie * values[at - 1] if at else 0.0)) / pivot
        above[at] = -tie / pivot
    for at in range(number - 2, -1, -1):
        values[at] -= above[at] * values[at + 1]
    return values


def wandering(scales: Sequence[tuple[Mapping[int, At], float]]) -> float:
    """The mean square of a step between neighbouring means, over several scales, each with its noise; at least 0.

    Every pair of neighbours counts by how well it tells: the less chance in it, and until it is known how much they
    wander, all alike.
    """
    pairs: list[tuple[float, float, int]] = []
    for found, noise in scales:
        for one, other in pairwise(sorted(found)):
            chance = noise * (1 / found[one].number + 1 / found[other].number)
            pairs.append(((found[one].mean - found[other].mean) ** 2, max(chance, 1e-12), other - one))
    step = max(0.0, sum([(square - chance) / apart for square, chance, apart in pairs]) / max(1, len(pairs)))
    for _ in range(_ROUNDS):
        weights = [apart / (step * apart + chance) ** 2 for _, chance, apart in pairs]
        top = sum([weight * (pair[0] - pair[1]) for weight, pair in zip(weights, pairs, strict=True)])
        below = sum([weight * pair[2] for weight, pair in zip(weights, pairs, strict=True)])
        step = max(0.0, top / below) if below else 0.0
    return step
