"""The running experiment in a request's path: control is served by the same services without what is tested.

Nothing is asked of it while no experiment runs. The arm stands in the call's decisions, and so in every entry and in
the traffic log; a replay reads it from there and serves the call as it was served.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from farthing.core.caching import controls_of
from farthing.core.errors import NotCached, StoreFailed
from farthing.core.experiment import READING, Assigned, Experiment, Part, assign
from farthing.core.types import Request

if TYPE_CHECKING:
    from farthing.engine.services import Services

_LOG = logging.getLogger("farthing.trials")

POLL_S: Final = 1.0
"""How often a worker looks whether an experiment has begun or ended."""
LEAD_MS: Final = 3_000
"""Between registering an experiment and its first call, so that every worker knows of it by then."""

_reading = msgspec.json.Decoder(Assigned)
_encode = msgspec.json.Encoder().encode


class Trial(Protocol):
    """Who says which arm a call belongs to."""

    def arm(self, request: Request) -> Assigned | None:
        """None: the call takes no part."""
        ...


@dataclass(slots=True)
class Trials:
    """What is being tried now, and the services of control. One per gateway."""

    running: Trial | None = None
    """None: no experiment runs; all that a request looks at then."""
    _without: dict[tuple[Part, ...], "Services"] = field(default_factory=dict)

    def enter(self, services: "Services", request: Request, assigned: Assigned) -> "Services":
        """The services for a call of an arm. Raises ``NotCached`` for one that control's lack of caches rules out."""
        if not assigned.off:
            return services
        if "caches" in assigned.off and services.caching is not None and controls_of(request.headers).only_cached:
            raise NotCached(
                f"The request may only be answered from the cache, and its conversation does without: it is in the "
                f"control arm of the experiment '{assigned.experiment}'.",
                hint="Leave 'only-if-cached' out to ask the provider.",
            )
        found = self._without.get(assigned.off)
        if found is None:
            found = self._without[assigned.off] = without(services, assigned.off)
        return found


class Live:
    """The experiment that runs; notes a call's arm where a replay finds it."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def arm(self, request: Request) -> Assigned | None:
        """By the design alone."""
        assigned = assign(self.experiment, request.scope, request.id, request.received_at_ms)
        if assigned is not None:
            request.readings[READING] = _encode(assigned).decode()
        return assigned


class Logged:
    """Arms as the traffic log has them."""

    def arm(self, request: Request) -> Assigned | None:
        """What was noted when the call was served."""
        said = request.readings.get(READING)
        return None if said is None else _reading.decode(str(said))


def without(services: "Services", off: tuple[Part, ...]) -> "Services":
    """The same services without caches, routes or levers. Calls to a route's alias go to its strong model."""
    if "caches" in off:
        services = replace(services, caching=None)
    if "levers" in off:
        services = replace(services, levers=None)
    if "routes" in off and services.routing is not None:
        services = replace(services, routing=replace(services.routing, off=True))
    return services


async def follow(trials: Trials, read: Callable[[], Experiment | None], *, every_s: float = POLL_S) -> None:
    """Keeps ``trials`` at what the register says, for ever. A register that is away changes nothing."""
    while True:
        await look(trials, read)
        await asyncio.sleep(every_s)


async def look(trials: Trials, read: Callable[[], Experiment | None]) -> None:
    """Looks once."""
    try:
        found = await asyncio.to_thread(read)
    except StoreFailed as error:
        _LOG.warning("whether an experiment runs could not be read: %s", error)
        return
    known = trials.running.experiment if isinstance(trials.running, Live) else None
    if found != known:
        trials.running = None if found is None else Live(found)
