"""One upstream try, and what is known of its cost before it has ended."""

from dataclasses import dataclass

from farthing.core.types import (
    Bounds,
    Charge,
    Decision,
    LedgerEntry,
    Request,
    Reservation,
    Target,
    Usage,
    UsagePart,
)
from farthing.engine.ceiling import Ceiling, ceiling_lines
from farthing.engine.services import Services, Upstream
from farthing.engine.translating import Prepared


@dataclass(slots=True)
class Attempt:
    """One upstream try."""

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
    target = attempt.target
    return LedgerEntry(
        id=attempt.id,
        request_id=request.id,
        attempt=attempt.number,
        received_at_ms=request.received_at_ms,
        booked_at_ms=attempt.started_ms,
        scope=request.scope,
        dialect=request.dialect,
        endpoint=request.view.endpoint,
        provider=target.provider,
        price_as=target.price_as,
        model_requested=request.view.model,
        model=target.model,
        usage=Usage(source="estimated", parts=(UsagePart(lines=ceiling_lines(attempt.ceiling)),)),
        charge=ceiling_charge(services, attempt),
        baseline=attempt.ceiling.amount,
        fidelity="unknown",
        ceiling=attempt.ceiling.amount,
        policy_ref=services.policy_ref,
        decisions=decisions,
        stream=request.view.stream,
        status=0,
        error="worker_lost",
    )


def ceiling_charge(services: Services, attempt: Attempt) -> Charge:
    """The attempt's ceiling as a charge."""
    amount = attempt.ceiling.amount
    if amount is None:
        return Charge(state="unpriced", reason="unknown_model", price_ref=services.prices.ref)
    return Charge(total=amount, state="priced", reason="ceiling", price_ref=services.prices.ref)
