"""Routes as the dashboard shows them: pools at this moment's prices, the gate's verdicts, where roll-outs stand."""

from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path

from farthing.adapters import store_opening
from farthing.bootstrap.pricing import price_book
from farthing.bootstrap.routing import routes_of, trained_of
from farthing.config import Settings
from farthing.core.errors import PolicyError
from farthing.core.rollout import RolloutState
from farthing.engine.route_pools import pool_of
from farthing.engine.routing import Trained
from farthing.server.tables.routing import RouteFacts


def route_facts(settings: Settings, now_ms: Callable[[], int]) -> Callable[[], tuple[RouteFacts, ...]]:
    """Tells the routes of this installation, in the order in which they are asked."""
    prices = cache(lambda: price_book(settings))

    def facts() -> tuple[RouteFacts, ...]:
        models = routes_of(settings)
        found = []
        for one in settings.policy.routes:
            trained, problem = _trained(settings, one.table)
            artefact = trained.artefact if trained else None
            kept, left = pool_of(one, prices(), models, artefact, now_ms())
            found.append(
                RouteFacts(
                    route=one,
                    kept=kept,
                    left=left,
                    ref=trained.model.ref if trained else "",
                    verdicts=artefact.evidence if artefact else (),
                    thresholds=tuple(artefact.thresholds.gains) if artefact else (),
                    problem=problem,
                )
            )
        return tuple(found)

    return facts


def rollout_states(settings: Settings, env: Mapping[str, str]) -> Callable[[], Mapping[str, RolloutState]]:
    """Tells where roll-outs stand; nothing where no route has one."""

    def states() -> Mapping[str, RolloutState]:
        if all(one.rollout is None for one in settings.policy.routes):
            return {}
        with closing(store_opening.open_rollouts(settings, env)) as rollouts:
            return rollouts.read()

    return states


def _trained(settings: Settings, table: str) -> tuple[Trained | None, str]:
    if not table:
        return None, ""
    try:
        return trained_of(Path(settings.home) / table), ""
    except PolicyError as error:
        return None, "; ".join(error.problems)
