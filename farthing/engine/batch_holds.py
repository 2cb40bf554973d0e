"""What a batch sets aside in budgets: counted as used from the moment it is taken on until each answer is booked.

A batch lives for a day, outlives workers and may end at another one than it began at. So its ceiling is no hold of
one worker but is posted to the counters, durably, once the limits have let it pass. Every booked answer posts the
difference between what it cost and what was set aside for it, in the act that books it; what is left is given back
when the batch ends.
"""

from collections.abc import Iterable, Sequence

import msgspec

from farthing.core.errors import StoreFailed
from farthing.core.money import Nusd
from farthing.core.types import (
    Charge,
    Denied,
    Dialect,
    Endpoint,
    Hold,
    LedgerEntry,
    LimitUnit,
    PromptView,
    Request,
    Reservation,
    Scope,
    Usage,
    UsagePart,
)
from farthing.engine.act import refuse_blocked
from farthing.engine.batch_asks import bounds_again
from farthing.engine.ceiling import ceiling_of
from farthing.engine.messages import budget_exceeded
from farthing.engine.services import Services
from farthing.ports.batches import Ask, Batch, Group, Manifest, Share
from farthing.ports.books import Settlement


def manifest_of(
    services: Services, asks: Sequence[Ask], *, scope: Scope, dialect: Dialect, endpoint: Endpoint, at_ms: int
) -> Manifest:
    """The most that these requests can cost at batch prices, and the holds that follow. Raises ``Unpriced``."""
    groups: dict[tuple[str, str, str], int] = {}
    found: list[Group] = []
    totals: list[list[int]] = []
    shares: dict[str, Share] = {}
    for ask in asks:
        key = (ask.provider, ask.sent_model, ask.model)
        place = groups.get(key)
        target = services.routes.targets(f"{ask.provider}/{ask.sent_model}", dialect)[0]
        ceiling = ceiling_of(
            services,
            Request(
                id=ask.custom_id,
                received_at_ms=at_ms,
                dialect=dialect,
                body=b"{}",
                view=PromptView(endpoint=endpoint, model=ask.model),
                scope=scope,
                readings={"tool_calls": 0, "without_human": 0},
            ),
            target,
            bounds_again(ask),
        )
        amounts = [hold.amount for hold in ceiling.holds]
        if place is None:
            place = groups[key] = len(found)
            found.append(Group(scope=scope, target=target, model=ask.model, at_ms=at_ms, holds=ceiling.holds))
            totals.append(amounts)
        else:
            totals[place] = [total + amount for total, amount in zip(totals[place], amounts, strict=True)]
        held = next((hold.amount for hold in ceiling.holds if hold.unit == "usd"), ceiling.amount or 0)
        shares[ask.custom_id] = Share(place, held, ceiling.input_tokens, ceiling.output_tokens)
    return Manifest(
        endpoint=endpoint,
        policy_ref=services.policy_ref,
        groups=tuple(
            msgspec.structs.replace(group, holds=_with(group.holds, amounts))
            for group, amounts in zip(found, totals, strict=True)
        ),
        shares=shares,
    )


async def set_aside(services: Services, name: str, groups: Iterable[Group], stub: LedgerEntry) -> None:
    """Post the groups' ceilings where all of them fit. Raises ``BudgetExceeded``, ``StoreFailed``; then nothing is.

    ``stub`` is booked should this process die between the two acts.
    """
    holds = tuple(hold for group in groups for hold in group.holds)
    at_ms = stub.received_at_ms
    if services.actions is not None and services.actions.before:
        refuse_blocked(services.actions, holds, at_ms)
    if not holds:
        return
    now_ms = services.hold_ms()
    reservation = Reservation(
        id=stub.id,
        request_id=name,
        holds=holds,
        ceiling=stub.ceiling,
        expires_at_ms=now_ms + services.policy.reservation_ttl_ms,
    )
    result = await services.books.reserve(reservation, now_ms=now_ms, stub=stub)
    if isinstance(result, Denied):
        if services.watch is not None:
            services.watch.refused(result.hold)
        raise budget_exceeded(result, at_ms)
    amounts = tuple(hold.amount for hold in holds)
    await services.books.settle(Settlement(reservation=reservation, amounts=amounts), now_ms=services.hold_ms())
    if services.watch is not None:
        services.watch.held(holds)


