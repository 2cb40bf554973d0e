"""What was saved, measured: a holdout by conversation, judged with intervals that stay honest under heavy tails.

The unit of assignment and of variance is the conversation. Each arm's ratio is booked cost over the same
conversations' cost repriced under the baseline policy; the saving is one minus the treated ratio over the control
ratio. The variance is linearised, cluster-robust with a leave-one-out correction (HC3), and its degrees of freedom
count conversations by weight: fifty conversations of which two cost half of everything are not fifty.
"""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from statistics import NormalDist
from typing import Final, Literal

import msgspec

from farthing.core.allocation import to_whole

CONTROL_MIN: Final = 50
"""Control conversations below which no headline is given."""
HALF_WIDTH_MAX: Final = 0.05
"""A headline needs a half-width of at most this, or of half the estimate where that is more."""
LOOKS_RHO: Final = 1 / 300
"""Where the always-valid interval is tightest: at about 300 effective conversations."""
LOG_REACH_MAX: Final = math.log(1e6)
"""An interval that reaches further than a million times in either direction says nothing, and ends there."""
EXACT_LEVERS_MAX: Final = 7

Verdict = Literal["measured", "not_enough_evidence"]


class Conversation(msgspec.Struct, frozen=True):
    """One conversation of an experiment: everything that was booked for it, and what the baseline would have cost."""

    cost: float
    """All attempts, router, judge, embeddings and cache writes included."""
    baseline: float
    """The same requests repriced under the baseline policy; above zero."""


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    """The relative saving of the treated arm, with its interval."""

    estimate: float
    """1 − treated ratio / control ratio; negative when the policy costs more."""
    low: float
    high: float
    confidence: float
    control: int
    treated: int
    effective: float
    """Control conversations by weight."""
    verdict: Verdict
    missing: int
    """Control conversations still needed, roughly, before a headline; 0 when measured."""
    errors: float = 0.0
    """How many standard errors the arms' ratio lies from one."""
    freedom: float = 1e9
    """Degrees of freedom of the standard error."""

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

    @property
    def p_value(self) -> float:
        """How likely so large a difference is by chance alone, at one look that was fixed beforehand."""
        return _p_value(self.errors, self.freedom)


def measure(
    control: Sequence[Conversation],
    treated: Sequence[Conversation],
    *,
    confidence: float = 0.95,
    always_valid: bool = False,
) -> Saving | None:
    """The saving with its interval; None while an arm has fewer than two conversations or no cost.

    ``always_valid`` widens the interval so that it may be looked at any number of times (a normal-mixture confidence
    sequence); without it the interval is for one look at a date that was fixed before. Raises ``ValueError`` for
    conversations without a baseline.
    """
    _check(control, treated, confidence)
    if len(control) < 2 or len(treated) < 2:
        return None
    a, b = _Arm(control), _Arm(treated)
    if a.ratio <= 0 or b.ratio <= 0:
        return None
    error = math.sqrt(a.relative_variance + b.relative_variance)
    times = _mixture(min(a.effective, b.effective), confidence) if always_valid else 0.0
    freedom = _freedom(a, b)
    times = max(times, student(freedom, confidence))
    log = math.log(b.ratio / a.ratio)
    estimate = 1 - math.exp(log)
    reach = min(times * error, LOG_REACH_MAX)
    low, high = 1 - math.exp(log + reach), 1 - math.exp(log - reach)
    missing = _missing(estimate, (high - low) / 2, len(control))
    return Saving(
        estimate=estimate,
        low=low,
        high=high,
        confidence=confidence,
        control=len(control),
        treated=len(treated),
        effective=a.effective,
        verdict="not_enough_evidence" if missing else "measured",
        missing=missing,
        errors=abs(log) / error if error > 0 else math.inf if log else 0.0,
        freedom=freedom,
    )


