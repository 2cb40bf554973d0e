"""Mistral: OpenAI's shape for chat, audio by the second, and pages for OCR."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from farthing.core.types import Usage
from farthing.wire.usage.context import apply_context
from farthing.wire.usage.openai import ChatMeter, ChatReader
from farthing.wire.usage.reading import EMPTY, Count, Notes, as_json, is_given, read
from farthing.wire.usage.tally import Facts, Lines, assemble, milliseconds, missing, part_of


class AudioUsage(msgspec.Struct, frozen=True, gc=False):
    """What Mistral adds to the OpenAI usage object."""

    prompt_audio_seconds: msgspec.Raw = EMPTY
    """A number, or an empty object where there was no audio."""


class Seconds(msgspec.Struct, frozen=True, gc=False):
    """A duration."""

    prompt_audio_seconds: Decimal | None = None


class OcrUsage(msgspec.Struct, frozen=True, gc=False):
    """What OCR consumed."""

    pages_processed: Count | None = None
    pages_processed_annotation: Count | None = None


class OcrBody(msgspec.Struct, frozen=True, gc=False):
    """What metering needs of an OCR answer."""

    model: str | None = None
    usage_info: msgspec.Raw = EMPTY


_AUDIO: Final = msgspec.json.Decoder(AudioUsage)
_SECONDS: Final = msgspec.json.Decoder(Seconds)
_OCR_BODY: Final = msgspec.json.Decoder(OcrBody)
_OCR_USAGE: Final = msgspec.json.Decoder(OcrUsage)


class MistralChatReader(ChatReader):
    """Chat and embeddings; audio prompts are billed by their length next to the tokens."""

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """The length of audio prompts."""
        if b"prompt_audio_seconds" not in raw:
            return {}
        usage = read(_AUDIO, raw, notes)
        if usage is None or not is_given(usage.prompt_audio_seconds):
            return {}
        if bytes(usage.prompt_audio_seconds).startswith(b"{"):
            return {}
        seconds = read(_SECONDS, raw, notes)
        length = milliseconds(seconds.prompt_audio_seconds, "prompt_audio_seconds", notes) if seconds else 0
        return {"input_audio_ms": length} if length else {}


class OcrReader:
    """OCR: pages, each once; annotated pages are part of them."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def from_body(self, body: bytes) -> Usage:
        """Usage of an OCR answer; never raises."""
        notes: Notes = []
        answer = read(_OCR_BODY, body, notes)
        if answer is None:
            return Usage(source="missing", anomalies=("body_not_json",))
        return self._from_raw(answer.usage_info, Facts(model=answer.model), notes)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a bare ``usage_info`` object; never raises."""
        notes: Notes = []
        facts = Facts()
        apply_context(facts, context)
        return self._from_raw(msgspec.Raw(as_json(usage, notes)), facts, notes)

    def meter(self) -> ChatMeter:
        """OCR does not stream; the meter stays empty."""
        return ChatMeter(MistralChatReader(self.flavour))

    def _from_raw(self, raw: msgspec.Raw, facts: Facts, notes: Notes) -> Usage:
        usage = read(_OCR_USAGE, raw, notes) if is_given(raw) else None
        if usage is None or usage.pages_processed is None:
            return missing(facts, notes, raw=bytes(raw))
        annotated = usage.pages_processed_annotation
        if annotated:
            facts.facet("annotated_pages", str(annotated))
        part = part_of({"page": usage.pages_processed}, tier_basis=0)
        return assemble((part,), source="reported", facts=facts, notes=notes, raw=bytes(raw))
