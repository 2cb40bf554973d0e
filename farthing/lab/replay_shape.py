"""What is asked of whom on the short way of a replay: the same for all calls of a kind, because bodies have no text.

Nothing is decided here: routes, plan and levers are the pipeline's own functions. What they say of a kind of calls is
kept; what depends on the call itself (a route's choice, what a lever is known to have made of it) is asked each time.
"""

from fnmatch import fnmatchcase
from typing import Final

from farthing.core.types import Request
from farthing.engine.plan import Plan, plan_for, plan_routed
from farthing.engine.routing import Routed
from farthing.engine.services import Services
from farthing.engine.translating import prepared
from farthing.lab.replay_plain import Fly, Shape
from farthing.lab.replay_provider import Flight, Provider, stated_cap

_SHAPES_MAX: Final = 10_000
_LEVERS: Final = "levers:"
"""Begins the names of readings that say what levers made of a call."""


class Shapes:
    """The plans of a replay's calls."""

    def __init__(self, services: Services, provider: Provider) -> None:
        self._services = services
        self._flights = provider.flights
        self._kept: dict[tuple[object, ...], Shape | None] = {}
        self._routed: dict[str, bool] = {}
        """By the model asked for: some route may choose."""

    def find(self, fly: Fly) -> Shape | None:
        """The plan of a call and what becomes of it; None: the pipeline must serve it. Raises ``UnknownModel``."""
        services, request = self._services, fly.request
        routed = self._chosen(fly) if self._may_route(request.view.model) else None
        if routed is not None:
            if routed.cascade is not None or routed.shadow is not None or routed.talk:
                return None
            if routed.classifier or routed.unembedded:
                return None
            fly.routed = (routed.decision,)
        if services.request_limits or (services.levers is not None and _was_edited(request)):
            return self.shaped(self._plan(request, routed), fly)
        view = request.view
        kind: tuple[object, ...] = (
            request.dialect,
            view.endpoint,
            view.model,
            view.output_tokens_max,
            view.stream,
            view.include_usage,
        )
        if routed is not None:
            chosen = (routed.model, routed.asked, routed.strong, routed.providers, routed.decision.reason)
            kind = (*kind, *chosen)
        if kind in self._kept:
            return self._kept[kind]
        found = self.shaped(self._plan(request, routed), fly)
        if len(self._kept) >= _SHAPES_MAX:
            self._kept.clear()
        self._kept[kind] = found
        return found

    def shaped(self, plan: Plan, fly: Fly) -> Shape | None:
        """What becomes of a plan; None: it is translated."""
        target, request = plan.targets[0], fly.request
        upstream = self._services.upstreams[target.provider]
        if upstream.speaks not in ("", request.dialect):
            return None
        ask, body = prepared(plan, request, target, upstream)
        return Shape(
            plan=plan,
            target=target,
            upstream=upstream,
            ask=ask,
            body=body,
            cap=stated_cap(body),
            decisions=plan.decisions[len(fly.routed) :],
            edited=None if ask.request is request else ask.request,
        )

    def _plan(self, request: Request, routed: Routed | None) -> Plan:
        if routed is not None:
            return plan_routed(self._services, request, routed)
        return plan_for(self._services, request, request.view.model)

    def _may_route(self, model: str) -> bool:
        """Some route is for calls to a model."""
        found = self._routed.get(model)
        if found is None:
            routing = self._services.routing
            patterns = [] if routing is None else [one for route in routing.routes for one in route.models]
            found = any(fnmatchcase(model, pattern) for pattern in patterns)
            if len(self._routed) >= _SHAPES_MAX:
                self._routed.clear()
            self._routed[model] = found
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


def _was_edited(request: Request) -> bool:
    return any(name.startswith(_LEVERS) for name in request.readings)
