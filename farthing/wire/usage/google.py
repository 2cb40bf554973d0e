"""Gemini on AI Studio and Vertex AI: ``usageMetadata``, cumulative in streams, thoughts beside the candidates."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage, UsageSource
from farthing.wire.usage.context import apply_context
from farthing.wire.usage.google_tokens import USAGE_METADATA, metadata_part, stated, traffic_tier
from farthing.wire.usage.reading import EMPTY, Notes, as_json, decoded, is_given, read
from farthing.wire.usage.tally import Facts, Lines, assemble, lacks_a_total, missing, part_of
from farthing.wire.usage.text_size import text_size


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A grounding chunk; only its kind matters."""

    maps: msgspec.Raw = EMPTY


class Grounding(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What an answer was grounded on."""

    web_search_queries: list[str] | None = None
    grounding_chunks: list[Chunk] | None = None


class Content(msgspec.Struct, frozen=True, gc=False):
    """A candidate's content."""

    parts: msgspec.Raw = EMPTY


class Candidate(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A candidate answer."""

    content: Content | None = None
    finish_reason: str | None = None
    grounding_metadata: Grounding | None = None


class Feedback(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Why a prompt was blocked."""

    block_reason: str | None = None


class Answer(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """What metering needs of an answer, or of one chunk of its stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: msgspec.Raw = EMPTY
    model_version: str | None = None
    response_id: str | None = None


_ANSWER: Final = msgspec.json.Decoder(Answer)
_CHUNKS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_GENERATION: Final = re.compile(r"gemini-(\d+)")
_PER_QUERY_FROM: Final = 3
"""From this Gemini generation on, grounding is billed per search query; before, per grounded prompt."""


class GeminiReader:
    """Reads ``generateContent`` answers and embeddings."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete answer, or of a whole stream in its JSON array form; never raises."""
        meter = GeminiMeter(self)
        if body.lstrip(b" \t\r\n").startswith(b"["):
            chunks = decoded(_CHUNKS, body)
            if chunks is None:
                return Usage(source="missing", anomalies=("body_not_json",))
            for chunk in chunks:
                meter.event(bytes(chunk))
        elif not meter.take(body):
            return Usage(source="missing", anomalies=("body_not_json",))
        return meter.usage(complete=True)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a bare ``usageMetadata`` object; never raises."""
        notes: Notes = []
        facts = Facts()
        raw = msgspec.Raw(as_json(usage, notes))
        return self.from_raw(raw, facts, notes, complete=True, context=context)

    def meter(self) -> "GeminiMeter":
        """A meter for one stream."""
        return GeminiMeter(self)

    def from_raw(
        self,
        raw: msgspec.Raw,
        facts: Facts,
        notes: Notes,
        *,
        complete: bool,
        extra: Lines | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Usage:
        """Usage from the metadata object's own bytes; ``extra`` are lines counted outside of it."""
        verbatim = bytes(raw) if is_given(raw) else b""
        usage = read(USAGE_METADATA, verbatim, notes) if verbatim else None
        if usage is not None:
            traffic = (usage.traffic_type or "").lower()
            facts.facet("traffic", traffic)
            facts.service_tier = traffic_tier(usage.service_tier, traffic) or facts.service_tier
        if context is not None:
            apply_context(facts, context)
        if usage is None or not stated(usage):
            if verbatim:
                notes.append("usage_without_totals")
            return missing(facts, notes, complete=complete, raw=verbatim)
        part = metadata_part(usage, notes)
        if extra:
            part = part_of(dict(part.lines) | extra, tier_basis=part.tier_basis)
        source: UsageSource = "reported" if complete and not lacks_a_total(notes) else "partial"
        return assemble((part,), source=source, facts=facts, notes=notes, raw=verbatim)


class GeminiMeter:
    """Learns the usage of one stream: every chunk repeats cumulative metadata, so the last one counts.

    Practically every chunk carries a mark; the metadata's bytes are kept and read once, at the end. Skipping events
    without a mark loses ``text_bytes`` and nothing that is billed.
    """

    marks: tuple[bytes, ...] = (b'TokenCount"', b'"finishReason"', b'"groundingMetadata"', b'"blockReason"')

    def __init__(self, reader: GeminiReader) -> None:
        self.text_bytes = 0
        self.ended = False
        """A finish or block reason was seen together with usage."""
        self._reader = reader
        self._facts = Facts()
        self._usage = EMPTY
        self._queries: set[str] = set()
        self._on_maps = False

    def event(self, data: bytes) -> None:
        """Takes one chunk; anything else is ignored."""
        self.take(data)

    def take(self, data: bytes) -> bool:
        """Takes one chunk or one whole answer; False when it is no JSON object."""
        answer = read(_ANSWER, data, [])
        if answer is None:
            return False
        facts = self._facts
        facts.model = answer.model_version or facts.model
        facts.upstream_id = answer.response_id or facts.upstream_id
        if is_given(answer.usage_metadata):
            self._usage = answer.usage_metadata.copy()
        for candidate in answer.candidates or ():
            self._candidate(candidate)
        if answer.prompt_feedback is not None and answer.prompt_feedback.block_reason:
            facts.finish_reason = answer.prompt_feedback.block_reason
        self.ended = self.ended or bool(facts.finish_reason and is_given(answer.usage_metadata))
        return True

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; ``reported`` once a chunk with a finish reason brought usage."""
        facts = Facts(
            model=self._facts.model,
            finish_reason=self._facts.finish_reason,
            upstream_id=self._facts.upstream_id,
        )
        done = complete or self.ended
        return self._reader.from_raw(self._usage, facts, [], complete=done, extra=self._grounding())

    def _candidate(self, candidate: Candidate) -> None:
        if candidate.finish_reason:
            self._facts.finish_reason = candidate.finish_reason
        if candidate.content is not None:
            self.text_bytes += text_size(candidate.content.parts)
        grounding = candidate.grounding_metadata
        if grounding is not None:
            self._queries.update(query for query in grounding.web_search_queries or () if query)
            self._on_maps = self._on_maps or any(is_given(chunk.maps) for chunk in grounding.grounding_chunks or ())

    def _grounding(self) -> Lines:
        """Billable grounding: searches or grounded prompts by generation, and grounded prompts on Maps."""
        lines: Lines = {}
        if self._queries:
            found = _GENERATION.search(self._facts.model or "")
            per_query = found is not None and int(found.group(1)) >= _PER_QUERY_FROM
            lines["grounding"] = len(self._queries) if per_query else 1
        if self._on_maps:
            lines["maps_grounding"] = 1
        return lines
