"""OpenAI images and speech-to-text: tokens by kind, seconds, pictures."""

from typing import Final

import msgspec

from farthing.core.types import Usage, UsagePart
from farthing.wire.usage.openai import ChatMeter, ChatReader
from farthing.wire.usage.openai_tokens import TOKEN_USAGE, TokenUsage, Totals, token_part, totals_of
from farthing.wire.usage.reading import EMPTY, Count, Notes, is_given, read
from farthing.wire.usage.tally import Facts, assemble, milliseconds, missing, part_of


class SvgUsage(msgspec.Struct, frozen=True, gc=False):
    """What writing an SVG consumed, by a model of its own, apart from ``usage``."""

    model: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    total_tokens: Count | None = None


class ImagesBody(msgspec.Struct, frozen=True, gc=False):
    """What metering needs of an image answer, or of a ``*.completed`` event of its stream."""

    type: str | None = None
    data: list[msgspec.Raw] | None = None
    size: str | None = None
    quality: str | None = None
    usage: msgspec.Raw = EMPTY
    svg_usage: SvgUsage | None = None


_IMAGES: Final = msgspec.json.Decoder(ImagesBody)


class TranscriptionReader(ChatReader):
    """Speech to text: tokens, or the length of the audio."""

    def from_raw(self, raw: msgspec.Raw, facts: Facts, notes: Notes, *, complete: bool) -> Usage:
        """Usage of either kind from the usage object's own bytes."""
        usage = read(TOKEN_USAGE, raw, []) if is_given(raw) else None
        if usage is None or usage.seconds is None:
            return super().from_raw(raw, facts, notes, complete=complete)
        part = transcription_part(usage, notes, model="")
        return assemble(
            (part,), source="reported" if complete else "partial", facts=facts, notes=notes, raw=bytes(raw)
        )

    def meter(self) -> ChatMeter:
        """A meter for one stream; ``transcript.text.done`` carries the usage."""
        return TranscriptionMeter(self)


class TranscriptionMeter(ChatMeter):
    """Learns the usage of one transcription stream. Skipping events without a mark loses nothing billed."""

    marks: tuple[bytes, ...] = (*ChatMeter.marks, b'"seconds"', b"transcript.text.done")


def transcription_part(usage: TokenUsage, notes: Notes, *, model: str) -> UsagePart:
    """The lines of a transcription: its audio's length where that is what is billed, tokens otherwise."""
    if usage.seconds is not None:
        return part_of({"input_audio_ms": milliseconds(usage.seconds, "seconds", notes)}, tier_basis=0, model=model)
    return token_part(usage, totals_of(usage, notes), notes, model=model)


class ImagesReader(ChatReader):
    """Image generation and editing: image tokens, or pictures by size and quality where no tokens are stated."""

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete answer; never raises."""
        notes: Notes = []
        answer = read(_IMAGES, body, notes)
        if answer is None:
            return Usage(source="missing", anomalies=("body_not_json",))
        facts = Facts()
        facts.facet("image_size", answer.size)
        facts.facet("image_quality", answer.quality)
        if not is_given(answer.usage) and answer.data:
            part = part_of({"image": len(answer.data)}, tier_basis=0)
            return assemble((part, *_svg_parts(answer, notes)), source="estimated", facts=facts, notes=notes)
        found = self.from_raw(answer.usage, facts, notes, complete=True)
        svg = _svg_parts(answer, notes)
        return msgspec.structs.replace(found, parts=(*found.parts, *svg)) if svg else found

    def meter(self) -> "ImagesMeter":
        """A meter for one stream of images."""
        return ImagesMeter(self)

    def part(self, usage: TokenUsage, totals: Totals, notes: Notes) -> UsagePart:
        """Output without a breakdown is all image tokens."""
        part = token_part(usage, totals, notes)
        if usage.output_tokens_details is not None:
            return part
        lines = dict(part.lines)
        lines["output_image"] = lines.pop("output", 0)
        return part_of(lines, tier_basis=part.tier_basis)


def _svg_parts(answer: ImagesBody, notes: Notes) -> list[UsagePart]:
    svg = answer.svg_usage
    if svg is None:
        return []
    usage = TokenUsage(
        input_tokens=svg.input_tokens,
        output_tokens=svg.output_tokens,
        reasoning_tokens=svg.reasoning_tokens,
        total_tokens=svg.total_tokens,
    )
    part = token_part(usage, totals_of(usage, notes), notes, model=svg.model or "svg")
    return [part] if part.lines else []


class ImagesMeter:
    """Learns the usage of one image stream: each finished picture states its own."""

    marks: tuple[bytes, ...] = (b'_tokens"', b".completed")

    def __init__(self, reader: ImagesReader) -> None:
        self.text_bytes = 0
        self.ended = False
        """A finished picture was seen."""
        self._reader = reader
        self._found: list[Usage] = []

    def event(self, data: bytes) -> None:
        """Takes one event's payload; partial pictures are ignored."""
        if b".completed" not in data:
            return
        event = read(_IMAGES, data, [])
        if event is not None and (event.type or "").endswith(".completed"):
            self.ended = True
            self._found.append(self._reader.from_body(data))

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed: one part per picture."""
        if not self._found:
            return missing(Facts(), [], complete=complete)
        last = self._found[-1]
        parts = tuple(part for found in self._found for part in found.parts)
        notes = tuple(dict.fromkeys(note for found in self._found for note in found.anomalies))
        return msgspec.structs.replace(last, parts=parts, anomalies=notes)
