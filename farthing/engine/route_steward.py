"""The steward of roll-outs: brings what workers saw together, moves stages, and tells people.

Every worker has one: once a second it hands over its own notes and reads where the routes stand. One of them, the
owner, folds the notes, writes states and audit log in one act, raises alerts and asks the canary sets.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from farthing.core.alerts import Alert, Severity, alert_id
from farthing.core.errors import StoreFailed
from farthing.core.rollout import RolloutState, stage_name
from farthing.core.rollout_fold import CanaryNote, Event, Note, SeenNote, folded
from farthing.engine.background import outlived
from farthing.engine.route_canary import CanarySet
from farthing.engine.routing import Routing
from farthing.ports.audit import Changed
from farthing.ports.clock import Clock
from farthing.ports.rollouts import Rollouts

_LOG = logging.getLogger("farthing.routes")
ROUND_S = 1.0
LEASE_MS = 10_000
RENEW_MS = 4_000
_NOTES_MAX = 10_000
_URGENT: Mapping[str, Severity] = {"rolled_back": "critical", "frozen": "warning", "model_changed": "warning"}
Tell = Callable[[Alert], bool]
"""Puts an alert on record and on its way; blocks."""


class Steward:
    """Owns the task. ``start`` and ``close`` are called with the gateway's."""

    def __init__(
        self,
        routing: Routing,
        rollouts: Rollouts,
        clock: Clock,
        *,
        name: str,
        tell: Tell | None = None,
        canaries: Mapping[str, CanarySet] | None = None,
    ) -> None:
        """``name``: this worker's, unlike every other's. ``tell``: None: events go to audit log and log only."""
        self._routing = routing
        self._rollouts = rollouts
        self._clock = clock
        self._name = name
        self._tell = tell
        self._canaries = canaries or {}
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._owns = False
        self._lease_ms = 0
        self._begun = False
        self.moved = 0
        """Events that this worker brought about."""

    async def start(self) -> None:
        """Knows where the routes stand before the first call; a store that is away leaves all of them in shadow."""
        await outlived(self.round(), "the steward of roll-outs")
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Lets comparisons under way end, hands over what they found, and gives the lease back."""
        self._stop.set()  # a round under way ends: cancelled, it could hand the same notes over twice
        if self._asking is not None:
            self._asking.cancel()
        tasks = [task for task in (self._task, self._asking) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._asking = None
        if self._routing.shadows:
            await asyncio.wait(set(self._routing.shadows), timeout=5)
        await outlived(self.round(), "the steward of roll-outs")
        if self._owns:
            await outlived(asyncio.to_thread(self._rollouts.disown, self._name), "the steward of roll-outs")
        await asyncio.to_thread(self._rollouts.close)

    async def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), ROUND_S)
                return
            await outlived(self.round(), "the steward of roll-outs")

    async def round(self) -> None:
        """Hands notes over, folds what all workers handed over if this one owns the roll-outs, reads the states."""
        notes = self._taken()
        try:
            states, events = await asyncio.to_thread(self._exchange, notes)
        except BaseException:
            self._routing.notes[:0] = notes[-_NOTES_MAX:]
            raise
        self._routing.states = states
        for event in events:
            self.moved += 1
            _LOG.warning("route '%s': %s, from %s to %s (%s)", event.route, event.kind, event.before, event.after,
                         event.why)  # fmt: skip
            await self._told(event)
        if self._owns and self._asking is None and self._task is not None:
            self._ask_canaries(states)

    def gauges(self) -> dict[str, float]:
        """For ``/metrics``."""
        states = self._routing.states.values()
        return {
            "route_events": self.moved,
            "routes_rolled_back": sum(state.stage == "rolled_back" for state in states),
            "routes_frozen": sum(bool(state.frozen) for state in states),
        }

    # -- notes and states

    def _taken(self) -> list[Note]:
        """This worker's notes since the last time."""
        routing, now_ms = self._routing, self._clock.now_ms()
        notes = list(routing.notes)
        routing.notes.clear()
        candidates = routing.candidates()
        for route, counts in list(routing.seen.items()):
            if any(counts) and route in candidates:
                notes.append(
                    SeenNote(route=route, candidate=candidates[route].ref, at_ms=now_ms, counts=tuple(counts))
                )
        routing.seen.clear()
        return notes

    def _exchange(self, notes: list[Note]) -> tuple[Mapping[str, RolloutState], list[Event]]:
        """What blocks of a round, on a thread."""
        now_ms = self._clock.now_ms()
        if notes:
            self._rollouts.saw(notes)
            notes.clear()
        if now_ms - self._lease_ms >= RENEW_MS:
            owned = self._owns
            self._owns = self._rollouts.own(self._name, now_ms=now_ms, until_ms=now_ms + LEASE_MS)
            self._lease_ms = now_ms if self._owns else self._lease_ms
            self._begun = self._begun and owned and self._owns
        events: list[Event] = []
        if self._owns and (not self._begun or self._rollouts.waiting()):
            self._begun = True
            return self._rollouts.fold(lambda states, waiting: self._folded(states, waiting, events)), events
        return self._rollouts.read(), events

    def _folded(
        self, states: Mapping[str, RolloutState], notes: Sequence[Note], events: list[Event]
    ) -> tuple[Mapping[str, RolloutState], Sequence[Changed]]:
        now_ms = self._clock.now_ms()
        events.clear()
        changed = {}
        for route, candidate in self._routing.candidates().items():
            before = states.get(route) or RolloutState(route=route, since_ms=now_ms)
            ours = [note for note in notes if note.route == route]
            changed[route], found = folded(before, candidate, ours, now_ms=now_ms)
            events += found
        return changed, [_audited(event) for event in events]

    # -- people

    async def _told(self, event: Event) -> None:
        if self._tell is None:
            return
        try:
            await asyncio.to_thread(self._tell, alert_of(event))
        except StoreFailed as error:
            _LOG.warning("an alert of the route '%s' could not be raised: %s", event.route, error)

    # -- the canary sets

    def _ask_canaries(self, states: Mapping[str, RolloutState]) -> None:
        now_ms = self._clock.now_ms()
        for route, canary in self._canaries.items():
            state = states.get(route) or RolloutState(route=route)
            if now_ms - state.canary_at_ms >= canary.every_ms and canary.affordable(state, now_ms):
                self._asking = asyncio.get_running_loop().create_task(self._asked(canary, state))
                return

    async def _asked(self, canary: CanarySet, state: RolloutState) -> None:
        async def ask() -> None:
            found: CanaryNote = await canary.ask(state)
            self._routing.notes.append(found)

        try:
            await outlived(ask(), f"the canary set of route '{state.route}'")
            await asyncio.sleep(2 * ROUND_S)  # until the state says that it was asked
        finally:
            self._asking = None


def alert_of(event: Event) -> Alert:
    """The event as an alert: one for each time that it happens."""
    key = f"route|{event.kind}|{event.route}|{event.after}|{event.at_ms}"
    return Alert(
        id=alert_id(key),
        key=key,
        kind="route",
        severity=_URGENT.get(event.kind, "info"),
        counter=f"route:{event.route}",
        at_ms=event.at_ms,
        route=event.route,
        event=event.kind,
        before=event.before,
        after=event.after,
        why=event.why,
    )


def _audited(event: Event) -> Changed:
    return Changed(
        at_ms=event.at_ms,
        subject="route",
        name=event.route,
        before=event.before,
        after=event.after,
        by="gateway",
        detail=f"{event.kind}: {event.why}",
    )


def restart_of(state: RolloutState, *, by: str, at_ms: int) -> Changed:
    """What goes on the audit log when somebody begins a roll-out again by hand."""
    return Changed(
        at_ms=at_ms, subject="route", name=state.route, before=stage_name(state), after="shadow", by=by,
        detail="began_again: by hand",
    )  # fmt: skip
