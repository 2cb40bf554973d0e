"""Whether the traffic is still what a router was trained on, and whether its estimates still hold. Pure.

Three alarms suspend downgrades: the prompts drift (population stability index over the router's own scores), losses
turn out larger than estimated (calibration on fresh labels), and, in ``route_canary``, a model changes in silence.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import log, sqrt

import msgspec

from farthing.core.rollout import RolloutState

PSI_ALARM = 0.15
PSI_FREEZE = 0.25
PSI_WINDOW = 500
"""Prompts in a window that drift is measured over."""
BUCKETS = (32, 16, 10, 5)
PSI_CHANCE_MAX = 0.075
CALIBRATION_MAX = 0.05
CALIBRATION_PAIRS = 200
_BINS = 5
_SURE = 1.645


def bucket_count(prompts: int) -> int:
    """Buckets for so many training prompts: as many as keep what chance alone makes of the index below the alarm."""
    for count in BUCKETS:
        if (count - 1) * (1 / PSI_WINDOW + 1 / max(1, prompts)) <= PSI_CHANCE_MAX:
            return count
    return BUCKETS[-1]


def place_of(edges: Sequence[float], gain: float | None) -> int:
    """The bucket of a prompt by the gain that the router estimated; the last one is for prompts it does not judge."""
    return len(edges) + 1 if gain is None else bisect_right(edges, gain)


def drift(expected: Sequence[int], seen: Sequence[int]) -> float:
    """Population stability index of bucket counts: about 0.07 when nothing changed over 500 prompts."""
    buckets = len(expected)
    whole, part = sum(expected) + buckets / 2, sum(seen) + buckets / 2
    total = 0.0
    for before, now in zip(expected, seen, strict=True):
        was, is_now = (before + 0.5) / whole, (now + 0.5) / part
        total += (is_now - was) * log(is_now / was)
    return total


def calibration_error(estimates: Sequence[float], outcomes: Sequence[float], *, bins: int = 10) -> float:
    """Expected calibration error: mean distance between estimate and outcome over equal-width bins."""
    sums = [[0.0, 0.0, 0.0] for _ in range(bins)]
    for estimate, outcome in zip(estimates, outcomes, strict=True):
        slot = sums[min(bins - 1, int(estimate * bins))]
        slot[0] += 1
        slot[1] += estimate
        slot[2] += outcome
    return sum(abs(slot[1] - slot[2]) for slot in sums) / max(1, len(estimates))


def saw(state: RolloutState, expected: Sequence[int], counts: Sequence[int]) -> RolloutState:
    """The state after more prompts in each bucket; a whole window is judged and a new one begins."""
    if not expected or len(counts) != len(expected):
        return state
    before = state.window if len(state.window) == len(counts) else (0,) * len(counts)
    window = tuple(one + more for one, more in zip(before, counts, strict=True))
    if sum(window) < PSI_WINDOW:
        return msgspec.structs.replace(state, window=window)
    psi = drift(expected, window)
    return with_drift(msgspec.structs.replace(state, window=()), psi=psi, calibration=state.calibration)


def labelled(state: RolloutState, estimate: float, difference: float) -> RolloutState:
    """The state after one fresh label beside what the router had expected; every 200 labels are judged together."""
    bins = list(state.bins) if len(state.bins) == _BINS else [(0, 0.0, 0.0, 0.0)] * _BINS
    place = min(_BINS - 1, max(0, int((estimate + 0.25) * 10)))  # gains that are worth downgrading lie near nought
    count, expected, found, squares = bins[place]
    bins[place] = (count + 1, expected + estimate, found + difference, squares + difference * difference)
    if sum(one[0] for one in bins) < CALIBRATION_PAIRS:
        return msgspec.structs.replace(state, bins=tuple(bins))
    error = shortfall(bins)
    return with_drift(msgspec.structs.replace(state, bins=()), psi=state.psi, calibration=error)


def shortfall(bins: Sequence[tuple[int, float, float, float]]) -> float:
    """By how much losses exceed what was expected, over all bins, beyond what chance explains.

    One-sided: a router that expects too large losses costs money and no quality.
    """
    total = sum(one[0] for one in bins)
    excess = 0.0
    for count, expected, found, squares in bins:
        if count:
            mean = found / count
            error = sqrt(max(1 / count, squares / count - mean * mean) / count)
            excess += count * max(0.0, mean - expected / count - _SURE * error)
    return excess / max(1, total)


def with_drift(state: RolloutState, *, psi: float | None, calibration: float | None = None) -> RolloutState:
    """Freezes or thaws downgrades by what drift was measured; a calibration worse than allowed freezes too."""
    why = ""
    if psi is not None and psi >= PSI_FREEZE:
        why = f"input_drift:{psi:.3f}"
    elif calibration is not None and calibration > CALIBRATION_MAX:
        why = f"calibration:{calibration:.3f}"
    elif psi is not None and state.frozen.startswith("input_drift") and psi >= PSI_ALARM:
        why = state.frozen  # thaws only once the alarm is over, not at the first better window
    return msgspec.structs.replace(state, frozen=why, psi=psi, calibration=calibration)
