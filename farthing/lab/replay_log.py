"""The traffic log as replay reads it: one record a request, in order of arrival, in bounded memory."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from farthing.core.encodings import exact_encoding
from farthing.core.types import NO_TEXT, AttemptFact, Exchange, LedgerEntry, Request, Usage
from farthing.engine.reading import alike
from farthing.engine.record import tokens_of

REORDER_MS: Final = 3_600_000
"""How long a call takes at most, unless the log is known to have longer ones."""
_SLACK_MS: Final = 60_000
"""Between the end of a call and its place in the log."""
_FRAME: Final = 12
_TURN: Final = 29
"""What a counted prompt may have at most over its tokens, as OpenAI bills them: so many, and half of that a turn."""
_DEFER: Final = (b"x-farthing-defer", b"allow")


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it was: what came in, what each try did, how it ended."""

    request: Request
    starts: tuple[int, int]
    """(when, number of the act) of the first thing that was decided about it; 0: the number is not known."""
    attempts: tuple[AttemptFact, ...]
    settled: tuple[int, ...]
    """By try: the number of the act that ended it; 0 when it is not known."""
    acts: tuple[tuple[int, int], ...]
    usages: Mapping[int, Usage]
    """By number of the try: what was metered."""
    usage: Usage | None
    """What the answering try consumed; None for requests that were refused, failed, or answered from a cache."""
    model: str
    """The model that answered, as it was sent upstream."""
    provider: str
    gone_at_ms: int | None
    """When the caller was found to have hung up; None: it stayed."""
    cut: bool
    """The pipeline stopped because the caller had hung up."""
    pauses_ms: tuple[int, ...]
    """Pauses before the second and later tries."""
    outcome: str
    status: int
    error: str
    latency_ms: int
    amount: int | None
    """Nano-USD booked; None when any entry is unpriced."""
    cap: int | None
    """The cap on each answer that it was sent with."""
    answered_by: str
    """The entry whose answer a cache gave again; empty: none."""
    source: Exchange
    held: int | None = None
    """Bytes of its beginning that the provider's cache holds in a replay, where that is not as it was in the log."""
    kept: bool = False
    """Its answer is the log's, and only what is read from the provider's cache differs."""
    stated: int | None = None
    """The cap that the replayed policy puts on each answer that has to be estimated; None: only the caller's own."""

    @property
    def asks_at(self) -> tuple[int, int]:
        """See :func:`asks_at`."""
        return asks_at(self.source)


def logged(exchange: Exchange, entries: Iterable[LedgerEntry] = ()) -> Logged:
    """One exchange, with the ledger's entries where they are at hand (they keep the provider's own words)."""
    attempts = exchange.attempts
    usages: dict[int, Usage] = {}
    gone_at_ms = None
    for entry in entries:
        if entry.kind == "charge" and entry.attempt > 0:
            usages[entry.attempt] = entry.usage
            if entry.client_gone:
                gone_at_ms = entry.booked_at_ms
    last = answering(exchange)
    usage = None
    if last is not None:
        usage = usages.get(last.attempt, exchange.usage)
        if gone_at_ms is None and (last.error == "client_gone" or exchange.error == "client_gone"):
            gone_at_ms = last.started_at_ms + last.latency_ms
    elif exchange.error == "client_gone":  # it waited for another call's answer, and had gone before that came
        gone_at_ms = exchange.received_at_ms
    return Logged(
        request=request_of(exchange),
        starts=starts(exchange),
        attempts=attempts,
        settled=settled_of(exchange),
        acts=exchange.acts,
        usages=usages,
        usage=usage,
        model=last.model if last is not None else "",
        provider=last.provider if last is not None else "",
        gone_at_ms=gone_at_ms,
        cut=exchange.error == "client_gone",
        pauses_ms=_pauses(exchange) if len(attempts) > 1 else (),
        outcome=exchange.outcome,
        status=exchange.status,
        error=exchange.error,
        latency_ms=exchange.latency_ms,
        amount=exchange.amount,
        cap=cap_of(exchange),
        answered_by=_answered_by(exchange) if last is None else "",
        source=exchange,
    )


