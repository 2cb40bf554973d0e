"""OpenAI responses: the request, read and written."""

from typing import Final

from farthing.core.errors import BadRequest
from farthing.wire.canonical import (
    Conversation,
    Image,
    Message,
    Part,
    Refusal,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from farthing.wire.translate import openai_shared as shared
from farthing.wire.translate.fields import (
    Fields,
    Losses,
    flag,
    items,
    number,
    obj,
    refuse,
    sift,
    sift_top,
    text,
    whole,
    without_nulls,
)
from farthing.wire.translate.signatures import sealed, unsealed

_KNOWN: Final = frozenset(
    {
        "model", "input", "instructions", "stream", "max_output_tokens", "temperature", "top_p", "tools",
        "tool_choice", "parallel_tool_calls", "text", "reasoning", "service_tier", "user", "safety_identifier",
        "include", "store", "truncation", "background",
    }
)  # fmt: skip
_LOST: Final = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "max_tool_calls",
     "stream_options", "context_management"}
)  # fmt: skip
_REFUSED: Final = {
    "previous_response_id": "the earlier answer is kept at OpenAI; send the whole conversation in 'input'",
    "conversation": "the conversation is kept at OpenAI; send it whole in 'input'",
    "prompt": "the stored prompt is kept at OpenAI; send its text",
    "top_logprobs": "other APIs give no log probabilities",
}
_OWN_ITEMS: Final = frozenset({"message", "function_call", "function_call_output", "reasoning"})


def read(body: Fields, losses: Losses) -> Conversation:
    """A conversation from the body of ``POST /v1/responses``."""
    sift_top(body, _KNOWN, _LOST, _REFUSED, losses)
    _odds(body, losses)
    wanted = obj(body.get("text") or {}, "text")
    sift(wanted, ("format",), losses, "text")
    thinking = obj(body.get("reasoning") or {}, "reasoning")
    sift(thinking, ("effort", "summary"), losses, "reasoning")
    system, messages = _turns(body.get("input"), losses)
    instructions = text(body.get("instructions"), "instructions")
    if instructions:
        system = (Text(text=instructions), *system)
    return Conversation(
        model=text(body.get("model"), "model"),
        system=system,
        messages=messages,
        tools=tuple(
            _tool(tool, f"tools[{place}]", losses) for place, tool in enumerate(items(body.get("tools"), "tools"))
        ),
        tool_choice=shared.chat_choice(body.get("tool_choice")),
        parallel_tools=flag(body.get("parallel_tool_calls"), "parallel_tool_calls"),
        response_format=_format(wanted.get("format")),
        max_tokens=whole(body.get("max_output_tokens"), "max_output_tokens"),
        temperature=number(body.get("temperature"), "temperature"),
        top_p=number(body.get("top_p"), "top_p"),
        effort=shared.effort(thinking.get("effort"), "reasoning.effort"),
        service_tier=shared.tier(body.get("service_tier"), losses),
        user=text(body.get("user") or body.get("safety_identifier"), "user"),
        stream=bool(flag(body.get("stream"), "stream")),
        include_usage=True,
    )


def _odds(body: Fields, losses: Losses) -> None:
    if body.get("store"):
        losses.add("store")
    if body.get("truncation") not in (None, "disabled"):
        losses.add("truncation")
    if any(one != "reasoning.encrypted_content" for one in items(body.get("include"), "include")):
        losses.add("include")


def _tool(item: object, where: str, losses: Losses) -> Tool:
    tool = obj(item, where)
    if tool.get("type") != "function":
        raise refuse(f"{where}.type", f"'{str(tool.get('type'))[:40]}' is no function that the caller runs")
    return shared.flat_tool(tool, where, losses)


def _format(value: object) -> ResponseFormat | None:
    if value is None:
        return None
    wanted = obj(value, "text.format")
    if wanted.get("type") == "json_schema":
        return shared.schema_format(wanted, "text.format")
    return shared.plain_format(wanted.get("type"), "text.format")


def _turns(raw: object, losses: Losses) -> tuple[tuple[Text, ...], tuple[Message, ...]]:
    """(what system items say before the first turn, the turns); neighbouring items of the model are one turn."""
    if isinstance(raw, str):
        return (), (Message(role="user", parts=(Text(text=raw),) if raw else ()),)
    system: list[Text] = []
    found: list[Message] = []
    for place, item in enumerate(items(raw, "input")):
        where = f"input[{place}]"
        one = obj(item, where)
        kind = one.get("type") or "message"
        if kind not in _OWN_ITEMS:
            raise refuse(f"{where}.type", f"'{str(kind)[:40]}' items exist only at OpenAI")
        role = text(one.get("role"), f"{where}.role") if kind == "message" else ""
        if role in ("system", "developer"):
            parts = shared.texts(one.get("content"), f"{where}.content")
            if found:
                found.append(Message(role="system", parts=parts))
            else:
                system.extend(parts)
        elif role == "user":
            parts_ = shared.contents(one.get("content"), f"{where}.content", losses)
            found.append(Message(role="user", parts=parts_))
        elif kind == "function_call_output":
            shared.add_result(found, _result(one, where))
        elif role in ("assistant", ""):
            _add_said(found, _said(one, str(kind), where, losses))
        else:
            raise BadRequest(f"'{where}.role' is '{role[:40]}'.", param=f"{where}.role")
        sift(one, _ITEM_KEYS, losses, "input")
    return tuple(system), tuple(found)


_ITEM_KEYS: Final = frozenset(
    {"type", "id", "role", "content", "status", "call_id", "name", "arguments", "output", "summary",
     "encrypted_content", "phase"}
)  # fmt: skip


