"""What is asked of whom on the short way of a replay: the same for all calls of a kind, because bodies have no text.

Nothing is decided here: routes, plan and levers are the pipeline's own functions. What they say of a kind of calls is
kept; what depends on the call itself (what a route reads of it, what a lever is known to have made of it) is asked
each time, or kept with what was read.
"""

from fnmatch import fnmatchcase
from typing import Final, cast

from farthing.core.errors import UnknownModel
from farthing.core.policy_routes import Route
from farthing.core.types import Decision, Exchange, PromptView, Request, Target
from farthing.engine.act import cheaper_targets
from farthing.engine.plan import Plan, plan_for, plan_routed
from farthing.engine.routing import Routed
from farthing.engine.services import Services, Upstream
from farthing.engine.translating import prepared
from farthing.lab.replay_books import Account
from farthing.lab.replay_lanes import Lane, Quick, Switch, Tariff, lane_of
from farthing.lab.replay_plain import Fly, Shape
from farthing.lab.replay_provider import Flight, Provider, stated_cap
from farthing.lab.replay_routes import LoggedRouting, seen_of

_SHAPES_MAX: Final = 10_000
_SIZED_MAX: Final = 100_000
_LEVERS: Final = "levers:"
"""Begins the names of readings that say what levers made of a call."""
_Kind = tuple[
    str, str, str, int | None, bool, bool, int, int, bool, int, tuple[tuple[str, int], ...], int, bool, str,
    tuple[tuple[str, str], ...], float | None,
]  # fmt: skip


def kind_of(dialect: str, view: PromptView) -> _Kind:
    """What a plan, a ceiling and a cache may look at, but for the size of the body."""
    return (
        dialect, view.endpoint, view.model, view.output_tokens_max, view.stream, view.include_usage, view.choices,
        view.images, view.unbounded, view.tools, view.hosted_tools, view.cache_marks, view.cache_ttl_long,
        view.service_tier, view.facets, view.temperature,
    )  # fmt: skip


Found = tuple[Shape | None, tuple[Decision, ...]]
"""(the plan; None: the pipeline must serve it, a route's choice)."""


class Kind:
    """Calls that differ in nothing that a plan looks at, but for what routes read of them."""

    __slots__ = ("chosen", "one", "route")

    def __init__(self, route: Route | None) -> None:
        self.route = route
        """For them, where it reads what ``seen_of`` says and no more."""
        self.one: Shape | None = None
        """The plan of all of them; None: it is not known yet, or a route chooses."""
        self.chosen: dict[tuple[int, str], Found] = {}
        """By what a route reads; the tokens themselves only where somebody asks for decisions."""


