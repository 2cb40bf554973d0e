"""The gate: a cheaper choice goes live only when paired results show that it is not worse than the margin.

``d = quality(strong) - quality(cheap)`` in −1..1 on prompts drawn from the traffic that would be downgraded, a share
``f`` of all traffic. The drop that users see is ``f × mean(d)``; the claim to be proved is that it is at most
``margin``. Thresholds are tested from the most careful on and the first failure ends the test, so that testing many
costs nothing in error (fixed-sequence testing). Small samples are judged by betting (Waudby-Smith and Ramdas 2024),
which holds for every distribution and every sample size; large ones may be judged by the normal bound.
"""

from collections.abc import Sequence
from math import ceil, log, sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple
from zlib import crc32

import msgspec

Verdict = Literal["holds", "regressed", "not enough evidence"]
Method = Literal["betting", "normal", "auto"]

MARGIN = 0.02
ALPHA = 0.05
POWER = 0.8
NORMAL_FROM = 500
"""``auto`` uses the normal bound from this many pairs on; below it, betting."""

_BET_CAP = 0.8
_PRIOR_PAIRS, _PRIOR_VARIANCE = 50, 0.05
_MORE_MAX = 1_000_000


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What one candidate's paired results say."""

    verdict: Verdict
    drop: float
    """Estimated loss of quality over all traffic: ``share × mean difference``."""
    low: float
    """One-sided lower bound of the drop."""
    high: float
    """One-sided upper bound of the drop, at the same level."""
    pairs: int
    share: float
    """Of all traffic that would be downgraded."""
    margin: float
    more: int = 0
    """About how many more pairs would decide; 0 when decided."""
    method: str = ""

    def __str__(self) -> str:
        tail = f" ({self.more} more)" if self.verdict == "not enough evidence" else ""
        return (
            f"{self.verdict}{tail}: drop {100 * self.drop:.2f} points, at most {100 * self.high:.2f} "
            f"(margin {100 * self.margin:.1f}, {self.pairs} pairs, {100 * self.share:.0f} % of traffic)"
        )


def judge(
    differences: Sequence[float],
    *,
    share: float = 1.0,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    method: Method = "auto",
) -> Evidence:
    """The verdict on one candidate. ``differences`` are strong minus cheap, −1..1, in the order they were drawn.

    Raises :class:`ValueError` for a difference outside −1..1, a share outside (0, 1] or a margin not above 0.
    """
    _checked(differences, share, margin, alpha)
    count = len(differences)
    chosen = ("normal" if count >= NORMAL_FROM else "betting") if method == "auto" else method
    if not count:
        return _evidence("not enough evidence", 0.0, (-share, share), differences, share, margin, alpha, chosen)
    low, high = bounds(differences, alpha=alpha, method=chosen)
    drop = share * sum(differences) / count
    found: Verdict = "not enough evidence"
    if share * high <= margin:
        found = "holds"
    elif share * low > margin:
        found = "regressed"
    return _evidence(found, drop, (share * low, share * high), differences, share, margin, alpha, chosen)


def bounds(differences: Sequence[float], *, alpha: float = ALPHA, method: str = "betting") -> tuple[float, float]:
    """One-sided lower and upper bounds of the mean difference, each at level ``alpha``; the mean seen is within."""
    count = len(differences)
    mean = sum(differences) / count
    if method == "normal":
        reach = NormalDist().inv_cdf(1 - alpha) * sqrt((_variance(differences, mean) + 1 / count) / count)
        return max(-1.0, mean - reach), min(1.0, mean + reach)
    scaled = [(value + 1) / 2 for value in _mixed(differences)]
    low = 1 - _betting_high([1 - value for value in scaled], alpha)
    # A streak may win a bet that the values after it would lose; wider bounds are as valid.
    return min(2 * low - 1, mean), max(2 * _betting_high(scaled, alpha) - 1, mean)


def _mixed(values: Sequence[float]) -> list[float]:
    """The values in an order that has nothing to do with theirs: bets on a sorted file would be unfair."""
    order = sorted(range(len(values)), key=lambda place: crc32(place.to_bytes(4, "big") * 2))
    return [values[place] for place in order]


def _variance(values: Sequence[float], mean: float) -> float:
    return sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)


def _betting_high(values: Sequence[float], alpha: float) -> float:
    """The largest mean in 0..1 that betting against "the mean is at least m" cannot refute."""
    bets = _bets(values, alpha)
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if _refuted(values, bets, middle, alpha):
            high = middle
        else:
            low = middle
    return high


def _bets(values: Sequence[float], alpha: float) -> list[float]:
    """Stakes chosen before each value is seen: large when the values seen so far scatter little.

    They begin as if fifty pairs had been seen, one in five of them different; any beginning is valid.
    """
    count = len(values)
    total, squares = 0.5, _PRIOR_PAIRS * _PRIOR_VARIANCE
    stakes = []
    for seen, value in enumerate(values):
        stakes.append(sqrt(2 * log(1 / alpha) * (seen + _PRIOR_PAIRS) / (count * squares)))
        total += value
        squares += (value - total / (seen + 2)) ** 2
    return stakes


