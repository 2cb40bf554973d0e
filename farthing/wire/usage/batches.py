"""Batch output files: one answer a line, each read as the answer it holds and rated as batch processing."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage
from farthing.wire.usage.reading import EMPTY, is_given, read
from farthing.wire.usage.stream import Meter, Reader

BATCH_TIER: Final = "batch"


class BatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a batch output file."""

    custom_id: str
    """The caller's own id of the request; book each (batch, custom_id) once."""
    usage: Usage


class OpenAIReply(msgspec.Struct, frozen=True, gc=False):
    """The HTTP answer that an OpenAI line holds."""

    status_code: int | None = None
    body: msgspec.Raw = EMPTY


class AnthropicResult(msgspec.Struct, frozen=True, gc=False):
    """The result that an Anthropic line holds."""

    type: str | None = None
    message: msgspec.Raw = EMPTY


class Line(msgspec.Struct, frozen=True, gc=False):
    """A line of either provider."""

    custom_id: str | None = None
    response: OpenAIReply | None = None
    result: AnthropicResult | None = None
    error: msgspec.Raw = EMPTY


class Kind(msgspec.Struct, frozen=True, gc=False):
    """What kind of answer an OpenAI body is."""

    object: str | None = None
    usage: msgspec.Raw = EMPTY


_LINE: Final = msgspec.json.Decoder(Line)
_KIND: Final = msgspec.json.Decoder(Kind)


class BatchReader:
    """Reads single lines of batch output and error files."""

    def __init__(self, flavour: str, *, readers: Mapping[str, Reader], default: Reader) -> None:
        """``readers`` by the answer's ``object``; ``default`` for all others."""
        self.flavour = flavour
        self._readers = readers
        self._default = default

    def from_body(self, body: bytes) -> Usage:
        """Usage of one line; never raises. Lines that failed without usage consumed nothing."""
        return self.line(body).usage

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from the inner answer's bare usage object; never raises."""
        return self._default.from_usage(usage, context={**context, "processing": BATCH_TIER})

    def meter(self) -> Meter:
        """Batches do not stream; the meter of the inner format."""
        return self._default.meter()

    def line(self, body: bytes) -> BatchLine:
        """One line with the caller's id."""
        line = read(_LINE, body, [])
        if line is None:
            return BatchLine(custom_id="", usage=Usage(source="missing", anomalies=("body_not_json",)))
        inner = EMPTY
        outcome = ""
        if line.response is not None:
            inner = line.response.body
            outcome = "error" if (line.response.status_code or 200) >= 400 else ""
        elif line.result is not None:
            inner = line.result.message
            outcome = "" if line.result.type == "succeeded" else line.result.type or "error"
        elif is_given(line.error):
            outcome = "error"
        return BatchLine(custom_id=line.custom_id or "", usage=self._answer(inner, outcome))

    def _answer(self, inner: msgspec.Raw, outcome: str) -> Usage:
        kind = read(_KIND, inner, []) if is_given(inner) else None
        if outcome and (kind is None or not is_given(kind.usage)):
            return Usage(source="reported", service_tier=BATCH_TIER, finish_reason=outcome)
        if kind is None:
            return Usage(source="missing", service_tier=BATCH_TIER)
        found = self._readers.get(kind.object or "", self._default).from_body(bytes(inner))
        return msgspec.structs.replace(found, service_tier=BATCH_TIER)

    def lines(self, data: bytes) -> Iterator[BatchLine]:
        """Every non-empty line of a whole file."""
        for line in data.split(b"\n"):
            if line.strip():
                yield self.line(line)
