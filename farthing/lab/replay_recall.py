"""The exact cache on the short way of a replay: the routes, keys, store and flights of the pipeline's own cache.

Who would have to wait for another call's answer takes the pipeline. Hits, misses and what is kept are decided here.
"""

from collections.abc import Callable, Coroutine, Iterable, KeysView
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from farthing.core.caching import AS_USUAL, Controls, Routes, controls_of, refusal, words_of
from farthing.core.caching_key import partition_of
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.policy_cache import CacheRoute
from farthing.core.types import Decision, Endpoint, PromptView, Scope, Usage
from farthing.engine.caching import is_fresh, not_cached, stored_answer
from farthing.engine.caching_tee import Nowhere, Tee
from farthing.engine.deliver import TERMINALS
from farthing.lab.replay_cache import Awaited, ReplayCaching, ask_of, key_of, made_answer, refused
from farthing.lab.replay_hop import Hop, Kept
from farthing.lab.replay_plain import Asked, Fly, Looks
from farthing.ports.cache import Ask, StoredAnswer, size_of
from farthing.wire.replay import objection, streamed
from farthing.wire.replay_json import Unreplayable
from farthing.wire.tap import StreamTap

_T = TypeVar("_T")
_ANSWERS_MAX: Final = 4_096
_BODIES_MAX: Final = 256
Way = Literal["hit", "provider", "pipeline"]
_MISSED: Final[tuple[Way, None]] = ("provider", None)


Cached = tuple[float, tuple[tuple[StoredAnswer, float, int], ...]]
"""(age of the cache, its answers with their own age and uses)."""


@runtime_checkable
class Restorable(Protocol):
    """A store that can be written down."""

    def snapshot(self) -> Cached: ...

    def restore(self, clock: float, answers: Iterable[tuple[StoredAnswer, float, int]]) -> None: ...


@runtime_checkable
class Adds(Protocol):
    """A store that does not wait."""

    def add(self, answer: StoredAnswer, *, now_ms: int) -> None:
        """``put``."""
        ...


@runtime_checkable
class AddsLater(Adds, Protocol):
    """One that takes answers which are made when they are wanted."""

    def keys(self) -> KeysView[str]:
        """All that are kept; a live view."""
        ...

    def add_later(
        self,
        key: str,
        answer: StoredAnswer | Callable[[], StoredAnswer],
        charge: int | None,
        size: int,
        expires_at_ms: int,
        now_ms: int,
    ) -> None: ...


