"""The policy's levers at work: what leaves for an upstream once they have edited it, and what is noted of it.

Levers that change what is said work on the caller's own dialect; marks for the provider's prompt cache are set on
what really leaves. Both see one target at a time: another target is another cache at other prices.
"""

from collections import OrderedDict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Protocol, get_args

import msgspec

from farthing.core.dimensions import scope_value
from farthing.core.errors import UnknownModel
from farthing.core.lever import BYTES_PER_TOKEN, Facts
from farthing.core.levers.cache_breakpoints import TTL_MS, CacheBreakpoints, Point, points
from farthing.core.levers.cap_output import CapOutput
from farthing.core.levers.history_summary import HistorySummary, Wanted, wanted
from farthing.core.levers.service_tier import ServiceTier
from farthing.core.policy_levers import AnyLever, apply, kind_of
from farthing.core.prefix_cache import minimum_tokens
from farthing.core.types import NO_TEXT, Decision, Endpoint, Request, Target, Usage, UsagePart
from farthing.core.units import INPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE, INPUT_CACHE_WRITE_1H, OUTPUT
from farthing.ports.prices import Prices

if TYPE_CHECKING:
    from farthing.engine.call import Call

PREFIXES_MAX: Final = 50_000
"""Prefixes that are remembered, each some hundred bytes."""
ORDER: Final = get_args(AnyLever)
"""In which kinds are pulled, whatever their order in the policy: a reference to a text that is trimmed afterwards
would point nowhere."""
_MILLION: Final = 1_000_000


class _Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What levers made of a call, for replays that have no text to pull them on."""

    size: int = -1
    cap: int | None = None
    marks: int = 0
    long: bool = False
    tier: str = ""
    notes: tuple[Decision, ...] = ()


@dataclass(slots=True)
class Eased:
    """A request as the levers leave it."""

    request: Request
    body: bytes
    output_cap: int | None
    notes: tuple[Decision, ...] = ()
    tier: str = ""
    """The service tier that the policy asks for; empty: it does not say."""
    marked: bool = False
    """The policy's own breakpoints are in it: without them nothing would have been cached."""


class Summariser(Protocol):
    """Has summaries written (``farthing.engine.summaries``)."""

    made: dict[str, str]

    async def make(self, call: "Call", lever: HistorySummary, wanted: Wanted) -> None:
        """Returns once it is in ``made``, or cannot be had."""
        ...


