"""Amazon Bedrock's InvokeModel API: the model's own body, with the token counts repeated in headers and metrics."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage
from farthing.wire.usage.anthropic import MessagesReader
from farthing.wire.usage.bedrock import ConverseReader
from farthing.wire.usage.openai import ChatReader
from farthing.wire.usage.reading import EMPTY, UNREADABLE, Count, Notes, count_of, is_given, read
from farthing.wire.usage.stream import Meter, Reader
from farthing.wire.usage.tally import Facts, missing

_HEADERS: Final = {
    b"x-amzn-bedrock-input-token-count": "inputTokenCount",
    b"x-amzn-bedrock-output-token-count": "outputTokenCount",
    b"x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    b"x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}


class TitanResult(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One answer of a Titan model."""

    token_count: Count | None = None
    completion_reason: str | None = None


class NativeBody(msgspec.Struct, frozen=True, gc=False):
    """The counts of model families that have a shape of their own: Titan and Llama."""

    input_text_tokens: Count | None = msgspec.field(name="inputTextTokenCount", default=None)
    output_text_tokens: Count | None = msgspec.field(name="totalOutputTextTokenCount", default=None)
    results: list[TitanResult] | None = None
    prompt_token_count: Count | None = None
    generation_token_count: Count | None = None
    stop_reason: str | None = None
    completion_reason: str | None = msgspec.field(name="completionReason", default=None)
    usage: msgspec.Raw = EMPTY
    metrics: msgspec.Raw = msgspec.field(name="amazon-bedrock-invocationMetrics", default=EMPTY)


_NATIVE: Final = msgspec.json.Decoder(NativeBody)


class InvokeReader:
    """Reads whichever model's body comes back; headers fill in for bodies without counts."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour
        self.converse = ConverseReader(flavour)
        self.shapes: tuple[Reader, ...] = (MessagesReader(flavour), ChatReader(flavour), self.converse)

    def from_body(self, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> Usage:
        """Usage of a complete answer; never raises. ``headers`` decide where the body says nothing."""
        notes: Notes = []
        answer = read(_NATIVE, body, notes)
        if answer is not None and is_given(answer.usage):
            for shape in self.shapes:
                found = shape.from_body(body)
                if found.source == "reported":
                    return found
        counts = _counts(answer) or dict(header_counts(headers, notes))
        reason = _reason(answer)
        if counts:
            return self.from_usage(counts, context={"finish_reason": reason})
        if answer is None:
            return Usage(source="missing", anomalies=("body_not_json",))
        return missing(Facts(finish_reason=reason), notes)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a bare usage object of any shape; never raises."""
        tries = [shape.from_usage(usage, context=context) for shape in (self.converse, *self.shapes[:2])]
        return next((found for found in tries if found.source == "reported"), tries[0])

    def meter(self) -> "InvokeMeter":
        """A meter for one stream; feed it through ``FrameMeter``."""
        return InvokeMeter(self)


def header_counts(headers: Iterable[tuple[bytes, bytes]], notes: Notes) -> list[tuple[str, int]]:
    """The token counts that Bedrock states in answer headers, under the names of its invocation metrics."""
    found: list[tuple[str, int]] = []
    for name, value in headers:
        key = _HEADERS.get(name.lower())
        quantity = count_of(value.strip(), key, notes) if key is not None else None
        if key is not None and quantity is not None:
            found.append((key, quantity))
    return found


def _counts(answer: NativeBody | None) -> dict[str, object]:
    """A native body's counts under the names of the invocation metrics."""
    if answer is None:
        return {}
    counts: dict[str, object] = {}
    if answer.input_text_tokens is not None:
        made = [result.token_count or 0 for result in answer.results or ()]
        counts["inputTokenCount"] = answer.input_text_tokens
        counts["outputTokenCount"] = sum(made) if made else answer.output_text_tokens or 0
    elif answer.prompt_token_count is not None or answer.generation_token_count is not None:
        counts["inputTokenCount"] = answer.prompt_token_count
        counts["outputTokenCount"] = answer.generation_token_count
    elif is_given(answer.metrics):
        try:
            counts.update(msgspec.json.decode(answer.metrics, type=dict[str, object]))
        except UNREADABLE:
            return {}
    return counts


def _reason(answer: NativeBody | None) -> str:
    if answer is None:
        return ""
    first = answer.results[0].completion_reason if answer.results else None
    return answer.stop_reason or answer.completion_reason or first or ""


class InvokeMeter:
    """Learns the usage of one InvokeModel stream: the model's own events, else Bedrock's invocation metrics.

    Skipping events without a mark loses ``text_bytes`` and nothing that is billed.
    """

    marks: tuple[bytes, ...] = (b"oken", b'"stop_reason"', b'"stopReason"', b'"finish_reason"', b"message_stop")

    def __init__(self, reader: InvokeReader) -> None:
        self._reader = reader
        self._meters: tuple[Meter, ...] = tuple(shape.meter() for shape in reader.shapes)
        self._counts: dict[str, object] = {}
        self._reason = ""

    @property
    def text_bytes(self) -> int:
        """Bytes of answer text in the events fed so far."""
        return max(meter.text_bytes for meter in self._meters)

    @property
    def ended(self) -> bool:
        """The stream's own terminal event was seen."""
        return any(meter.ended for meter in self._meters) or bool(self._counts and self._reason)

    def event(self, data: bytes) -> None:
        """Takes one event of the model's own shape (unwrapped); anything unknown is ignored."""
        for meter in self._meters:
            meter.event(data)
        answer = read(_NATIVE, data, [])
        if answer is not None:
            self._counts.update({name: count for name, count in _counts(answer).items() if count is not None})
            self._reason = _reason(answer) or self._reason

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed."""
        seen = [meter.usage(complete=complete) for meter in self._meters]
        for found in seen:
            if found.source == "reported":
                return found
        if self._counts:
            counted = self._reader.from_usage(self._counts, context={"finish_reason": self._reason})
            return counted if complete or self._reason else msgspec.structs.replace(counted, source="partial")
        return next((found for found in seen if found.parts), seen[0])