def _refuted(values: Sequence[float], bets: Sequence[float], mean: float, alpha: float) -> bool:
    """The wealth of someone who bets that values lie below ``mean`` reaches 1/alpha at some time."""
    if mean >= 1.0:
        return True
    most = _BET_CAP / (1.0 - mean)
    wealth, goal = 0.0, log(1 / alpha)
    for value, bet in zip(values, bets, strict=True):
        wealth += log(1.0 + min(bet, most) * (mean - value))
        if wealth >= goal:
            return True
    return False


class Candidate(NamedTuple):
    """One threshold of a router: what it would downgrade, and the paired results from there."""

    threshold: float
    share: float
    differences: Sequence[float]


def fixed_sequence(
    candidates: Sequence[Candidate],
    *,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    method: Method = "auto",
) -> tuple[Candidate | None, tuple[Evidence, ...]]:
    """The furthest candidate that holds, testing in the given order and stopping at the first that does not.

    The order must be fixed before the results are known, most careful first. The chance that a returned candidate
    breaks the margin is at most ``alpha``, however many are tested.
    """
    best: Candidate | None = None
    evidence: list[Evidence] = []
    for candidate in candidates:
        found = judge(candidate.differences, share=candidate.share, margin=margin, alpha=alpha, method=method)
        evidence.append(found)
        if found.verdict != "holds":
            break
        best = candidate
    return best, tuple(evidence)


def corrected(judged: Sequence[float], paired: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(mean difference, its standard error) by prediction-powered inference.

    ``judged`` are a judge's differences on many pairs; ``paired`` are (human, judge) differences on others. The
    judge's bias is measured on the second and taken from the first. Needs two of each.
    """
    if len(judged) < 2 or len(paired) < 2:
        raise ValueError("at least two judged and two human-labelled pairs are needed")
    bias = [human - judge for human, judge in paired]
    mean = sum(judged) / len(judged)
    shift = sum(bias) / len(bias)
    spread = _variance(judged, mean) / len(judged) + _variance(bias, shift) / len(bias)
    return mean + shift, sqrt(spread)


def judge_corrected(
    judged: Sequence[float],
    paired: Sequence[tuple[float, float]],
    *,
    share: float = 1.0,
    margin: float = MARGIN,
    alpha: float = ALPHA,
) -> Evidence:
    """The verdict when a judge labels and humans check some of it (normal bound on the corrected mean)."""
    _checked(judged, share, margin, alpha)
    mean, error = corrected(judged, paired)
    count = len(paired)
    reach = NormalDist().inv_cdf(1 - alpha) * sqrt(error**2 + 1 / count**2)
    found: Verdict = "not enough evidence"
    if share * (mean + reach) <= margin:
        found = "holds"
    elif share * (mean - reach) > margin:
        found = "regressed"
    more = 0 if found != "not enough evidence" else max(1, needed(0.5 * error**2 * count, share=share) - count)
    return Evidence(
        verdict=found,
        drop=share * mean,
        low=share * max(-1.0, mean - reach),
        high=share * min(1.0, mean + reach),
        pairs=len(judged) + count,
        share=share,
        margin=margin,
        more=more,
        method="prediction-powered",
    )


def needed(
    discordant: float,
    *,
    share: float = 1.0,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    power: float = POWER,
    drop: float = 0.0,
) -> int:
    """Pairs needed to prove the margin when ``discordant`` is the mean square difference and ``drop`` the true mean.

    ``(z_{1−α} + z_{power})² · p / (margin/share − drop)²``; a million when the true drop does not leave room.
    """
    room = margin / share - drop
    if room <= 0:
        return _MORE_MAX
    normal = NormalDist()
    reach = normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)
    return min(_MORE_MAX, ceil(reach**2 * max(discordant, 1e-6) / room**2))


def _evidence(
    verdict: Verdict,
    drop: float,
    ends: tuple[float, float],
    differences: Sequence[float],
    share: float,
    margin: float,
    alpha: float,
    method: str,
) -> Evidence:
    count = len(differences)
    more = 0
    if verdict == "not enough evidence":
        squares = (sum(value * value for value in differences) + 1) / (count + 2)
        mean = sum(differences) / count if count else 0.0
        hoped = min(max(0.0, mean), 0.7 * margin / share)  # had the truth no room, no number of pairs would decide
        more = max(1, needed(squares, share=share, margin=margin, alpha=alpha, drop=hoped) - count)
    return Evidence(
        verdict=verdict,
        drop=drop,
        low=ends[0],
        high=ends[1],
        pairs=count,
        share=share,
        margin=margin,
        more=more,
        method=method,
    )


def _checked(differences: Sequence[float], share: float, margin: float, alpha: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"the share of traffic is {share}; above 0 and at most 1 is expected")
    if margin <= 0 or not 0 < alpha < 0.5:
        raise ValueError("the margin must be above 0 and alpha between 0 and 0.5")
    if not all(-1 <= value <= 1 for value in differences):
        raise ValueError("differences of quality lie between -1 and 1")
