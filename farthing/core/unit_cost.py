"""Cost per outcome with its interval: a ratio of sums over clusters (sessions, users), linearised.

Costs of calls within one session move together, and so do its outcomes: the session is the unit of variance. The
interval is Student's over the sessions, which is honest from a few dozen on; with fewer than two it is not there.
"""

import math
from collections.abc import Sequence

import msgspec

from farthing.core.savings import student


class Cluster(msgspec.Struct, frozen=True):
    """One session (user, customer…): what it cost and what came of it."""

    cost: int
    """Nano-USD."""
    outcomes: int


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Cost per outcome."""

    cost: int
    outcomes: int
    clusters: int
    each: int | None
    """Nano-USD per outcome; None without any outcome."""
    low: int | None
    high: int | None
    """The interval; None with fewer than two clusters that have outcomes."""


def ratio(clusters: Sequence[Cluster], *, extra_cost: int = 0, confidence: float = 0.95) -> Ratio:
    """Σ cost / Σ outcomes with its interval. ``extra_cost`` belongs to no cluster: in the ratio alone."""
    cost = sum(one.cost for one in clusters) + extra_cost
    outcomes = sum(one.outcomes for one in clusters)
    count = len(clusters)
    if outcomes <= 0:
        return Ratio(cost=cost, outcomes=outcomes, clusters=count, each=None, low=None, high=None)
    each = cost / outcomes
    low = high = None
    if count >= 2 and sum(one.outcomes > 0 for one in clusters) >= 2:
        own = (cost - extra_cost) / outcomes
        squares = math.fsum((one.cost - own * one.outcomes) ** 2 for one in clusters)
        error = math.sqrt(count / (count - 1) * squares) / outcomes
        half = student(count - 1, confidence) * error
        low, high = max(0, round(each - half)), round(each + half)
    return Ratio(cost=cost, outcomes=outcomes, clusters=count, each=round(each), low=low, high=high)
