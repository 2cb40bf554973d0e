"""Serving similar questions at a stated risk: at most a share δ of what is served may be wrong.

Three parts, none of which knows a threshold beforehand:

1. An online logistic regression turns the neighbourhood's features into the probability that the candidate's answer
   is wrong. It learns from every comparison: on misses the provider's own answer shows what the cache would have
   done, on hits a sample is answered by the provider as well (a shadow).
2. A bound. Over the recent requests, sorted by that probability, wrong answers observed among the first *n* are
   compared with those the model expected there; their ratio scales what the model expects of all *n*. The limit is
   the largest probability for which the 95 % upper bound of wrong answers among the next *n* like these stays within
   δ·n; both chance and the ratio's uncertainty are in the bound. Without comparisons nothing is served.
3. An alarm. A sequential test on what was served closes the cache when errors come at three times the promised
   rate; comparisons of before no longer count.

All numbers are small and all steps are plain Python: 20 µs a comparison, some milliseconds each ``REFIT`` requests.
"""

import math
from collections import deque
from typing import Final

import msgspec

from farthing.core.semantic import FEATURES

REFIT: Final = 100
"""Requests between two computations of the limit."""
_WINDOW: Final = 3_000
_Z: Final = 1.645
"""95 %, one-sided."""
_PRIOR: Final = (2.0, -2.0, -0.5, -0.3, -0.2, -0.3, -0.3)
"""Near means right, weakly; worth a comparison or two."""
_PRIOR_VARIANCE: Final = 4.0
_SHADOW_MAX: Final = 0.5
_DRIFT_RATIO: Final = 3.0
_DRIFT_ALARM: Final = math.log(1_000)
_AFTER_DRIFT: Final = 50


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """One request that had a candidate; ``wrong`` is None while nobody compared."""

    features: tuple[float, ...]
    wrong: bool | None = None


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What a restart must not forget."""

    means: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    seen: tuple[Seen, ...] = ()
    limit: float = 0.0
    mean_risk: float = 0.0
    alarms: int = 0
    tally: "Tally"


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What was served and what its sampled comparisons say."""

    hits: int = 0
    misses: int = 0
    compared: int = 0
    """Comparisons on misses."""
    shadows: int = 0
    wrong: int = 0
    """Shadowed hits that were wrong."""
    weight: float = 0.0
    weight_wrong: float = 0.0
    weight_squares: float = 0.0

    @property
    def rate(self) -> float | None:
        """Wrong among served, estimated from shadows; None without any."""
        return self.weight_wrong / self.weight if self.weight else None

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson interval of :attr:`rate` at the sample's effective size; (0, 1) without shadows."""
        rate = self.rate
        if rate is None:
            return 0.0, 1.0
        size = self.weight**2 / self.weight_squares
        middle = rate + z * z / (2 * size)
        spread = z * math.sqrt(rate * (1 - rate) / size + z * z / (4 * size * size))
        scale = 1 + z * z / size
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """May the candidate be served?"""

    serve: bool
    risk: float
    """Probability that its answer is wrong."""
    limit: float
    """The largest probability that is served now; 0 while cold or closed."""
    shadow_share: float
    """With which probability a hit like this should be shadowed."""


