"""What was seen of a route's candidate, folded into where its roll-out stands; and what of that people should know.

Workers note what they see; one of them folds all notes in their order. Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from farthing.core.rollout import (
    CanaryPrint,
    RolloutRules,
    RolloutState,
    begun_again,
    observed,
    restarted,
    shadow_spent,
    stage_name,
)
from farthing.core.route_canary import Changed, change_of
from farthing.core.route_drift import labelled, saw


class PairNote(msgspec.Struct, frozen=True, kw_only=True, tag="pair", forbid_unknown_fields=True):
    """A shadow call: what it cost and, where anything could tell, how much better the strong answer was."""

    route: str
    candidate: str
    at_ms: int
    day: str
    nusd: int
    difference: float | None = None
    """Strong minus cheap, −1..1."""
    estimate: float | None = None
    """What the router had expected; None: it estimates nothing."""


class SeenNote(msgspec.Struct, frozen=True, kw_only=True, tag="seen", forbid_unknown_fields=True):
    """Prompts that one worker routed, by drift bucket."""

    route: str
    candidate: str
    at_ms: int
    counts: tuple[int, ...]


class CanaryNote(msgspec.Struct, frozen=True, kw_only=True, tag="canary", forbid_unknown_fields=True):
    """The canary set was asked."""

    route: str
    at_ms: int
    day: str
    nusd: int
    prints: tuple[CanaryPrint, ...]


Note = PairNote | SeenNote | CanaryNote


class Candidate(NamedTuple):
    """What a route rolls out at the moment, by content, and what its prompts looked like in training."""

    ref: str
    rules: RolloutRules
    expected: Sequence[int] = ()


EventKind = Literal["promoted", "rolled_back", "began_again", "frozen", "thawed", "model_changed"]


class Event(NamedTuple):
    """Something that people should know of."""

    kind: EventKind
    route: str
    before: str
    after: str
    why: str
    at_ms: int


def folded(
    state: RolloutState, candidate: Candidate, notes: Iterable[Note], *, now_ms: int
) -> tuple[RolloutState, tuple[Event, ...]]:
    """The state after all notes of its route, and the events in their order."""
    events: list[Event] = []
    current = _current(state, candidate)
    events += _told(state, current, now_ms)
    for note in notes:
        after, changed = _after(current, candidate, note)
        moved = _told(current, after, note.at_ms)
        if moved and (after.stage, after.step) != (current.stage, current.step):
            after = msgspec.structs.replace(after, since_ms=note.at_ms)
        events += [Event("model_changed", state.route, one.model, one.model, one.why, note.at_ms) for one in changed]
        events += moved
        current = after
    return current, tuple(events)


def _current(state: RolloutState, candidate: Candidate) -> RolloutState:
    """The state of what is rolled out now; another candidate begins in shadow."""
    if not state.candidate:
        return msgspec.structs.replace(state, candidate=candidate.ref)
    return restarted(state, candidate.ref)


def _after(state: RolloutState, candidate: Candidate, note: Note) -> tuple[RolloutState, tuple[Changed, ...]]:
    if isinstance(note, CanaryNote):
        return _canary(shadow_spent(state, day=note.day, nusd=note.nusd), note)
    ours = note.candidate == candidate.ref
    if isinstance(note, SeenNote):
        return (saw(state, candidate.expected, note.counts) if ours else state), ()
    state = shadow_spent(state, day=note.day, nusd=note.nusd)
    if not ours or note.difference is None:
        return state, ()
    if note.estimate is not None:
        state = labelled(state, note.estimate, note.difference)
    return observed(state, candidate.rules, note.difference), ()


def _canary(state: RolloutState, note: CanaryNote) -> tuple[RolloutState, tuple[Changed, ...]]:
    """A model that changed re-opens the gate: what was shown of the old one says nothing of the new one."""
    before = {one.model: one for one in state.canaries}
    found = [change_of(before[one.model], one) for one in note.prints if one.model in before]
    changed = tuple(one for one in found if one is not None)
    renewed = {one.model for one in changed}
    kept = {one.model: one for one in state.canaries}
    for one in note.prints:
        old = kept.get(one.model)
        same = old is not None and one.model not in renewed and len(old.prints) == len(one.prints)
        if not same or old is None:
            kept[one.model] = one
    if changed:
        state = begun_again(state, state.candidate, f"model_changed:{changed[0].model}")
    return (
        msgspec.structs.replace(state, canaries=tuple(kept.values()), canary_at_ms=note.at_ms),
        changed,
    )


def _told(before: RolloutState, after: RolloutState, at_ms: int) -> list[Event]:
    was, now = stage_name(before), stage_name(after)
    found = []
    if was != now:
        kind: EventKind = "promoted"
        if after.stage == "rolled_back":
            kind = "rolled_back"
        elif after.stage == "shadow":
            kind = "began_again"
        found.append(Event(kind, after.route, was, now, after.reason, at_ms))
    if bool(before.frozen) != bool(after.frozen):
        kind = "frozen" if after.frozen else "thawed"
        found.append(Event(kind, after.route, now, now, after.frozen or before.frozen, at_ms))
    return found
