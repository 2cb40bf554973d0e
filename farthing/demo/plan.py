"""The day's plan: every call with its moment, and every fault with its place. Fixed by the seed."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any, Final, Literal

import msgspec

from farthing.demo.company import (
    AGENT,
    AGENT_HOUR,
    FEATURES,
    HOURS,
    OUTAGE_HOUR,
    OUTAGE_MINUTES,
    OUTAGE_MODEL,
    Feature,
)
from farthing.demo.recipes import RECIPES, Ask

DAY: Final = 24 * 3_600_000
MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
SLOW_MS: Final = 2_600
"""How long an answer of the "too slow" fault takes in real time; the gateway waits less."""
LOST_AFTER_MS: Final = 1_200
"""When the provider's connection is lost before an answer, with the work done."""

HangUp = Literal["", "stream", "answer"]
_ONE_SHOT: Final = (
    ("cut:6", True, 0.006), ("cut:14", True, 0.004), ("cut:120", False, 0.004), ("no-usage", False, 0.005),
    ("no-usage", True, 0.003), ("malformed", False, 0.003), ("slow-first-byte:120", True, 0.006),
    ("slow:150", False, 0.006),
)  # fmt: skip
"""(fault, for streams, share of all calls): faults of an answer under way, which no retry repeats."""


class PlannedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the day."""

    id: str
    """Travels as ``x-sim-request`` to the provider and as the tag ``call`` into the ledger."""
    at_ms: int
    """Since midnight of a day of 24 hours."""
    feature: Feature
    user: str
    ask: Ask
    fault: str = ""
    hang_up: HangUp = ""
    """The caller leaves in the middle of a stream, or while it waits for a whole answer."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Standing faults of the provider from a moment on: the body of ``POST /sim/faults``."""

    at_ms: int
    body: bytes


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole day, in order of time."""

    calls: tuple[PlannedCall, ...]
    orders: tuple[Order, ...]


def make_plan(requests: int, seed: int) -> Plan:
    """A day of about ``requests`` calls."""
    random = Random(seed)
    drafts = [draft for feature in FEATURES for draft in _feature_calls(feature, requests, random)]
    drafts += _storm(requests, random)
    drafts += _oversized(requests, random)
    drafts.sort(key=lambda call: call.at_ms)
    calls = [msgspec.structs.replace(call, id=f"{seed}-{number:05}") for number, call in enumerate(drafts, 1)]
    return Plan(calls=tuple(_troubled(calls, random)), orders=_orders(seed))


def _feature_calls(feature: Feature, requests: int, random: Random) -> Iterator[PlannedCall]:
    number = max(feature.least, round(requests * feature.weight / 1000))
    users = _users(feature, number)
    weights = [1 / (rank + 3) for rank in range(len(users))]
    hours = random.choices(range(24), HOURS[feature.hours], k=number)
    if feature.model == OUTAGE_MODEL:
        hours[: max(4, number // 12)] = [OUTAGE_HOUR] * max(4, number // 12)
    for hour in hours:
        # Calls into the outage come early in it, so that it outlasts their retries.
        first, last = (2, OUTAGE_MINUTES // 3) if feature.model == OUTAGE_MODEL and hour == OUTAGE_HOUR else (0, 60)
        user = random.choices(users, weights)[0]
        yield PlannedCall(
            id="",
            at_ms=hour * HOUR + random.randrange(first * MINUTE, last * MINUTE),
            feature=feature,
            user=user,
            ask=RECIPES[feature.recipe](random, feature.model, user),
        )


def _users(feature: Feature, calls: int) -> list[str]:
    """People of a team share its features; the nightly index is a few machines."""
    if feature.hours == "night":
        return [f"indexer-{number}" for number in range(1, 2 + calls // 90)]
    return [f"{feature.team}-{number:02}" for number in range(1, 5 + calls // 8)]


def _storm(requests: int, random: Random) -> Iterator[PlannedCall]:
    """The buggy agent: one call after another, twenty seconds apart, whatever it is told."""
    ask = RECIPES[AGENT.recipe](random, AGENT.model, AGENT.name)
    for number in range(max(AGENT.least, round(requests * AGENT.weight / 1000))):
        at_ms = AGENT_HOUR * HOUR + 20 * MINUTE + number * 20_000
        yield PlannedCall(id="", at_ms=at_ms, feature=AGENT, user=AGENT.name, ask=ask)


def _oversized(requests: int, random: Random) -> Iterator[PlannedCall]:
    feature = next(feature for feature in FEATURES if feature.recipe == "paper")
    for _ in range(max(1, requests // 400)):
        at_ms = random.randrange(9, 18) * HOUR + random.randrange(HOUR)
        user = f"{feature.team}-01"
        ask = RECIPES["oversized"](random, feature.model, user)
        yield PlannedCall(id="", at_ms=at_ms, feature=feature, user=user, ask=ask)


def _troubled(calls: list[PlannedCall], random: Random) -> list[PlannedCall]:
    """Gives some calls a fault of their own and lets some callers hang up; at least one of each kind."""
    free = [place for place, call in enumerate(calls) if _may_fail(call)]
    random.shuffle(free)
    out = list(calls)

    def pick(stream: bool, share: float) -> list[int]:
        wanted = max(1, round(len(calls) * share))
        chosen = [place for place in free if calls[place].ask.stream is stream][:wanted]
        for place in chosen:
            free.remove(place)
        return chosen

    for fault, stream, share in _ONE_SHOT:
        for place in pick(stream, share):
            out[place] = msgspec.structs.replace(out[place], fault=fault)
    for place in pick(True, 0.015):
        out[place] = msgspec.structs.replace(out[place], hang_up="stream")
    for place in pick(False, 0.008):
        out[place] = msgspec.structs.replace(out[place], hang_up="answer", fault="slow:800")
    return out


def _may_fail(call: PlannedCall) -> bool:
    """Free counts have nothing to lose, and the models with standing faults keep those."""
    model = str(call.ask.body["model"])
    return (
        call.feature.recipe not in ("length", "agent")
        and model not in (OUTAGE_MODEL, "gpt-4.1-nano", "claude-opus-4-5")
        and len(json.dumps(call.ask.body)) < 25_000
    )


def _orders(seed: int) -> tuple[Order, ...]:
    always: list[dict[str, Any]] = [
        {"fault": "429:retry-after=0", "rate": 0.02, "first_attempts": 1},
        {"fault": "500", "rate": 0.01, "first_attempts": 1},
        {"fault": "503", "rate": 0.01, "first_attempts": 2},
        {"fault": "529", "rate": 0.004, "first_attempts": 1, "endpoint": "/v1/messages"},
    ]
    morning: list[dict[str, Any]] = [
        {"fault": f"slow:{SLOW_MS}", "model": "claude-opus-4-5", "times": 2},
        {"fault": f"reset:{LOST_AFTER_MS}", "model": "gpt-4.1-nano", "times": 2, "first_attempts": 1},
    ]
    outage: list[dict[str, Any]] = [{"fault": "503", "model": OUTAGE_MODEL}]
    return (
        _order(0, seed, morning + always),
        _order(OUTAGE_HOUR * HOUR, seed, outage + always),
        _order(OUTAGE_HOUR * HOUR + OUTAGE_MINUTES * MINUTE, seed, always),
    )


def _order(at_ms: int, seed: int, rules: list[dict[str, Any]]) -> Order:
    return Order(at_ms=at_ms, body=msgspec.json.encode({"seed": seed, "rules": rules}))
