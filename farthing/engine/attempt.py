"""One upstream try, and what is known of its cost before it has ended."""

from typing import Literal

import msgspec

from farthing.core.budget import spent
from farthing.core.money import Nusd
from farthing.core.types import (
    AttemptFact,
    Bounds,
    Charge,
    Decision,
    Hold,
    LedgerEntry,
    Request,
    Reservation,
    Target,
    Usage,
    UsagePart,
)
from farthing.engine.ceiling import Ceiling, ceiling_lines, unpriced_amount
from farthing.engine.levers import unoptimised
from farthing.engine.record import tokens_of, without_raw
from farthing.engine.route_prefix import with_read
from farthing.engine.services import Services, Upstream
from farthing.engine.translating import Prepared
from farthing.ports.prices import Prices
from farthing.ports.tokens import UsageListener


class Attempt(msgspec.Struct, kw_only=True):
    """One upstream try. A struct, like all that is made for every call: a class costs five times as much."""

    id: str
    number: int
    target: Target
    upstream: Upstream
    body: bytes
    ask: Prepared
    bounds: Bounds
    ceiling: Ceiling
    started_ms: int
    ended_ms: int = -1
    """When it was over, for every record of it; -1: it is not."""
    reservation: Reservation | None = None
    stub: LedgerEntry | None = None
    ttft_ms: int | None = None
    sent: bool = False
    settled: bool = False


def stub_of(services: Services, request: Request, attempt: Attempt, decisions: tuple[Decision, ...]) -> LedgerEntry:
    """What would be booked if this process died with the attempt in flight: its ceiling, marked as such."""
    target, view = attempt.target, request.view
    amount = attempt.ceiling.amount
    # In two steps: Python calls a function slowly that gets more than fifteen arguments by name.
    entry = LedgerEntry(
        id=attempt.id,
        request_id=request.id,
        attempt=attempt.number,
        received_at_ms=request.received_at_ms,
        booked_at_ms=attempt.started_ms,
        scope=request.scope,
        dialect=request.dialect,
        endpoint=view.endpoint,
        provider=target.provider,
        price_as=target.price_as,
        model_requested=view.model,
        model=target.model,
        usage=Usage(source="estimated", parts=(UsagePart(lines=ceiling_lines(attempt.ceiling)),)),
        charge=ceiling_charge(services, attempt),
        stream=view.stream,
    )
    return msgspec.structs.replace(
        entry,
        baseline=amount,
        fidelity="unknown",
        ceiling=amount,
        policy_ref=services.policy_ref,
        decisions=decisions,
        status=0,
        error="worker_lost",
    )


def ceiling_charge(services: Services, attempt: Attempt) -> Charge:
    """The attempt's ceiling as a charge."""
    amount = attempt.ceiling.amount
    if amount is None:
        return Charge(state="unpriced", reason="unknown_model", price_ref=services.prices.ref)
    return Charge(total=amount, state="priced", reason="ceiling", price_ref=services.prices.ref)


def entry_of(
    attempt: Attempt,
    stub: LedgerEntry,
    usage: Usage,
    charge: Charge,
    *,
    baseline: Nusd | None,
    decisions: tuple[Decision, ...],
    status: int,
    error: str = "",
    gone: bool = False,
    fidelity: Literal["exact", "estimated", "unknown"] = "exact",
) -> LedgerEntry:
    """The entry of an attempt that has ended."""
    if usage.source != "reported" and fidelity == "exact":
        fidelity = "estimated"
    return msgspec.structs.replace(
        stub,
        booked_at_ms=attempt.ended_ms,
        model=usage.model or attempt.target.model,
        usage=usage,
        charge=charge,
        baseline=baseline,
        fidelity=fidelity,
        decisions=decisions,
        status=status,
        error=error,
        client_gone=gone,
        ttft_ms=attempt.ttft_ms,
        latency_ms=attempt.ended_ms - attempt.started_ms,
    )


def baseline_of(
    prices: Prices, attempt: Attempt, usage: Usage, charge: Charge, *, asked: Target, at_ms: int,
    unread: int = 0,
) -> Nusd | None:  # fmt: skip
    """The asked-for model's cost of the same usage; the charge itself unless a fallback changed the model.

    ``unread``: input tokens that it would have read from its prompt cache (see ``route_prefix``).
    """
    if unread:
        plain = unoptimised(with_read(usage, unread), marked=False, elsewhere=attempt.target is not asked)
        total = prices.charge(plain, asked, at_ms=at_ms).total
        if total is not None:  # a model without a price for cached input reads it at the plain one
            return total
    if attempt.target is asked and not attempt.ask.marked and not attempt.ask.tiered:
        return charge.total
    if attempt.ask.tiered:
        usage = msgspec.structs.replace(usage, service_tier="")
    plain = unoptimised(usage, marked=attempt.ask.marked, elsewhere=attempt.target is not asked)
    return prices.charge(plain, asked, at_ms=at_ms).total


def fact_of(
    attempt: Attempt,
    *,
    status: int,
    error: str,
    entry_id: str,
    retry_after_ms: int | None,
    lever: str,
    usage: Usage | None,
) -> AttemptFact:
    """What the traffic log keeps of an attempt that has ended."""
    return AttemptFact(
        attempt=attempt.number,
        provider=attempt.target.provider,
        model=attempt.target.model,
        status=status,
        error=error,
        started_at_ms=attempt.started_ms,
        latency_ms=attempt.ended_ms - attempt.started_ms,
        ttft_ms=attempt.ttft_ms,
        entry_id=entry_id,
        retry_after_ms=retry_after_ms,
        lever=lever,
        usage=without_raw(usage) if lever and usage is not None else None,
    )


def amounts_of(services: Services, holds: tuple[Hold, ...], entries: tuple[LedgerEntry, ...]) -> tuple[int, ...]:
    """What each hold really cost, by the attempt's entries."""
    if not entries:
        return (0,) * len(holds)
    usd, taken, given = counted(services, entries[0].usage, entries[0].charge.total)
    for entry in entries[1:]:
        cost, used, made = counted(services, entry.usage, entry.charge.total)
        usd, taken, given = usd + cost, taken + used, given + made
    return spent(holds, usd=usd, input_tokens=taken, output_tokens=given)


def tell(listener: UsageListener, attempt: Attempt, usage: Usage) -> None:
    """Lets the token counter learn from what was billed for a prompt that is all text."""
    asked = attempt.ask.request
    view = asked.view
    if usage.source == "reported" and not view.images and not view.unbounded:
        listener.heard(asked.body, model=attempt.target.model, billed=tokens_of(usage)[0])


def counted(services: Services, usage: Usage, total: Nusd | None) -> tuple[int, int, int]:
    """(nano-USD, input tokens, output tokens) that budgets count for an answer at this charge.

    An answer may turn out to have no price where the call had one: another model served it. It was paid for all the
    same, so it counts at the ceiling rates unless the policy lets unknown prices pass.
    """
    taken, given = tokens_of(usage)
    if total is None and services.policy.unpriced.action != "allow":
        total = unpriced_amount(services, input_tokens=taken, output_tokens=given)
    return total or 0, taken, given
