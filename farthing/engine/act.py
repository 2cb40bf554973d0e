"""Thresholds at work on one call: refuse, put off, slow down, take a cheaper model, or cut the answer to fit."""

import msgspec
from msgspec.structs import replace

from farthing.core.assess import Crossing, Verdict, note_of
from farthing.core.budget import Need
from farthing.core.errors import BudgetExceeded, Deferred, SpendingTooFast, Throttled, UnknownModel
from farthing.core.types import Bounds, Decision, Denied, Hold, Request, Target
from farthing.engine.actions import Actions
from farthing.engine.ceiling import Ceiling, bounds_of, ceiling_of
from farthing.engine.messages import amount_text
from farthing.engine.plan import CAPPED, Plan
from farthing.engine.services import Services, Upstream
from farthing.wire import anthropic, openai

DEFER_HEADER = b"x-farthing-defer"
OUTPUT_MIN = 16
"""An answer of fewer tokens is worth nobody's money, and some providers refuse to be asked for it."""
SQUEEZES_MAX = 3
"""How often an answer is cut to what is left: other budgets of the call may have less, and so may the next moment."""
_NOTHING = Need(usd=0, input_tokens=0, output_tokens=0)


def apply_thresholds(services: Services, actions: Actions, request: Request, plan: Plan) -> Plan:
    """The plan after the budgets' thresholds. Levels may be a second old; hard limits are the reservation's.

    Raises :class:`BudgetExceeded`, :class:`SpendingTooFast`, :class:`Deferred`, :class:`Throttled`.
    """
    target = plan.targets[0]
    holds = services.budgets.holds(
        request.scope, provider=target.provider, model=target.model, need=_NOTHING, at_ms=request.received_at_ms
    )
    verdict = refuse_blocked(actions, holds, request.received_at_ms)
    if verdict.queue is not None and _deferrable(request):
        raise _deferred(verdict.queue, request.received_at_ms)
    for slow in verdict.throttle:
        wait_ms = actions.wait_ms(slow.level.counter, slow.threshold.per_minute, request.received_at_ms)
        if wait_ms:
            raise _throttled(slow, wait_ms)
    if verdict.notes:
        plan = replace(plan, decisions=(*plan.decisions, *verdict.notes))
    return plan if verdict.degrade is None else _degraded(services, request, plan, verdict.degrade)


def refuse_blocked(actions: Actions, holds: tuple[Hold, ...], now_ms: int) -> Verdict:
    """What else the thresholds say. Raises :class:`BudgetExceeded`, :class:`SpendingTooFast`."""
    fast = actions.too_fast(holds)
    if fast is not None:
        raise _too_fast(fast, actions.watch.blocked[fast.counter], now_ms)
    verdict = actions.verdict(holds)
    if verdict.block is not None:
        raise _blocked(verdict.block)
    return verdict


def squeezed(
    services: Services, request: Request, plan: Plan, target: Target, bounds: Bounds, denied: Denied
) -> tuple[Plan, Bounds, Ceiling] | None:
    """The same call with the longest answer that fits what is left; None: no answer worth sending does.

    ``denied`` says exactly what is left on one counter; the others stand as this worker knows them.
    """
    actions = services.actions
    if actions is None or denied.hold.budget not in actions.clamps or request.view.endpoint not in CAPPED:
        return None
    first = ceiling_of(services, request, target, bounds)
    left = {_key(hold): hold.limit - tally.used for hold, tally in actions.watch.tallies(first.holds) if hold.hard}
    left[_key(denied.hold)] = denied.left

    def fits(output: int) -> Ceiling | None:
        ceiling = ceiling_of(services, request, target, replace_output(bounds, output))
        for hold in ceiling.holds:
            if hold.hard and hold.amount > left.get(_key(hold), hold.limit):
                return None
        return ceiling

    low, high = OUTPUT_MIN, bounds.output_tokens - 1
    best = fits(low) if low <= high else None
    if best is None:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        found = fits(middle)
        if found is None:
            high = middle - 1
        else:
            low, best = middle, found
    body = (
        anthropic.cap_output(plan.body, low)
        if request.dialect == "anthropic"
        else openai.cap_output(plan.body, request.view, low)
    )
    return replace(plan, body=body, output_cap=low), replace_output(bounds, low), best


def cap_note(denied: Denied, output: int) -> Decision:
    """The decision to record for an answer that was cut."""
    hold = denied.hold
    evidence = (
        ("budget", hold.budget),
        ("counter", hold.counter),
        ("left", f"{max(0, denied.left)}/{hold.limit} {hold.unit}"),
        ("cap", str(output)),
    )
    return Decision(stage="threshold", action="cap", reason="capped_to_what_is_left", evidence=evidence)