class Recalls:
    """Looks calls up in a replay's cache, and keeps what providers answered."""

    def __init__(self, caching: ReplayCaching, routes: tuple[CacheRoute, ...], *, noted: bool) -> None:
        """``noted``: somebody wants to know what was decided."""
        self._store = caching.store
        self._adds = caching.store if isinstance(caching.store, Adds) else None
        self._flights = caching.flights
        self._leading = caching.flights.open
        self._hops = caching.flights.hops
        self._later = caching.store if isinstance(caching.store, AddsLater) else None
        self._keys = self._later.keys() if self._later is not None else {}.keys()
        self.noted = noted
        self._routes = Routes(routes)
        self._alike = not any(route.match for route in routes)
        """Which route is for a call does not hang on who calls."""

    def look(self, fly: Fly, now_ms: int) -> tuple[Way, StoredAnswer | None]:
        """Where a call gets its answer, and the answer of a hit. Raises ``BadRequest``, ``NotCached``."""
        exchange, shape = fly.exchange, fly.shape
        looks = shape.looks
        if looks is None:
            looks = shape.looks = self._learned(fly)
        readings = exchange.readings
        if looks is not None and exchange.error != "deferred" and not (readings and "cache_control" in readings):
            return self._look(fly, looks, now_ms)
        request = fly.request
        route = self._routes.find(request)
        if route is None:
            return "provider", None
        if fly.exchange.view.stream and fly.exchange.attempts and fly.exchange.attempts[0].ttft_ms is None:
            return "pipeline", None
        controls = controls_of(request.headers)
        if controls is not AS_USUAL:
            request.readings["cache_control"] = words_of(request.headers)
        found: Ask | str = "asked"
        if controls.reads or controls.writes:
            found = ask_of(request, fly.exchange, route, controls, fly.shape.target)
        if isinstance(found, str):
            fly.decisions = (_note("bypass", found, (("route", route.name),)),)
            if controls.only_cached:
                raise not_cached(found)
            return "provider", None
        flies = route.single_flight and controls.writes
        if flies and not found.refreshes and self._flights.find(found.key) is not None:
            return "pipeline", None
        answer = self._kept(found.key, route, controls, now_ms) if controls.reads and route.exact else None
        if answer is not None:
            return _given(request.view, answer), answer
        leads = self._flights.begin(found.key) if flies else None
        fly.asked = Asked(fly.exchange, route, found.target, found.key, found.partition, controls, leads)
        return _MISSED

    def _learned(self, fly: Fly) -> Looks | None:
        """What is the same for all calls of a plan; None: too little is."""
        if not self._alike:
            return None
        route = self._routes.find(fly.request)
        if route is None:
            return Looks(None, "", _nothing)
        if any(name not in SCOPE_DIMENSIONS for name in route.partition):
            return None
        values = attrgetter(*route.partition) if route.partition else _nothing
        return Looks(route, refusal(route, fly.request.view, {}), values)

    def _look(self, fly: Fly, looks: Looks, now_ms: int) -> tuple[Way, StoredAnswer | None]:
        """The same for a call that says nothing about caches."""
        exchange, route, target = fly.exchange, looks.route, fly.shape.target
        if route is None:
            return "provider", None
        if exchange.view.stream and exchange.attempts and exchange.attempts[0].ttft_ms is None:
            return "pipeline", None
        why = looks.refuses or (refused(route, exchange) if exchange.decisions else "")
        if why:
            fly.decisions = (_note("bypass", why, (("route", route.name),)),)
            return "provider", None
        values = looks.values(exchange.scope)
        partition = looks.partitions.get(values)
        if partition is None:
            if len(looks.partitions) >= _ANSWERS_MAX:
                looks.partitions.clear()
            partition = looks.partitions[values] = partition_of(fly.request, route, target)
        key = key_of(exchange, partition) if exchange.decisions else f"{partition}:{exchange.received_digest}"
        if route.single_flight and (key in self._leading or key in self._hops):
            return "pipeline", None
        if route.exact and (answer := self._kept(key, route, AS_USUAL, now_ms)) is not None:
            return _given(exchange.view, answer), answer
        leads = None
        if route.single_flight:
            leads = self._leading[key] = Awaited()
        fly.asked = Asked(exchange, route, target, key, partition, AS_USUAL, leads)
        return _MISSED

    @property
    def quick(self) -> bool:
        """:meth:`misses` and :meth:`keep` may be asked."""
        return self._later is not None

    def misses(self, hop: Hop) -> bool:
        """No cache can answer it; False: :meth:`look` must be asked, and nothing has been done."""
        exchange, looks = hop.exchange, hop.shape.looks
        if looks is None:
            return False
        route = looks.route
        if route is None:
            return True
        if exchange.view.stream and exchange.attempts[0].ttft_ms is None:
            return False
        if looks.refuses:
            return True
        try:
            partition = looks.partitions[looks.values(exchange.scope)]
        except KeyError:
            return False
        key = f"{partition}:{exchange.received_digest}"
        if key in self._keys or key in self._hops or key in self._leading:
            return False
        hop.route = route
        hop.partition = partition
        hop.key = key
        return True

    def leads(self, hop: Hop, route: CacheRoute) -> None:
        """Who asks the same from now on waits for it."""
        if route.single_flight:
            self._hops[hop.key] = hop

    def hand_over(self, fly: Fly) -> Fly:
        """A call that goes on the short way, on which others find it too."""
        if fly.asked is not None and fly.asked.flight is not None:
            self._hops.pop(fly.asked.key, None)
            self._leading[fly.asked.key] = fly.asked.flight
        return fly

    def keep(self, hop: Hop, route: CacheRoute, usage: Usage, total: int, ended_ms: int) -> None:
        """``learn`` and ``end`` for a call that its route has missed."""
        looks, later, key = hop.shape.looks, self._later, hop.key
        assert looks is not None
        assert later is not None
        try:
            answer = looks.answers[(usage.finish_reason, hop.exchange.attempts[0].status, True, usage.raw)]
        except KeyError:
            fly = hop.fly()
            fly.usage = usage
            answer = self._answer(fly, usage)
        kept: Kept | None = None
        if answer is not None:
            body, size = answer
            kept = Kept(
                hop.exchange, hop.shape, route, hop.partition, key, body, usage, total, hop.started_ms, ended_ms
            )
            later.add_later(key, kept, total, size, ended_ms + route.ttl_ms, ended_ms)
        if hop.waited is not None:
            hop.waited.land(None if kept is None else kept())
        if self._hops.get(key) is hop:
            del self._hops[key]

    def again(self, fly: Fly, *, leads: bool) -> None:
        """A call that had been missed when the replay was interrupted."""
        request, target = fly.request, fly.shape.target
        route = self._routes.find(request)
        controls = controls_of(request.headers)
        found = "" if route is None else ask_of(request, fly.exchange, route, controls, target)
        assert isinstance(found, Ask)
        leading = self._flights.begin(found.key) if leads else None
        fly.asked = Asked(fly.exchange, found.route, target, found.key, found.partition, controls, leading)

    def cached(self) -> Cached | None:
        """What the cache holds; None: its store cannot say."""
        return self._store.snapshot() if isinstance(self._store, Restorable) else None

    def restore(self, cached: Cached) -> None:
        """Fills the cache."""
        if isinstance(self._store, Restorable):
            self._store.restore(*cached)

    def missed(self, fly: Fly) -> None:
        """Notes that a call goes to its provider. Raises ``NotCached``."""
        asked = _asked(fly)
        if asked.controls.only_cached:
            raise not_cached("nothing is kept for it")
        if not self.noted:
            return
        word = "miss" if asked.controls.reads else "refresh"
        fly.decisions = (_note(word, "not_kept", (("route", asked.route.name), ("key", asked.key))),)

    def learn(self, fly: Fly, usage: Usage, total: int | None, ended_ms: int) -> None:
        """Keeps an answer that may be kept, and lets those that wait for it have it."""
        asked = fly.asked
        made = self._answer(fly, usage) if asked is not None and asked.controls.writes else None
        if asked is None or made is None:
            return
        answer = stored_answer(
            asked,
            made[0],
            usage=usage,
            charge=total,
            entry_id=f"{fly.exchange.request_id}-1",
            at_ms=ended_ms,
            latency_ms=ended_ms - fly.started_ms,
        )
        if asked.flight is not None:
            asked.flight.land(answer)
        if self._adds is not None:
            self._adds.add(answer, now_ms=ended_ms)
        else:
            at_once(self._store.put(answer, now_ms=ended_ms))

    def end(self, fly: Fly) -> None:
        """The call is over, however it ended."""
        asked = fly.asked
        if asked is None or asked.flight is None:
            return
        leads, leading = asked.flight, self._leading
        leads.land(None)
        if leading.get(asked.key) is leads:
            del leading[asked.key]

    def _kept(self, key: str, route: CacheRoute, controls: Controls, now_ms: int) -> StoredAnswer | None:
        answer = self._store.peek(key, now_ms=now_ms)  # at hand
        if answer is None or is_fresh(answer, route, controls, now_ms):
            return answer
        answer = self._store.peek(key, now_ms=now_ms)  # in the store: here they are one; each look counts as a use
        return answer if answer is None or is_fresh(answer, route, controls, now_ms) else None

    def _answer(self, fly: Fly, usage: Usage) -> tuple[bytes, int] | None:
        """The answer as it would be kept, and its size; None: it may not be."""
        attempts, looks, logged = fly.exchange.attempts, fly.shape.looks, fly.flight is None
        key = (fly.usage.finish_reason, attempts[0].status if logged and attempts else 200, logged, usage.raw)
        if looks is not None:
            try:
                return looks.answers[key]
            except KeyError:
                pass
        view, route = fly.exchange.view, _asked(fly).route
        finish, status, first, raw = key
        how = _How(view.stream, view.include_usage, first, fly.shape.ask.strips_usage)
        body = _made(
            view.endpoint, finish, status=status, how=how, raw=raw, bytes_max=route.bytes_max, tools=route.tools
        )
        made = None if body is None else (body, size_of(body))
        if looks is not None:
            if len(looks.answers) >= _BODIES_MAX:
                looks.answers.clear()
            looks.answers[key] = made
        return made


