"""How a cheaper choice goes live, and how it comes back: shadow, canary 5 → 25 → 100 %, holdout, rollback.

A pure state machine: ``RolloutState`` in, ``RolloutState`` out; who keeps it is another's business. Evidence is
paired results from shadow calls (the other model's answer to the same prompt). Two tests run on them at any time,
valid however often they are looked at (betting e-processes): one that the loss is within the margin, which promotes,
and one that it is beyond, which rolls back. The second begins anew with every pair, each beginning with a share of
the error that sums to all of it, so that a model which was good for long and then gets worse is found as soon.
"""

from hashlib import blake2b
from math import exp, log, log1p
from typing import Literal

import msgspec

from farthing.core.gate import ALPHA, MARGIN

Stage = Literal["shadow", "canary", "live", "rolled_back"]
Arm = Literal["holdout", "candidate", "control"]
ShadowCheck = Literal["json", "json_schema", "regex", "tool_arguments", "code"]

STEPS = (0.05, 0.25, 1.0)
"""Shares of the eligible conversations that get the candidate, one step after another."""
CANARY_EVERY_MS = 86_400_000
_WEALTH_MAX = 60.0
_RECENT = 0.02
"""Weight of the newest pair in what the bet on a loss goes by: about the last fifty count."""
_STAKE_MIN = 0.02
_STAKE_PART = 0.5


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
    """Nano-USD that shadow calls, their judges and the canary set may cost a day."""
    verify: tuple[ShadowCheck, ...] = ()
    """Checks of both answers of a pair. What only one of them passes decides; without a judge nothing else does."""
    pattern: str = ""
    """What an answer must match for ``regex``."""
    judge: str = ""
    """The model that rates both answers where checks and agreement do not decide."""
    canary: str = ""
    """File of prompts (JSON Lines) that are asked again and again, to notice models that change in silence."""
    canary_every_ms: int = CANARY_EVERY_MS


class CanaryPrint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one model answered to the canary set."""

    model: str
    version: str = ""
    """As the provider names what it served."""
    prints: tuple[str, ...] = ()
    """A digest for each prompt; empty where there was no answer."""
    noise: tuple[int, int] = (0, 0)
    """(answers that differed, answers compared) between asking twice at once: how much is chance."""


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
    recent: float = 0.0
    """Mean difference of the last pairs, the newest counting most."""
    recent_square: float = 0.05
    all_pairs: int = 0
    """Paired results since the candidate began."""
    all_total: float = 0.0
    shadow_day: str = ""
    shadow_nusd: int = 0
    """Spent on shadow calls and canaries on that day."""
    frozen: str = ""
    """Why downgrades are suspended (drift); empty: they are not."""
    reason: str = ""
    """Why the stage is what it is."""
    since_ms: int = 0
    """When it came to this stage and step."""
    window: tuple[int, ...] = ()
    """Prompts in each drift bucket since the last look."""
    psi: float | None = None
    """Drift of the last whole window; None: none was measured yet."""
    bins: tuple[tuple[int, float, float, float], ...] = ()
    """Fresh labels by what the router expected: (pairs, sum expected, sum found, squares found)."""
    calibration: float | None = None
    """How much larger losses were than the router expected, at the last look; None: not looked yet."""
    canaries: tuple[CanaryPrint, ...] = ()
    """What each model answered to the canary set."""
    canary_at_ms: int = 0
    """When the set was asked last."""


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
    better = state.better + _gain(rules.margin - difference, state, rules)
    part = max(_RECENT, 1 / (state.worse_pairs + 4))
    edge = difference - rules.margin
    after = msgspec.structs.replace(
        state,
        pairs=state.pairs + 1,
        total=state.total + difference,
        squares=state.squares + difference * difference,
        better=min(_WEALTH_MAX, better),
        worse=min(_WEALTH_MAX, _worse(state, rules, edge)),
        worse_pairs=state.worse_pairs + 1,
        recent=state.recent + part * (edge - state.recent),
        recent_square=state.recent_square + part * (edge * edge - state.recent_square),
        all_pairs=state.all_pairs + 1,
        all_total=state.all_total + difference,
    )
    goal = log(1 / rules.alpha)
    if after.worse >= goal:
        return msgspec.structs.replace(after, stage="rolled_back", step=-1, reason="loss_beyond_margin")
    if after.pairs >= rules.pairs_min and after.better >= goal:
        return _promoted(after)
    return after


def _worse(state: RolloutState, rules: RolloutRules, edge: float) -> float:
    """Log wealth of the bets on a loss: one begins with each pair, with ``1 / (n (n + 1))`` of all there is to stake.

    Their sum passes 1/alpha with a chance of at most alpha while the loss is within the margin (Ville's inequality).
    """
    count = state.worse_pairs + 1
    begins = -log(count * (count + 1))
    before = begins
    if state.worse_pairs:
        high, low = max(state.worse, begins), min(state.worse, begins)
        before = high + log1p(exp(low - high))
    stake = min(_STAKE_PART / (1 + rules.margin), max(_STAKE_MIN, state.recent / max(state.recent_square, 1e-3)))
    return before + log1p(stake * edge)


def restarted(state: RolloutState, candidate: str) -> RolloutState:
    """A new candidate (new table, threshold, model or model version) begins in shadow; spending is remembered."""
    if candidate == state.candidate:
        return state
    return begun_again(state, candidate, "new_candidate")


def begun_again(state: RolloutState, candidate: str, reason: str) -> RolloutState:
    """In shadow, without evidence; what was spent today and what the canary set said are kept."""
    return RolloutState(
        route=state.route,
        candidate=candidate,
        shadow_day=state.shadow_day,
        shadow_nusd=state.shadow_nusd,
        canaries=state.canaries,
        canary_at_ms=state.canary_at_ms,
        reason=reason,
    )


def stage_name(state: RolloutState) -> str:
    """The stage in words: ``shadow``, ``canary 5 %``, ``live``, ``rolled_back``."""
    return f"canary {100 * STEPS[state.step]:.0f} %" if state.stage == "canary" else state.stage


def _promoted(state: RolloutState) -> RolloutState:
    if state.stage == "live":
        return state
    step = state.step + 1
    stage: Stage = "live" if step == len(STEPS) - 1 else "canary"
    return msgspec.structs.replace(
        state, stage=stage, step=step, pairs=0, total=0.0, squares=0.0, better=0.0, reason="within_margin"
    )


def _gain(edge: float, state: RolloutState, rules: RolloutRules) -> float:
    """Log growth of the bet that the loss is within the margin; the stake rests on what the step has seen before."""
    mean = (rules.margin * state.pairs - state.total) / (state.pairs + 4)
    spread = (state.squares + 1.0) / (state.pairs + 4)
    stake = min(_STAKE_PART / (1 + rules.margin), max(0.0, mean / (spread + mean * mean)))
    return log1p((stake or _STAKE_MIN) * edge)  # a small stake keeps the bet alive before anything is known