def replace_output(bounds: Bounds, output: int) -> Bounds:
    """The bounds with another cap on each answer."""
    return msgspec.structs.replace(bounds, output_tokens=output)


def _degraded(services: Services, request: Request, plan: Plan, crossing: Crossing) -> Plan:
    """The plan with the cheaper model first; the plan as it is when that is not cheaper, or not to be had."""
    asked = plan.targets[0]
    try:
        targets = cheaper_targets(services, request, plan, crossing.threshold.to)
    except UnknownModel:
        return replace(plan, decisions=(*plan.decisions, _not_degraded(crossing, "no_such_model")))
    if targets is None:
        return plan
    target = targets[0]
    before = _most(services, request, plan, asked, services.upstreams[asked.provider])
    after = _most(services, request, plan, target, services.upstreams[target.provider])
    if not is_cheaper(before, after):
        return replace(plan, decisions=(*plan.decisions, _not_degraded(crossing, "not_cheaper")))
    return replace(
        plan,
        targets=targets,
        asked=plan.asked or asked,
        reason="degraded",
        decisions=(*plan.decisions, note_of(crossing)),
    )


def cheaper_targets(services: Services, request: Request, plan: Plan, wanted: str) -> tuple[Target, ...] | None:
    """Where a call would go that is to take the model ``wanted``; None: it stays where it is.

    Raises :class:`UnknownModel`.
    """
    if request.view.endpoint not in CAPPED:
        return None
    asked, targets = plan.targets[0], services.routes.targets(wanted, request.dialect)
    same = (targets[0].provider, targets[0].model) == (asked.provider, asked.model)
    return None if same else targets


def is_cheaper(before: int | None, after: int | None) -> bool:
    """Whether a call moves to a model at which it costs at most ``after``; None: nobody knows."""
    return before is None or (after is not None and after < before)


def _most(services: Services, request: Request, plan: Plan, target: Target, upstream: Upstream) -> int | None:
    bounds = bounds_of(services, request, target, upstream, plan)
    return services.prices.ceiling(bounds, target, at_ms=request.received_at_ms)


def _not_degraded(crossing: Crossing, reason: str) -> Decision:
    note = note_of(crossing)
    return Decision(stage=note.stage, action="none", reason=reason, evidence=note.evidence)


def _deferrable(request: Request) -> bool:
    return any(name == DEFER_HEADER and value.strip().lower() == b"allow" for name, value in request.headers)


def _blocked(crossing: Crossing) -> BudgetExceeded:
    level = crossing.level
    left = amount_text(level.unit, max(0, level.limit - level.used))
    return BudgetExceeded(
        f"Budget '{level.budget}' ({level.counter}, {level.window}) blocks calls from {crossing.threshold.percent} % "
        f"of its {amount_text(level.unit, level.limit)} on; {amount_text(level.unit, level.used)} are used or held.",
        hint="Wait until it starts anew, or raise the budget; retrying will not help.",
        budget=level.budget,
        left=left,
        limit=amount_text(level.unit, level.limit),
        resets_at_ms=level.resets_at_ms,
    )


def _too_fast(hold: Hold, until_ms: int, now_ms: int) -> SpendingTooFast:
    error = SpendingTooFast(
        f"Calls on {hold.counter} are blocked: they have been spending money too fast.",
        hint="Look for a loop that repeats calls. The block ends by itself once the spending has slowed down.",
        budget=hold.budget,
        left="nothing for now",
        limit=amount_text(hold.unit, hold.limit),
        resets_at_ms=until_ms,
    )
    error.retry_after_ms = max(1_000, until_ms - now_ms)
    return error


def _deferred(crossing: Crossing, now_ms: int) -> Deferred:
    level = crossing.level
    error = Deferred(
        f"Budget '{level.budget}' ({level.counter}, {level.window}) has reached {crossing.threshold.percent} % of "
        f"its {amount_text(level.unit, level.limit)}, and this call says that it can wait "
        f"({DEFER_HEADER.decode()}: allow).",
        hint="Send it through the provider's batch API, at half the price, or again when the budget starts anew.",
    )
    if level.resets_at_ms is not None:
        error.retry_after_ms = max(1_000, level.resets_at_ms - now_ms)
    return error


def _throttled(crossing: Crossing, wait_ms: int) -> Throttled:
    level, threshold = crossing.level, crossing.threshold
    error = Throttled(
        f"Budget '{level.budget}' ({level.counter}, {level.window}) has reached {threshold.percent} % of its "
        f"{amount_text(level.unit, level.limit)} and lets {threshold.per_minute} calls a minute through.",
        hint="Try again as Retry-After says.",
    )
    error.retry_after_ms = wait_ms
    return error


def _key(hold: Hold) -> tuple[str, str, str]:
    return (hold.counter, hold.window, hold.unit)