async def give_back(services: Services, name: str, groups: Iterable[tuple[Group, Iterable[Share]]]) -> None:
    """Take what was set aside for these requests off the counters; while the store is away, as soon as it is back."""
    holds: list[Hold] = []
    amounts: list[int] = []
    for group, shares in groups:
        kept = tuple(shares)
        for hold in group.holds:
            holds.append(msgspec.structs.replace(hold, amount=0))
            amounts.append(-sum(share_of(hold.unit, share) for share in kept))
    if not any(amounts):
        return
    settlement = Settlement(reservation=_unheld(name, holds, services.hold_ms()), amounts=tuple(amounts))
    try:
        await services.books.settle(settlement, now_ms=services.hold_ms())
    except StoreFailed as error:
        services.telemetry.store_failed(error.code)
        services.background.book_later(settlement)


def booking_of(entry: LedgerEntry, group: Group, share: Share, *, usd: int, tokens: tuple[int, int]) -> Settlement:
    """Books an answer and brings the counters from what was set aside for it to what it cost: one act, once."""
    really = Share(0, usd, *tokens)
    holds = [msgspec.structs.replace(hold, amount=0) for hold in group.holds]
    amounts = tuple(share_of(hold.unit, really) - share_of(hold.unit, share) for hold in group.holds)
    return Settlement(
        reservation=_unheld(f"{entry.id}-r", holds, entry.booked_at_ms), amounts=amounts, entries=(entry,)
    )


def share_of(unit: LimitUnit, share: Share) -> int:
    """One request in a budget's unit."""
    match unit:
        case "usd":
            return share.usd
        case "tokens":
            return share.input_tokens + share.output_tokens
        case "input_tokens":
            return share.input_tokens
        case "output_tokens":
            return share.output_tokens
        case "requests":
            return 1
        case _:
            return 0


def unknown_entries(services: Services, batch: Batch, manifest: Manifest, why: str) -> tuple[LedgerEntry, ...]:
    """What is booked for a batch whose outcome nobody knows: the most that each group can have cost."""
    found = []
    for place, group in enumerate(manifest.groups):
        shares = [share for share in manifest.shares.values() if share.group == place]
        found.append(stub_of(services, f"{batch.id}-unknown-{place}", batch, manifest, group, shares, error=why))
    return tuple(found)


def stub_of(
    services: Services,
    id: str,
    batch: Batch,
    manifest: Manifest,
    group: Group,
    shares: Iterable[Share],
    *,
    error: str = "worker_lost",
) -> LedgerEntry:
    """The ceiling of some requests as an entry."""
    usd = taken = given = 0
    for share in shares:
        usd, taken, given = usd + share.usd, taken + share.input_tokens, given + share.output_tokens
    lines = tuple(line for line in (("input", taken), ("output", given)) if line[1])
    return LedgerEntry(
        id=id,
        request_id=batch.id,
        attempt=1,
        received_at_ms=group.at_ms,
        booked_at_ms=group.at_ms,
        scope=group.scope,
        dialect=batch.dialect,
        endpoint=manifest.endpoint,
        provider=group.target.provider,
        price_as=group.target.price_as,
        model_requested=group.model,
        model=group.target.model,
        usage=Usage(source="estimated", service_tier="batch", parts=(UsagePart(lines=lines),)),
        charge=Charge(total=Nusd(usd), state="priced", reason="ceiling", price_ref=services.prices.ref),
        baseline=Nusd(usd),
        fidelity="unknown",
        ceiling=Nusd(usd),
        policy_ref=manifest.policy_ref,
        status=0,
        error=error,
    )


def _with(holds: Sequence[Hold], amounts: Sequence[int]) -> tuple[Hold, ...]:
    return tuple(msgspec.structs.replace(hold, amount=amount) for hold, amount in zip(holds, amounts, strict=True))


def _unheld(name: str, holds: Sequence[Hold], now_ms: int) -> Reservation:
    """A reservation that was never made, to count on its counters."""
    return Reservation(id=name, request_id=name, holds=tuple(holds), ceiling=None, expires_at_ms=now_ms)
