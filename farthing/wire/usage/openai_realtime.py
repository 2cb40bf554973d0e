"""OpenAI realtime sessions: every response states its own usage, transcriptions of the input theirs."""

from collections.abc import Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage, UsagePart, UsageSource
from farthing.wire.usage.context import apply_context
from farthing.wire.usage.openai_media import transcription_part
from farthing.wire.usage.openai_tokens import TOKEN_USAGE, token_part, totals_of
from farthing.wire.usage.reading import EMPTY, Notes, as_json, is_given, read
from farthing.wire.usage.tally import Facts, assemble, missing
from farthing.wire.usage.text_size import text_size

TRANSCRIPTION_MODEL: Final = "input_audio_transcription"
"""Model of a session's transcription part while the session has not named it."""


class SessionModel(msgspec.Struct, frozen=True, gc=False):
    """A model a session names."""

    model: str | None = None


class SessionInput(msgspec.Struct, frozen=True, gc=False):
    """A session's audio input."""

    transcription: SessionModel | None = None


class SessionAudio(msgspec.Struct, frozen=True, gc=False):
    """A session's audio settings."""

    input: SessionInput | None = None


class Session(msgspec.Struct, frozen=True, gc=False):
    """A session as its events repeat it; the older form keeps transcription at the top."""

    model: str | None = None
    audio: SessionAudio | None = None
    input_audio_transcription: SessionModel | None = None


class RealtimeResponse(msgspec.Struct, frozen=True, gc=False):
    """A finished response."""

    id: str | None = None
    status: str | None = None
    model: str | None = None
    usage: msgspec.Raw = EMPTY


class RealtimeEvent(msgspec.Struct, frozen=True, gc=False):
    """A server event of any type."""

    type: str | None = None
    session: Session | None = None
    response: RealtimeResponse | None = None
    usage: msgspec.Raw = EMPTY
    delta: msgspec.Raw = EMPTY


_EVENT: Final = msgspec.json.Decoder(RealtimeEvent)
_TEXT_DELTAS: Final = ("text.delta", "transcript.delta", "arguments.delta")


class RealtimeReader:
    """Reads realtime responses; a session's meter adds them up, one part per response."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def from_body(self, body: bytes) -> Usage:
        """Usage of one ``response.done`` event or of a bare response object; never raises."""
        meter = RealtimeMeter(self)
        if not meter.take(body, any_type=True):
            return Usage(source="missing", anomalies=("body_not_json",))
        return meter.usage(complete=True)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a response's usage object; never raises."""
        notes: Notes = []
        meter = RealtimeMeter(self)
        meter.add(msgspec.Raw(as_json(usage, notes)))
        facts = Facts()
        apply_context(facts, context)
        return meter.assembled(facts, complete=True)

    def meter(self) -> "RealtimeMeter":
        """A meter for one session's server events."""
        return RealtimeMeter(self)


class RealtimeMeter:
    """Learns the usage of one session: every response and every input transcription is a part of its own.

    Skipping events without a mark loses ``text_bytes`` and nothing that is billed.
    """

    marks: tuple[bytes, ...] = (b'_tokens"', b'"seconds"', b'"session.', b"response.done")

    def __init__(self, reader: RealtimeReader) -> None:
        self.text_bytes = 0
        self.ended = False
        """Sessions have no terminal event; the socket's end is theirs."""
        self._facts = Facts()
        self._parts: list[UsagePart] = []
        self._notes: Notes = []
        self._raws: list[bytes] = []
        self._transcriber = TRANSCRIPTION_MODEL
        self._seen = False

    def event(self, data: bytes) -> None:
        """Takes one server event; anything unknown is ignored."""
        self.take(data)

    def take(self, data: bytes, *, any_type: bool = False) -> bool:
        """Takes one event, or (``any_type``) a bare response; False when it is no JSON object."""
        event = read(_EVENT, data, [])
        if event is None:
            return False
        kind = event.type or ""
        if event.session is not None:
            self._session(event.session)
        if kind.endswith("input_audio_transcription.completed"):
            self._transcribed(event.usage)
        elif event.response is not None and (any_type or kind == "response.done"):
            response = event.response
            self._facts.model = response.model or self._facts.model
            self._facts.upstream_id = response.id or self._facts.upstream_id
            self._facts.finish_reason = response.status or self._facts.finish_reason
            self.add(response.usage)
        elif any_type:
            self.add(event.usage)
        elif kind.endswith(_TEXT_DELTAS):
            self.text_bytes += text_size(event.delta)
        return True

    def add(self, raw: msgspec.Raw) -> None:
        """Adds one response's usage object."""
        usage = read(TOKEN_USAGE, raw, self._notes) if is_given(raw) else None
        if usage is None:
            return
        totals = totals_of(usage, self._notes)
        if not totals.stated:
            self._notes.append("usage_without_totals")
            return
        self._keep(token_part(usage, totals, self._notes), raw)

    def usage(self, *, complete: bool) -> Usage:
        """What the session consumed so far; a session without any finished response has no usage."""
        facts = Facts(
            model=self._facts.model,
            finish_reason=self._facts.finish_reason,
            upstream_id=self._facts.upstream_id,
        )
        return self.assembled(facts, complete=complete)

    def assembled(self, facts: Facts, *, complete: bool) -> Usage:
        """The usage record under these facts."""
        notes = list(self._notes)
        if not self._seen:
            return missing(facts, notes, complete=complete)
        raw = self._raws[0] if len(self._raws) == 1 else b"[" + b",".join(self._raws) + b"]"
        source: UsageSource = "reported" if complete else "partial"
        return assemble(self._parts, source=source, facts=facts, notes=notes, raw=raw)

    def _session(self, session: Session) -> None:
        self._facts.model = session.model or self._facts.model
        named = session.input_audio_transcription
        if session.audio is not None and session.audio.input is not None:
            named = session.audio.input.transcription or named
        if named is not None and named.model:
            self._transcriber = named.model

    def _transcribed(self, raw: msgspec.Raw) -> None:
        usage = read(TOKEN_USAGE, raw, self._notes) if is_given(raw) else None
        if usage is not None:
            self._keep(transcription_part(usage, self._notes, model=self._transcriber), raw)

    def _keep(self, part: UsagePart, raw: msgspec.Raw) -> None:
        self._seen = True
        self._parts.append(part)
        self._raws.append(bytes(raw))
