"""OpenAI chat, completions and embeddings, and the many servers that speak the same.

The readers of compatible providers build on :class:`ChatReader` and add what their usage says beyond OpenAI's.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage, UsagePart
from farthing.wire.usage.context import apply_context, served_tier
from farthing.wire.usage.openai_tokens import (
    TOKEN_USAGE,
    TokenUsage,
    Totals,
    plain_lines,
    source_of,
    token_part,
    totals_of,
)
from farthing.wire.usage.reading import EMPTY, UNREADABLE, Notes, as_json, is_given, read
from farthing.wire.usage.stream import Meter
from farthing.wire.usage.tally import Facts, Lines, assemble, missing, part_of
from farthing.wire.usage.text_size import text_size


class Call(msgspec.Struct, frozen=True, gc=False):
    """A tool call's piece, or the older function call's."""

    name: msgspec.Raw = EMPTY
    arguments: msgspec.Raw = EMPTY


class ToolCall(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``tool_calls``."""

    function: Call | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """The text members of a stream's delta."""

    content: msgspec.Raw = EMPTY
    reasoning_content: msgspec.Raw = EMPTY
    reasoning: msgspec.Raw = EMPTY
    refusal: msgspec.Raw = EMPTY
    tool_calls: list[ToolCall] | None = None
    function_call: Call | None = None


class Choice(msgspec.Struct, frozen=True, gc=False):
    """A choice of an answer or of a stream chunk; ``usage`` is Moonshot's place for it in streams."""

    index: int | None = None
    finish_reason: str | None = None
    delta: Delta | None = None
    text: msgspec.Raw = EMPTY
    usage: msgspec.Raw = EMPTY


class FinishedChoice(msgspec.Struct, frozen=True, gc=False):
    """A choice of a complete answer, without its text."""

    finish_reason: str | None = None


class GroqExtra(msgspec.Struct, frozen=True, gc=False):
    """Groq's own place for stream usage."""

    usage: msgspec.Raw = EMPTY


class ChatBody(msgspec.Struct, frozen=True, gc=False):
    """What metering needs of a complete answer."""

    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    choices: list[FinishedChoice] | None = None
    usage: msgspec.Raw = EMPTY


class ChatChunk(msgspec.Struct, frozen=True, gc=False):
    """What metering needs of a stream chunk."""

    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    choices: list[Choice] | None = None
    usage: msgspec.Raw = EMPTY
    x_groq: GroqExtra | None = None


_BODY: Final = msgspec.json.Decoder(ChatBody)
_CHUNK: Final = msgspec.json.Decoder(ChatChunk)
_DONE: Final = b"[DONE]"


class ChatReader:
    """Reads chat completions, legacy completions and embeddings."""

    reasoning_beside: bool = False
    """Reasoning is counted next to ``completion_tokens``, not in it."""
    text_is_all: bool = False
    """``text_tokens`` counts every kind of input."""

    def __init__(self, flavour: str, *, output_expected: bool = True) -> None:
        """``output_expected`` is False for embeddings, whose usage has no output total."""
        self.flavour = flavour
        self.output_expected = output_expected
        own = (type(self).from_raw, type(self).part, type(self).extras)
        self._plain = own == (ChatReader.from_raw, ChatReader.part, ChatReader.extras) and not self.reasoning_beside
        """Usage that says nothing out of the ordinary is read the short way."""

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete answer; never raises."""
        notes: Notes = []
        answer = read(_BODY, body, notes)
        if answer is None:
            return Usage(source="missing", anomalies=("body_not_json",))
        finish = answer.choices[0].finish_reason if answer.choices else None
        usage = _plain_usage(answer, finish) if self._plain and not notes else None
        if usage is not None:
            return usage
        facts = Facts(
            model=answer.model,
            service_tier=served_tier(answer.service_tier),
            finish_reason=finish,
            upstream_id=answer.id,
        )
        return self.from_raw(answer.usage, facts, notes, complete=True)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a bare usage object and what is known around it; never raises."""
        notes: Notes = []
        facts = Facts()
        apply_context(facts, context)
        return self.from_raw(msgspec.Raw(as_json(usage, notes)), facts, notes, complete=True)

    def meter(self) -> Meter:
        """A meter for one stream."""
        return ChatMeter(self)

    def from_raw(self, raw: msgspec.Raw, facts: Facts, notes: Notes, *, complete: bool) -> Usage:
        """Usage from the usage object's own bytes."""
        verbatim = bytes(raw)
        if not verbatim or verbatim == b"null":
            return missing(facts, notes, complete=complete)
        usage = read(TOKEN_USAGE, verbatim, notes)
        if usage is None:
            notes.append("usage_not_an_object")
            return missing(facts, notes, complete=complete, raw=verbatim)
        totals = totals_of(usage, notes, output_expected=self.output_expected)
        if not totals.stated:
            notes.append("usage_without_totals")
        if usage.service_tier and not facts.service_tier:
            facts.service_tier = served_tier(usage.service_tier)
        part = self.part(usage, totals, notes)
        extra = self.extras(verbatim, facts, notes)
        if extra:
            lines = dict(part.lines)
            lines |= extra
            part = part_of(lines, tier_basis=part.tier_basis, model=part.model)
        source = source_of(totals, complete=complete)
        return assemble((part,), source=source, facts=facts, notes=notes, raw=verbatim)

    def part(self, usage: TokenUsage, totals: Totals, notes: Notes) -> UsagePart:
        """The token lines; providers that count differently override this."""
        return token_part(usage, totals, notes, reasoning_beside=self.reasoning_beside, text_is_all=self.text_is_all)

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """Further lines and facts that a provider puts into its usage; none for OpenAI."""
        return {}


