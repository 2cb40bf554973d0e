"""The provider in a replay: it answers every try as the log says it was answered, at the time it took.

A try that the log does not know (another model, one try more) is answered by an estimator, and what it books is
marked as estimated by its source.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, cast

import msgspec

from farthing.core.errors import (
    Overloaded,
    ProviderFailed,
    RateLimited,
    Rejected,
    StreamBroken,
    TimedOut,
)
from farthing.core.types import AttemptFact, Bounds, Request, Target, Usage
from farthing.lab.replay_log import Logged
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.provider import Codec, HttpReply, HttpRequest, StreamMeter, Timeouts, UsageReader

_JSON: Final = ((b"content-type", b"application/json"),)
_EVENTS: Final = ((b"content-type", b"text/event-stream"),)
_FIRST: Final = b"data: {}\n\n"
"""An event without meaning: it marks the time of the first byte."""
_FAILURES: Final = {kind.code: kind for kind in (RateLimited, Overloaded, TimedOut, Rejected, StreamBroken)}
_MID_STREAM: Final = frozenset({"client_gone", "cancelled", StreamBroken.code})

Estimate = Callable[[Logged, Target], Usage]
"""Usage of a request at a target that did not answer it."""


class Flight(msgspec.Struct, kw_only=True):
    """One replayed request while it is served."""

    logged: Logged
    tries: int = 0
    fact: AttemptFact | None = None
    """The logged try that the current one repeats; None when the log has none like it."""
    usage: Usage | None = None
    """What the current try consumes."""
    estimated: bool = False
    """Some try of it was not in the log."""


class Provider:
    """Codec and transport of every upstream in a replay."""

    def __init__(self, loop: VirtualLoop, estimate: Estimate) -> None:
        self.flights: dict[str, Flight] = {}
        self._loop = loop
        self._estimate = estimate

    def codec(self, real: Codec) -> "LoggedCodec":
        """Stands in for an upstream's codec, which still says what a call can consume at most."""
        return LoggedCodec(self, real)

    def begin(self, flight: Flight, target: Target) -> None:
        """The next try of a request, at a target."""
        logged = flight.logged
        place = flight.tries
        flight.tries += 1
        fact = logged.attempts[place] if place < len(logged.attempts) else None
        if fact is not None and (fact.provider, fact.model) == (target.provider, target.model):
            flight.fact = fact
            flight.usage = logged.usages.get(fact.attempt) or logged.usage
            return
        flight.fact = None
        flight.estimated = True
        flight.usage = self._estimate(logged, target)

    async def send(self, request: HttpRequest, *, timeouts: Timeouts) -> HttpReply:
        """The answer's head. Raises what the logged try raised, when it did."""
        flight = self.flights[request.url]
        fact, logged = flight.fact, flight.logged
        if fact is None or _answered(fact):
            return LoggedReply(self._loop, flight)
        place = flight.tries
        ends = fact.started_at_ms + fact.latency_ms
        if place < len(logged.attempts) and place <= len(logged.pauses_ms):
            ends = logged.attempts[place].started_at_ms - logged.pauses_ms[place - 1]
        await self._loop.until(ends)
        raise _failure(fact)

    async def close(self) -> None:
        """Nothing to close."""


class LoggedCodec:
    """Names the request instead of encoding it, and reads the log instead of an answer."""

    def __init__(self, provider: Provider, real: Codec) -> None:
        self._provider = provider
        self._real = real

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        self._provider.begin(self._provider.flights[request.id], target)
        return HttpRequest(method="REPLAY", url=request.id, headers=())

    def reader(self, request: Request) -> UsageReader:
        return cast("UsageReader", LoggedReader(self._provider.flights[request.id]))

    def bounds(self, request: Request, target: Target) -> Bounds:
        return self._real.bounds(request, target)

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        return self._real.failure(status, headers, body)


class LoggedReply:
    """An answer that takes as long as the logged one did."""

    def __init__(self, loop: VirtualLoop, flight: Flight) -> None:
        self._loop = loop
        self._flight = flight
        fact = flight.fact
        self.status = fact.status if fact is not None else 200
        self.headers: tuple[tuple[bytes, bytes], ...] = _EVENTS if flight.logged.request.view.stream else _JSON

    async def read(self) -> bytes:
        await self._loop.until(self._ends())
        return b"{}"

    async def chunks(self) -> AsyncIterator[bytes]:
        fact = self._flight.fact
        if fact is not None and fact.ttft_ms is not None:
            await self._loop.until(fact.started_at_ms + fact.ttft_ms)
            yield _FIRST
        await self._loop.until(self._ends())
        if fact is not None and fact.error == "cancelled":
            raise asyncio.CancelledError
        if fact is not None and fact.error and fact.error != "client_gone":
            raise _failure(fact)

    def close(self) -> None:
        """Nothing to close."""

    def _ends(self) -> int:
        fact, logged = self._flight.fact, self._flight.logged
        if fact is not None:
            return fact.started_at_ms + fact.latency_ms
        return max(self._loop.now_ms(), logged.request.received_at_ms + logged.latency_ms)


class LoggedReader:
    """Reads what the log says was consumed."""

    flavour = "log"

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self.marks: tuple[bytes, ...] = ()
        self.text_bytes = 0
        self.ended = False

    def from_body(self, body: bytes) -> Usage:
        return self._flight.usage or Usage()

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        return self._flight.usage or Usage()

    def meter(self) -> StreamMeter:
        return cast("StreamMeter", self)

    def event(self, data: bytes) -> None:
        """The log has read it already."""

    def usage(self, *, complete: bool) -> Usage:
        return self._flight.usage or Usage()


def _answered(fact: AttemptFact) -> bool:
    return 0 < fact.status < 300


def _failure(fact: AttemptFact) -> ProviderFailed:
    kind = _FAILURES.get(fact.error, ProviderFailed)
    billable = bool(fact.entry_id)
    return kind("The provider failed, as logged.", status=fact.status or None, sent=billable or fact.status > 0)
