"""Where calls go: upstreams, routes and their trained tables."""

from pathlib import Path

from farthing.adapters.rollout_file import ROLLOUTS_FILE, RolloutFile
from farthing.config import ProviderSettings, Settings, dialect_of
from farthing.core.errors import PolicyError
from farthing.core.route_decide import read_artefact
from farthing.core.route_model import RouteModel
from farthing.core.routing import Routes
from farthing.core.routing import Upstream as RoutedUpstream
from farthing.engine.route_serving import RouteServing
from farthing.engine.routing import Routing, Trained


def routes_of(settings: Settings) -> Routes:
    """Where this configuration sends which model."""
    return Routes((routed(provider) for provider in settings.providers), settings.policy.fallbacks)


def routing_of(settings: Settings) -> Routing | None:
    """The policy's routes with their trained tables. Raises ``PolicyError`` for a table that cannot be used."""
    if not settings.policy.routes:
        return None
    home = Path(settings.home)
    trained = {route.name: trained_of(home / route.table) for route in settings.policy.routes if route.table}
    return Routing(settings.policy.routes, RouteServing(), trained, RolloutFile(home / ROLLOUTS_FILE))


def trained_of(path: Path) -> Trained:
    """A trained router from its file. Raises ``PolicyError`` when it cannot be read or is none."""
    try:
        artefact = read_artefact(path.read_bytes(), str(path))
    except OSError as error:
        raise PolicyError([f"cannot be read: {error.strerror}"], source=str(path)) from error
    return Trained(RouteModel(artefact.table), artefact)


def rollouts_of(settings: Settings) -> RolloutFile:
    """Where the roll-outs of this installation's routes stand."""
    return RolloutFile(Path(settings.home) / ROLLOUTS_FILE)


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
