"""The exact cache in a replay: real routes, lifetimes and order of arrival, questions told apart by what was logged.

A request that a cache looked at has its key in the log. Any other is told apart by the digest of its whole body, so
that a hit under another policy is never invented; questions that differ in bytes only are missed.
"""

import asyncio
from typing import Final, Protocol

import msgspec

from farthing.core.caching import Controls, refusal
from farthing.core.caching_key import partition_of
from farthing.core.policy_cache import CacheRoute
from farthing.core.types import NO_TEXT, Endpoint, Exchange, Request, Target
from farthing.engine.caching import Caching, Land, Work
from farthing.engine.caching_flights import Flight, Flights
from farthing.engine.caching_memo import Known, Memo, Question
from farthing.engine.call import Call
from farthing.lab.replay_provider import Flight as Flying
from farthing.lab.replay_provider import Provider
from farthing.ports.cache import Ask, ExactCache, RecallHit, StoredAnswer
from farthing.ports.reply import Reply
from farthing.wire.replay import streamed
from farthing.wire.replay_json import Unreplayable

_UNSEEN: Final = {"seed": "seeded", "external": "external", "tool_turn": "tools"}
"""Why a body was refused that no replay can see, and the setting of a route that allows it."""


class LoggedCaching(Caching):
    """The gateway's caching over requests without text."""

    def __init__(self, routes: tuple[CacheRoute, ...], store: ExactCache, provider: Provider) -> None:
        super().__init__(routes, store, owner="replay")
        self._memo = _Forgetful()
        self.flights: OpenFlights = OpenFlights()
        self._flights_of = provider.flights
        self._loop = provider.loop
        provider.answers = answer_of

    def _ask(self, call: Call, route: CacheRoute, controls: Controls) -> Ask | str:
        request = call.request
        if request.body is not NO_TEXT:
            return super()._ask(call, route, controls)
        if not controls.reads and not controls.writes:
            return "asked"
        return ask_of(request, self._flights_of[request.id].logged.source, route, controls, call.plan.targets[0])

    async def _miss(
        self, call: Call, reply: Reply, ask: Ask, controls: Controls, work: Work, *, land: Land | None = None
    ) -> None:
        flight = self._flights_of[call.request.id]
        await self._loop.until(self._loop.at(*flight.logged.asks_at))
        await super()._miss(call, reply, ask, controls, work, land=land)

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
        said = layer_of(self._flights_of[call.request.id].logged.source, answer) if action == "exact" else ""
        return await super()._deliver(
            call, reply, answer, route, action=action, layer=said or layer, known=known, hit=hit
        )


class ReplayCaching(LoggedCaching):
    """Equal questions only."""


class SimilarCaching(LoggedCaching):
    """Similar questions too, as the log says that they were found."""


def layer_of(source: Exchange, answer: StoredAnswer) -> str:
    """Where the log says that a call found this very answer; empty: it did not.

    Who comes while its leader is being booked waits for it, although the leader's answer has ended already; an answer
    that is in memory here may have been in the store there.
    """
    for one in source.decisions:
        if one.stage == "cache" and one.action == "hit" and ("source", answer.entry_id) in one.evidence:
            return next((value for name, value in one.evidence if name == "layer" and value != "semantic"), "")
    return ""


def ask_of(request: Request, source: Exchange, route: CacheRoute, controls: Controls, target: Target) -> Ask | str:
    """A request without text as the caches see it, or why they do not look at it."""
    why = refusal(route, request.view, {}) or refused(route, source)
    if why:
        return why
    partition = partition_of(request, route, target)
    key = key_of(source, partition)
    return Ask(
        request=request,
        route=route,
        target=target,
        key=key,
        partition=partition,
        fields={},
        refreshes=not controls.reads,
    )


class _Forgetful(Memo):
    """Bodies without text look alike."""

    def find(self, call: Call, route: CacheRoute) -> tuple[Question, Known | None]:
        return super().find(call, route)[0], None

    def keep(self, question: Question, known: Known) -> None:
        """Nothing is kept."""


def answer_of(flight: Flying) -> tuple[bytes, bytes, bytes]:
    """An answer like the logged one to whoever asks whether it may be kept: (whole, as a stream, its last event)."""
    usage = flight.usage
    view = flight.logged.request.view
    return made_answer(view.endpoint, usage.finish_reason if usage is not None else "")