class Shapes:
    """The plans of a replay's calls."""

    def __init__(self, services: Services, provider: Provider, *, lanes: bool) -> None:
        """``lanes``: ceilings may be asked of lanes (see ``replay_lanes``)."""
        self._services = services
        self._flights = provider.flights
        self._lanes = lanes
        self._prices = services.prices if lanes and isinstance(services.prices, Quick) else None
        self.kinds: dict[_Kind, Kind] = {}
        self._kept: dict[tuple[object, ...], Shape | None] = {}
        self._sized = 0
        self._tariffs: dict[Target, Tariff] = {}
        self._seats: dict[tuple[str, str], dict[object, Account]] = {}
        self._edits = services.levers is not None
        self._limits = services.request_limits
        self._may_route: dict[str, bool] = {}
        """By the model asked for: some route may choose."""

    def find(self, fly: Fly) -> Shape | None:
        """The plan of a call and what becomes of it; None: the pipeline must serve it. Raises ``UnknownModel``."""
        exchange = fly.exchange
        key = kind_of(exchange.dialect, exchange.view)
        kind = self.kinds.get(key) or self._new(key, exchange)
        edited = self._limits or (self._edits and exchange.readings and _was_edited(exchange))
        one = kind.one
        if one is not None and not edited:
            return one
        if kind.route is not None and not edited and exchange.policy_ref != self._services.policy_ref:
            tokens, tag = seen_of(exchange)
            seen = (tokens < kind.route.length_tokens if self._lanes else tokens, tag)
            found = kind.chosen.get(seen)
            if found is None:
                found = self._found(fly, key, edited=False)
                self._sized += 1
                if self._sized > _SIZED_MAX:
                    self._forget()
                kind.chosen[seen] = found
            shape, fly.routed = found
            return shape
        shape, fly.routed = self._found(fly, key, edited=bool(edited))
        if not edited and not self._routes(exchange.view.model):
            kind.one = shape
        return shape

    def degraded(self, shape: Shape, plan: Plan, fly: Fly) -> Shape | None:
        """What becomes of a plan that thresholds made of another; None: it is translated."""
        if not self._lanes or shape.lane is None or plan.body is not shape.plan.body or plan.asked is None:
            return self.shaped(plan, fly)
        if plan.targets not in shape.degraded:
            shape.degraded[plan.targets] = self.shaped(plan, fly, lane=True)
        return shape.degraded[plan.targets]

    def switched(self, shape: Shape, wanted: str, fly: Fly) -> Shape | None:
        """What becomes of a plan where thresholds want another model, if that is known; None: they must be asked."""
        if wanted not in shape.switches:
            if shape.lane is None or len(shape.switches) >= _SHAPES_MAX:
                return None
            shape.switches[wanted] = self._switch(shape, wanted, fly.request)
        return self.moved(shape, wanted, fly.exchange)

    def moved(self, shape: Shape, wanted: str, exchange: Exchange) -> Shape | None:
        """The same of a plan that has been asked about; None also where it has not been."""
        try:
            switch = shape.switches[wanted]
        except KeyError:
            return None
        if switch is None:
            return shape
        pays = switch.pays(exchange.view.body_bytes, exchange.received_at_ms)
        if pays is None:
            return None
        return shape.degraded.get(switch.targets) if pays else shape

    def _switch(self, shape: Shape, wanted: str, request: Request) -> Switch | None:
        services, plan = self._services, shape.plan
        try:
            targets = cheaper_targets(services, request, plan, wanted)
        except UnknownModel:
            return None
        if targets is None:
            return None
        target = targets[0]
        before = self._lane(request, shape.target, shape.upstream, plan)
        return Switch(targets, before, self._lane(request, target, services.upstreams[target.provider], plan))

    def shaped(self, plan: Plan, fly: Fly, *, lane: bool = False) -> Shape | None:
        """What becomes of a plan; None: it is translated."""
        target, request = plan.targets[0], fly.request
        upstream = self._services.upstreams[target.provider]
        if upstream.speaks not in ("", request.dialect):
            return None
        ask, body = prepared(plan, request, target, upstream)
        edited = None if ask.request is request else ask.request
        return Shape(
            plan=plan,
            target=target,
            upstream=upstream,
            ask=ask,
            body=body,
            cap=stated_cap(body),
            decisions=plan.decisions[len(fly.routed) :],
            edited=edited,
            tariff=self._tariff(target),
            seats=self._seats.setdefault((target.provider, target.model), {}),
            lane=self._lane(request, target, upstream, ask.plan) if lane and edited is None else None,
        )

    def _lane(self, request: Request, target: Target, upstream: Upstream, plan: Plan) -> Lane | None:
        return (
            None if self._prices is None else lane_of(self._services, self._prices, request, target, upstream, plan)
        )

    def _tariff(self, target: Target) -> Tariff | None:
        prices = self._prices
        if prices is None:
            return None
        found = self._tariffs.get(target)
        if found is None:
            found = self._tariffs[target] = Tariff(prices, target)
        return found

    def _new(self, key: _Kind, exchange: Exchange) -> Kind:
        routing, view = self._services.routing, exchange.view
        routes = isinstance(routing, LoggedRouting) and self._routes(view.model)
        route = cast("LoggedRouting", routing).by_log(view) if routes else None
        if len(self.kinds) >= _SHAPES_MAX:
            self.kinds.clear()
        found = self.kinds[key] = Kind(route)
        return found

    def _forget(self) -> None:
        self.kinds.clear()
        self._sized = 0

    def _found(self, fly: Fly, key: _Kind, *, edited: bool) -> Found:
        """As the pipeline's functions have it. ``edited``: it is a plan for this very call."""
        request = fly.request
        routed = self._chosen(fly) if self._routes(request.view.model) else None
        if routed is not None:
            if routed.cascade is not None or routed.shadow is not None or routed.talk:
                return None, ()
            if routed.classifier or routed.unembedded:
                return None, ()
            fly.routed = (routed.decision,)
        if edited:
            return self.shaped(self._plan(request, routed), fly), fly.routed
        kind: tuple[object, ...] = key
        if routed is not None:
            chosen = (routed.model, routed.asked, routed.strong, routed.providers, routed.decision.reason)
            kind = (*kind, *chosen)
        if kind not in self._kept:
            if len(self._kept) >= _SHAPES_MAX:
                self._kept.clear()
            self._kept[kind] = self.shaped(self._plan(request, routed), fly, lane=self._lanes)
        return self._kept[kind], fly.routed

    def _plan(self, request: Request, routed: Routed | None) -> Plan:
        if routed is not None:
            return plan_routed(self._services, request, routed)
        return plan_for(self._services, request, request.view.model)

    def _routes(self, model: str) -> bool:
        """Some route is for calls to a model."""
        found = self._may_route.get(model)
        if found is None:
            routing = self._services.routing
            patterns = [] if routing is None else [one for route in routing.routes for one in route.models]
            found = any(fnmatchcase(model, pattern) for pattern in patterns)
            if len(self._may_route) >= _SHAPES_MAX:
                self._may_route.clear()
            self._may_route[model] = found
        return found

    def _chosen(self, fly: Fly) -> Routed | None:
        """What the routes make of it; they look at the log."""
        services, name = self._services, fly.request.id
        assert services.routing is not None
        flight = self._flights[name] = Flight(logged=fly.logged)
        try:
            return services.routing.choose(services, fly.request)
        finally:
            del self._flights[name]
            fly.unread = flight.unread


def _was_edited(exchange: Exchange) -> bool:
    return any(name.startswith(_LEVERS) for name in exchange.readings)
