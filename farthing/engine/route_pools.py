"""A route's models at this moment's prices: what stays, what is left out and why, and what takes its place."""

import msgspec

from farthing.core.policy_routes import Route
from farthing.core.route_decide import Artefact
from farthing.core.route_pool import Member, Pruned, prune
from farthing.core.routing import Routes
from farthing.core.types import Usage, UsagePart
from farthing.ports.prices import Prices

TYPICAL = (("input", 1_000), ("output", 250))
"""The call that pools are compared on, in tokens."""


def pool_of(
    route: Route, prices: Prices, routes: Routes, artefact: Artefact | None, at_ms: int
) -> tuple[tuple[Member, ...], tuple[Pruned, ...]]:
    """(models that stay, cheapest first; models left out with the reason)."""
    quality = dict(artefact.quality) if artefact else {}
    latency = dict(artefact.latency_ms) if artefact else {}
    members = []
    for rank, model in enumerate(dict.fromkeys(model for _, model in route.tiers)):
        target = routes.targets(model, "openai")[0]
        usage = Usage(parts=(UsagePart(lines=TYPICAL, tier_basis=1_000),), source="reported")
        cost = prices.charge(usage, target, at_ms=at_ms).total
        members.append(Member(model, cost, quality.get(model), rank, target.provider, latency_ms=latency.get(model)))
    return prune(
        members,
        quality_min=route.quality_min,
        latency_ms_max=route.latency_ms_max,
        cost_max=route.cost_max,
        providers=route.providers,
    )


def pruned_route(route: Route, left: tuple[Pruned, ...]) -> Route:
    """The route without the models left out: each tier goes to the next model above it that stays.

    A tier with none above goes to the highest one that stays; where nothing stays the route is as written, because
    an answer at the asked-for price is better than none.
    """
    gone = {one.model for one in left}
    kept = [place for place, (_, model) in enumerate(route.tiers) if model not in gone]
    if not gone or not kept:
        return route
    tiers = []
    for place, (tier, _) in enumerate(route.tiers):
        stands_in = next((spot for spot in kept if spot >= place), kept[-1])
        tiers.append((tier, route.tiers[stands_in][1]))
    return msgspec.structs.replace(route, tiers=tuple(tiers))
