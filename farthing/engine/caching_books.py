"""What caches write into the ledger: hits that cost nothing, and what saving cost."""

import asyncio
from typing import Literal

import msgspec

from farthing.core.budget import Need, spent
from farthing.core.errors import StoreFailed, TimedOut
from farthing.core.money import Nusd
from farthing.core.prefix_cache import minimum_tokens
from farthing.core.types import (
    Charge,
    Decision,
    Exchange,
    LedgerEntry,
    Request,
    Reservation,
    Target,
    Usage,
)
from farthing.core.units import is_cache_read, is_cache_write
from farthing.engine.call import Call
from farthing.engine.record import Ending, Prints, tokens_of
from farthing.engine.services import Services
from farthing.ports.books import AGE, Alike, Settlement
from farthing.ports.cache import Evidence, StoredAnswer
from farthing.ports.prices import Prices

CACHE_HIT = "cache_hit"
"""``charge.reason`` of an entry that a cache answered."""
LEVER = "lever"
"""Beginning of ``charge.reason`` of what a lever itself cost: ``lever:cache``."""
_NOTHING = Usage(source="reported")

Fidelity = Literal["exact", "repriced", "estimated", "unknown"]


def hit_entry(
    call: Call,
    answer: StoredAnswer,
    saves: tuple[Nusd | None, Fidelity],
    *,
    action: str,
    layer: str,
    evidence: Evidence,
) -> LedgerEntry:
    """The entry of a request that a cache answered: no cost, and the cost that was avoided as its baseline."""
    services, request = call.services, call.request
    now_ms = services.clock.now_ms()
    if layer == "flight":  # it was there when the call that was waited for ended, whenever this task was woken
        now_ms = max(answer.created_at_ms, request.received_at_ms)
    avoided, fidelity = saves
    target = answer.target
    facts = (("layer", layer), ("key", answer.key), (AGE, str(max(0, now_ms - answer.created_at_ms))),
             ("source", answer.entry_id), ("route", answer.route), *evidence)  # fmt: skip
    decision = Decision(stage="cache", action="hit", reason=f"{action}_hit", saved=Nusd(avoided or 0), evidence=facts)
    call.decisions.append(decision)
    return LedgerEntry(
        id=f"{request.id}-0",
        request_id=request.id,
        attempt=0,
        received_at_ms=request.received_at_ms,
        booked_at_ms=now_ms,
        scope=request.scope,
        dialect=request.dialect,
        endpoint=request.view.endpoint,
        provider=target.provider,
        price_as=target.price_as,
        model_requested=request.view.model,
        model=answer.usage.model or target.model,
        usage=_NOTHING,
        charge=Charge(total=Nusd(0), state="free", reason=CACHE_HIT, price_ref=services.prices.ref),
        baseline=avoided,
        fidelity=fidelity,
        policy_ref=services.policy_ref,
        decisions=tuple(call.decisions),
        stream=request.view.stream,
        latency_ms=max(0, now_ms - request.received_at_ms),
    )


def asked_of(call: Call) -> Target:
    """What the caller asked for: a hit is measured against its cost."""
    return call.plan.asked or call.plan.targets[0]


def avoided_cost(call: Call, answer: StoredAnswer) -> tuple[Nusd | None, Fidelity]:
    """What the call would have cost now by the price book, and how sure that is."""
    return cost_of(call.services.prices, asked_of(call), answer, call.request.received_at_ms)


def cost_of(prices: Prices, asked: Target, answer: StoredAnswer, at_ms: int) -> tuple[Nusd | None, Fidelity]:
    """What asking ``asked`` for this answer would have cost at ``at_ms``, and how sure that is."""
    usage = answer.usage
    if asked.provider != answer.target.provider or asked.model != answer.target.model:
        usage = msgspec.structs.replace(usage, model="", stated_pusd=None)
        return prices.charge(usage, asked, at_ms=at_ms).total, "estimated"
    amount = prices.charge(usage, answer.target, at_ms=at_ms).total
    if amount is None:
        return None, "unknown"
    if usage.source != "reported" or _may_have_been_cached(usage, answer.target.model):
        return amount, "estimated"
    return amount, "exact" if amount == answer.charge else "repriced"