def asks_at(exchange: Exchange) -> tuple[int, int]:
    """(when, number of the act) at which a call went to a provider, or wanted to."""
    if exchange.acts:
        return exchange.received_at_ms + exchange.acts[0][0], exchange.acts[0][1]
    return (exchange.attempts[0].started_at_ms, 0) if exchange.attempts else starts(exchange)


def answering(exchange: Exchange) -> AttemptFact | None:
    """The try that answered; None: none did."""
    for one in reversed(exchange.attempts):
        if one.entry_id and 0 < one.status < 400:
            return one
    return None


def request_of(exchange: Exchange) -> Request:
    """The request as it came in, as far as the log has it."""
    return Request(
        id=exchange.request_id,
        received_at_ms=exchange.received_at_ms,
        dialect=exchange.dialect,  # type: ignore[arg-type]
        body=exchange.prompt or NO_TEXT,
        headers=_headers(exchange),
        view=exchange.view,
        scope=exchange.scope,
        readings=_readings(exchange),
    )


def _readings(exchange: Exchange) -> dict[str, int | str]:
    """What was read, and what counting the prompt would have said, where only another policy would have done that."""
    readings, usage, view = exchange.readings, exchange.usage, exchange.view
    last = exchange.attempts[-1] if exchange.attempts else None
    if last is None or usage is None or usage.source != "reported" or view.tools or view.images:
        return readings
    if exchange.prompt is not None or not exchange.sections or not exact_encoding(last.model):
        return readings
    turns = len(exchange.sections)
    readings[alike(last.model)] = tokens_of(usage)[0] + _FRAME + (_TURN * turns + 1) // 2
    return readings


def in_order(exchanges: Iterable[Exchange], longest_ms: int = REORDER_MS) -> Iterator[Exchange]:
    """Exchanges by when they were first decided about; they come in the order of their endings.

    ``longest_ms``: none of them took longer. Memory holds what began within so long.
    """
    return (one[-1] for one in InOrder(exchanges, longest_ms))


class InOrder:
    """Exchanges by when they were first decided about, each with that instant and its name; see :func:`in_order`.

    They wait by seconds, and a second is sorted once it is over: that is cheaper than a heap of all that wait.
    """

    def __init__(self, exchanges: Iterable[Exchange], longest_ms: int = REORDER_MS) -> None:
        self.read = 0
        """How many have been taken from ``exchanges``, whenever a second is given."""
        self._last: Exchange | None = None
        self._before = ""
        """The id of the last of those that were taken before this began."""
        self._exchanges = exchanges
        self._within_ms = longest_ms + _SLACK_MS
        self._latest = -(2**62)
        self._count = 0
        self._seconds: dict[int, list[Waiting]] = {}
        self._order: list[int] = []
        """The seconds in which some wait, as a heap."""
        self._due: list[Waiting] = []
        """The rest of a second that is over, the last first."""

    def __iter__(self) -> "Iterator[Waiting]":
        for due in self.seconds():
            while due:
                yield due.pop()

    def seconds(self) -> "Iterator[list[Waiting]]":
        """The same by seconds that are over, the last first; whoever takes one pops it from its list."""
        if self._due:
            yield self._due
        order, within_ms, ends, wait = self._order, self._within_ms, 0, self._wait
        read, latest, exchange = self.read, self._latest, self._last
        for exchange in self._exchanges:
            read += 1
            ended = wait(exchange)
            if ended > latest:
                latest = ended
            if latest < ends:
                continue
            self.read, self._last = read, exchange
            while order and (order[0] + 1) * 1_000 < latest - within_ms:
                yield self._end_second()
            ends = (order[0] + 1) * 1_000 + within_ms if order else 0
        self.read, self._last = read, exchange
        while order:
            yield self._end_second()

    @property
    def last(self) -> str:
        """The id of the last that has been taken."""
        return self._before if self._last is None else self._last.request_id

    def waiting(self) -> tuple[Exchange, ...]:
        """Those that were read and not given yet."""
        every = (self._due, *self._seconds.values())
        return tuple(one[-1] for waiting in every for one in waiting)

    def put_back(self, exchanges: Iterable[Exchange], *, read: int, last: str) -> None:
        """As it was when those were waiting; what is read from now on comes after ``last``."""
        self.read, self._before = read, last
        for exchange in exchanges:
            self._latest = max(self._latest, self._wait(exchange))

    def _wait(self, exchange: Exchange) -> int:
        """Keeps it until its second is over; when it ended."""
        acts, received_ms = exchange.acts, exchange.received_at_ms
        if acts and not exchange.decisions:
            at_ms, number = acts[0]
            at_ms += received_ms
        else:
            at_ms, number = starts(exchange)
        second = at_ms // 1_000
        self._count -= 1
        try:
            self._seconds[second].append((at_ms, number, exchange.request_id, self._count, exchange))
        except KeyError:
            self._seconds[second] = [(at_ms, number, exchange.request_id, self._count, exchange)]
            heapq.heappush(self._order, second)
        return received_ms + exchange.latency_ms

    def _end_second(self) -> "list[Waiting]":
        due = self._due = self._seconds.pop(heapq.heappop(self._order))
        due.sort(reverse=True)
        return due