_ANSWERS: dict[tuple[str, str], tuple[bytes, bytes, bytes]] = {}


def made_answer(endpoint: Endpoint, finish: str) -> tuple[bytes, bytes, bytes]:
    """An answer of an endpoint that ended so: (whole, as a stream, its last event)."""
    found = _ANSWERS.get((endpoint, finish))
    if found is None:
        body = msgspec.json.encode(_shape(endpoint, finish))
        try:
            events, last = streamed(endpoint, body, include_usage=True)
        except Unreplayable:
            events, last = b"data: {}\n\n", b""
        if len(_ANSWERS) > 1_000:
            _ANSWERS.clear()
        found = _ANSWERS[(endpoint, finish)] = (body, events, last)
    return found


def _shape(endpoint: Endpoint, finish: str) -> dict[str, object]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "input_tokens": 1, "output_tokens": 1}
    head: dict[str, object] = {"id": "replay", "model": "replay", "created": 0, "usage": usage}
    if endpoint == "embeddings":
        return {**head, "data": [{"index": 0, "embedding": []}]}
    if endpoint == "messages":
        content = {"type": "tool_use", "id": "t", "name": "t", "input": {}} if finish == "tool_use" else _text()
        return {**head, "type": "message", "role": "assistant", "content": [content], "stop_reason": finish}
    if endpoint == "responses":
        whole = finish in ("", "completed", "stop")
        message = {"type": "message", "id": "m", "role": "assistant", "content": [{**_text("output_text")}]}
        reason = {"incomplete_details": {"reason": finish}} if not whole else {}
        return {**head, "status": "completed" if whole else "incomplete", "output": [message], **reason}
    if endpoint == "completions":
        return {**head, "choices": [{"index": 0, "text": ".", "finish_reason": finish}]}
    said: dict[str, object] = {"role": "assistant", "content": "."}
    if finish in ("tool_calls", "function_call"):
        call = {"index": 0, "id": "t", "type": "function", "function": {"name": "t", "arguments": "{}"}}
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {**head, "choices": [{"index": 0, "message": said, "finish_reason": finish}]}


def _text(kind: str = "text") -> dict[str, object]:
    return {"type": kind, "text": "."}


def key_of(source: Exchange, partition: str) -> str:
    """The question's own key (a similar one's answer has another), or the digest of its whole body."""
    for one in source.decisions:
        if one.stage == "cache":
            wanted = "asked" if one.reason == "semantic_hit" else "key"
            for name, value in one.evidence:
                if name == wanted and value:
                    return value
    return f"{partition}:{source.received_digest}"


def refused(route: CacheRoute, source: Exchange) -> str:
    """Why the log says that the cache did not look at a call, where the route leaves it no choice; empty: it may."""
    for one in source.decisions:
        if one.stage == "cache" and one.action == "bypass":
            allows = _UNSEEN.get(one.reason)
            if one.reason in ("temperature", "choices", "asked") or (allows and getattr(route, allows)):
                return ""
            return one.reason
    return ""


class Awaited(Flight):
    """A flight whose future is made when somebody waits: hardly any is waited for in a replay."""

    left = False
    _ended = False
    _answer: StoredAnswer | None = None
    _waited: asyncio.Future[StoredAnswer | None] | None = None

    def __init__(self) -> None:
        """Nobody waits yet."""

    async def answer(self) -> StoredAnswer | None:
        if self._ended:
            return self._answer
        if self._waited is None:
            self._waited = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._waited)

    def land(self, answer: StoredAnswer | None) -> None:
        if self._ended:
            return
        self._ended, self._answer = True, answer
        if self._waited is not None and not self._waited.done():
            self._waited.set_result(answer)


class Leads(Protocol):
    """A call whose answer others may wait for."""

    def flight(self) -> Flight:
        """What they wait for."""
        ...


class OpenFlights(Flights):
    """Those of a replay."""

    def __init__(self) -> None:
        super().__init__()
        self.hops: dict[str, Leads] = {}
        """By key, those for which nobody has waited yet."""

    def find(self, key: str) -> Flight | None:
        hop = self.hops.get(key)
        return self._open.get(key) if hop is None else hop.flight()

    @property
    def open(self) -> dict[str, Flight]:
        """All that are under way, by key."""
        return self._open

    def begin(self, key: str) -> Flight:
        self.hops.pop(key, None)
        flight = self._open[key] = Awaited()
        return flight
