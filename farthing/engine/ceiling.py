"""The most an attempt can cost, and the holds that follow from it."""

import asyncio

import msgspec

from farthing.core.budget import Need, Violation
from farthing.core.errors import Unpriced
from farthing.core.money import Nusd
from farthing.core.pricing_ceiling import at_ceiling_rates
from farthing.core.types import Bounds, Hold, Request, Target
from farthing.engine.messages import request_limit_exceeded
from farthing.engine.plan import Plan
from farthing.engine.reading import counted_bound, turns
from farthing.engine.services import Services, Upstream

LONG_BODY = 50_000
"""Bytes from which counting takes milliseconds."""


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """What is held for one attempt. ``amount`` is None when the price is unknown and policy lets it pass."""

    amount: Nusd | None
    input_tokens: int
    output_tokens: int
    holds: tuple[Hold, ...]


def bounds_of(services: Services, request: Request, target: Target, upstream: Upstream, plan: Plan) -> Bounds:
    """The codec's bounds with the policy's cap, the assumed output and the model's window applied."""
    bounds = upstream.codec.bounds(request, target)
    output = bounds.output_tokens
    if plan.output_cap is not None:
        output = plan.output_cap
    elif request.view.endpoint != "embeddings":
        output = services.policy.limits.output_tokens_assumed
    window = services.prices.context_window(target)
    size = bounds.input_tokens
    if window is not None:
        size = window if bounds.unbounded else min(size, window)
    if output == bounds.output_tokens and size == bounds.input_tokens:
        return bounds
    return msgspec.structs.replace(bounds, input_tokens=size, output_tokens=output)


def tight_bounds(services: Services, request: Request, target: Target, bounds: Bounds) -> Bounds:
    """The same bounds with the prompt really counted; only worth its time when the quick ones do not fit."""
    if bounds.unbounded:
        return bounds
    size = counted_bound(services.tokens, request, target, bounds)
    if size >= bounds.input_tokens:
        return bounds
    return msgspec.structs.replace(bounds, input_tokens=size)


async def tight_bounds_aside(services: Services, request: Request, target: Target, bounds: Bounds) -> Bounds:
    """The same; long prompts are counted in a thread, so that the loop goes on."""
    if len(request.body) < LONG_BODY:
        return tight_bounds(services, request, target, bounds)
    return await asyncio.to_thread(tight_bounds, services, request, target, bounds)


def within_request_limits(
    services: Services, request: Request, target: Target, bounds: Bounds, *, sent: Request | None = None
) -> tuple[Ceiling, Bounds]:
    """Ceiling and bounds of a call that keeps every per-request limit, counting the prompt where that decides.

    ``sent`` is the request as the upstream gets it where that is another than the caller's.
    Raises :class:`BudgetExceeded` when even the counted prompt is too large.
    """
    ceiling = ceiling_of(services, request, target, bounds)
    if not services.request_limits or _violation(services, request, target, ceiling) is None:
        return ceiling, bounds
    tight = tight_bounds(services, sent or request, target, bounds)
    ceiling = ceiling_of(services, request, target, tight)
    violation = _violation(services, request, target, ceiling)
    if violation is not None:
        raise request_limit_exceeded(violation, session=request.scope.session)
    return ceiling, tight


def _violation(services: Services, request: Request, target: Target, ceiling: Ceiling) -> Violation | None:
    need = _need(services, request, ceiling.amount, ceiling.input_tokens, ceiling.output_tokens)
    return services.budgets.violation(request.scope, provider=target.provider, model=target.model, need=need)


def ceiling_of(services: Services, request: Request, target: Target, bounds: Bounds) -> Ceiling:
    """Amount and holds for these bounds. Raises :class:`Unpriced` when a USD budget cannot judge the call."""
    amount, need = need_of(services, request, target, bounds)
    holds = services.budgets.holds(
        request.scope, provider=target.provider, model=target.model, need=need, at_ms=request.received_at_ms
    )
    return Ceiling(amount=amount, input_tokens=need.input_tokens, output_tokens=need.output_tokens, holds=holds)


def need_of(services: Services, request: Request, target: Target, bounds: Bounds) -> tuple[Nusd | None, Need]:
    """(the ceiling, what budgets hold for it). Raises :class:`Unpriced` when a USD budget cannot judge the call."""
    amount = services.prices.ceiling(bounds, target, at_ms=request.received_at_ms)
    output = bounds.output_tokens * bounds.choices
    usd: int | None = amount
    if amount is None:
        usd = _unpriced_usd(services, request, target, bounds, output)
    return amount, _need(services, request, usd, bounds.input_tokens, output)


def _need(services: Services, request: Request, usd: int | None, input_tokens: int, output_tokens: int) -> Need:
    if not services.budgets.counts_turns:
        return Need(usd=usd, input_tokens=input_tokens, output_tokens=output_tokens)
    tool_calls, without_human = turns(request)
    return Need(
        usd=usd,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        tool_calls=tool_calls,
        turns_without_human=without_human,
    )


def _unpriced_usd(services: Services, request: Request, target: Target, bounds: Bounds, output: int) -> int | None:
    """What USD budgets hold for a model without a price, as the policy says."""
    action = services.policy.unpriced.action
    if action == "ceiling":
        return unpriced_amount(services, input_tokens=bounds.input_tokens, output_tokens=output)
    if action == "allow":
        return None
    judge = services.budgets.hard_usd(request.scope, provider=target.provider, model=target.model)
    if judge is not None:
        raise Unpriced(
            f"The price of '{target.model}' at '{target.provider}' is unknown, "
            f"so the budget '{judge.name}' cannot cover this call.",
            hint="Add a price with 'farthing price set', or choose another [unpriced] action in farthing.toml.",
            reason="unknown_model",
        )
    return None


def unpriced_amount(services: Services, *, input_tokens: int, output_tokens: int) -> Nusd:
    """Tokens at the policy's ceiling rates for unknown prices; counts against budgets, never in the ledger."""
    return at_ceiling_rates(services.policy.unpriced, input_tokens=input_tokens, output_tokens=output_tokens)


def ceiling_lines(ceiling: Ceiling) -> tuple[tuple[str, int], ...]:
    """The ceiling's tokens as usage lines, for an attempt whose real usage nobody knows."""
    taken, given = ("input", ceiling.input_tokens), ("output", ceiling.output_tokens)
    if taken[1] and given[1]:
        return (taken, given)
    return tuple([line for line in (taken, given) if line[1]])
