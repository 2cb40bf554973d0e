"""The short way of an exact hit: a question that was answered from memory before is answered again without a plan.

Whatever decides a hit on the long way (``engine.caching``) either is part of what a repeat is found by, or is looked
at again each time: the key's record, the kept answer, its age, an experiment, prices. What is not sure takes the long
way.
"""

from collections import OrderedDict
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

from msgspec.structs import replace

from farthing.core.policy_cache import CacheRoute
from farthing.core.types import Dialect, Endpoint, Exchange, KeyRecord, LedgerEntry, Scope, Target
from farthing.engine.caching_books import book_again, cost_of
from farthing.engine.caching_replay import changing, give
from farthing.engine.services import Services
from farthing.ports.books import AGE, Alike
from farthing.ports.cache import ExactCache, StoredAnswer
from farthing.ports.reply import Fixed, RepeatReply

REPEATS_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of all that is remembered, roughly."""
ONE_MAX: Final = 256 * 1024
"""A question and its answer that are larger take the long way: there the copying counts, not the way."""
_FLAT: Final = 8_192
"""Bytes that the records of a hit are counted with, besides its bodies."""

Pairs = tuple[tuple[bytes, bytes], ...]
TRACE_TAGS: Final = ("tag:trace", "tag:span")
"""Dimensions that a call's trace may set."""
Question = tuple[str, Dialect, Endpoint, Pairs, bytes]
"""(id of the key it is asked with, API, endpoint, the headers that decide, body)."""


class Repeat:
    """One question, the answer it got from memory, and the records of that hit: but for id and time, the next's."""

    __slots__ = (
        "_after", "_before", "_decision", "alike", "answer", "asked", "entry", "exchange", "fixed", "record", "route",
        "second", "size", "traces",
    )  # fmt: skip

    def __init__(
        self,
        *,
        answer: StoredAnswer,
        asked: Target,
        route: CacheRoute,
        entry: LedgerEntry,
        exchange: Exchange,
        fixed: Fixed,
        traces: Pairs,
    ) -> None:
        self.answer = answer
        self.asked = asked
        self.route = route
        self.entry = entry
        self.exchange = exchange
        self.fixed = fixed
        self.alike = Alike()
        """Of all its hits in the scope of ``entry``."""
        self.traces = traces
        """Of the call that ``entry`` is of."""
        texts = (answer.body, *(fixed.events or ()), exchange.prompt or b"", exchange.answer or b"")
        self.size = _FLAT + 2 * sum(map(len, texts))
        self.record: KeyRecord | None = None
        """The caller's key as it was when this question was last found to be its; the server's to set and compare."""
        self.second = entry.received_at_ms // 1000
        """The second for which the avoided cost was looked at: prices change at whole seconds."""
        self._decision = entry.decisions[-1]
        self._before, self._after = self._decision.evidence[:2], self._decision.evidence[3:]

    def records(self, request_id: str, at_ms: int, scope: Scope) -> tuple[LedgerEntry, Exchange]:
        """This hit's entry and exchange."""
        age = (AGE, str(max(0, at_ms - self.answer.created_at_ms)))
        decisions = (replace(self._decision, evidence=(*self._before, age, *self._after)),)
        entry = replace(
            self.entry,
            id=f"{request_id}-0",
            request_id=request_id,
            received_at_ms=at_ms,
            booked_at_ms=at_ms,
            scope=scope,
            decisions=decisions,
        )
        exchange = replace(
            self.exchange, request_id=request_id, received_at_ms=at_ms, scope=scope, decisions=decisions
        )
        return entry, exchange


class Repeats:
    """The repeats of one gateway, the least used forgotten first."""

    def __init__(self, store: ExactCache, count: Callable[[CacheRoute, int], None], *, bytes_max: int) -> None:
        """``count`` is told of each hit and of what it saved."""
        self._bytes_max = bytes_max
        self._store = store
        self._count = count
        self._kept: OrderedDict[Question, Repeat] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, services: Services, question: Question, at_ms: int) -> Repeat | None:
        """The repeat that answers this question now; None: the long way knows why."""
        repeat = self._kept.get(question)
        if repeat is None or not is_open(services):
            return None
        answer = self._store.peek(repeat.answer.key, now_ms=at_ms)
        if answer is not repeat.answer or not self._stands(services, repeat, at_ms):
            self._drop(question)
            return None
        age_ms = at_ms - answer.created_at_ms
        if age_ms > repeat.route.ttl_ms:
            return None
        self._kept.move_to_end(question)
        return repeat

    def keep(self, question: Question, repeat: Repeat) -> None:
        """Remembers a question that has just been answered from memory."""
        self._drop(question)
        repeat.size += 2 * len(question[-1])
        if repeat.size > ONE_MAX:
            return
        self._kept[question] = repeat
        self._bytes += repeat.size
        while self._bytes > self._bytes_max:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size

    async def serve(
        self, services: Services, repeat: Repeat, scope: Scope, request_id: str, at_ms: int, reply: RepeatReply
    ) -> None:
        """Books the hit and answers. Raises ``TimedOut``, and ``StoreFailed`` where nothing is served unbooked."""
        entry, exchange = repeat.records(request_id, at_ms, scope)
        await book_again(services, entry, exchange, repeat.alike if scope is repeat.entry.scope else None)
        self._count(repeat.route, entry.baseline or 0)
        headers = changing(request_id, repeat.answer, at_ms)
        if not reply.again(headers, repeat.fixed):
            await give(reply, headers, repeat.fixed)

    def _stands(self, services: Services, repeat: Repeat, at_ms: int) -> bool:
        """The records say what the hit would save now."""
        second = at_ms // 1000
        if second != repeat.second:
            saves = cost_of(services.prices, repeat.asked, repeat.answer, at_ms)
            if saves != (repeat.entry.baseline, repeat.entry.fidelity):
                return False
            repeat.second = second
        return True

    def _drop(self, question: Question) -> None:
        before = self._kept.pop(question, None)
        if before is not None:
            self._bytes -= before.size


def is_open(services: Services) -> bool:
    """Nothing decides about calls but what stands in a question: no threshold, no experiment."""
    return services.trials.running is None and (services.actions is None or not services.actions.before)


def is_routed(services: Services, model: str) -> bool:
    """A route may send calls for this model elsewhere: then what is asked depends on more than the question."""
    if services.routing is None:
        return False
    return any(fnmatchcase(model, pattern) for route in services.routing.routes for pattern in route.models)
