"""Small valid records for tests: every field that matters can be said, the rest is plain."""

from farthing.core.money import Nusd, Pusd
from farthing.core.types import (
    Charge,
    ChargeLine,
    Exchange,
    Hold,
    LedgerEntry,
    LimitUnit,
    PromptView,
    Reservation,
    Scope,
    Usage,
    UsagePart,
    UsageSource,
)

AT_MS = 1_795_000_000_000
FAR_MS = AT_MS + 10**12


def a_hold(
    counter: str,
    amount: int,
    *,
    limit: int = 100,
    hard: bool = True,
    unit: LimitUnit = "usd",
    window: str = "all",
    also: tuple[str, ...] = (),
) -> Hold:
    """A hold on one counter."""
    return Hold(
        counter=counter,
        window=window,
        unit=unit,
        limit=limit,
        amount=amount,
        budget=counter.split("|")[0],
        hard=hard,
        also=also,
    )


def a_reservation(id: str, *holds: Hold, expires_at_ms: int = FAR_MS) -> Reservation:
    """A reservation whose ceiling is what its largest hold sets aside."""
    ceiling = max((hold.amount for hold in holds), default=0)
    return Reservation(
        id=id, request_id=f"request-{id}", holds=holds, ceiling=Nusd(ceiling), expires_at_ms=expires_at_ms
    )


def an_entry(
    id: str,
    amount: int | None = 25,
    *,
    request_id: str = "",
    scope: Scope | None = None,
    received_at_ms: int = AT_MS,
    model: str = "gpt-4o",
    source: UsageSource = "reported",
    tokens: tuple[tuple[str, int], ...] = (("input", 10), ("input_cache_read", 4), ("output", 3)),
    baseline: int | None = None,
    error: str = "",
    latency_ms: int = 7,
) -> LedgerEntry:
    """An entry with one charge line; ``amount`` None is an unpriced entry."""
    total = None if amount is None else Nusd(amount)
    line = ChargeLine(unit="input", quantity=10, price=None if amount is None else Pusd(1), amount=total)
    return LedgerEntry(
        id=id,
        request_id=request_id or f"request-{id}",
        attempt=1,
        received_at_ms=received_at_ms,
        booked_at_ms=received_at_ms + latency_ms,
        scope=Scope(team="search") if scope is None else scope,
        dialect="openai",
        endpoint="chat",
        provider="openai",
        price_as="openai",
        model_requested=model,
        model=model,
        usage=Usage(parts=(UsagePart(lines=tokens),), source=source, model=model, raw=b'{"total_tokens": 17}'),
        charge=Charge(lines=(line,), total=total, state="unpriced" if total is None else "priced"),
        baseline=None if baseline is None else Nusd(baseline),
        error=error,
        latency_ms=latency_ms,
    )


def an_exchange(request_id: str, *, received_at_ms: int = AT_MS) -> Exchange:
    """An exchange without text."""
    return Exchange(
        request_id=request_id,
        received_at_ms=received_at_ms,
        scope=Scope(team="search"),
        dialect="openai",
        view=PromptView(endpoint="chat", model="gpt-4o"),
        outcome="answered",
        status=200,
        answer=b"\x00\xff",
    )
