"""The prediction interval of everything that a replay estimated, from what it booked and what the log knows.

Its parts, of each pair of models: the mean lengths that estimates rest on, which are shared by all of them; the
chance in single answers; how the answers that were moved differ from the mean of those that their model gave, as far
as that is no chance; tokens per byte. Answers of one conversation are alike, and a conversation of which the log has
some answers and the replay estimates others errs less than two.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from farthing.lab.estimate_error import Chance, Error, Sample
from farthing.lab.estimate_known import PRIOR_SPREAD, Known
from farthing.lab.estimate_moved import Moved, Sums, trusted


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD about an estimated total: its 95 % prediction interval is [total − below, total + above]."""

    below: int
    above: int
    """More than ``below`` as a rule: a few answers are very long, and a log may happen to lack them."""
    priors: tuple[str, ...]
    """What rests on a guess and no measurement, in words."""

    @property
    def half(self) -> int:
        """Half of its width."""
        return (self.below + self.above) // 2

    def covers(self, truth: int, total: int) -> bool:
        """The truth is in it."""
        return total - self.below <= truth <= total + self.above


class Reckoning:
    """Adds to an error what was booked by estimate."""

    def __init__(self, known: Known, sums: Sums, error: Error) -> None:
        self._known = known
        self._sums = sums
        self._error = error
        self.priors: set[str] = set()
        self.shift = 0.0
        """Nano-USD from the booked total to the middle of the interval."""
        self._slopes: dict[str, dict[int | None, dict[int, float]]] = defaultdict(lambda: defaultdict(_zeros))
        """By model, cap and size class."""

    def add(self) -> None:
        """Everything that was booked."""
        pairs: dict[tuple[str, str], list[Booking]] = defaultdict(list)
        for (source, model, at, cap), moved in sorted(self._sums.moved.items(), key=str):
            pairs[(source, model)].append(Booking(at, cap, moved))
            self._input(source, model, at, moved)
        for (source, model), booked in pairs.items():
            if not any(one.moved.output_nusd for one in booked):
                continue  # the answers are the log's
            scale = 1.0
            if self._known.measured(model):
                scale = self._selected(source, model, booked)
                for one in booked:
                    self._slopes[model][one.cap][one.at] += one.moved.slope * scale
            else:
                self.priors.add(f"{source or 'no answer'} → {model}")
                guessed = sum([one.moved.output_nusd for one in booked])
                self._error.guesses(f"{source} {model}", guessed * PRIOR_SPREAD)
            self._chance(source, model, scale)
        for model, by_cap in self._slopes.items():
            self._mean(model, by_cap)
        self._repeated()

    def _selected(self, source: str, model: str, booked: Sequence["Booking"]) -> float:
        """How long answers of the calls that moved are, over the mean of all; it adds the error of that."""
        if not source or not self._known.measured(source):
            return 1.0
        excess = sum([one.moved.excess for one in booked])
        level = sum([one.moved.slope * self._known.lengths(model, one.cap).mean(one.at) for one in booked])
        variance = self._excess_variance(source, model, booked)
        trust, left = trusted(excess, variance, PRIOR_SPREAD * level)
        self.shift -= (1 - trust) * excess
        self._error.varies_with(f"{source} > {model}", Chance(left))
        return max(0.0, 1 + trust * excess / level) if level > 0 else 1.0

    def _excess_variance(self, source: str, model: str, booked: Sequence["Booking"]) -> float:
        """Of the excess, were the calls that moved drawn by chance from all that the source answered."""
        known, name = self._known, f"{source} > {model}"
        chances = self._sums.chances.get(name)
        if chances is None:
            return 0.0
        weights: dict[int, float] = defaultdict(float)
        for one in booked:
            a, b = known.lengths(source, one.cap), known.lengths(model, one.cap)
            mean = a.mean(one.at)
            weights[one.at] += one.moved.slope * b.mean(one.at) / mean * a.deviation(one.at) if mean else 0.0
        apart, alike = chances.apart, chances.alike
        talks: dict[int, float] = defaultdict(float)
        for at, weight in weights.items():
            answers = known.answers(source).get(at, ())
            if answers:
                apart -= weight * weight / len(answers)
            for answer in answers:
                talks[answer.talk] += weight / len(answers)
        for talk, weight in talks.items():
            alike += weight * weight - 2 * weight * self._sums.of_talk(talk, name)
        like = known.likeness()
        return like * max(0.0, alike) + (1 - like) * max(0.0, apart)

    def _chance(self, source: str, model: str, scale: float) -> None:
        """What single answers add: those of one conversation together, as far as they are alike."""
        chances = self._sums.chances.get(f"{source} {model}")
        if chances is None:
            return
        like = self._known.likeness()
        variance = like * chances.alike + (1 - like) * chances.apart
        self._error.varies_with(model, Chance(variance * scale**2, chances.third * scale**3))

    def _mean(self, model: str, by_cap: Mapping[int | None, Mapping[int, float]]) -> None:
        """The mean lengths that estimates rest on."""
        known = self._known
        spread = whole = level = 0.0
        for cap, slopes in by_cap.items():
            lengths = known.lengths(model, cap)
            spread += math.sqrt(max(0.0, lengths.variance(slopes)))  # what is wrong under one cap is so under all
            whole += sum([slope * lengths.deviation(at) for at, slope in slopes.items()])
            level += sum([slope * lengths.mean(at) for at, slope in slopes.items()])
        if spread <= 0:
            return
        size = max(2.0, (whole / spread) ** 2)
        lengths = known.lengths(model, None)
        skew = known.mean_skew(model)
        third = skew * spread**3 * size**2
        like = known.likeness()
        pull = (lengths.own * skew + (1 - lengths.own) * 2 * spread / level) * spread * size
        sample = Sample(size, spread * spread * size, third, pull, known.freedom(model))
        self._error.rests_on(model, sample, 1.0)
        if like:  # a conversation may be known in part and estimated in part
            talks = Counter([one.talk for one in known.every(model)])
            both = sum([number * self._sums.of_talk(talk, model) for talk, number in talks.items()])
            self._error.also(model, -2 * like * whole / talks.total() * both)

    def _repeated(self) -> None:
        """Calls whose question the model had answered before."""
        for model, (apart, alike) in self._sums.told.items():
            self._error.varies_with(f"{model} again", Chance(apart + alike))
            if self._known.repeats(model) is None and apart:
                self.priors.add(f"{model}: another answer to the same question")

    def _input(self, source: str, model: str, at: int, moved: Moved) -> None:
        """What tokens per byte contribute."""
        spread = self._known.input_ratio(source, model, at)[1]
        rate = moved.input_nusd / moved.taken if moved.taken else 0.0
        size = max(2, self._known.input_of(model, at)[2])
        name = f"input {source} {model}"
        self._error.rests_on(name, Sample(size, 1.0), moved.input_nusd * spread * math.sqrt(size))
        self._error.varies_with(name, Chance(moved.own_input * rate * rate))


class Booking(NamedTuple):
    """What was booked of calls of one size under one cap."""

    at: int
    cap: int | None
    moved: Moved


def _zeros() -> dict[int, float]:
    return defaultdict(float)