def _plain_usage(answer: ChatBody, finish: str | None) -> Usage | None:
    """The usage of an answer that says just the ordinary, as most do; None: it takes the long way."""
    raw = bytes(answer.usage)
    try:
        usage = TOKEN_USAGE.decode(raw)
    except UNREADABLE:
        return None
    lines = plain_lines(usage)
    if not lines or usage.service_tier or usage.prompt_tokens is None:
        return None
    return Usage(
        parts=(UsagePart(lines=lines, tier_basis=usage.prompt_tokens),),
        source="reported",
        model=answer.model or "",
        service_tier=served_tier(answer.service_tier) if answer.service_tier else "",
        finish_reason=finish or "",
        upstream_id=answer.id or "",
        raw=raw,
    )


class ChatMeter:
    """Learns the usage of one chat or completions stream.

    Usage objects are cumulative wherever they repeat, so the last one counts. Skipping events without a mark loses
    ``text_bytes`` and nothing that is billed, provided that the first event is fed.
    """

    marks: tuple[bytes, ...] = (b'_tokens"', b'"finish_reason":"', b'"finish_reason": "', b"[DONE]")

    def __init__(self, reader: ChatReader) -> None:
        self.text_bytes = 0
        self.ended = False
        """The stream's own terminal event was seen."""
        self._reader = reader
        self._facts = Facts()
        self._usage = EMPTY
        self._final = False
        self._open: set[int] = set()

    def event(self, data: bytes) -> None:
        """Takes one event's payload; anything that is no chunk is ignored."""
        if data == _DONE:
            self.ended = True
            return
        chunk = read(_CHUNK, data, [])
        if chunk is None:
            return
        facts = self._facts
        facts.model = chunk.model or facts.model
        facts.upstream_id = facts.upstream_id or chunk.id
        if chunk.service_tier:
            facts.service_tier = served_tier(chunk.service_tier)
        for choice in chunk.choices or ():
            self._choice(choice)
        self._take(chunk.usage, last=not chunk.choices or not self._open)
        if chunk.x_groq is not None:
            self._take(chunk.x_groq.usage, last=True)

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; ``reported`` once the final usage was seen, even if the stream broke after it."""
        done = complete or self.ended or self._final
        return self._reader.from_raw(self._usage, self._copy_of_facts(), [], complete=done)

    def _choice(self, choice: Choice) -> None:
        index = choice.index or 0
        if choice.finish_reason:
            self._facts.finish_reason = choice.finish_reason
            self._open.discard(index)
        else:
            self._open.add(index)
        self._take(choice.usage, last=bool(choice.finish_reason))
        self.text_bytes += text_size(choice.text)
        delta = choice.delta
        if delta is None:
            return
        self.text_bytes += text_size(delta.content) + text_size(delta.refusal)
        self.text_bytes += max(text_size(delta.reasoning_content), text_size(delta.reasoning))
        if not delta.tool_calls and delta.function_call is None:
            return
        calls = [call.function for call in delta.tool_calls or () if call.function is not None]
        if delta.function_call is not None:
            calls.append(delta.function_call)
        self.text_bytes += sum(text_size(call.name) + text_size(call.arguments) for call in calls)

    def _take(self, usage: msgspec.Raw, *, last: bool) -> None:
        if is_given(usage):
            self._usage = usage.copy()
            self._final = last

    def _copy_of_facts(self) -> Facts:
        facts = self._facts
        return Facts(
            model=facts.model,
            service_tier=facts.service_tier,
            finish_reason=facts.finish_reason,
            upstream_id=facts.upstream_id,
        )
