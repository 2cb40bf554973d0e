"""Where calls go: upstreams, routes with their trained tables, and the roll-outs of those."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from farthing.adapters import semantic_opening, store_opening
from farthing.adapters.codecs import secret_of
from farthing.adapters.http import HttpTransport
from farthing.adapters.rollouts_sql import SqlRollouts
from farthing.bootstrap.home import made_home
from farthing.config import ProviderSettings, Settings, dialect_of
from farthing.core.errors import ConfigError, PolicyError
from farthing.core.route_canary import read_prompts
from farthing.core.route_clusters import ClusterModel
from farthing.core.route_decide import model_of, read_artefact
from farthing.core.routing import Routes
from farthing.core.routing import Upstream as RoutedUpstream
from farthing.engine.record import Recorder
from farthing.engine.route_canary import CanarySet
from farthing.engine.route_serving import RouteServing
from farthing.engine.route_steward import Steward, Tell
from farthing.engine.routing import Routing, Trained
from farthing.engine.services import Services
from farthing.ports.clock import Clock
from farthing.ports.embed import Embedder
from farthing.ports.provider import Transport

_LOG = logging.getLogger("farthing.bootstrap")


def routes_of(settings: Settings) -> Routes:
    """Where this configuration sends which model."""
    return Routes((routed(provider) for provider in settings.providers), settings.policy.fallbacks)


def routing_of(
    settings: Settings, *, transports: Mapping[str, Transport] | None = None, env: Mapping[str, str] | None = None
) -> Routing | None:
    """The policy's routes with their trained tables. Raises ``PolicyError`` for a table that cannot be used.

    Without ``transports`` no embedder is opened.
    """
    routes = settings.policy.routes
    if not routes:
        return None
    home = Path(settings.home)
    trained = {route.name: trained_of(home / route.table) for route in routes if route.table}
    looks_up = any(isinstance(one.model, ClusterModel) for one in trained.values())
    embedder = None
    if looks_up and transports is not None:
        embedder = _embedder_for(trained, settings, transports, env or {})
    timed = any(route.latency_ms_max is not None for route in routes)
    return Routing(routes, RouteServing(), trained, embedder=embedder, times=timed)


def _embedder_for(
    trained: Mapping[str, Trained], settings: Settings, transports: Mapping[str, Transport], env: Mapping[str, str]
) -> Embedder | None:
    """The embedder, with a warning where it is missing or not the one that a table was made with."""
    try:
        embedder = open_embedder(settings, transports, env)
    except ConfigError as error:
        _LOG.warning("routes that look prompts up ask the strong model: %s", error.problems[0])
        return None
    for name, one in trained.items():
        if isinstance(one.model, ClusterModel) and one.model.embedder != embedder.identity:
            _LOG.warning(
                "the table of route '%s' was made with %s, here is %s: the strong model is asked; train it again",
                name, one.model.embedder, embedder.identity,
            )  # fmt: skip
    return embedder


def open_embedder(
    settings: Settings, transports: Mapping[str, Transport] | None = None, env: Mapping[str, str] | None = None
) -> Embedder:
    """The installation's embedder. Raises ConfigError when it cannot be had."""
    chosen = settings.embedder
    provider = next((one for one in settings.providers if one.name == chosen.provider), None)
    known = transports or {}
    return semantic_opening.open_embedder(
        chosen,
        Path(settings.home),
        provider=provider,
        secret=secret_of(provider, os.environ if env is None else env) if provider else "",
        transport=known[provider.name] if provider and provider.name in known else HttpTransport(),
    )


def steward_of(
    settings: Settings,
    services: Services,
    recorder: Recorder,
    clock: Clock,
    env: Mapping[str, str],
    *,
    name: str,
    tell: Tell | None,
) -> Steward | None:
    """Who moves the roll-outs; None where no route has rules for one. Raises ``PolicyError`` for a canary file."""
    routing = services.routing
    if routing is None or not routing.candidates():
        return None
    canaries = {}
    for route in routing.routes:
        if route.rollout is not None and route.rollout.canary:
            path = Path(settings.home) / route.rollout.canary
            try:
                prompts = read_prompts(path.read_bytes())
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                raise PolicyError([f"canary set: {why}"], source=str(path)) from error
            canaries[route.name] = CanarySet(services, recorder, route, route.rollout, prompts)
    rollouts = store_opening.open_rollouts(settings, env)
    return Steward(routing, rollouts, clock, name=name, tell=tell, canaries=canaries)


def trained_of(path: Path) -> Trained:
    """A trained router from its file. Raises ``PolicyError`` when it cannot be read or is none."""
    try:
        artefact = read_artefact(path.read_bytes(), str(path))
    except OSError as error:
        raise PolicyError([f"cannot be read: {error.strerror}"], source=str(path)) from error
    return Trained(model_of(artefact), artefact)


def rollouts_of(settings: Settings) -> SqlRollouts:
    """Where the roll-outs of this installation's routes stand, for the command line."""
    made_home(settings)
    return store_opening.open_rollouts(settings, os.environ)


def routed(provider: ProviderSettings) -> RoutedUpstream:
    """A provider as routing sees it."""
    return RoutedUpstream(
        name=provider.name,
        dialect=dialect_of(provider),
        models=provider.models,
        price_as=provider.price_as,
        price_models=provider.price_models,
        region=provider.region,
    )