def _add_said(found: list[Message], parts: tuple[Part, ...]) -> None:
    if found and found[-1].role == "assistant":
        found[-1] = Message(role="assistant", parts=(*found[-1].parts, *parts))
    else:
        found.append(Message(role="assistant", parts=parts))


def _result(item: Fields, where: str) -> ToolResult:
    parts = shared.contents(item.get("output"), f"{where}.output", Losses())
    kept = tuple(part for part in parts if isinstance(part, Text | Image))
    return ToolResult(call_id=text(item.get("call_id"), f"{where}.call_id"), parts=kept)


def _said(item: Fields, kind: str, where: str, losses: Losses) -> tuple[Part, ...]:
    if kind == "function_call":
        call = ToolCall(
            id=text(item.get("call_id"), f"{where}.call_id"),
            name=text(item.get("name"), f"{where}.name"),
            arguments=text(item.get("arguments"), f"{where}.arguments"),
        )
        return (call,)
    if kind == "reasoning":
        return (reasoning_of(item, where),)
    return shared.contents(item.get("content"), f"{where}.content", losses)


def reasoning_of(item: Fields, where: str) -> Thinking:
    """A reasoning item: what it shows, and what only its provider can read."""
    shown = [
        text(obj(piece, f"{where}.summary").get("text"), f"{where}.summary.text")
        for name in ("summary", "content")
        for piece in items(item.get(name), f"{where}.{name}")
    ]
    return unsealed("\n".join(shown), text(item.get("encrypted_content"), f"{where}.encrypted_content"))


# -- writing


def write(conversation: Conversation, losses: Losses) -> Fields:
    """The body of a responses call."""
    one = conversation
    for name in ("top_k", "seed", "frequency_penalty", "presence_penalty"):
        if getattr(one, name) is not None:
            losses.add(name)
    if one.stop:
        raise refuse("stop", "OpenAI's responses API has no stop sequences")
    entries: list[Fields] = []
    if len(one.system) > 1:
        entries.append({"role": "system", "content": _contents(one.system, "input_text", losses)})
    for place, message in enumerate(one.messages):
        entries.extend(_written(message, place, losses))
    body: Fields = {
        "model": one.model,
        "input": entries,
        "instructions": shared.written_contents(one.system, losses) if len(one.system) == 1 else None,
        "tools": [{"type": "function", **shared.written_tool(tool, losses)} for tool in one.tools] or None,
        "parallel_tool_calls": one.parallel_tools if one.tools else None,
        "max_output_tokens": one.max_tokens,
        "temperature": one.temperature,
        "top_p": one.top_p,
        "service_tier": one.service_tier or None,
        "user": one.user or None,
        "stream": one.stream or None,
        "store": False,
    }
    if one.tool_choice is not None:
        choice = one.tool_choice
        body["tool_choice"] = choice.mode if choice.mode != "named" else {"type": "function", "name": choice.name}
    if one.response_format is not None:
        wanted = one.response_format
        plain = {"type": "json_object"}
        form = plain if wanted.kind == "json" else {"type": "json_schema", **shared.written_schema(wanted)}
        body["text"] = {"format": form}
    effort = shared.written_effort(one, losses)
    if effort is not None:
        body["reasoning"] = {"effort": effort}
    return without_nulls(body)


def _contents(parts: tuple[Part, ...], kind: str, losses: Losses) -> list[Fields]:
    written: list[Fields] = []
    for part in parts:
        if getattr(part, "cache", ""):
            losses.add("cache_control")
        if isinstance(part, Text):
            written.append({"type": kind, "text": part.text})
        elif isinstance(part, Refusal):
            written.append({"type": "refusal", "refusal": part.text})
        elif isinstance(part, Image):
            written.append({"type": "input_image", "image_url": shared.url_of(part), "detail": part.detail or "auto"})
    return written


def _written(message: Message, place: int, losses: Losses) -> list[Fields]:
    if message.role == "assistant":
        return _items(message, place, losses)
    if message.role != "tool":
        return [{"role": message.role, "content": _contents(message.parts, "input_text", losses)}]
    written: list[Fields] = []
    for part in message.parts:
        if not isinstance(part, ToolResult):
            continue
        if part.is_error:
            losses.add("messages.tool_result.is_error")
        if part.cache:
            losses.add("cache_control")
        output: object = _contents(part.parts, "input_text", losses)
        if len(part.parts) < 2 and all(isinstance(one, Text) for one in part.parts):
            output = "".join(one.text for one in part.parts if isinstance(one, Text))
        written.append({"type": "function_call_output", "call_id": part.call_id, "output": output})
    return written


def _items(message: Message, place: int, losses: Losses) -> list[Fields]:
    """The items of one turn of the model, in their order; neighbouring words share one message."""
    written: list[Fields] = []
    for number_, part in enumerate(message.parts):
        if isinstance(part, ToolCall):
            if part.cache:
                losses.add("cache_control")
            call = {"call_id": part.id, "name": part.name, "arguments": part.arguments or "{}"}
            written.append({"type": "function_call", **call})
        elif isinstance(part, Thinking):
            written.append({"type": "reasoning", "id": f"rs_{place}_{number_}", **reasoning_fields(part)})
        else:
            content = _contents((part,), "output_text", losses)
            if written and written[-1]["type"] == "message":
                said = written[-1]["content"]
                assert isinstance(said, list)
                said.extend(content)
            else:
                written.append({"type": "message", "role": "assistant", "content": content})
    return written


def reasoning_fields(part: Thinking) -> Fields:
    """A reasoning item's summary and sealed content."""
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    fields: Fields = {"summary": summary}
    seal = sealed(part)
    if seal:
        fields["encrypted_content"] = seal
    return fields
