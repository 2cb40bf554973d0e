"""A route's models at this moment's prices: what stays, what is left out and why, and what takes its place."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from farthing.core.policy_routes import Route
from farthing.core.route_decide import Artefact
from farthing.core.route_pool import Member, Pruned, prune, pruned_route
from farthing.core.routing import Routes
from farthing.core.types import Dialect, Usage, UsagePart
from farthing.engine.route_latency import Latencies
from farthing.ports.prices import Prices

FRESH_MS = 2_000
"""How long a pool with a bound on latency stands."""
TYPICAL = (("input", 1_000), ("output", 250))
"""The call that pools are compared on, in tokens."""


Observed = Callable[[str], int | None]
"""Milliseconds within which 95 % of a model's calls are answered at the moment; None: not known."""


def pool_of(
    route: Route,
    prices: Prices,
    routes: Routes,
    artefact: Artefact | None,
    at_ms: int,
    *,
    dialect: Dialect = "openai",
    observed: Observed | None = None,
) -> tuple[tuple[Member, ...], tuple[Pruned, ...]]:
    """(models that stay, cheapest first; models left out with the reason). What is observed now beats the labels."""
    quality = dict(artefact.quality) if artefact else {}
    latency = dict(artefact.latency_ms) if artefact else {}
    members = []
    for rank, model in enumerate(dict.fromkeys(model for _, model in route.tiers)):
        target = routes.targets(model, dialect)[0]
        usage = Usage(parts=(UsagePart(lines=TYPICAL, tier_basis=1_000),), source="reported")
        cost = prices.charge(usage, target, at_ms=at_ms).total
        now = observed(target.model) if observed is not None else None
        took = latency.get(model) if now is None else now
        members.append(Member(model, cost, quality.get(model), rank, target.provider, latency_ms=took))
    return prune(
        members,
        quality_min=route.quality_min,
        latency_ms_max=route.latency_ms_max,
        cost_max=route.cost_max,
        providers=route.providers,
    )


class Pool(NamedTuple):
    """A route as it stands at the moment."""

    route: Route
    left_out: tuple[tuple[str, str], ...]
    """("left_out", "model: reason") for the evidence of decisions."""


class Pools:
    """Every route without the models that its bounds or a better and cheaper one rule out; renewed as prices and
    latencies move."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self._pools: dict[tuple[str, str, Dialect], tuple[int, Pool]] = {}

    def heard(self, model: str, started_ms: int, ended_ms: int) -> None:
        """A model has answered."""
        self.latencies.heard(model, at_ms=ended_ms, took_ms=ended_ms - started_ms)

    def pool(
        self,
        route: Route,
        prices: Prices,
        routes: Routes,
        artefact: Artefact | None,
        *,
        dialect: Dialect,
        now_ms: int,
    ) -> Pool:
        """The route's pool; at most two seconds old where it has a bound on latency."""
        key = (prices.ref, route.name, dialect)
        found = self._pools.get(key)
        if found is not None and (route.latency_ms_max is None or now_ms < found[0]):
            return found[1]
        _, left = pool_of(
            route,
            prices,
            routes,
            artefact,
            now_ms,
            dialect=dialect,
            observed=partial(self.latencies.p95, now_ms=now_ms) if route.latency_ms_max is not None else None,
        )
        shown = (("left_out", "; ".join(f"{one.model}: {one.reason}" for one in left)),) if left else ()
        pool = Pool(pruned_route(route, left), shown)
        self._pools[key] = (now_ms + FRESH_MS, pool)
        return pool
