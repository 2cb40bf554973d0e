"""OpenAI chat completions: the answer, read and written."""

from typing import Final

from farthing.core.errors import StreamBroken
from farthing.wire.canonical import Answer, Part, Refusal, StopReason, Text, Thinking, TokenCounts, ToolCall
from farthing.wire.translate.answers import Frame, answer_fields, as_count, as_list, as_obj, as_text
from farthing.wire.translate.fields import Fields, dumps

STOPS: Final[dict[str, StopReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool",
    "function_call": "tool",
    "content_filter": "content_filter",
}
FINISH: Final[dict[StopReason, str]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool": "tool_calls",
    "refusal": "content_filter",
    "content_filter": "content_filter",
    "pause": "stop",
}


def read_usage(value: object) -> TokenCounts | None:
    """``usage``: cached tokens are parts of the prompt's, reasoning is part of the completion's."""
    if not isinstance(value, dict):
        return None
    prompt, completion = as_count(value.get("prompt_tokens")), as_count(value.get("completion_tokens"))
    details = as_obj(value.get("prompt_tokens_details"))
    cached = min(as_count(details.get("cached_tokens")), prompt)
    written = min(as_count(details.get("cache_write_tokens")), prompt - cached)
    return TokenCounts(
        input=prompt - cached - written,
        cache_read=cached,
        cache_write=written,
        output=completion,
        reasoning=as_count(as_obj(value.get("completion_tokens_details")).get("reasoning_tokens")),
    )


def written_usage(usage: TokenCounts) -> Fields:
    """``usage``."""
    details: Fields = {"cached_tokens": usage.cache_read}
    if usage.cache_write:
        details["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def read(body: bytes) -> Answer:
    """The answer in the body of a chat completion. Raises :class:`StreamBroken`."""
    fields = answer_fields(body)
    choices = as_list(fields.get("choices"))
    if not choices:
        raise StreamBroken("The provider's answer has no choices.")
    choice = as_obj(choices[0])
    message = as_obj(choice.get("message"))
    parts: list[Part] = []
    thought = as_text(message.get("reasoning_content")) or as_text(message.get("reasoning"))
    if thought:
        parts.append(Thinking(text=thought))
    said = as_text(message.get("content"))
    if said:
        parts.append(Text(text=said))
    declined = as_text(message.get("refusal"))
    if declined:
        parts.append(Refusal(text=declined))
    for item in as_list(message.get("tool_calls")):
        call = as_obj(item)
        function = as_obj(call.get("function"))
        parts.append(
            ToolCall(
                id=as_text(call.get("id")),
                name=as_text(function.get("name")),
                arguments=as_text(function.get("arguments")) or "{}",
            )
        )
    return Answer(
        id=as_text(fields.get("id")),
        model=as_text(fields.get("model")),
        created=as_count(fields.get("created")),
        parts=tuple(parts),
        stop="refusal" if declined else STOPS.get(as_text(choice.get("finish_reason")), "stop"),
        usage=read_usage(fields.get("usage")),
    )


def write(answer: Answer, frame: Frame) -> bytes:
    """The body of a chat completion."""
    said = [part.text for part in answer.parts if isinstance(part, Text)]
    declined = "".join(part.text for part in answer.parts if isinstance(part, Refusal))
    thought = "\n".join(part.text for part in answer.parts if isinstance(part, Thinking) and part.text)
    calls = [part for part in answer.parts if isinstance(part, ToolCall)]
    nothing = None if calls or declined else ""
    message: Fields = {
        "role": "assistant",
        "content": "".join(said) if said else nothing,
        "refusal": declined or None,
    }
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    finish = "stop" if declined and answer.stop == "refusal" else FINISH[answer.stop]
    written: Fields = {
        "id": answer.id or frame.id,
        "object": "chat.completion",
        "created": answer.created or frame.now_s,
        "model": answer.model or frame.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
    }
    if answer.usage is not None:
        written["usage"] = written_usage(answer.usage)
    return dumps(written)
