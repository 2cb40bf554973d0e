"""Arms of an experiment beside one another: rates by arm, their difference with an interval, how the draw fell.

The unit of variance is the conversation (or a switchback's block), as it is for money.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, Literal, NamedTuple

from farthing.core.savings import student

Gate = Literal["holds", "regressed", "not enough evidence", "not measured"]
MISMATCH_P: Final = 0.001
"""Below it an arm's size is no chance: assignment or logging is broken."""
_EXACT_MAX: Final = 1_000


class Part(NamedTuple):
    """One conversation's part of a rate: ``hits`` in ``of``: successes in outcomes, milliseconds in calls."""

    hits: float
    of: float


class Difference(NamedTuple):
    """A rate in both arms; ``low`` to ``high`` bounds treated less control."""

    control: float
    treated: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """Treated less control."""
        return self.treated - self.control


def difference(control: Sequence[Part], treated: Sequence[Part], *, confidence: float = 0.95) -> Difference | None:
    """Rates Σ hits / Σ of and their difference, clustered; None while an arm has fewer than two conversations."""
    a, b = _Rate(control), _Rate(treated)
    if min(a.clusters, b.clusters) < 2:
        return None
    error = math.sqrt(a.variance + b.variance)
    whole = (a.variance + b.variance) ** 2
    parts = sum(arm.variance**2 / max(1.0, arm.effective - 1) for arm in (a, b))
    reach = student(whole / parts if parts > 0 else 1e9, confidence) * error
    return Difference(a.rate, b.rate, b.rate - a.rate - reach, b.rate - a.rate + reach)


def gate(control: Sequence[Part], treated: Sequence[Part], margin: float) -> tuple[Gate, Difference | None]:
    """Whether a success rate is shown to have fallen by no more than ``margin``: one-sided, at 95 %."""
    found = difference(control, treated, confidence=0.90)
    if found is None:
        return "not enough evidence" if control or treated else "not measured", None
    if found.low >= -margin and _varies(control, treated, math.ceil(3 / margin)):
        return "holds", found
    if found.high < -margin:
        return "regressed", found
    return "not enough evidence", found


def mismatch(control: int, treated: int, share: float) -> float:
    """The chance of an arm at least as far from its planned ``share`` as this one: a p-value of the draw itself."""
    count = control + treated
    if not count:
        return 1.0
    if count > _EXACT_MAX:
        spread = math.sqrt(count * share * (1 - share))
        return 2 * (1 - NormalDist().cdf(max(0.0, abs(control - count * share) - 0.5) / spread))
    chances = [_chance(count, hits, share) for hits in range(count + 1)]
    here = chances[control] * (1 + 1e-9)
    return min(1.0, math.fsum(one for one in chances if one <= here))


def _chance(count: int, hits: int, share: float) -> float:
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(share) + (count - hits) * math.log1p(-share))


def _varies(control: Sequence[Part], treated: Sequence[Part], enough: int) -> bool:
    """Rates of 0 or 1 throughout have no variance to go by: then an arm's size must speak (the rule of three)."""
    for arm in (control, treated):
        whole = sum(part.of for part in arm)
        hits = sum(part.hits for part in arm)
        if hits in (0, whole) and len(arm) < enough:
            return False
    return True


class _Rate:
    """Σ hits / Σ of with its linearised, leave-one-out corrected variance."""

    def __init__(self, parts: Sequence[Part]) -> None:
        known = [part for part in parts if part.of > 0]
        whole = math.fsum(part.of for part in known)
        self.clusters = len(known)
        self.rate = math.fsum(part.hits for part in known) / whole if whole else 0.0
        self.effective = whole * whole / math.fsum(part.of**2 for part in known) if whole else 0.0
        self.variance = (
            math.fsum(((part.hits - self.rate * part.of) / (1 - min(0.999, part.of / whole))) ** 2 for part in known)
            / whole**2
            if whole
            else 0.0
        )
