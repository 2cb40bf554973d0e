"""Anthropic messages: the answer, read and written."""

from typing import Final

import msgspec

from farthing.core.errors import RequestError, StreamBroken
from farthing.wire.canonical import Answer, Part, Refusal, StopReason, Text, Thinking, TokenCounts, ToolCall
from farthing.wire.translate.answers import Frame, answer_fields, as_count, as_list, as_obj, as_text
from farthing.wire.translate.fields import Fields, Losses, arguments_object, dumps
from farthing.wire.translate.messages_request import block_of

STOPS: Final[dict[str, StopReason]] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
    "pause_turn": "pause",
}
REASONS: Final[dict[StopReason, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool": "tool_use",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
    "content_filter": "refusal",
    "pause": "pause_turn",
}


def read_usage(value: object) -> TokenCounts | None:
    """``usage``: input, cache reads and cache writes stand beside each other."""
    if not isinstance(value, dict):
        return None
    split = as_obj(value.get("cache_creation"))
    details = as_obj(value.get("output_tokens_details"))
    return TokenCounts(
        input=as_count(value.get("input_tokens")),
        cache_read=as_count(value.get("cache_read_input_tokens")),
        cache_write=as_count(value.get("cache_creation_input_tokens")),
        cache_write_1h=as_count(split.get("ephemeral_1h_input_tokens")),
        output=as_count(value.get("output_tokens")),
        reasoning=as_count(details.get("thinking_tokens")),
    )


def written_usage(usage: TokenCounts) -> Fields:
    """``usage``."""
    written: Fields = {
        "input_tokens": usage.input,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output,
    }
    if usage.cache_write:
        short = max(0, usage.cache_write - usage.cache_write_1h)
        written["cache_creation"] = {
            "ephemeral_5m_input_tokens": short,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        }
    if usage.reasoning:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return written


def read(body: bytes) -> Answer:
    """The answer in the body of a message. Raises :class:`StreamBroken`."""
    fields = answer_fields(body)
    stop = STOPS.get(as_text(fields.get("stop_reason")), "stop")
    parts: list[Part] = []
    try:
        for item in as_list(fields.get("content")):
            parts.append(block_of(as_obj(item), "content", Losses()))
    except RequestError as error:
        raise StreamBroken(f"The provider's answer cannot be translated: {error.message}") from None
    kept = [part for part in parts if not (isinstance(part, Text) and not part.text)]
    if stop == "refusal":
        kept = [Refusal(text=part.text) if isinstance(part, Text) else part for part in kept]
    return Answer(
        id=as_text(fields.get("id")),
        model=as_text(fields.get("model")),
        parts=tuple(kept),
        stop=stop,
        stop_sequence=as_text(fields.get("stop_sequence")),
        usage=read_usage(fields.get("usage")),
    )


def write(answer: Answer, frame: Frame) -> bytes:
    """The body of a message."""
    return dumps(
        {
            "id": answer.id or frame.id,
            "type": "message",
            "role": "assistant",
            "model": answer.model or frame.model,
            "content": [block for part in answer.parts if (block := _block(part)) is not None],
            "stop_reason": REASONS[answer.stop],
            "stop_sequence": answer.stop_sequence or None,
            "usage": written_usage(answer.usage or TokenCounts()),
        }
    )


def _block(part: Part) -> Fields | None:
    if isinstance(part, Text | Refusal):
        return {"type": "text", "text": part.text}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part.arguments)}
    if isinstance(part, Thinking):
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.signature}
        own = part.signature if part.signer == "anthropic" else ""
        return {"type": "thinking", "thinking": part.text, "signature": own}
    return None


def _input(arguments: str) -> msgspec.Raw:
    """The arguments as an object; an answer that was cut in the middle of them has none."""
    try:
        return arguments_object(arguments, "arguments")
    except RequestError:
        return msgspec.Raw(b"{}")