Waiting = tuple[int, int, str, int, Exchange]
"""(when it was first decided about, number of that act, its id, a number of its own, the exchange)."""


def _headers(exchange: Exchange) -> tuple[tuple[bytes, bytes], ...]:
    """The caller's headers that decided something."""
    found: tuple[tuple[bytes, bytes], ...] = (_DEFER,) if exchange.error == "deferred" else ()
    said = exchange.readings.get("cache_control")
    return found if said is None else (*found, (b"x-farthing-cache", str(said).encode()))


def cap_of(exchange: Exchange) -> int | None:
    """The cap on each answer that a logged call was sent with."""
    cap = exchange.view.output_tokens_max
    for one in exchange.decisions:
        if one.action == "cap":
            for name, value in one.evidence:
                if name == "cap" and value.isdigit():
                    cap = int(value)
    return cap


def _answered_by(exchange: Exchange) -> str:
    for one in exchange.decisions:
        if one.stage == "cache" and one.action == "hit":
            return dict(one.evidence).get("source", "")
    return ""


def starts(exchange: Exchange) -> tuple[int, int]:
    """(when, number of the act) of the first thing that was decided about a request.

    Caches are asked on arrival: who asks first is who is waited for. A hit without waiting was found when it ended.
    """
    for one in exchange.decisions:
        if one.stage == "cache":
            found = one.action == "hit" and ("layer", "flight") not in one.evidence
            return exchange.received_at_ms + (exchange.latency_ms if found else 0), 0
    if exchange.acts:
        at_ms, number = exchange.acts[0]
        return exchange.received_at_ms + at_ms, number
    if exchange.attempts:
        return exchange.attempts[0].started_at_ms, 0
    return exchange.received_at_ms, 0


def settled_of(exchange: Exchange) -> tuple[int, ...]:
    """The number of the act that ended each try."""
    found = tuple([-number for _, number in exchange.acts if number < 0])
    return found if len(found) == len(exchange.attempts) else (0,) * len(exchange.attempts)


def end_of(exchange: Exchange) -> int:
    """The number of the act that ended the one try of a call that had one; 0: it is not known."""
    acts = exchange.acts
    if len(acts) == 2 and acts[1][1] < 0 <= acts[0][1]:
        return -acts[1][1]
    return settled_of(exchange)[0]


def _pauses(exchange: Exchange) -> tuple[int, ...]:
    found: list[int] = []
    for decision in exchange.decisions:
        if decision.stage == "retry":
            found.append(int(dict(decision.evidence).get("after_ms", "0")))
        elif decision.stage == "fallback":
            if decision.action == "switch":
                found.append(0)
            elif found:
                found.pop()
    return tuple(found)
