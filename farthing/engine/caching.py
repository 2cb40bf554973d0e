"""The cache in a request's path: looked up once it is planned, before anything is held.

A hit books its entry and is delivered in the form the caller asked for; a miss goes on to the provider, and its
answer is kept when it is whole. A cache that fails is a cache that misses.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import msgspec

from farthing.core.caching import AS_USUAL, Controls, Routes, controls_of, refusal, words_of
from farthing.core.caching_key import Uncacheable, deciding, fields_of, key_of, partition_of
from farthing.core.errors import NotCached, StoreFailed
from farthing.core.policy_cache import CacheRoute
from farthing.core.types import LedgerEntry, Usage
from farthing.engine.caching_books import asked_of, avoided_cost, book_hit, hit_entry
from farthing.engine.caching_flights import Flights
from farthing.engine.caching_memo import Known, Memo, Question
from farthing.engine.caching_repeats import REPEATS_BYTES_MAX, TRACE_TAGS, Repeat, Repeats, is_open, is_routed
from farthing.engine.caching_replay import events_of, fixed_of, replay
from farthing.engine.caching_tee import Nowhere, Tee
from farthing.engine.call import Call
from farthing.engine.pipeline import ask_aside
from farthing.engine.record import Ending
from farthing.engine.translating import chat_usage
from farthing.ports.cache import Ask, Asked, ExactCache, Recall, RecallHit, RecallMiss, StoredAnswer
from farthing.ports.reply import Reply
from farthing.wire.replay import objection
from farthing.wire.replay_json import Unreplayable

CLAIM_MS: Final = 60_000
"""How long another process is waited for; a claim whose owner died is free after it."""
_POLL_S: Final = (0.02, 0.05, 0.1, 0.2)

Land = Callable[[StoredAnswer | None], None]
Work = Callable[[Call, Reply], Awaitable[None]]
"""Asks the provider and delivers its answer."""


class Caching:
    """The caches of one gateway. Counts what they do; never raises for a store of its own that fails."""

    def __init__(
        self,
        routes: tuple[CacheRoute, ...],
        store: ExactCache,
        *,
        owner: str,
        shared: bool = False,
        repeats_bytes_max: int = REPEATS_BYTES_MAX,
    ) -> None:
        """``owner`` names this process among those that share the store; ``shared``: there may be others.

        ``repeats_bytes_max`` bounds what is remembered of hits so that the next one costs less; 0: nothing.
        """
        self.store = store
        self.recall: Recall | None = None
        """The semantic cache, where there is one; set before the first request."""
        self._routes = Routes(routes)
        dimensions = [name for route in routes for name in (*route.partition, *(name for name, _ in route.match))]
        self._by_trace = any(name in TRACE_TAGS for name in dimensions)
        self._owner = owner
        self._shared = shared
        self.flights = Flights()
        """Calls of this process that others wait for."""
        self._memo = Memo()
        self.repeats = Repeats(store, self._count_again, bytes_max=repeats_bytes_max)
        """The short way of questions that were answered from memory before."""
        self._counts: dict[tuple[str, ...], float] = {}
        self._saved: dict[tuple[str, ...], int] = {}

    async def start(self) -> None:
        """Opens the store. Raises ``StoreUnavailable``."""
        await self.store.start()
        if self.recall is not None:
            await self.recall.start()

    async def close(self) -> None:
        if self.recall is not None:
            await self.recall.close()
        await self.store.close()

    def counters(self) -> Iterator[tuple[str, str, tuple[str, ...], dict[tuple[str, ...], float]]]:
        """What happened, for metrics: hits by layer, misses, answers not kept by reason, money avoided."""
        yield ("farthing_cache_events", "What caches did", ("route", "event"), dict(self._counts))
        saved = {labels: nusd / 1e9 for labels, nusd in self._saved.items()}
        yield ("farthing_cache_avoided_usd", "Cost of the calls that were not made", ("route", "kind"), dict(saved))

    async def serve(self, call: Call, reply: Reply, work: Work) -> None:
        """Answers from a cache, or does ``work`` and learns from it. Raises what ``work`` raises."""
        route = self._routes.find(call.request)
        if route is None:
            if controls_of(call.request.headers).only_cached:
                raise not_cached("no [[cache]] route is for it")
            await work(call, reply)
            return
        controls = controls_of(call.request.headers)
        if controls is not AS_USUAL:
            call.request.readings["cache_control"] = words_of(call.request.headers)
        question = None
        looks = controls.reads and route.exact
        if looks and call.plan.body is call.request.body:
            question, known = self._memo.find(call, route)
            if known is not None and await self._known(call, reply, route, controls, known):
                return
        found = self._ask(call, route, controls)
        if isinstance(found, str):
            self._count(route, f"bypass:{found}")
            call.note("cache", "bypass", found, (("route", route.name),))
            if controls.only_cached:
                raise not_cached(found)
            await work(call, reply)
            return
        if looks and await self._at_hand(call, reply, found, controls, question):
            return
        if route.single_flight and controls.writes:
            await self._fly(call, reply, found, controls, work)
        elif not await self._from_store(call, reply, found, controls):
            await self._miss(call, reply, found, controls, work)

    def _ask(self, call: Call, route: CacheRoute, controls: Controls) -> Ask | str:
        """The request as the caches see it, or why they do not look at it."""
        request, plan = call.request, call.plan
        if not controls.reads and not controls.writes:
            return "asked"
        try:
            fields = fields_of(plan.body, route.ignore)
        except Uncacheable as error:
            return str(error)
        why = refusal(route, request.view, fields)
        if why:
            return why
        target = plan.targets[0]
        partition = partition_of(request, route, target)
        return Ask(
            request=request,
            route=route,
            target=target,
            key=key_of(partition, fields),
            partition=partition,
            fields=fields,
            refreshes=not controls.reads,
        )

    # -- looking

    async def _known(self, call: Call, reply: Reply, route: CacheRoute, controls: Controls, known: Known) -> bool:
        now_ms = call.services.clock.now_ms()
        answer = self.store.peek(known.key, now_ms=now_ms)
        if answer is None or not is_fresh(answer, route, controls, now_ms):
            return False
        return await self._deliver(call, reply, answer, route, action="exact", layer="memory", known=known)

    async def _at_hand(
        self, call: Call, reply: Reply, ask: Ask, controls: Controls, question: Question | None
    ) -> bool:
        now_ms = call.services.clock.now_ms()
        answer = self.store.peek(ask.key, now_ms=now_ms)
        if answer is None or not is_fresh(answer, ask.route, controls, now_ms):
            return False
        known = None
        if question is not None:
            known = Known(partition=ask.partition, key=ask.key, prints=call.prints)
            self._memo.keep(question, known)
        return await self._deliver(call, reply, answer, ask.route, action="exact", layer="memory", known=known)

    async def _from_store(
        self, call: Call, reply: Reply, ask: Ask, controls: Controls, *, land: Land | None = None
    ) -> bool:
        if not ask.route.exact or ask.refreshes:
            return False
        now_ms = call.services.clock.now_ms()
        try:
            answer = await self.store.get(ask.key, now_ms=now_ms)
        except StoreFailed as error:
            self._failed(call, ask.route, error)
            return False
        if answer is None or not is_fresh(answer, ask.route, controls, now_ms):
            return False
        if land is not None:
            land(answer)
        return await self._deliver(call, reply, answer, ask.route, action="exact", layer="store")

    async def _deliver(
        self,
        call: Call,
        reply: Reply,
        answer: StoredAnswer,
        route: CacheRoute,
        *,
        action: str,
        layer: str,
        known: Known | None = None,
        hit: RecallHit | None = None,
    ) -> bool:
        """Books the hit and gives the answer to the caller; False when it cannot be given in the form asked for."""
        events: tuple[bytes, bytes] | None = None
        if call.request.view.stream:
            try:
                events = events_of(call, answer, known)
            except Unreplayable:
                return False
        call.decisions.extend(call.plan.decisions)
        saves = known.saves(call, answer) if known is not None else avoided_cost(call, answer)
        evidence = hit.evidence if hit is not None else ()
        entry = hit_entry(call, answer, saves, action=action, layer=layer, evidence=evidence)
        ending = await book_hit(call, entry, answer, known.prints if known is not None else None)
        if known is not None:
            self._remember(call, route, answer, entry, ending, events, known)
        self._count(route, f"hit:{layer}")
        self._count_saved(route, action, entry.baseline or 0)
        word = b"semantic" if action == "semantic" else b"hit"
        await replay(call, reply, answer, events, word=word, at_ms=entry.booked_at_ms)
        return True

    def _remember(
        self,
        call: Call,
        route: CacheRoute,
        answer: StoredAnswer,
        entry: LedgerEntry,
        ending: Ending,
        events: tuple[bytes, bytes] | None,
        known: Known,
    ) -> None:
        """Lets the next equal question take the short way, where nothing decided but what stands in it."""
        request = call.request
        if self._by_trace or not request.scope.key or len(entry.decisions) != 1 or not is_open(call.services):
            return
        if is_routed(call.services, request.view.model):
            return
        question = (
            request.scope.key, request.dialect, request.view.endpoint, deciding(request.headers), request.body,
        )  # fmt: skip
        repeat = Repeat(
            answer=answer,
            asked=asked_of(call),
            route=route,
            entry=msgspec.structs.replace(entry, latency_ms=0),
            exchange=call.exchange(msgspec.structs.replace(ending, latency_ms=0), known.prints),
            fixed=fixed_of(answer, events, word=b"hit"),
            traces=tuple([pair for pair in request.headers if pair[0] == b"traceparent"]),
        )
        self.repeats.keep(question, repeat)

    # -- one call for many

    async def _fly(self, call: Call, reply: Reply, ask: Ask, controls: Controls, work: Work) -> None:
        while not ask.refreshes and (flight := self.flights.find(ask.key)) is not None:
            answer = await flight.answer()
            if await self._follow(call, reply, ask, controls, answer, layer="flight"):
                return
            if answer is not None or not flight.left:
                await self._miss(call, reply, ask, controls, work)
                return
        flight = self.flights.begin(ask.key)
        try:
            await self._lead(call, reply, ask, controls, work, land=flight.land)
        finally:
            flight.left = reply.gone
            self.flights.end(ask.key, flight)

    async def _lead(self, call: Call, reply: Reply, ask: Ask, controls: Controls, work: Work, *, land: Land) -> None:
        if await self._from_store(call, reply, ask, controls, land=land):
            return
        if not self._shared or controls.only_cached:
            await self._miss(call, reply, ask, controls, work, land=land)
            return
        try:
            answer = await self._elsewhere(call, ask, controls)
            if answer is not None:
                land(answer)
            if not await self._follow(call, reply, ask, controls, answer, layer="store"):
                await self._miss(call, reply, ask, controls, work, land=land)
        finally:
            await self._give_back(call, ask)

    async def _follow(
        self, call: Call, reply: Reply, ask: Ask, controls: Controls, answer: StoredAnswer | None, *, layer: str
    ) -> bool:
        now_ms = call.services.clock.now_ms()
        if answer is None or not is_fresh(answer, ask.route, controls, now_ms):
            return False
        if reply.gone:
            call.note("cache", "left", "client_gone", (("route", ask.route.name), ("key", ask.key)))
            await call.finish(
                Ending(outcome="aborted", status=499, error="client_gone", latency_ms=call.elapsed_ms())
            )
            return True
        return await self._deliver(call, reply, answer, ask.route, action="exact", layer=layer)

    async def _elsewhere(self, call: Call, ask: Ask, controls: Controls) -> StoredAnswer | None:
        """What another process that asks the same at this moment gets; None: nobody else does, or it takes long."""
        clock, turn = call.services.clock, 0
        loop = asyncio.get_running_loop()
        due = loop.time() + CLAIM_MS / 1000
        try:
            while True:
                mine = await self.store.claim(ask.key, owner=self._owner, ttl_ms=CLAIM_MS, now_ms=clock.now_ms())
                if ask.refreshes:
                    return None
                now_ms = clock.now_ms()
                answer = await self.store.get(ask.key, now_ms=now_ms)  # its last owner may just have kept it
                if answer is not None and is_fresh(answer, ask.route, controls, now_ms):
                    return answer
                if mine or loop.time() >= due:
                    return None
                await asyncio.sleep(_POLL_S[min(turn, len(_POLL_S) - 1)])
                turn += 1
        except StoreFailed as error:
            self._failed(call, ask.route, error)
        return None

    async def _give_back(self, call: Call, ask: Ask) -> None:
        try:
            await asyncio.shield(self.store.release(ask.key, owner=self._owner))
        except StoreFailed as error:
            self._failed(call, ask.route, error)

    # -- asking the provider

    async def _miss(
        self,
        call: Call,
        reply: Reply,
        ask: Ask,
        controls: Controls,
        work: Work,
        *,
        land: Land | None = None,
    ) -> None:
        route = ask.route
        outcome: RecallHit | RecallMiss | None = None
        if self.recall is not None and route.semantic.mode != "off" and controls.similar:
            outcome = await self.recall.recall(ask, now_ms=call.services.clock.now_ms())
            if (
                isinstance(outcome, RecallHit)
                and not ask.refreshes
                and await self._similar(call, reply, ask, outcome)
            ):
                return
        if controls.only_cached:
            self._count(route, "miss:only_if_cached")
            raise not_cached("nothing is kept for it")
        word = b"refresh" if ask.refreshes else b"shadow" if _shadows(outcome) else b"miss"
        self._count(route, word.decode())
        seen = outcome.evidence if outcome is not None else ()
        why = outcome.reason if isinstance(outcome, RecallMiss) else "not_kept"
        call.note("cache", word.decode(), why, (("route", route.name), ("key", ask.key), *seen))
        tee = Tee(reply, word, route.bytes_max if controls.writes else 0)
        await work(call, tee)
        answer = self._made(call, ask, tee) if controls.writes else None
        if answer is None:
            return
        if land is not None:
            land(answer)
        await self._learn(call, ask, answer, outcome)

    async def _similar(self, call: Call, reply: Reply, ask: Ask, hit: RecallHit) -> bool:
        """Serves a similar question's answer; on shadowed hits the provider answers too, at the lever's cost."""
        said = msgspec.structs.replace(hit, evidence=(*hit.evidence, ("asked", ask.key)))
        if not await self._deliver(call, reply, hit.answer, ask.route, action="semantic", layer="semantic", hit=said):
            return False
        if hit.shadow:
            self._count(ask.route, "shadow_call")
            shadow = call.for_lever("cache", "shadow")
            tee = Tee(Nowhere(), b"shadow", ask.route.bytes_max)
            await ask_aside(shadow, tee)
            answer = self._made(shadow, ask, tee)
            if answer is not None:
                await self._learn(call, ask, answer, hit)
        return True

    def _made(self, call: Call, ask: Ask, tee: Tee) -> StoredAnswer | None:
        """The answer as it may be kept; None, and counted, when it may not."""
        route, last = ask.route, call.facts[-1] if call.facts else None
        entry = next((one for one in call.entries if last is not None and one.id == last.entry_id), None)
        why, body = "", None
        if entry is None or last is None or entry.error:
            why = "incomplete"
        elif call.plan.cascade is not None and len(call.entries) > 1:
            why = "cascade"  # several calls made it: what a hit avoids would be more than this entry says
        elif last.provider != ask.target.provider or last.model != ask.target.model:
            why = "fallback"
        else:
            try:
                translated = any(one.stage == "translate" for one in entry.decisions)
                body = tee.body(ask.request.view, chat_usage(entry.usage) if translated else entry.usage.raw)
            except Unreplayable as error:
                why = str(error)
        if not why:
            why = "too_large" if body is None else objection(ask.request.view.endpoint, body, tools=route.tools)
        if why or body is None or entry is None:
            self._count(route, f"unstored:{why}")
            return None
        return stored_answer(
            ask,
            body,
            usage=entry.usage,
            charge=entry.charge.total,
            entry_id=entry.id,
            at_ms=entry.booked_at_ms,
            latency_ms=entry.latency_ms,
        )

    async def _learn(
        self, call: Call, ask: Ask, answer: StoredAnswer, outcome: RecallHit | RecallMiss | None
    ) -> None:
        now_ms = call.services.clock.now_ms()
        stored = True
        try:
            await self.store.put(answer, now_ms=now_ms)
            self._count(ask.route, "stored")
        except StoreFailed as error:
            stored = False
            self._failed(call, ask.route, error)
        if self.recall is not None and outcome is not None:
            await self.recall.learn(ask, answer, outcome, stored=stored, now_ms=now_ms)

    def _failed(self, call: Call, route: CacheRoute, error: StoreFailed) -> None:
        call.services.telemetry.store_failed(f"cache:{error.code}")
        self._count(route, "store_failed")

    def _count_saved(self, route: CacheRoute, action: str, nusd: int) -> None:
        key = (route.name, action)
        self._saved[key] = self._saved.get(key, 0) + nusd

    def _count_again(self, route: CacheRoute, nusd: int) -> None:
        self._count(route, "hit:memory")
        self._count_saved(route, "exact", nusd)

    def _count(self, route: CacheRoute, what: str) -> None:
        key = (route.name, what)
        self._counts[key] = self._counts.get(key, 0) + 1


def stored_answer(
    ask: Asked, body: bytes, *, usage: Usage, charge: int | None, entry_id: str, at_ms: int, latency_ms: int
) -> StoredAnswer:
    """A provider's answer as it is kept from ``at_ms`` on."""
    route = ask.route
    return StoredAnswer(
        key=ask.key,
        partition=ask.partition,
        created_at_ms=at_ms,
        expires_at_ms=at_ms + route.ttl_ms,
        route=route.name,
        tags=route.tags,
        scope=ask.request.scope,
        dialect=ask.request.dialect,
        endpoint=ask.request.view.endpoint,
        target=ask.target,
        body=body,
        usage=usage,
        charge=charge,
        entry_id=entry_id,
        latency_ms=latency_ms,
    )


def is_fresh(answer: StoredAnswer, route: CacheRoute, controls: Controls, now_ms: int) -> bool:
    """Young enough for the route as it is now and for this caller."""
    age_ms = now_ms - answer.created_at_ms
    return age_ms <= route.ttl_ms and (controls.age_ms_max is None or age_ms <= controls.age_ms_max)


def _shadows(outcome: RecallHit | RecallMiss | None) -> bool:
    return isinstance(outcome, RecallMiss) and outcome.would_serve is not None


def not_cached(why: str) -> NotCached:
    """The refusal of a call that only a cache may answer."""
    return NotCached(
        f"The request may only be answered from the cache, and cannot be: {why}.",
        hint="Leave 'only-if-cached' out to ask the provider.",
    )