def benjamini_hochberg(p_values: Sequence[float], rate: float = 0.05) -> list[bool]:
    """Which of several findings stand when at most ``rate`` of those that are called true may be false."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    last = 0
    for rank, at in enumerate(order, 1):
        if p_values[at] <= rate * rank / len(p_values):
            last = rank
    accepted = set(order[:last])
    return [at in accepted for at in range(len(p_values))]


def shapley(levers: Sequence[str], cost: Callable[[frozenset[str]], int]) -> dict[str, int]:
    """Nano-USD that each lever saves, averaged over every order of switching them on.

    ``cost`` gives the bill with a set of levers on; it is asked once per set. The parts sum exactly to
    ``cost(∅) − cost(all)``. Raises ``ValueError`` for more than seven levers: ask for groups of them.
    """
    if len(levers) > EXACT_LEVERS_MAX:
        raise ValueError(
            f"{len(levers)} levers are too many for every order (at most {EXACT_LEVERS_MAX}); group some"
        )
    bills: dict[frozenset[str], int] = {}

    def bill(on: frozenset[str]) -> int:
        if on not in bills:
            bills[on] = cost(on)
        return bills[on]

    sums = dict.fromkeys(levers, 0)
    for order in permutations(levers):
        on: frozenset[str] = frozenset()
        for lever in order:
            sums[lever] += bill(on) - bill(on | {lever})
            on |= {lever}
    orders = math.factorial(len(levers))
    total = bill(frozenset()) - bill(frozenset(levers))
    parts = to_whole([amount / orders for amount in sums.values()], total)
    return dict(zip(levers, parts, strict=True))


def in_order(levers: Sequence[str], cost: Callable[[frozenset[str]], int]) -> dict[str, int]:
    """Nano-USD that each lever saves when they are switched on one after the other; sums exactly to the whole."""
    found: dict[str, int] = {}
    on: frozenset[str] = frozenset()
    before = cost(on)
    for lever in levers:
        on |= {lever}
        after = cost(on)
        found[lever] = before - after
        before = after
    return found


class _Arm:
    """Sums of one arm."""

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        base = math.fsum(one.baseline for one in conversations)
        self.ratio = math.fsum(one.cost for one in conversations) / base
        self.effective = base * base / math.fsum(one.baseline**2 for one in conversations)
        squares = [
            ((one.cost - self.ratio * one.baseline) / (1 - min(0.999, one.baseline / base))) ** 2
            for one in conversations
        ]
        variance = math.fsum(squares) / base**2
        self.relative_variance = variance / self.ratio**2 if self.ratio > 0 else math.inf


def _freedom(a: _Arm, b: _Arm) -> float:
    """Welch–Satterthwaite degrees of freedom, with conversations counted by weight."""
    whole = (a.relative_variance + b.relative_variance) ** 2
    parts = sum(arm.relative_variance**2 / max(1.0, arm.effective - 1) for arm in (a, b))
    return whole / parts if parts > 0 else 1e9


def _p_value(times: float, freedom: float) -> float:
    """The two-sided tail of Student's t beyond ``times`` standard errors."""
    if math.isinf(times):
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if 0 < middle < 1 and student(freedom, middle) < times:
            low = middle
        else:
            high = middle
    return 1 - low


def _missing(estimate: float, half_width: float, control: int) -> int:
    wanted = max(HALF_WIDTH_MAX, abs(estimate) / 2)
    if control >= CONTROL_MIN and half_width <= wanted:
        return 0
    by_width = math.ceil(control * (half_width / wanted) ** 2) if half_width > wanted else 0
    return max(1, CONTROL_MIN - control, by_width - control)


def _mixture(effective: float, confidence: float) -> float:
    """Times the standard error, so that the interval holds at every look at once."""
    scaled = effective * LOOKS_RHO
    return math.sqrt((1 + 1 / scaled) * math.log((scaled + 1) / (1 - confidence) ** 2))


def student(freedom: float, confidence: float) -> float:
    """Two-sided quantile of Student's t (Hill 1970, algorithm 396): off by less than 1 % from 2 degrees on."""
    tail = 1 - confidence
    if freedom >= 1e6:
        return NormalDist().inv_cdf(1 - tail / 2)
    n = max(2.0, freedom)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * tail) ** (2 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x * x
        if n < 5:
            c += 0.3 * (n - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)


def _check(control: Sequence[Conversation], treated: Sequence[Conversation], confidence: float) -> None:
    problems = [] if 0 < confidence < 1 else [f"confidence must be between 0 and 1, not {confidence}"]
    for name, arm in (("control", control), ("treated", treated)):
        bad = [at for at, one in enumerate(arm) if not one.baseline > 0 or not one.cost >= 0]
        problems += [
            f"{name} conversation {at} has baseline {arm[at].baseline}, cost {arm[at].cost}" for at in bad[:3]
        ]
    if problems:
        raise ValueError("; ".join(problems))
