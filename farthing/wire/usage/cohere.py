"""Cohere: bills ``billed_units``, not ``tokens``; chat, embeddings and rerank, both API versions."""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Final

import msgspec

from farthing.core.types import Usage, UsageSource
from farthing.wire.usage.context import apply_context
from farthing.wire.usage.reading import EMPTY, QUANTITY_MAX, Notes, as_json, is_given, read
from farthing.wire.usage.tally import Facts, assemble, input_lines, missing, output_lines, part_of
from farthing.wire.usage.text_size import text_size


class Units(msgspec.Struct, frozen=True, gc=False):
    """Quantities; Cohere's schema makes them JSON numbers, so ``12.0`` is regular."""

    input_tokens: Decimal | None = None
    output_tokens: Decimal | None = None
    search_units: Decimal | None = None
    images: Decimal | None = None
    classifications: Decimal | None = None


class CohereUsage(msgspec.Struct, frozen=True, gc=False):
    """``usage`` of v2, ``meta`` of v1, or the bare billed units."""

    billed_units: Units | None = None
    tokens: Units | None = None
    cached_tokens: Decimal | None = None
    input_tokens: Decimal | None = None
    output_tokens: Decimal | None = None
    search_units: Decimal | None = None
    images: Decimal | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What metering needs of any complete answer, or of the end of a stream."""

    id: str | None = None
    generation_id: str | None = None
    finish_reason: str | None = None
    usage: msgspec.Raw = EMPTY
    meta: msgspec.Raw = EMPTY


class Content(msgspec.Struct, frozen=True, gc=False):
    """A delta's message."""

    content: msgspec.Raw = EMPTY
    tool_plan: msgspec.Raw = EMPTY
    tool_calls: msgspec.Raw = EMPTY


class Delta(msgspec.Struct, frozen=True, gc=False):
    """A delta of v2, which is the end of the stream when it carries usage."""

    message: Content | None = None
    finish_reason: str | None = None
    usage: msgspec.Raw = EMPTY


class Event(msgspec.Struct, frozen=True, gc=False):
    """A stream event: ``type`` in v2, ``event_type`` in v1."""

    type: str | None = None
    event_type: str | None = None
    id: str | None = None
    text: msgspec.Raw = EMPTY
    delta: Delta | None = None
    response: Answer | None = None


_ANSWER: Final = msgspec.json.Decoder(Answer)
_EVENT: Final = msgspec.json.Decoder(Event)
_USAGE: Final = msgspec.json.Decoder(CohereUsage)


class CohereReader:
    """Reads chat, embed and rerank answers."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete answer; never raises."""
        notes: Notes = []
        answer = read(_ANSWER, body, notes)
        if answer is None:
            return Usage(source="missing", anomalies=("body_not_json",))
        facts = Facts(finish_reason=answer.finish_reason, upstream_id=answer.id or answer.generation_id)
        return self.from_raw(_usage_of(answer), facts, notes, complete=True)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from ``usage``, ``meta`` or bare billed units; never raises."""
        notes: Notes = []
        facts = Facts()
        apply_context(facts, context)
        return self.from_raw(msgspec.Raw(as_json(usage, notes)), facts, notes, complete=True)

    def meter(self) -> "CohereMeter":
        """A meter for one stream."""
        return CohereMeter(self)

    def from_raw(self, raw: msgspec.Raw, facts: Facts, notes: Notes, *, complete: bool) -> Usage:
        """Usage from the usage object's own bytes."""
        if not is_given(raw):
            return missing(facts, notes, complete=complete)
        verbatim = bytes(raw)
        usage = read(_USAGE, verbatim, notes)
        units = _billed(usage, notes) if usage is not None else None
        if usage is None or units is None:
            notes.append("usage_without_totals")
            return missing(facts, notes, complete=complete, raw=verbatim)
        total = _whole(units.input_tokens, "input_tokens", notes)
        lines = input_lines(total, notes, read=_whole(usage.cached_tokens, "cached_tokens", notes))
        lines |= output_lines(_whole(units.output_tokens, "output_tokens", notes), notes)
        lines["search_unit"] = _whole(units.search_units, "search_units", notes)
        lines["image"] = _whole(units.images, "images", notes)
        if units.classifications:
            notes.append(f"unmetered:classifications={units.classifications}")
        part = part_of(lines, tier_basis=total)
        source: UsageSource = "reported" if complete else "partial"
        return assemble((part,), source=source, facts=facts, notes=notes, raw=verbatim)


def _usage_of(answer: Answer) -> msgspec.Raw:
    return answer.usage if is_given(answer.usage) else answer.meta


def _billed(usage: CohereUsage, notes: Notes) -> Units | None:
    """What is billed: the billed units, else the bare units, else (noted) the raw token counts."""
    if usage.billed_units is not None:
        return usage.billed_units
    bare = (usage.input_tokens, usage.output_tokens, usage.search_units, usage.images)
    if any(figure is not None for figure in bare):
        return Units(input_tokens=bare[0], output_tokens=bare[1], search_units=bare[2], images=bare[3])
    if usage.tokens is not None:
        notes.append("billed_units_missing")
    return usage.tokens


def _whole(value: Decimal | None, where: str, notes: Notes) -> int:
    if value is None:
        return 0
    if not value.is_finite() or value < 0 or value > QUANTITY_MAX:
        notes.append(f"not_a_quantity:{where}={value:.6g}")
        return 0
    whole = int(value.to_integral_value(rounding=ROUND_CEILING))
    if whole != value:
        notes.append(f"not_an_integer:{where}={value:.6g}")
    return whole


class CohereMeter:
    """Learns the usage of one chat stream: it comes once, in the last event.

    Skipping events without a mark loses ``text_bytes`` and nothing that is billed.
    """

    marks: tuple[bytes, ...] = (b"billed_units", b"message-start", b"message-end", b"stream-start", b"stream-end")

    def __init__(self, reader: CohereReader) -> None:
        self.text_bytes = 0
        self.ended = False
        """The stream's own terminal event was seen."""
        self._reader = reader
        self._id: str | None = None
        self._finish: str | None = None
        self._usage = EMPTY

    def event(self, data: bytes) -> None:
        """Takes one event's payload; anything unknown is ignored."""
        event = read(_EVENT, data, [])
        if event is None:
            return
        self._id = event.id or self._id
        self.text_bytes += text_size(event.text)
        if event.delta is not None:
            self._delta(event.delta)
        if event.response is not None:
            self._finish = event.response.finish_reason or self._finish
            self._id = event.response.id or event.response.generation_id or self._id
            self._usage = _usage_of(event.response).copy()
        if event.type == "message-end" or event.event_type == "stream-end":
            self.ended = True

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; ``reported`` once the last event was seen."""
        facts = Facts(finish_reason=self._finish, upstream_id=self._id)
        return self._reader.from_raw(self._usage, facts, [], complete=complete or self.ended)

    def _delta(self, delta: Delta) -> None:
        self._finish = delta.finish_reason or self._finish
        if is_given(delta.usage):
            self._usage = delta.usage.copy()
        if delta.message is not None:
            message = delta.message
            self.text_bytes += text_size(message.tool_plan)
            self.text_bytes += text_size(message.content) + text_size(message.tool_calls)
