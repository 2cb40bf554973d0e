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

_SKEW_MAX: Final = 1.0
"""Of the studentised error; beyond it the correction is no longer a small one, and would turn back on itself."""
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
    own: float = 1.0
    """How much of the variance is known from these values, which err with the mean, and not from elsewhere."""
    freedom: float = 0.0
    """Degrees of freedom of the variance; 0: one less than there are values."""


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
        parts = self._variances()
        guessed = sum(one * one for one in self._guessed.values())
        apart = sum(parts.values()) + guessed
        whole = max(apart * _SHARED_MAX, apart + sum(self._both.values()))
        if whole <= 0:
            return 0.0, 0.0
        times = student(self._freedom(parts, whole), confidence)
        shift, skew = self._shape(parts, whole)
        spread = math.sqrt(whole)
        bend = shift + skew * (times * times - 1) / 6
        return max(0.0, spread * (times - bend)), max(0.0, spread * (times + bend))

    def _variances(self) -> Mapping[str, float]:
        """Nano-USD² of the error that come from each sample: of its mean, and of single answers like those in it."""
        found: dict[str, float] = {}
        for name, chance in self._chance.items():
            found[name] = chance.variance
        for name, sample in self._samples.items():
            slope = self._slopes[name]
            shared = slope * slope * sample.variance / sample.size
            found[name] = found.get(name, 0.0) + shared
        return found

    def _freedom(self, parts: Mapping[str, float], whole: float) -> float:
        """Degrees of freedom of the whole variance (Satterthwaite); guesses have as few as there can be."""
        spent = sum(guess**4 / _FREEDOM_MIN for guess in self._guessed.values())
        for name, part in parts.items():
            sample = self._samples.get(name)
            if sample is not None:
                spent += part * part / max(_FREEDOM_MIN, sample.freedom or sample.size - 1.0)
        return max(_FREEDOM_MIN, whole * whole / spent) if spent > 0 else 1e9

    def _shape(self, parts: Mapping[str, float], whole: float) -> tuple[float, float]:
        """(mean, skewness) of the error over its estimated standard deviation.

        Both come from the third moments: those of the error itself, and that samples with too low a mean have too low
        a variance.
        """
        shared = third = 0.0
        for name, sample in self._samples.items():
            slope = self._slopes[name]
            if sample.variance > 0:
                shared += sample.own * slope * parts[name] * sample.third / sample.variance / sample.size
            third -= slope**3 * sample.third / sample.size**2
        third += sum(chance.third for chance in self._chance.values())
        scale = whole**1.5
        skew = (third + 3 * shared) / scale
        return (
            max(-_SKEW_MAX, min(_SKEW_MAX, shared / 2 / scale)),
            max(-_SKEW_MAX, min(_SKEW_MAX, skew)),
        )


def moments(values: Iterable[float]) -> tuple[float, Sample]:
    """(mean, the sample's own size and unbiased moments) of at least two values."""
    numbers = list(values)
    size = len(numbers)
    mean = sum(numbers) / size
    square = sum((one - mean) ** 2 for one in numbers)
    cube = sum((one - mean) ** 3 for one in numbers)
    third = cube * size / ((size - 1) * (size - 2)) if size > 2 else 0.0
    return mean, Sample(size, square / (size - 1), third)
