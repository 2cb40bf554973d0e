"""What levers spent aside: embeddings, shadows, comparisons, of which a replay cannot know but from the ledger.

Under the policy that served they are booked again when they were, as they were, and hold their ceilings in between.
Under any other policy nobody knows which of them there would be.
"""

from collections.abc import Iterable, Iterator

import msgspec

from farthing.core.budget import Need, spent
from farthing.core.errors import UnknownModel
from farthing.core.money import Nusd
from farthing.core.policy_levers import AnyLever
from farthing.core.types import Exchange, LedgerEntry, Request, Reservation, Target
from farthing.engine.caching_books import LEVER
from farthing.engine.ceiling import bounds_of
from farthing.engine.levers import Eased, Levers
from farthing.engine.plan import plan_for
from farthing.engine.record import tokens_of
from farthing.engine.services import Services
from farthing.lab.replay_outcome import Outcome
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_similar import LoggedRecall
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Settlement
from farthing.ports.prices import Prices


class LoggedLevers(Levers):
    """The levers of a replay. What one that reads texts would have made of a call is not known without its text.

    Under the policy that served nothing is noted of levers that left a call as it was.
    """

    def __init__(self, levers: tuple[AnyLever, ...], prices: Prices, provider: Provider, policy_ref: str) -> None:
        super().__init__(levers, prices)
        self._flights = provider.flights
        self._policy_ref = policy_ref

    def ease(self, body: bytes, cap: int | None, request: Request, target: Target) -> Eased:
        flight = self._flights.get(request.id)
        if flight is not None and flight.logged.source.policy_ref != self._policy_ref:
            flight.unread = flight.unread or self.is_blind(request, target)
        return super().ease(body, cap, request, target)


def spent_aside(services: Services, source: Exchange, entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """The entries of levers that a call under this very policy left; nothing of other policies."""
    if source.policy_ref != services.policy_ref:
        return []
    return [entry for entry in entries if entry.charge.reason.startswith(f"{LEVER}:")]


async def with_late(services: Services, loop: VirtualLoop, outcome: Outcome, late: list[LedgerEntry]) -> Outcome:
    """The outcome with those of its levers' entries that the pipeline did not make, each booked at its time."""
    made = {entry.id for entry in outcome.entries}
    missing = sorted((entry for entry in late if entry.id not in made), key=_booked)
    more = [await _booked_again(services, loop, outcome.logged.request, entry) for entry in missing]
    return msgspec.structs.replace(outcome, entries=(*outcome.entries, *more)) if more else outcome


async def _booked_again(services: Services, loop: VirtualLoop, request: Request, entry: LedgerEntry) -> LedgerEntry:
    again = _rated(services, entry)
    target = _target(services, request, entry)
    if entry.attempt:
        await loop.until(loop.at(entry.booked_at_ms - entry.latency_ms))
        need = _ceiling(services, request, target, entry)
    else:
        need = _need(again)
    reservation = Reservation(
        id=entry.id,
        request_id="",
        holds=services.budgets.holds(
            entry.scope, provider=target.provider, model=target.model, need=need, at_ms=entry.received_at_ms
        ),
        ceiling=entry.ceiling,
        expires_at_ms=entry.booked_at_ms,
    )
    if entry.attempt:
        await services.books.reserve(reservation, now_ms=loop.now_ms())
    await loop.until(loop.at(entry.booked_at_ms))
    taken, given = tokens_of(entry.usage)
    amounts = spent(reservation.holds, usd=again.charge.total or 0, input_tokens=taken, output_tokens=given)
    await services.books.settle(
        Settlement(reservation=reservation, amounts=amounts, entries=(again,)), now_ms=entry.booked_at_ms
    )
    recall = services.caching.recall if services.caching is not None else None
    if isinstance(recall, LoggedRecall):
        await recall.shadowed(entry)
    return again


def _need(entry: LedgerEntry) -> Need:
    taken, given = tokens_of(entry.usage)
    return Need(usd=entry.charge.total, input_tokens=taken, output_tokens=given)


def _ceiling(services: Services, request: Request, target: Target, entry: LedgerEntry) -> Need:
    """What was held while the call was under way."""
    plan = plan_for(services, request, target.model)
    bounds = bounds_of(services, request, target, services.upstreams[target.provider], plan)
    output = bounds.output_tokens * bounds.choices
    return Need(usd=entry.ceiling, input_tokens=bounds.input_tokens, output_tokens=output)


def _target(services: Services, request: Request, entry: LedgerEntry) -> Target:
    """Whom the lever asked; providers answer with longer names of the models that they were asked for."""
    best = Target(provider=entry.provider, price_as=entry.price_as, model=entry.model)
    found = [
        one for one in _known(services, request) if one.provider == best.provider and best.model.startswith(one.model)
    ]
    return max(found, key=lambda one: len(one.model), default=best)


def _known(services: Services, request: Request) -> Iterator[Target]:
    routes = services.routing.routes if services.routing is not None else ()
    for model in (request.view.model, *(model for route in routes for _, model in route.tiers)):
        try:
            yield from services.routes.targets(model, request.dialect)
        except UnknownModel:
            continue


def _rated(services: Services, entry: LedgerEntry) -> LedgerEntry:
    """The entry at the replay's prices."""
    if entry.charge.price_ref == services.prices.ref:
        return entry
    target = Target(provider=entry.provider, price_as=entry.price_as, model=entry.model)
    charge = services.prices.charge(entry.usage, target, at_ms=entry.received_at_ms)
    charge = msgspec.structs.replace(charge, reason=entry.charge.reason)
    return msgspec.structs.replace(entry, charge=charge, baseline=Nusd(0))


def _booked(entry: LedgerEntry) -> tuple[int, str]:
    return entry.booked_at_ms, entry.id