class _How(NamedTuple):
    """How an answer goes to its caller."""

    stream: bool
    include_usage: bool
    first: bool
    """It has a first byte before its last: answers that are estimated come at once."""
    strips: bool
    """Usage is taken out that the caller did not ask for."""


class _Deaf:
    """A meter that hears nothing: the log has metered the answer."""

    def event(self, data: bytes) -> None:
        """Not heard."""


def _made(
    endpoint: Endpoint, finish: str, *, status: int, how: _How, raw: bytes, bytes_max: int, tools: bool
) -> bytes | None:
    """What the pipeline would keep of such an answer, on its way through tap and tee; None: nothing."""
    whole, events, last = made_answer(endpoint, finish)
    tee = Tee(Nowhere(), b"", bytes_max)
    if how.stream:
        at_once(_stream(tee, endpoint, status, (events, last) if how.first else (last,), strips=how.strips))
    else:
        at_once(tee.whole(status, [], whole))
    view = PromptView(endpoint=endpoint, model="", include_usage=how.include_usage)
    try:
        body = tee.body(view, raw)
    except Unreplayable:
        return None
    return None if body is None or objection(endpoint, body, tools=tools) else body


async def _stream(tee: Tee, endpoint: Endpoint, status: int, chunks: tuple[bytes, ...], *, strips: bool) -> None:
    tap = StreamTap(_Deaf(), marks=(), terminals=TERMINALS[endpoint], strip_usage=strips)
    await tee.start(status, [])
    for chunk in chunks:
        passed = tap.feed(chunk)
        if passed:
            await tee.write(passed)
        if tap.ended:
            break
    rest = b"" if tap.ended else tap.finish()
    await tee.end(rest + tap.held)


@lru_cache(maxsize=_ANSWERS_MAX)
def _streams(endpoint: Endpoint, body: bytes, include_usage: bool) -> bool:
    """A kept answer can be given as a stream."""
    try:
        streamed(endpoint, body, include_usage=include_usage)
    except Unreplayable:
        return False
    return True


def _asked(fly: Fly) -> Asked:
    assert fly.asked is not None
    return fly.asked


def _given(view: PromptView, answer: StoredAnswer) -> Way:
    """How a kept answer goes to its caller."""
    return "hit" if not view.stream or _streams(view.endpoint, answer.body, view.include_usage) else "pipeline"


def _nothing(scope: Scope) -> object:
    return ()


def at_once(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of work that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise RuntimeError("work on the short way of a replay waits for something")


def _note(action: str, reason: str, evidence: tuple[tuple[str, str], ...]) -> Decision:
    return Decision(stage="cache", action=action, reason=reason, evidence=evidence)