class RiskControl:
    """Decides for one family of partitions and learns from its comparisons."""

    def __init__(self, delta: float, *, shadow_share: float = 0.05, learned: Learned | None = None) -> None:
        """``delta`` is the promised share of wrong answers among served; ``learned`` comes from a store."""
        self.delta = delta
        self._shadow_share = shadow_share
        if learned is not None and len(learned.means) != len(FEATURES):
            learned = None  # of another version: start again rather than misread it
        self._model = Logistic(learned.means, learned.covariance) if learned else Logistic.fresh()
        self._seen: deque[Seen] = deque(learned.seen if learned else (), maxlen=_WINDOW)
        self.limit = learned.limit if learned else 0.0
        self._mean_risk = learned.mean_risk if learned else 0.0
        self.alarms = learned.alarms if learned else 0
        self.tally = learned.tally if learned else Tally()
        self._evidence = 0.0
        self._since_refit = 0

    @classmethod
    def cold(cls, delta: float, *, shadow_share: float, prior: Learned) -> "RiskControl":
        """A new family: another family's weights as prior, none of its comparisons; serves nothing yet."""
        fresh = Logistic.fresh()
        wide = tuple(
            tuple(value * 9 for value in row) for row in prior.covariance
        )  # three times as unsure of them as their owner is
        control = cls(delta, shadow_share=shadow_share)
        control._model = Logistic(prior.means, wide) if len(prior.means) == len(FEATURES) else fresh
        return control

    def verdict(self, features: tuple[float, ...]) -> Verdict:
        """Whether to serve a candidate with these features."""
        risk = self._model.probability(features)
        share = self._shadow_share
        if self._mean_risk > 0:
            share = min(_SHADOW_MAX, max(share / 4, share * risk / self._mean_risk))
        return Verdict(serve=risk <= self.limit, risk=risk, limit=self.limit, shadow_share=share)

    def missed(self, features: tuple[float, ...], wrong: bool | None) -> None:
        """A candidate was not served; ``wrong`` says what the comparison found, None when there was none."""
        self.tally = msgspec.structs.replace(
            self.tally, misses=self.tally.misses + 1, compared=self.tally.compared + (wrong is not None)
        )
        self._note(features, wrong)

    def served(self, features: tuple[float, ...]) -> None:
        """A candidate was served and nobody compared."""
        self.tally = msgspec.structs.replace(self.tally, hits=self.tally.hits + 1)
        self._note(features, None)

    def shadowed(self, features: tuple[float, ...], wrong: bool, *, share: float) -> None:
        """A candidate was served and compared, as happens to a share of its like."""
        weight, tally = 1 / max(share, 1e-3), self.tally
        self.tally = msgspec.structs.replace(
            tally,
            hits=tally.hits + 1,
            shadows=tally.shadows + 1,
            wrong=tally.wrong + wrong,
            weight=tally.weight + weight,
            weight_wrong=tally.weight_wrong + weight * wrong,
            weight_squares=tally.weight_squares + weight * weight,
        )
        self._watch(self._model.probability(features), wrong)
        self._note(features, wrong)

    def learned(self) -> Learned:
        """The state to keep."""
        return Learned(
            means=tuple(self._model.means),
            covariance=tuple(map(tuple, self._model.covariance)),
            seen=tuple(self._seen),
            limit=self.limit,
            mean_risk=self._mean_risk,
            alarms=self.alarms,
            tally=self.tally,
        )

    def _note(self, features: tuple[float, ...], wrong: bool | None) -> None:
        if wrong is not None:
            self._model.learn(features, wrong)
        self._seen.append(Seen(features, wrong))
        self._since_refit += 1
        if self._since_refit >= REFIT:
            self.refit()

    def _watch(self, risk: float, wrong: bool) -> None:
        """The alarm: evidence that errors among the served come at ``_DRIFT_RATIO`` times the promise."""
        promised = max(risk, self.delta)
        step = math.log(_DRIFT_RATIO) if wrong else 0.0
        self._evidence = max(0.0, self._evidence + step - (_DRIFT_RATIO - 1) * promised)
        if self._evidence < _DRIFT_ALARM:
            return
        self.alarms += 1
        self.limit = self._mean_risk = self._evidence = 0.0
        recent = list(self._seen)[-_AFTER_DRIFT:]
        self._seen.clear()
        self._seen.extend(recent)
        self._since_refit = 0

    def refit(self) -> None:
        """Computes the limit from what was seen lately."""
        self._since_refit = 0
        probability = self._model.probability
        ranked = sorted((probability(one.features), one.wrong) for one in map(_sortable, self._seen))
        self.limit, self._mean_risk = risk_limit(ranked, self.delta)


class _Ranked(msgspec.Struct, frozen=True):
    features: tuple[float, ...]
    wrong: int


def _sortable(one: Seen) -> _Ranked:
    return _Ranked(one.features, -1 if one.wrong is None else int(one.wrong))


def risk_limit(ranked: list[tuple[float, int]], delta: float) -> tuple[float, float]:
    """The largest probability that may be served, and the mean probability below it; (0, 0) when none may.

    ``ranked`` holds (probability of wrong, observed: 1 wrong, 0 right, −1 not compared) in ascending order.
    """
    total = expected = 0.0
    wrong = 0
    limit = mean = 0.0
    for count, (risk, observed) in enumerate(ranked, 1):
        total += risk
        if observed >= 0:
            expected += risk
            wrong += observed
        if expected > 0 and wrong_upper(wrong, total / expected) <= delta * count:
            limit, mean = risk, total / count
    return limit, mean


def wrong_upper(observed: int, scale: float) -> float:
    """Upper bound of the errors to come where ``observed`` were seen and ``scale`` times as many were expected.

    Both uncertainties count: what the true rate is (as if one more error had been seen), and chance to come.
    """
    seen = observed + 1
    likely = seen * scale
    return likely + _Z * math.sqrt(likely + likely * likely / seen)


class Logistic:
    """Bayesian logistic regression, one comparison at a time (a Gaussian over the weights)."""

    def __init__(self, means: tuple[float, ...], covariance: tuple[tuple[float, ...], ...]) -> None:
        self.means = list(means)
        self.covariance = [list(row) for row in covariance]

    @classmethod
    def fresh(cls) -> "Logistic":
        """The prior."""
        size = range(len(_PRIOR))
        return cls(_PRIOR, tuple(tuple(_PRIOR_VARIANCE if i == j else 0.0 for j in size) for i in size))

    def probability(self, features: tuple[float, ...]) -> float:
        """Probability that the candidate is wrong."""
        total = sum(map(_times, self.means, features))
        return 1 / (1 + math.exp(-total)) if total > -30 else 1e-13

    def learn(self, features: tuple[float, ...], wrong: bool) -> None:
        """One Newton step towards what was observed."""
        chance = self.probability(features)
        curve = max(chance * (1 - chance), 1e-3)
        reach = [sum(map(_times, row, features)) for row in self.covariance]
        gain = curve / (1 + curve * sum(map(_times, reach, features)))
        error = wrong - chance
        for i, row in enumerate(self.covariance):
            pull = gain * reach[i]
            self.covariance[i] = [value - pull * other for value, other in zip(row, reach, strict=True)]
        for i, row in enumerate(self.covariance):
            self.means[i] += error * sum(map(_times, row, features))


def _times(a: float, b: float) -> float:
    return a * b