def _may_have_been_cached(usage: Usage, model: str) -> bool:
    """Whether the provider's own prompt cache may have made the avoided call cheaper."""
    units = [unit for part in usage.parts for unit, _ in part.lines]
    if any(is_cache_read(unit) or is_cache_write(unit) for unit in units):
        return True
    return tokens_of(usage)[0] >= minimum_tokens(model)


async def book_hit(call: Call, entry: LedgerEntry, answer: StoredAnswer, prints: Prints | None) -> Ending:
    """Books a hit and ends the request. Raises ``StoreFailed`` where the policy refuses to serve unbooked."""
    ending = Ending(
        outcome="answered",
        status=200,
        latency_ms=entry.latency_ms,
        answer=answer.body if call.keeps_text else None,
    )
    await call.book_whole(entry, ending, prints)
    return ending


async def book_again(services: Services, entry: LedgerEntry, exchange: Exchange, alike: Alike | None) -> None:
    """Books a hit whose records are made already; raises what ``book_hit`` raises, and ``TimedOut``."""
    task = asyncio.current_task()
    if task is not None:
        services.background.watch(task, services.policy.limits.timeout_ms)
    logged = exchange if services.logs else None
    settlement = Settlement(reservation=None, entries=(entry,), exchange=logged, alike=alike)
    services.telemetry.exchange(exchange, settlement.entries)
    try:
        await services.books.settle(settlement, now_ms=services.hold_ms())
    except StoreFailed as error:
        services.telemetry.store_failed(error.code)
        services.background.book_later(settlement)
        if services.policy.on_store_failure == "refuse":
            raise
    except asyncio.CancelledError:
        if task is not None and services.background.expired(task):
            raise TimedOut(f"The request took longer than {services.policy.limits.timeout_ms} ms.") from None
        raise
    finally:
        if task is not None:
            services.background.forget(task)


async def book_lever(
    services: Services,
    request: Request,
    *,
    lever: str,
    act: str,
    number: int,
    target: Target,
    endpoint: str,
    usage: Usage,
    evidence: Evidence = (),
) -> LedgerEntry:
    """Books what a lever itself spent on a request: an embedding, a judge's call.

    The entry carries the request's scope and counts against its budgets; its baseline is zero, because without the
    lever it would not have been spent, so that every sum of baseline less cost is net. ``act`` and ``number`` make
    the entry's id: the same pair on the same request is booked once. A store that is away is retried later.
    """
    now_ms = services.clock.now_ms()
    charge = services.prices.charge(usage, target, at_ms=request.received_at_ms)
    if charge.total is not None:
        charge = msgspec.structs.replace(charge, reason=f"{LEVER}:{lever}")
    decision = Decision(stage=lever, action=act, reason="lever_cost", evidence=evidence)
    entry = LedgerEntry(
        id=f"{request.id}-{act}-{number}",
        request_id=request.id,
        attempt=0,
        received_at_ms=request.received_at_ms,
        booked_at_ms=now_ms,
        scope=request.scope,
        dialect=request.dialect,
        endpoint=endpoint,
        provider=target.provider,
        price_as=target.price_as,
        model_requested=target.model,
        model=usage.model or target.model,
        usage=usage,
        charge=charge,
        baseline=Nusd(0),
        fidelity="exact" if usage.source == "reported" else "estimated",
        policy_ref=services.policy_ref,
        decisions=(decision,),
    )
    taken, given = tokens_of(usage)
    need = Need(usd=charge.total, input_tokens=taken, output_tokens=given)
    holds = services.budgets.holds(
        request.scope, provider=target.provider, model=target.model, need=need, at_ms=request.received_at_ms
    )
    reservation = Reservation(
        id=entry.id, request_id=request.id, holds=holds, ceiling=charge.total, expires_at_ms=now_ms
    )
    amounts = spent(holds, usd=charge.total or 0, input_tokens=taken, output_tokens=given)
    settlement = Settlement(reservation=reservation, amounts=amounts, entries=(entry,))
    services.telemetry.spent(entry)
    try:
        await services.books.settle(settlement, now_ms=services.hold_ms())
    except StoreFailed as error:
        services.telemetry.store_failed(error.code)
        services.background.book_later(settlement)
    return entry
