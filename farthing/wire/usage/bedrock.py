"""Amazon Bedrock's Converse API: input excludes the cache, usage arrives in the last event of a stream."""

from collections.abc import Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage, UsagePart, UsageSource
from farthing.core.units import INPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE_1H, INPUT_CACHE_WRITE_5M, OUTPUT
from farthing.wire.usage.context import apply_context, served_tier
from farthing.wire.usage.reading import EMPTY, Count, Notes, as_json, is_given, read
from farthing.wire.usage.tally import Facts, Lines, assemble, cache_writes, lacks_a_total, missing, part_of
from farthing.wire.usage.text_size import text_size


class CacheDetail(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Cache writes of one lifetime."""

    ttl: str | None = None
    input_tokens: Count | None = None


class ConverseUsage(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Converse's usage, with the ``…Count`` names that model bodies and invocation metrics use."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_write_input_tokens: Count | None = None
    cache_read_input_token_count: Count | None = None
    cache_write_input_token_count: Count | None = None
    input_token_count: Count | None = None
    output_token_count: Count | None = None
    cache_details: list[CacheDetail] | None = None


class Tier(msgspec.Struct, frozen=True, gc=False):
    """The tier that served."""

    type: str | None = None


class Performance(msgspec.Struct, frozen=True, gc=False):
    """The latency class that served."""

    latency: str | None = None


class Delta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A content delta's text members."""

    text: msgspec.Raw = EMPTY
    tool_use: msgspec.Raw = EMPTY
    reasoning_content: msgspec.Raw = EMPTY


class Answer(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What metering needs of a Converse answer, or of any event of its stream."""

    stop_reason: str | None = None
    usage: msgspec.Raw = EMPTY
    service_tier: Tier | None = None
    performance_config: Performance | None = None
    delta: Delta | None = None


_ANSWER: Final = msgspec.json.Decoder(Answer)
CONVERSE_USAGE: Final = msgspec.json.Decoder(ConverseUsage)
_WRITE_UNITS: Final = {"5m": INPUT_CACHE_WRITE_5M, "1h": INPUT_CACHE_WRITE_1H}


class ConverseReader:
    """Reads Converse answers and streams."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete answer; never raises."""
        meter = ConverseMeter(self)
        if not meter.take(body):
            return Usage(source="missing", anomalies=("body_not_json",))
        return meter.usage(complete=True)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a bare usage object and what is known around it; never raises."""
        notes: Notes = []
        facts = Facts()
        apply_context(facts, context)
        return self.from_raw(msgspec.Raw(as_json(usage, notes)), facts, notes, complete=True)

    def meter(self) -> "ConverseMeter":
        """A meter for one stream; feed it through ``FrameMeter``."""
        return ConverseMeter(self)

    def from_raw(self, raw: msgspec.Raw, facts: Facts, notes: Notes, *, complete: bool) -> Usage:
        """Usage from the usage object's own bytes."""
        if not is_given(raw):
            return missing(facts, notes, complete=complete)
        verbatim = bytes(raw)
        usage = read(CONVERSE_USAGE, verbatim, notes)
        if usage is None or not has_totals(usage):
            notes.append("usage_without_totals")
            return missing(facts, notes, complete=complete, raw=verbatim)
        part = converse_part(usage, notes)
        source: UsageSource = "reported" if complete and not lacks_a_total(notes) else "partial"
        return assemble((part,), source=source, facts=facts, notes=notes, raw=verbatim)


def has_totals(usage: ConverseUsage) -> bool:
    """True when the object says anything about input or output."""
    figures = (usage.input_tokens, usage.output_tokens, usage.input_token_count, usage.output_token_count)
    return any(figure is not None for figure in figures)


def converse_part(usage: ConverseUsage, notes: Notes) -> UsagePart:
    """The disjoint lines of one usage object."""
    uncached = _either(usage.input_tokens, usage.input_token_count)
    output = _either(usage.output_tokens, usage.output_token_count)
    cached = _either(usage.cache_read_input_tokens, usage.cache_read_input_token_count)
    writes = _writes(usage, notes)
    basis = uncached + cached + sum(writes.values())
    total = usage.total_tokens
    if total is not None and total not in (basis + output, uncached + output):
        notes.append(f"total_mismatch:{basis + output}!={total}")
    return part_of({INPUT: uncached, INPUT_CACHE_READ: cached, **writes, OUTPUT: output}, tier_basis=basis)


def _either(first: int | None, second: int | None) -> int:
    return first if first is not None else second or 0


def _writes(usage: ConverseUsage, notes: Notes) -> Lines:
    total = usage.cache_write_input_tokens
    if total is None:
        total = usage.cache_write_input_token_count
    if not total and not usage.cache_details:
        return {}
    by_ttl = dict.fromkeys(_WRITE_UNITS.values(), 0)
    for detail in usage.cache_details or ():
        unit = _WRITE_UNITS.get(detail.ttl or "")
        if unit is not None:
            by_ttl[unit] += detail.input_tokens or 0
    return cache_writes(total, tuple(by_ttl.items()), notes)


class ConverseMeter:
    """Learns the usage of one Converse stream from its ``messageStop`` and ``metadata`` events.

    Skipping events without a mark loses ``text_bytes`` and nothing that is billed.
    """

    marks: tuple[bytes, ...] = (b'"inputTokens"', b'"stopReason"')

    def __init__(self, reader: ConverseReader) -> None:
        self.text_bytes = 0
        self.ended = False
        """The metadata event was seen; nothing follows it."""
        self._reader = reader
        self._facts = Facts()
        self._usage = EMPTY

    def event(self, data: bytes) -> None:
        """Takes one event's payload; anything unknown is ignored."""
        self.take(data)

    def take(self, data: bytes) -> bool:
        """Takes one event or a whole answer; False when it is no JSON object."""
        answer = read(_ANSWER, data, [])
        if answer is None:
            return False
        self._facts.finish_reason = answer.stop_reason or self._facts.finish_reason
        if answer.service_tier is not None:
            self._facts.service_tier = served_tier(answer.service_tier.type)
        if answer.performance_config is not None:
            self._facts.facet("latency", answer.performance_config.latency)
        if is_given(answer.usage):
            self._usage = answer.usage.copy()
            self.ended = True
        if answer.delta is not None:
            delta = answer.delta
            self.text_bytes += text_size(delta.text) + text_size(delta.reasoning_content) + text_size(delta.tool_use)
        return True

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; ``reported`` once the metadata event was seen."""
        facts = Facts(
            service_tier=self._facts.service_tier,
            finish_reason=self._facts.finish_reason,
            facets=dict(self._facts.facets) if self._facts.facets else None,
        )
        return self._reader.from_raw(self._usage, facts, [], complete=complete or self.ended)
