"""OpenAI responses: the answer, read and written."""

from typing import Final

from farthing.core.errors import RequestError, StreamBroken
from farthing.wire.canonical import Answer, Part, Refusal, StopReason, Text, Thinking, TokenCounts, ToolCall
from farthing.wire.translate.answers import Frame, answer_fields, as_count, as_list, as_obj, as_text
from farthing.wire.translate.fields import Fields, dumps
from farthing.wire.translate.responses_request import reasoning_fields, reasoning_of

_INCOMPLETE: Final[dict[StopReason, str]] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}


def read_usage(value: object) -> TokenCounts | None:
    """``usage``: cached tokens are parts of the input's, reasoning is part of the output's."""
    if not isinstance(value, dict):
        return None
    taken = as_count(value.get("input_tokens"))
    details = as_obj(value.get("input_tokens_details"))
    cached = min(as_count(details.get("cached_tokens")), taken)
    written = min(as_count(details.get("cache_write_tokens")), taken - cached)
    return TokenCounts(
        input=taken - cached - written,
        cache_read=cached,
        cache_write=written,
        output=as_count(value.get("output_tokens")),
        reasoning=as_count(as_obj(value.get("output_tokens_details")).get("reasoning_tokens")),
    )


def written_usage(usage: TokenCounts) -> Fields:
    """``usage``."""
    details: Fields = {"cached_tokens": usage.cache_read}
    if usage.cache_write:
        details["cache_write_tokens"] = usage.cache_write
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": details,
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.output,
    }


def read(body: bytes) -> Answer:
    """The answer in the body of a response. Raises :class:`StreamBroken`."""
    return read_fields(answer_fields(body))


def read_fields(fields: Fields) -> Answer:
    """The answer in a response object."""
    parts: list[Part] = []
    try:
        for item in as_list(fields.get("output")):
            parts.extend(_parts(as_obj(item)))
    except RequestError as error:
        raise StreamBroken(f"The provider's answer cannot be translated: {error.message}") from None
    return Answer(
        id=as_text(fields.get("id")),
        model=as_text(fields.get("model")),
        created=as_count(fields.get("created_at")),
        parts=tuple(parts),
        stop=stop_of(fields, parts),
        usage=read_usage(fields.get("usage")),
    )


def stop_of(fields: Fields, parts: list[Part]) -> StopReason:
    """Why a response ended: what cut it, or what it holds."""
    if fields.get("status") == "incomplete":
        reason = as_obj(fields.get("incomplete_details")).get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    if any(isinstance(part, Refusal) for part in parts):
        return "refusal"
    return "tool" if any(isinstance(part, ToolCall) for part in parts) else "stop"


def _parts(item: Fields) -> list[Part]:
    kind = item.get("type")
    if kind == "function_call":
        arguments = as_text(item.get("arguments")) or "{}"
        return [ToolCall(id=as_text(item.get("call_id")), name=as_text(item.get("name")), arguments=arguments)]
    if kind == "reasoning":
        return [reasoning_of(item, "output")]
    found: list[Part] = []
    for piece in as_list(item.get("content")) if kind == "message" else []:
        said = as_obj(piece)
        if said.get("type") == "refusal":
            found.append(Refusal(text=as_text(said.get("refusal"))))
        elif as_text(said.get("text")):
            found.append(Text(text=as_text(said.get("text"))))
    return found


# -- writing


def write(answer: Answer, frame: Frame) -> bytes:
    """The body of a response."""
    head = head_of(answer.id or frame.id, answer.model or frame.model, answer.created or frame.now_s)
    return dumps(head | ending(answer) | {"output": output_items(answer.parts, str(head["id"]))})


def head_of(identity: str, model: str, created: int) -> Fields:
    """A response that has just begun."""
    return {
        "id": identity,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def ending(answer: Answer) -> Fields:
    """What the end says: status, why it is incomplete, usage."""
    declined = answer.stop == "refusal" and any(isinstance(part, Refusal) for part in answer.parts)
    reason = None if declined else _INCOMPLETE.get(answer.stop)
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": written_usage(answer.usage) if answer.usage is not None else None,
    }


def output_items(parts: tuple[Part, ...], identity: str) -> list[Fields]:
    """The items of ``output``; neighbouring words share one message."""
    found: list[Fields] = []
    for part in parts:
        place = len(found)
        if isinstance(part, ToolCall):
            found.append(call_item(part, f"fc_{identity}_{place}", "completed"))
        elif isinstance(part, Thinking):
            found.append({"id": f"rs_{identity}_{place}", "type": "reasoning", **reasoning_fields(part)})
        elif isinstance(part, Text | Refusal):
            if found and found[-1]["type"] == "message":
                said = found[-1]["content"]
                assert isinstance(said, list)
                said.append(content_of(part))
            else:
                found.append(message_item([content_of(part)], f"msg_{identity}_{place}", "completed"))
    return found


def content_of(part: Text | Refusal) -> Fields:
    """A part of a message item."""
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    return {"type": "output_text", "text": part.text, "annotations": []}


def message_item(content: list[Fields], identity: str, status: str) -> Fields:
    """A message of the model."""
    return {"id": identity, "type": "message", "status": status, "role": "assistant", "content": content}


def call_item(call: ToolCall, identity: str, status: str) -> Fields:
    """A call of a function."""
    named = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
    return {"id": identity, "type": "function_call", "status": status, **named}
