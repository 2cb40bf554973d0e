"""How a cheaper choice goes live, and how it comes back: shadow, canary 5 → 25 → 100 %, holdout, rollback, drift.

A pure state machine: ``RolloutState`` in, ``RolloutState`` out; who keeps it is another's business. Evidence is
paired results from shadow calls (the other model's answer to the same prompt). Two tests run on them at any time,
valid however often they are looked at (betting e-processes): one that the loss is within the margin, which promotes,
and one that it is beyond, which rolls back.
"""

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Literal

import msgspec

from farthing.core.gate import ALPHA, MARGIN

Stage = Literal["shadow", "canary", "live", "rolled_back"]
Arm = Literal["holdout", "candidate", "control"]

STEPS = (0.05, 0.25, 1.0)
"""Shares of the eligible conversations that get the candidate, one step after another."""
PSI_ALARM = 0.15
PSI_FREEZE = 0.25
PSI_BUCKETS = 32
PSI_WINDOW = 500
CALIBRATION_MAX = 0.05
_WEALTH_MAX = 60.0


class RolloutRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a route's policy that says how carefully it goes live."""

    margin: float = MARGIN
    """Largest loss of quality that may be risked, 0 to 1, over the traffic that is downgraded."""
    alpha: float = ALPHA
    holdout: float = 0.02
    """Share of eligible conversations that always get the strong model: the billed saving's yardstick."""
    pairs_min: int = 50
    """Paired results needed in each step before the next."""
    shadow_share: float = 0.05
    """Of the traffic that would be or is downgraded: how much is also answered by the other model."""
    shadow_usd_max: int = 10_000_000_000
    """Nano-USD that shadow calls may cost a day."""


class RolloutState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where one route's candidate stands."""

    route: str
    candidate: str = ""
    """Ref of what is rolled out: table, thresholds, models. Another ref begins at shadow again."""
    stage: Stage = "shadow"
    step: int = -1
    """Index into ``STEPS``; −1 in shadow."""
    pairs: int = 0
    """Paired results in this step."""
    total: float = 0.0
    """Sum of their differences, strong minus cheap."""
    squares: float = 0.0
    better: float = 0.0
    """Log wealth of the bet that the loss is within the margin."""
    worse: float = 0.0
    """Log wealth of the bet that it is beyond; over all steps, never reset by a promotion."""
    worse_pairs: int = 0
    worse_total: float = 0.0
    worse_squares: float = 0.0
    shadow_day: str = ""
    shadow_nusd: int = 0
    """Spent on shadow calls on that day."""
    frozen: str = ""
    """Why downgrades are suspended (drift); empty: they are not."""
    reason: str = ""
    """Why the stage is what it is."""


def share_of(key: str, salt: str) -> float:
    """A stable number in 0..1 for a conversation: the same on every worker, machine and day."""
    return int.from_bytes(blake2b(f"{salt}\x00{key}".encode(), digest_size=8).digest(), "big") / 2**64


def arm_of(state: RolloutState, rules: RolloutRules, key: str) -> Arm:
    """Who serves a conversation that the router would downgrade. A conversation keeps its arm as steps rise."""
    place = share_of(key, state.route)
    if place < rules.holdout:
        return "holdout"
    if state.frozen or state.stage not in ("canary", "live"):
        return "control"
    reach = rules.holdout + (1 - rules.holdout) * STEPS[state.step]
    return "candidate" if place < reach else "control"


def shadows(state: RolloutState, rules: RolloutRules, request_id: str, *, day: str, likely_nusd: int) -> bool:
    """Whether this request is also answered by the other model, within the day's cap."""
    spent = state.shadow_nusd if state.shadow_day == day else 0
    if spent + likely_nusd > rules.shadow_usd_max:
        return False
    return share_of(request_id, f"shadow:{state.route}") < rules.shadow_share


def shadow_spent(state: RolloutState, *, day: str, nusd: int) -> RolloutState:
    """The state after a shadow call's cost."""
    before = state.shadow_nusd if state.shadow_day == day else 0
    return msgspec.structs.replace(state, shadow_day=day, shadow_nusd=before + nusd)


def observed(state: RolloutState, rules: RolloutRules, difference: float) -> RolloutState:
    """The state after one paired result (strong minus cheap, −1..1): promoted, rolled back, or with more evidence."""
    if not -1 <= difference <= 1:
        raise ValueError("differences of quality lie between -1 and 1")
    if state.stage == "rolled_back":
        return state
    worse = state.worse + _gain(
        difference - rules.margin, state.worse_pairs, state.worse_total, state.worse_squares, rules, -1
    )
    better = state.better + _gain(rules.margin - difference, state.pairs, state.total, state.squares, rules, 1)
    after = msgspec.structs.replace(
        state,
        pairs=state.pairs + 1,
        total=state.total + difference,
        squares=state.squares + difference * difference,
        better=min(_WEALTH_MAX, better),
        worse=min(_WEALTH_MAX, worse),
        worse_pairs=state.worse_pairs + 1,
        worse_total=state.worse_total + difference,
        worse_squares=state.worse_squares + difference * difference,
    )
    goal = log(1 / rules.alpha)
    if after.worse >= goal:
        return msgspec.structs.replace(after, stage="rolled_back", step=-1, reason="loss_beyond_margin")
    if after.pairs >= rules.pairs_min and after.better >= goal:
        return _promoted(after)
    return after


def restarted(state: RolloutState, candidate: str) -> RolloutState:
    """A new candidate (new table, threshold, model or model version) begins in shadow; spending is remembered."""
    if candidate == state.candidate:
        return state
    return RolloutState(
        route=state.route,
        candidate=candidate,
        shadow_day=state.shadow_day,
        shadow_nusd=state.shadow_nusd,
        reason="new_candidate",
    )


def with_drift(state: RolloutState, *, psi: float, calibration: float | None = None) -> RolloutState:
    """Freezes or thaws downgrades by what drift was measured; a calibration worse than allowed freezes too."""
    why = ""
    if psi >= PSI_FREEZE:
        why = f"input_drift:{psi:.3f}"
    elif calibration is not None and calibration > CALIBRATION_MAX:
        why = f"calibration:{calibration:.3f}"
    elif state.frozen.startswith("input_drift") and psi >= PSI_ALARM:
        why = state.frozen  # thaws only once the alarm is over, not at the first better window
    return msgspec.structs.replace(state, frozen=why)


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


def _promoted(state: RolloutState) -> RolloutState:
    if state.stage == "live":
        return state
    step = state.step + 1
    stage: Stage = "live" if step == len(STEPS) - 1 else "canary"
    return msgspec.structs.replace(
        state, stage=stage, step=step, pairs=0, total=0.0, squares=0.0, better=0.0, reason="within_margin"
    )


def _gain(edge: float, pairs: int, total: float, squares: float, rules: RolloutRules, sign: int) -> float:
    """Log growth of a bet on ``edge`` having a positive mean; the stake rests on what was seen before."""
    seen_edge = sign * (rules.margin * pairs - total)
    mean = seen_edge / (pairs + 4)
    spread = (squares + 1.0) / (pairs + 4)
    most = 0.5 / (1.0 + rules.margin)
    stake = min(most, max(0.0, mean / (spread + mean * mean)))
    if stake == 0.0:
        stake = 0.02  # a small stake keeps the bet alive before anything is known
    return log(1.0 + stake * edge)
