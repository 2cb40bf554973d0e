"""How good a router is: the measures of RouteLLM (PGR, APGR, CPT) and the cost at which quality is kept.

All of them sweep the share of prompts that go to the strong model, highest estimated gain first; ties go in the order
of the prompts, so that a router that says nothing is judged as a coin in that order.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Quality and cost of a router when its k prompts with the highest gain go to the strong model, k = 0..n."""

    quality: Floats
    """Mean quality."""
    cost: Floats
    """Share of always-strong's cost."""
    weak: float
    strong: float


def curve(gain: Floats, weak: Floats, strong: Floats, *, weak_cost: Floats, strong_cost: Floats) -> Curve:
    """The whole sweep. ``gain`` is the router's estimate; the others are what really happened, one per prompt."""
    order = np.argsort(-gain, kind="stable")
    count = len(gain)
    risen = np.concatenate([[0.0], np.cumsum((strong - weak)[order])])
    dearer = np.concatenate([[0.0], np.cumsum((strong_cost - weak_cost)[order])])
    return Curve(
        quality=(weak.sum() + risen) / count,
        cost=(weak_cost.sum() + dearer) / strong_cost.sum(),
        weak=float(weak.mean()),
        strong=float(strong.mean()),
    )


def pgr(found: Curve) -> Floats:
    """Performance gap recovered for k = 0..n strong calls: 0 is the weak model, 1 the strong one."""
    return (found.quality - found.weak) / (found.strong - found.weak)


def apgr(found: Curve) -> float:
    """Area under the gap recovered over the share of strong calls; a coin has 0.5."""
    recovered = pgr(found)
    return float(np.trapezoid(recovered, dx=1.0 / (len(recovered) - 1)))


def cpt(found: Curve, share: float) -> float:
    """The smallest share of strong calls at which ``share`` of the gap is recovered; 1 when it never is."""
    reached = np.nonzero(pgr(found) >= share)[0]
    return float(reached[0]) / (len(found.quality) - 1) if len(reached) else 1.0


def cost_at(found: Curve, share: float) -> float:
    """The smallest share of always-strong's cost at which ``share`` of its quality is kept; 1 when it never is."""
    kept = found.cost[found.quality >= share * found.strong - 1e-12]
    return float(min(1.0, kept.min())) if len(kept) else 1.0
