"""Anomalies in a cost series: a seasonal residual detector with a CUSUM beside it. Pure arithmetic on floats.

The maths is of statistics, not of money: amounts come in as dollars (or any unit) and only scores, expectations and
verdicts leave. Method: the log of each value against the median of the same slot in earlier seasons (same weekday, or
same hour of the week), re-centred by the recent median residual (growth), scaled by the median absolute deviation
with a floor. A large score is a spike; scores that stay high add up in the CUSUM to a step or a leak.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Final, Literal

import msgspec

MAD_TO_SIGMA: Final = 1.4826
"""Makes the median absolute deviation of normal noise equal to its standard deviation."""

Kind = Literal["spike", "drop", "step", "leak"]


class Detector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the detector; the defaults suit daily cost with a weekly season."""

    season: int = 7
    """Slots after which the pattern repeats: 7 for days, 168 for hours of the week."""
    depth: int = 5
    """Earlier seasons whose same slot is compared."""
    learning: int = 3
    """Seasons before anything is said; until then the verdict is ``learning``."""
    z: float = 3.6
    """Score beyond which one slot is an anomaly by itself."""
    cusum_slack: float = 0.75
    """Part of each score that the CUSUM forgives."""
    cusum_limit: float = 5.0
    sigma_floor: float = 0.09
    """Least scale of log residuals: quieter series are not taken for clockwork."""
    impact_min: float = 1.0
    """Least excess over the expectation, in the unit of the series, that is worth anyone's time."""
    memory: int = 8
    """Seasons of residuals that set centre and scale."""
    drops: bool = False
    """Report large falls too (a lost customer, a broken feature)."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What the detector thinks of one slot."""

    index: int
    value: float
    expected: float | None
    """None while learning."""
    z: float = 0.0
    cusum: float = 0.0
    kind: Kind | None = None
    """Set where an alert begins; an incident that goes on is not said again."""

    @property
    def learning(self) -> bool:
        """True when there is too little past to judge."""
        return self.expected is None

    @property
    def excess(self) -> float:
        """Value over expectation; 0 while learning."""
        return 0.0 if self.expected is None else self.value - self.expected


def detect(values: Sequence[float], rule: Detector | None = None) -> list[Point]:
    """Judges every slot of a gapless series in order, each from its past alone. Raises ``ValueError``."""
    rule = rule or Detector()
    _check(values, rule)
    state = _State(rule)
    return [state.next(index, value) for index, value in enumerate(values)]


class _State:
    """The series so far, as the detector remembers it."""

    def __init__(self, rule: Detector) -> None:
        self._rule = rule
        self._logs: list[float] = []
        self._raw: list[float | None] = []
        """Log residual of each slot before centring; None while learning or for values left out as anomalies."""
        self._cusum = 0.0
        self._run: list[float] = []
        """Scores since the CUSUM last stood at zero."""
        self._quiet = 0
        """Slots for which the CUSUM stays silent after an alert, until the medians have learnt the new level."""

    def next(self, index: int, value: float) -> Point:
        rule = self._rule
        floor = rule.impact_min / 100
        log = math.log(max(value, floor))
        earlier = [self._logs[at] for at in range(index - rule.season, -1, -rule.season)][: rule.depth]
        self._logs.append(log)
        if len(earlier) < rule.learning:
            self._raw.append(None)
            return Point(index=index, value=value, expected=None)
        raw = log - median(earlier)
        centre, sigma = self._centre_and_scale()
        z = (raw - centre) / sigma
        expected = math.exp(median(earlier) + centre)
        self._raw.append(raw if abs(z) <= rule.z else None)
        kind = self._verdict(z, value - expected)
        return Point(index=index, value=value, expected=expected, z=z, cusum=self._cusum, kind=kind)

    def _centre_and_scale(self) -> tuple[float, float]:
        """(median residual of the last four seasons: growth; robust scale over the memory, with its floor)."""
        rule = self._rule
        known = [raw for raw in self._raw[-rule.memory * rule.season :] if raw is not None]
        recent = [raw for raw in self._raw[-4 * rule.season :] if raw is not None]
        if len(recent) < rule.season:
            return 0.0, max(rule.sigma_floor, 0.15)
        middle = median(known)
        spread = MAD_TO_SIGMA * median([abs(raw - middle) for raw in known])
        return median(recent), max(rule.sigma_floor, spread)

    def _verdict(self, z: float, excess: float) -> Kind | None:
        rule = self._rule
        if z > rule.z and excess >= rule.impact_min:
            self._count(0.0)  # a spike is said once; it must not trip the CUSUM as well
            return "spike"
        if rule.drops and z < -rule.z and -excess >= rule.impact_min:
            return "drop"
        self._count(z)
        if self._cusum <= rule.cusum_limit or self._quiet or excess < rule.impact_min:
            return None
        kind: Kind = "step" if len(self._run) <= rule.season else "leak"
        self._cusum, self._run = 0.0, []
        self._quiet = rule.learning * rule.season
        return kind

    def _count(self, z: float) -> None:
        """One heavy slot alone may fill at most half of the CUSUM: steps and leaks last."""
        rule = self._rule
        self._quiet = max(0, self._quiet - 1)
        self._cusum = max(0.0, self._cusum + min(z, rule.cusum_limit / 2 + rule.cusum_slack) - rule.cusum_slack)
        self._run = [*self._run, z] if self._cusum > 0 else []


def _check(values: Sequence[float], rule: Detector) -> None:
    problems = [f"season must be at least 1, not {rule.season}"] if rule.season < 1 else []
    problems += [f"learning must be 1 to depth ({rule.depth})"] if not 1 <= rule.learning <= rule.depth else []
    problems += ["impact_min must be above 0"] if rule.impact_min <= 0 else []
    problems += [f"slot {at} is {value}" for at, value in enumerate(values) if not math.isfinite(value) or value < 0]
    if problems:
        raise ValueError("; ".join(problems[:5]))
