"""How far the sum of many estimates may be from the truth: a prediction interval that knows its own errors.

Everything that is estimated rests on means of samples (lengths of a model's answers, say). The truth differs from the
estimate by the errors of those means, which all estimates that rest on them share, and by the chance in each single
answer. Answers are skewed: a few are very long. A sample that happens to lack those has too low a mean and too low a
spread at once, so that a symmetric interval made of it misses high truths more often than it says. The interval is
therefore corrected for skewness (Cornish and Fisher, for the studentised error; Johnson 1978 does the same for a
mean), and reaches further up than down.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from farthing.core.savings import student

_SKEW_MAX: Final = 2.0
"""Of the studentised error; beyond it three moments do not tell where its ends are."""
_STRAIGHT: Final = 1e-3
"""A skewness that makes no difference."""
_FREEDOM_MIN: Final = 2.0
_SHARED_MAX: Final = 0.1
"""Of a variance, what is left at least where its parts make up for each other."""


class Sample(NamedTuple):
    """What a mean rests on."""

    size: float
    """Independent values; fewer than there are, where some are alike."""
    variance: float
    third: float = 0.0
    """The third central moment."""
    pull: float | None = None
    """By how much the variance is found higher for each unit that the mean is; None: as in a sample whose variance is
    its own.
    """
    freedom: float = 0.0
    """Degrees of freedom of a variance that comes in part from what others know it from too; 0: one less than there
    are values, and its own.
    """


class Chance(NamedTuple):
    """The part of the error that is in single answers of one kind, in nano-USD."""

    variance: float
    third: float = 0.0
    """Third central moment of its sum."""


class Error:
    """Collects what a sum of estimates rests on."""

    def __init__(self) -> None:
        self._samples: dict[str, Sample] = {}
        self._slopes: dict[str, float] = {}
        self._chance: dict[str, Chance] = {}
        self._guessed: dict[str, float] = {}
        self._both: dict[str, float] = {}

    def rests_on(self, name: str, sample: Sample, slope: float) -> None:
        """The sum changes by ``slope`` nano-USD for each unit by which the mean of ``sample`` changes."""
        self._samples[name] = sample
        self._slopes[name] = self._slopes.get(name, 0.0) + slope

    def varies_with(self, name: str, chance: Chance) -> None:
        """Single answers of the kind that ``name`` is a sample of vary about their mean."""
        before = self._chance.get(name, Chance(0.0))
        self._chance[name] = Chance(before.variance + chance.variance, before.third + chance.third)

    def also(self, name: str, variance: float) -> None:
        """Variance that comes from what two parts share; negative where one makes up for the other."""
        self._both[name] = self._both.get(name, 0.0) + variance

    def guesses(self, name: str, deviation: float) -> None:
        """Something that nothing is known of errs by so much (a standard deviation); what shares a name adds up."""
        self._guessed[name] = self._guessed.get(name, 0.0) + deviation

    def reach(self, confidence: float = 0.95) -> tuple[float, float]:
        """(how far below, how far above the sum) the truth lies, in so many of such predictions; nano-USD."""
        parts = self._parts()
        whole = sum([part.whole for part in parts.values()]) + sum([one * one for one in self._guessed.values()])
        if whole <= 0:
            return 0.0, 0.0
        times = student(self._freedom(parts, whole), confidence)
        shift, skew = self._shape(parts, whole)
        spread = math.sqrt(whole)
        low, high = bent(-times, skew), bent(times, skew)
        return max(0.0, -spread * (shift + low)), max(0.0, spread * (shift + high))

    def _parts(self) -> Mapping[str, "_Part"]:
        """What comes from each sample: of the error of its mean, and of single answers like those in it."""
        found: dict[str, _Part] = {}
        for name in {**self._chance, **self._samples}:
            chance = self._chance.get(name, Chance(0.0)).variance
            mean = 0.0
            if name in self._samples:
                sample = self._samples[name]
                mean = self._slopes[name] ** 2 * sample.variance / sample.size
            half = max(self._both.get(name, 0.0), (_SHARED_MAX - 1) * (mean + chance)) / 2
            found[name] = _Part(mean, chance, half)
        return found

    def _freedom(self, parts: Mapping[str, "_Part"], whole: float) -> float:
        """Degrees of freedom of the whole variance (Satterthwaite); guesses have as few as there can be."""
        spent = sum(guess**4 / _FREEDOM_MIN for guess in self._guessed.values())
        together = 0.0
        for name, sample in self._samples.items():
            if sample.freedom:
                together += parts[name].whole / math.sqrt(max(_FREEDOM_MIN, sample.freedom))
            else:
                spent += parts[name].whole ** 2 / max(_FREEDOM_MIN, sample.size - 1.0)
        spent += together * together
        return max(_FREEDOM_MIN, whole * whole / spent) if spent > 0 else 1e9

    def _shape(self, parts: Mapping[str, "_Part"], whole: float) -> tuple[float, float]:
        """(mean, skewness) of the error over its estimated standard deviation.

        Both come from the third moments: those of the error itself, and that samples with too low a mean have too low
        a variance.
        """
        shared = third = 0.0
        for name, sample in self._samples.items():
            part, slope = parts[name], self._slopes[name]
            kept = _kept(part.mean, part.half)
            if sample.variance > 0:
                pull = sample.third / sample.variance if sample.pull is None else sample.pull
                shared += kept * slope * part.whole * pull / sample.size
            third -= kept**1.5 * slope**3 * sample.third / sample.size**2
        for name, chance in self._chance.items():
            third += _kept(parts[name].chance, parts[name].half) ** 1.5 * chance.third
        scale = whole**1.5
        skew = (third + 3 * shared) / scale
        return (
            max(-_SKEW_MAX, min(_SKEW_MAX, shared / 2 / scale)),
            max(-_SKEW_MAX, min(_SKEW_MAX, skew)),
        )


class _Part(NamedTuple):
    """Variance that comes from one sample."""

    mean: float
    chance: float
    half: float
    """Half of what both share; negative where one makes up for the other."""

    @property
    def whole(self) -> float:
        return max(0.0, self.mean + self.chance + 2 * self.half)


def _kept(part: float, half: float) -> float:
    """How much of one part is left, where another makes up for some of it."""
    return max(0.0, 1 + half / part) if part > 0 else 0.0


def bent(times: float, skew: float) -> float:
    """So many deviations of a symmetric error, of one with this skewness (a shifted log-normal: Johnson's S_L)."""
    if abs(skew) < _STRAIGHT:
        return times
    side = math.copysign(1.0, skew)
    root = math.sqrt(1 + skew * skew / 4)
    base = math.cbrt(root + abs(skew) / 2) - math.cbrt(root - abs(skew) / 2)  # of (w + 2) √(w − 1) = skew
    width = math.log1p(base * base)
    return side * math.expm1(side * times * math.sqrt(width) - width / 2) / base


def moments(values: Iterable[float]) -> tuple[float, Sample]:
    """(mean, the sample's own size and unbiased moments) of at least two values."""
    numbers = list(values)
    size = len(numbers)
    mean = sum(numbers) / size
    left = [one - mean for one in numbers]
    square = sum([one**2 for one in left])
    cube = sum([one**3 for one in left])
    third = cube * size / ((size - 1) * (size - 2)) if size > 2 else 0.0
    return mean, Sample(size, square / (size - 1), third)