class Levers:
    """The levers of one policy, and the prefixes that were sent lately. One per process."""

    def __init__(self, levers: tuple[AnyLever, ...], prices: Prices, *, summaries: Summariser | None = None) -> None:
        """``summaries``: None where nobody can be asked for one, as in a replay."""
        summarises = any(isinstance(lever, HistorySummary) for lever in levers)
        self.summaries = summaries if summarises else None
        self._rates: dict[tuple[Target, str], tuple[int, int]] = {}
        speech = (lever for lever in levers if not isinstance(lever, CacheBreakpoints))
        self._speech = tuple(sorted(speech, key=lambda lever: ORDER.index(type(lever))))
        self._marks = tuple(lever for lever in levers if isinstance(lever, CacheBreakpoints))
        self._prices = prices
        self._digest = blake2b(msgspec.json.encode(levers), digest_size=4).hexdigest()
        self._facts: dict[tuple[Target, Endpoint, str], Facts] = {}
        self._sent: OrderedDict[tuple[str, str, str], int] = OrderedDict()

    async def ahead(self, call: "Call", target: Target) -> None:
        """Have what ``ease`` needs for this call: summaries of what is about to go."""
        request, summaries = call.request, self.summaries
        if summaries is None or request.body is NO_TEXT:
            return
        for lever in self._speech:
            if isinstance(lever, HistorySummary) and _is_for(lever, request, target):
                try:
                    writer = call.services.routes.targets(lever.model, "openai")[0]
                except UnknownModel:
                    continue  # nobody serves it: the call goes out unchanged
                self._rate(target, lever.model, writer, request.received_at_ms)
                facts = self._facts_of(target, request.view.endpoint, "5m", request.received_at_ms)
                missing = wanted(lever, call.plan.body, self._with_summaries(facts, target, lever))
                if missing is not None:
                    await summaries.make(call, lever, missing)

    def _rate(self, target: Target, model: str, writer: Target, at_ms: int) -> None:
        """What the writing model's tokens cost beside those of the model that is called."""
        plain = self._price(target, INPUT, at_ms)
        read, write = self._price(writer, INPUT, at_ms), self._price(writer, OUTPUT, at_ms)
        if plain and read is not None and write is not None:
            self._rates[(target, model)] = (read * 10_000 // plain, write * 10_000 // plain)

    def _with_summaries(self, facts: Facts, target: Target, lever: HistorySummary) -> Facts:
        rates = self._rates.get((target, lever.model))
        if rates is None or self.summaries is None:
            return facts
        return msgspec.structs.replace(
            facts, summary_read_bp=rates[0], summary_write_bp=rates[1], summaries=self.summaries.made
        )

    def ease(self, body: bytes, cap: int | None, request: Request, target: Target) -> Eased:
        """The caller's body edited for one target."""
        eased = Eased(request=request, body=body, output_cap=cap)
        if request.body is NO_TEXT:
            return self._as_noted(eased, target)
        form = request.view.endpoint
        for lever in self._speech:
            if not _is_for(lever, request, target):
                continue
            if isinstance(lever, ServiceTier):
                self._ask_for_tier(lever, eased, target)
                continue
            facts = self._facts_of(target, form, "5m", request.received_at_ms)
            if isinstance(lever, HistorySummary):
                facts = self._with_summaries(facts, target, lever)
            edited = apply(lever, eased.body, facts)
            if edited is eased.body:
                continue
            if isinstance(lever, CapOutput):
                was, eased.output_cap = eased.output_cap, lever.tokens
                evidence = (("asked", "nothing" if was is None else str(was)), ("cap", str(lever.tokens)))
            else:
                less = len(eased.body) - len(edited)
                evidence = (("bytes_less", str(less)), ("tokens_less_about", str(less // BYTES_PER_TOKEN)))
            eased.body = edited
            eased.notes = (*eased.notes, _note(lever, evidence))
        if eased.notes:
            view = msgspec.structs.replace(request.view, output_tokens_max=eased.output_cap)
            view = msgspec.structs.replace(
                view, body_bytes=min(view.body_bytes, len(eased.body)), service_tier=eased.tier or view.service_tier
            )
            eased.request = msgspec.structs.replace(request, body=eased.body, view=view)
            self._keep_reading(eased, target)
        return eased

    def _ask_for_tier(self, lever: ServiceTier, eased: Eased, target: Target) -> None:
        """Another tier where the provider has a lower price for it."""
        request = eased.request
        plain = self._price(target, INPUT, request.received_at_ms)
        cheap = self._price(target, INPUT, request.received_at_ms, tier=lever.tier)
        if plain is None or cheap is None or cheap >= plain:
            return
        edited = apply(lever, eased.body, Facts(form=request.view.endpoint))
        if edited is not eased.body:
            eased.body, eased.tier = edited, lever.tier
            eased.notes = (*eased.notes, _note(lever, (("tier", lever.tier),)))

    def mark(self, body: bytes, request: Request, target: Target, form: Endpoint, *, before: Eased) -> Eased:
        """What leaves, with breakpoints; ``request`` is as the upstream reads it."""
        made = Eased(request=request, body=body, output_cap=before.output_cap, notes=before.notes)
        if before.marked:  # a replay without text knows it from the log
            noted = before.request.view
            made.request = _marked(request, noted.cache_marks, long=noted.cache_ttl_long)
            made.marked = True
            return made
        if form != "messages" or request.body is NO_TEXT:
            return made
        lever = next((one for one in self._marks if _is_for(one, request, target)), None)
        if lever is None:
            return made
        at_ms = request.received_at_ms
        found = points(body, lever.ttl)
        seen = frozenset(one.name for one in found if self._was_sent(target, one, lever, at_ms))
        self._remember(target, found, at_ms)
        facts = self._facts_of(target, form, lever.ttl, at_ms)
        if facts.read_bp >= 10_000:
            return made  # no price for what the cache holds: nothing shows that marks would pay
        made.body = apply(lever, body, msgspec.structs.replace(facts, seen=seen))
        if made.body is body:
            return made
        marks = made.body.count(b'"cache_control"')
        made.marked = True
        made.request = _marked(request, marks, long=lever.ttl == "1h")
        made.notes = (*before.notes, _note(lever, (("marks", str(marks)), ("ttl", lever.ttl))))
        self._keep_reading(made, target)
        return made

    # -- what is known

    def _facts_of(self, target: Target, form: Endpoint, ttl: str, at_ms: int) -> Facts:
        found = self._facts.get((target, form, ttl))
        if found is None:
            plain = self._price(target, INPUT, at_ms)
            read = self._price(target, INPUT_CACHE_READ, at_ms)
            write = self._price(target, INPUT_CACHE_WRITE_1H if ttl == "1h" else INPUT_CACHE_WRITE, at_ms)
            known = bool(plain) and read is not None
            found = Facts(
                form=form,
                cache_min_tokens=minimum_tokens(target.model),
                read_bp=(read or 0) * 10_000 // plain if known and plain else 10_000,
                write_bp=(write or plain) * 10_000 // plain if known and plain else 10_000,
            )
            if len(self._facts) > 10_000:
                self._facts.clear()
            self._facts[(target, form, ttl)] = found
        return found

    def _price(self, target: Target, unit: str, at_ms: int, tier: str = "") -> int | None:
        usage = Usage(source="reported", service_tier=tier, parts=(UsagePart(lines=((unit, _MILLION),)),))
        return self._prices.charge(usage, target, at_ms=at_ms).total

    def _was_sent(self, target: Target, point: Point, lever: CacheBreakpoints, at_ms: int) -> bool:
        last = self._sent.get((target.provider, target.model, point.name))
        return last is not None and last != at_ms and at_ms - last < TTL_MS[lever.ttl]  # not by an earlier try

    def _remember(self, target: Target, found: tuple[Point, ...], at_ms: int) -> None:
        for point in found:
            key = (target.provider, target.model, point.name)
            self._sent[key] = at_ms
            self._sent.move_to_end(key)
        while len(self._sent) > PREFIXES_MAX:
            self._sent.popitem(last=False)

    # -- replay

    def _name(self, target: Target) -> str:
        return f"levers:{self._digest}:{target.provider}/{target.model}"

    def _keep_reading(self, eased: Eased, target: Target) -> None:
        view = eased.request.view
        reading = _Reading(
            size=view.body_bytes,
            cap=eased.output_cap,
            marks=view.cache_marks if eased.marked else 0,
            long=eased.marked and view.cache_ttl_long,
            tier=eased.tier,
            notes=eased.notes,
        )
        eased.request.readings[self._name(target)] = msgspec.json.encode(reading).decode()

    def _as_noted(self, eased: Eased, target: Target) -> Eased:
        said = eased.request.readings.get(self._name(target))
        if said is None:
            return self._unread(eased, target)
        reading = msgspec.json.decode(str(said), type=_Reading)
        view = eased.request.view
        view = msgspec.structs.replace(
            view,
            output_tokens_max=reading.cap,
            body_bytes=reading.size,
            service_tier=reading.tier or view.service_tier,
        )
        eased.tier = reading.tier
        eased.output_cap = reading.cap
        eased.request = msgspec.structs.replace(eased.request, view=view)
        if reading.marks:
            eased.request = _marked(eased.request, reading.marks, long=reading.long)
            eased.marked = True
        eased.notes = reading.notes
        return eased

    def is_blind(self, request: Request, target: Target) -> bool:
        """The text is not known here, nor what these levers made of it; and one of them would have read it."""
        if request.body is not NO_TEXT or self._name(target) in request.readings:
            return False
        readers = (lever for lever in (*self._speech, *self._marks) if not isinstance(lever, ServiceTier))
        return any(_is_for(lever, request, target) for lever in readers)

    def _unread(self, eased: Eased, target: Target) -> Eased:
        """What needs no text to be done: another tier."""
        request = eased.request
        if request.view.service_tier in ("", "auto"):
            for lever in self._speech:
                if isinstance(lever, ServiceTier) and _is_for(lever, request, target):
                    self._ask_for_tier(lever, eased, target)
        if eased.tier:
            view = msgspec.structs.replace(request.view, service_tier=eased.tier)
            eased.request = msgspec.structs.replace(request, view=view)
        return eased


def unoptimised(usage: Usage, *, marked: bool, elsewhere: bool) -> Usage:
    """The usage that savings are measured against.

    ``marked``: breakpoints were set for the caller; without them Anthropic caches nothing, so all of it is plain
    input. ``elsewhere``: another model was asked for than the one that answered.
    """
    parts = tuple(map(_uncached, usage.parts)) if marked else usage.parts
    model = "" if elsewhere else usage.model
    return msgspec.structs.replace(usage, parts=parts, model=model, stated_pusd=None)


def _uncached(part: UsagePart) -> UsagePart:
    """One part with its cached text as plain input."""
    cached = [line for line in part.lines if line[0] == INPUT_CACHE_READ or line[0].startswith(INPUT_CACHE_WRITE)]
    rest = [line for line in part.lines if line not in cached and line[0] != INPUT]
    plain = sum(many for unit, many in part.lines if unit == INPUT) + sum(many for _, many in cached)
    return msgspec.structs.replace(part, lines=((INPUT, plain), *rest))


def _marked(request: Request, marks: int, *, long: bool) -> Request:
    view = request.view
    view = msgspec.structs.replace(view, cache_marks=marks, cache_ttl_long=long or view.cache_ttl_long)
    return msgspec.structs.replace(request, view=view)


def _is_for(lever: AnyLever, request: Request, target: Target) -> bool:
    if lever.models and not any(fnmatchcase(target.model, pattern) for pattern in lever.models):
        return False
    return all(scope_value(request.scope, name) == value for name, value in lever.match)


def _note(lever: AnyLever, evidence: tuple[tuple[str, str], ...]) -> Decision:
    kind = kind_of(lever)
    named = (("lever", lever.name), *evidence) if lever.name and lever.name != kind else evidence
    return Decision(stage="levers", action=kind, reason="lever_applied", evidence=named)
