"""Anthropic messages: complete answers, streams and batch results, on every platform that serves them."""

from collections.abc import Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage
from farthing.wire.usage.anthropic_tokens import MESSAGE_USAGE, MessageUsage, merge, message_parts, source_of
from farthing.wire.usage.context import apply_context, served_tier
from farthing.wire.usage.reading import EMPTY, Notes, as_json, is_given, read
from farthing.wire.usage.tally import Facts, assemble, missing
from farthing.wire.usage.text_size import text_size


class Message(msgspec.Struct, frozen=True, gc=False):
    """What metering needs of a message."""

    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: msgspec.Raw = EMPTY


class Delta(msgspec.Struct, frozen=True, gc=False):
    """The members of both kinds of delta that matter here."""

    stop_reason: str | None = None
    text: msgspec.Raw = EMPTY
    thinking: msgspec.Raw = EMPTY
    partial_json: msgspec.Raw = EMPTY


class Event(msgspec.Struct, frozen=True, gc=False):
    """A stream event of any type."""

    type: str | None = None
    message: Message | None = None
    delta: Delta | None = None
    usage: msgspec.Raw = EMPTY


_MESSAGE: Final = msgspec.json.Decoder(Message)
_EVENT: Final = msgspec.json.Decoder(Event)
_NO_GEO: Final = frozenset({"", "not_available"})


class MessagesReader:
    """Reads the messages API."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete message; never raises."""
        notes: Notes = []
        message = read(_MESSAGE, body, notes)
        if message is None:
            return Usage(source="missing", anomalies=("body_not_json",))
        facts = Facts(model=message.model, finish_reason=message.stop_reason, upstream_id=message.id)
        return self._from_raw(message.usage, facts, notes)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a bare usage object and what is known around it; never raises."""
        return self._from_raw(msgspec.Raw(as_json(usage, [])), Facts(), [], context=context)

    def meter(self) -> "MessagesMeter":
        """A meter for one stream."""
        return MessagesMeter()

    def _from_raw(
        self, raw: msgspec.Raw, facts: Facts, notes: Notes, *, context: Mapping[str, str] | None = None
    ) -> Usage:
        if not is_given(raw):
            return missing(facts, notes)
        verbatim = bytes(raw)
        usage = read(MESSAGE_USAGE, verbatim, notes)
        if usage is None:
            notes.append("usage_not_an_object")
            return missing(facts, notes, raw=verbatim)
        return usage_of(usage, facts, notes, complete=True, raw=verbatim, context=context)


def usage_of(
    usage: MessageUsage,
    facts: Facts,
    notes: Notes,
    *,
    complete: bool,
    raw: bytes,
    context: Mapping[str, str] | None = None,
) -> Usage:
    """The usage record of a message's usage object."""
    facts.service_tier = served_tier(usage.service_tier) or facts.service_tier
    if usage.speed:
        facts.facet("speed", usage.speed)
    if usage.inference_geo and usage.inference_geo not in _NO_GEO:
        facts.facet("region", usage.inference_geo)
    if usage.fallback_credit is not None and usage.fallback_credit.status is not None:
        facts.facet("fallback_credit", usage.fallback_credit.status.type)
    if context is not None:
        apply_context(facts, context)
    source = source_of(usage, complete=complete)
    if source == "missing":
        notes.append("usage_without_totals")
    parts = message_parts(usage, notes, model=facts.model or "")
    return assemble(parts, source=source, facts=facts, notes=notes, raw=raw)


class MessagesMeter:
    """Learns the usage of one messages stream.

    ``message_start`` brings the input and a placeholder for the output; ``message_delta`` brings cumulative counters.
    The placeholder counts nothing: until a delta came, the output is unknown. Skipping events without a mark loses
    ``text_bytes`` and nothing that is billed.
    """

    marks: tuple[bytes, ...] = (b'_tokens"', b'"message_delta"', b'"message_stop"')

    def __init__(self) -> None:
        self.text_bytes = 0
        self.ended = False
        """The stream's own terminal event was seen."""
        self._facts = Facts()
        self._usage: MessageUsage | None = None
        self._notes: Notes = []
        self._start_raw = b""
        self._delta_raw = b""

    def event(self, data: bytes) -> None:
        """Takes one event's payload; anything that is no message event is ignored."""
        event = read(_EVENT, data, [])
        if event is None:
            return
        match event.type:
            case "content_block_delta" if event.delta is not None:
                delta = event.delta
                self.text_bytes += text_size(delta.text) + text_size(delta.thinking) + text_size(delta.partial_json)
            case "message_start" if event.message is not None:
                self._start(event.message)
            case "message_delta":
                self._delta(event)
            case "message_stop":
                self.ended = True

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; ``reported`` once the final delta was seen, even if the stream broke after it."""
        facts = Facts(
            model=self._facts.model,
            finish_reason=self._facts.finish_reason,
            upstream_id=self._facts.upstream_id,
        )
        notes = list(self._notes)
        done = complete or self.ended or bool(self._delta_raw and facts.finish_reason)
        if self._usage is None:
            return missing(facts, notes, complete=done)
        return usage_of(self._usage, facts, notes, complete=done, raw=self._raw())

    def _start(self, message: Message) -> None:
        self._facts.model = message.model
        self._facts.upstream_id = message.id
        if not is_given(message.usage):
            return
        self._start_raw = bytes(message.usage)
        usage = read(MESSAGE_USAGE, self._start_raw, self._notes)
        if usage is not None:
            self._usage = msgspec.structs.replace(usage, output_tokens=None, output_tokens_details=None)

    def _delta(self, event: Event) -> None:
        if event.delta is not None and event.delta.stop_reason:
            self._facts.finish_reason = event.delta.stop_reason
        if not is_given(event.usage):
            return
        self._delta_raw = bytes(event.usage)
        usage = read(MESSAGE_USAGE, self._delta_raw, self._notes)
        if usage is not None:
            self._usage = merge(self._usage, usage, self._notes)

    def _raw(self) -> bytes:
        """The usage objects as they came; two of them under the names of their events."""
        if not self._start_raw:
            return self._delta_raw
        if not self._delta_raw:
            return self._start_raw
        return b'{"message_start":' + self._start_raw + b',"message_delta":' + self._delta_raw + b"}"
