"""Bedrock's Converse: the answer and the stream, read."""

from typing import Final

from farthing.wire.canonical import (
    Answer,
    Began,
    CallBegan,
    CallPiece,
    Counted,
    Ended,
    Event,
    Failed,
    Failure,
    Part,
    PartEnded,
    Stopped,
    StopReason,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    TokenCounts,
    ToolCall,
)
from farthing.wire.translate.answers import answer_fields, as_count, as_list, as_obj, as_text, event_fields
from farthing.wire.translate.fields import Fields, dumps

_STOPS: Final[dict[str, StopReason]] = {
    "end_turn": "stop",
    "tool_use": "tool",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "content_filter",
    "malformed_tool_use": "content_filter",
    "refusal": "refusal",
}
_STATUS: Final = {
    "throttlingException": 429,
    "validationException": 400,
    "modelStreamErrorException": 502,
    "serviceUnavailableException": 503,
}


def read_usage(value: object) -> TokenCounts | None:
    """``usage``: input, cache reads and cache writes stand beside each other."""
    if not isinstance(value, dict):
        return None
    long = sum(
        as_count(as_obj(one).get("inputTokens"))
        for one in as_list(value.get("cacheDetails"))
        if as_obj(one).get("ttl") == "1h"
    )
    return TokenCounts(
        input=as_count(value.get("inputTokens")),
        cache_read=as_count(value.get("cacheReadInputTokens")),
        cache_write=as_count(value.get("cacheWriteInputTokens")),
        cache_write_1h=long,
        output=as_count(value.get("outputTokens")),
    )


def read(body: bytes) -> Answer:
    """The answer in the body of Converse. Raises :class:`StreamBroken`."""
    fields = answer_fields(body)
    message = as_obj(as_obj(fields.get("output")).get("message"))
    parts = [part for item in as_list(message.get("content")) if (part := _part(as_obj(item))) is not None]
    return Answer(
        parts=tuple(parts),
        stop=_STOPS.get(as_text(fields.get("stopReason")), "stop"),
        usage=read_usage(fields.get("usage")),
    )


def _part(block: Fields) -> Part | None:
    use = as_obj(block.get("toolUse"))
    if use:
        arguments = dumps(as_obj(use.get("input"))).decode()
        return ToolCall(id=as_text(use.get("toolUseId")), name=as_text(use.get("name")), arguments=arguments)
    thought = as_obj(block.get("reasoningContent"))
    if thought:
        hidden = as_text(thought.get("redactedContent"))
        if hidden:
            return Thinking(signature=hidden, redacted=True, signer="anthropic")
        shown = as_obj(thought.get("reasoningText"))
        signature = as_text(shown.get("signature"))
        said = as_text(shown.get("text"))
        return Thinking(text=said, signature=signature, signer="anthropic" if signature else "")
    said = as_text(block.get("text"))
    return Text(text=said) if said else None


class ConverseReader:
    """Events of one stream, in order; their names come from the frames' headers."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._silent: set[int] = set()

    def event(self, name: bytes, data: bytes) -> list[Event]:
        """What one event tells."""
        kind = name.decode("ascii", "replace")
        fields = event_fields(data)
        index = fields.get("contentBlockIndex")
        if kind == "messageStart":
            return [Began()]
        if kind == "contentBlockStart":
            return self._start(as_obj(as_obj(fields.get("start")).get("toolUse")), index)
        if kind == "contentBlockDelta":
            return self._delta(as_obj(fields.get("delta")), index)
        if kind == "contentBlockStop":
            if isinstance(index, int) and index in self._silent:
                return [CallPiece(index=self._calls[index], arguments="{}"), PartEnded()]
            return [PartEnded()]
        if kind == "messageStop":
            return [Stopped(stop=_STOPS.get(as_text(fields.get("stopReason")), "stop"))]
        if kind == "metadata":
            usage = read_usage(fields.get("usage"))
            return [*([Counted(usage=usage)] if usage is not None else []), Ended()]
        if kind.endswith("Exception"):
            message = as_text(fields.get("message")) or "The provider broke the stream off."
            return [Failed(failure=Failure(status=_STATUS.get(kind, 500), message=message, kind=kind))]
        return []

    def finish(self) -> list[Event]:
        """The end of the bytes tells nothing: an answer ends with its metadata."""
        return []

    def _start(self, use: Fields, index: object) -> list[Event]:
        if not use or not isinstance(index, int):
            return []
        number = self._calls[index] = len(self._calls)
        self._silent.add(index)
        return [CallBegan(index=number, id=as_text(use.get("toolUseId")), name=as_text(use.get("name")))]

    def _delta(self, delta: Fields, index: object) -> list[Event]:
        said = as_text(delta.get("text"))
        if said:
            return [TextPiece(text=said)]
        piece = as_text(as_obj(delta.get("toolUse")).get("input"))
        if piece and isinstance(index, int) and index in self._calls:
            self._silent.discard(index)
            return [CallPiece(index=self._calls[index], arguments=piece)]
        thought = as_obj(delta.get("reasoningContent"))
        if not thought:
            return []
        hidden = as_text(thought.get("redactedContent"))
        if hidden:
            return [ThinkingPiece(signature=hidden, redacted=True, signer="anthropic")]
        signature = as_text(thought.get("signature"))
        piece = as_text(thought.get("text"))
        return [ThinkingPiece(text=piece, signature=signature, signer="anthropic" if signature else "")]
