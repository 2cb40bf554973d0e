"""Gemini's ``generateContent``: the request, written."""

import re
from typing import Final

import msgspec

from farthing.wire.canonical import (
    Conversation,
    Image,
    Message,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from farthing.wire.translate.fields import Fields, Losses, arguments_object, refuse, without_nulls

_GENERATION: Final = re.compile(r"gemini-(\d+)")
_BUDGETS: Final = {"none": 0, "minimal": 512, "low": 1_024, "medium": 8_192, "high": 24_576}
_LEVELS: Final = {"none": "minimal", "xhigh": "high", "max": "high"}
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}
_STOPS_MAX: Final = 5
UNSIGNED: Final = "skip_thought_signature_validator"
"""Google's documented signature for calls that Gemini did not make itself; from Gemini 3 on calls must be signed."""


def write(conversation: Conversation, losses: Losses) -> Fields:
    """The body; the model's name stands in the URL."""
    one = conversation
    if one.user:
        losses.add("user")
    if one.parallel_tools is False:
        losses.add("parallel_tool_calls")
    if one.service_tier in ("flex", "priority"):
        losses.add("service_tier")
    if len(one.stop) > _STOPS_MAX:
        raise refuse("stop", f"Gemini takes at most {_STOPS_MAX} stop sequences")
    if any(part.cache for part in one.system):
        losses.add("cache_control")
    body: Fields = {
        "systemInstruction": {"parts": [{"text": part.text} for part in one.system]} if one.system else None,
        "contents": _contents(one, losses),
        "tools": _tools(one, losses),
        "toolConfig": _choice(one),
        "generationConfig": _generation(one, losses) or None,
    }
    return without_nulls(body)


def _generation(one: Conversation, losses: Losses) -> Fields:
    form = one.response_format
    config: Fields = {
        "maxOutputTokens": one.max_tokens,
        "temperature": one.temperature,
        "topP": one.top_p,
        "topK": one.top_k,
        "seed": one.seed,
        "frequencyPenalty": one.frequency_penalty,
        "presencePenalty": one.presence_penalty,
        "stopSequences": list(one.stop) or None,
        "responseMimeType": "application/json" if form is not None else None,
        "thinkingConfig": _thinking(one, losses),
    }
    if form is not None and form.kind == "schema":
        config["responseJsonSchema"] = msgspec.Raw(form.schema)
        if form.name or form.description:
            losses.add("response_format.name")
    return without_nulls(config)


def generation_of(model: str) -> int:
    """Gemini's generation by the model's name; names that say none count as the newest."""
    found = _GENERATION.search(model)
    return int(found[1]) if found else 99


def _thinking(one: Conversation, losses: Losses) -> Fields | None:
    """A budget of tokens up to Gemini 2, a level from 3 on; thoughts are shown to callers who asked to see them."""
    if one.thinking_budget is not None:
        return {"thinkingBudget": one.thinking_budget, "includeThoughts": one.thinking_budget > 0}
    if one.effort is None:
        return {"includeThoughts": True} if one.adaptive_thinking else None
    shown: Fields = {"includeThoughts": True} if one.adaptive_thinking else {}
    if generation_of(one.model) >= 3:
        if one.effort in _LEVELS:
            losses.add("effort")
        return shown | {"thinkingLevel": _LEVELS.get(one.effort, one.effort)}
    losses.add("effort")
    return shown | {"thinkingBudget": _BUDGETS.get(one.effort, _BUDGETS["high"])}


def _tools(one: Conversation, losses: Losses) -> list[Fields] | None:
    if not one.tools:
        return None
    declared: list[Fields] = []
    for tool in one.tools:
        if tool.strict:
            losses.add("tools.strict")
        if tool.cache:
            losses.add("cache_control")
        written: Fields = {"name": tool.name, "parametersJsonSchema": msgspec.Raw(tool.schema)}
        if tool.description:
            written["description"] = tool.description
        declared.append(written)
    return [{"functionDeclarations": declared}]


def _choice(one: Conversation) -> Fields | None:
    choice = one.tool_choice
    if choice is None or not one.tools:
        return None
    config: Fields = {"mode": _MODES[choice.mode]}
    if choice.mode == "named":
        config["allowedFunctionNames"] = [choice.name]
    return {"functionCallingConfig": config}


def _contents(one: Conversation, losses: Losses) -> list[Fields]:
    """The turns; neighbours of one side are one content, as Gemini asks for the results of parallel calls."""
    names = {part.id: part.name for message in one.messages for part in message.parts if isinstance(part, ToolCall)}
    signs = generation_of(one.model) >= 3
    written: list[Fields] = []
    for message in one.messages:
        if message.role == "system":
            losses.add("messages.system")
        parts = _parts(message, names, losses, signs=signs)
        if not parts:
            continue
        role = "model" if message.role == "assistant" else "user"
        before = written[-1]["parts"] if written and written[-1]["role"] == role else None
        if isinstance(before, list):
            before.extend(parts)
        else:
            written.append({"role": role, "parts": parts})
    return written


def _parts(message: Message, names: dict[str, str], losses: Losses, *, signs: bool) -> list[Fields]:
    written: list[Fields] = []
    unsigned = signs
    for part in message.parts:
        if getattr(part, "cache", ""):
            losses.add("cache_control")
        if isinstance(part, ToolCall):
            given = arguments_object(part.arguments, "tool_calls.function.arguments")
            call: Fields = {"functionCall": {"name": part.name, "args": given}}
            if part.signature or unsigned:  # the first call of a turn is the one that carries the signature
                call["thoughtSignature"] = part.signature or UNSIGNED
            unsigned = False
            written.append(call)
        else:
            written.extend(_part(part, names, losses))
    return written


def _part(part: Part, names: dict[str, str], losses: Losses) -> list[Fields]:
    if isinstance(part, Text):
        return [{"text": part.text}] if part.text else []
    if isinstance(part, Image):
        return [_image(part, losses)]
    if isinstance(part, Refusal):
        losses.add("messages.refusal")
        return [{"text": part.text}]
    if isinstance(part, ToolResult):
        return _result(part, names, losses)
    if isinstance(part, Thinking):
        losses.add("messages.thinking")
    return []


def _image(part: Image, losses: Losses) -> Fields:
    if part.url:
        raise refuse("image_url", "Gemini takes pictures as base64 only", "Send the picture as a base64 data URL.")
    if part.detail:
        losses.add("image.detail")
    return {"inlineData": {"mimeType": part.media_type, "data": part.data}}


def _result(part: ToolResult, names: dict[str, str], losses: Losses) -> list[Fields]:
    name = names.get(part.call_id)
    if name is None:
        raise refuse(
            "tool_call_id",
            f"no call '{part.call_id[:80]}' comes before its result, and Gemini knows results by the function's name",
            "Send the message with the call too.",
        )
    said = "\n".join(one.text for one in part.parts if isinstance(one, Text))
    pictures = [_image(one, losses) for one in part.parts if isinstance(one, Image)]
    if pictures:
        losses.add("messages.tool_result.image")
    response = {"error" if part.is_error else "output": said}
    return [{"functionResponse": {"name": name, "response": response}}, *pictures]
