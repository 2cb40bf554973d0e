"""Bedrock's Converse: the request, written."""

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
from farthing.wire.translate import messages_write as claude
from farthing.wire.translate.answers import as_obj
from farthing.wire.translate.fields import Fields, Losses, arguments_object, refuse, without_nulls

_PICTURES: Final = frozenset({"png", "jpeg", "gif", "webp"})


def write(conversation: Conversation, losses: Losses) -> Fields:
    """The body; the model's name stands in the URL."""
    one = conversation
    for name in ("seed", "frequency_penalty", "presence_penalty", "user"):
        if getattr(one, name) not in (None, ""):
            losses.add(name)
    if one.parallel_tools is False:
        losses.add("parallel_tool_calls")
    if one.service_tier == "auto":
        losses.add("service_tier")
    system = [block for part in one.system for block in _marked({"text": part.text}, part.cache)]
    form = one.response_format
    body: Fields = {}
    if form is not None and form.kind == "json":
        losses.add("response_format")
        system.append({"text": claude.JSON_ONLY})
    elif form is not None:
        body["outputConfig"] = {"textFormat": _format(form.schema, form.name, form.description)}
    body["system"] = system or None
    body["messages"] = _messages(one, losses)
    body["toolConfig"] = _tools(one)
    more = _additional(one, losses)
    thinks = as_obj(more.get("thinking")).get("type", "disabled") != "disabled"
    temperature, top_p = one.temperature, one.top_p
    if "claude" in one.model and claude.samples_no_more(one.model):
        for name in ("temperature", "top_p"):
            if getattr(one, name) is not None:
                losses.add(name)
        temperature = top_p = None
    if temperature is not None and (temperature > 1 or (thinks and temperature != 1)):
        losses.add("temperature")
        temperature = None if thinks else 1.0
    cap = one.max_tokens
    if thinks and cap is None:
        cap = claude.MAX_TOKENS_THINKING
        losses.add("max_tokens")
    body["inferenceConfig"] = (
        without_nulls(
            {
                "maxTokens": cap,
                "temperature": temperature,
                "topP": top_p,
                "stopSequences": list(one.stop) or None,
            }
        )
        or None
    )
    body["additionalModelRequestFields"] = more or None
    if one.service_tier not in ("", "auto"):
        body["serviceTier"] = {"type": one.service_tier}
    return without_nulls(body)


def _format(schema: bytes, name: str, description: str) -> Fields:
    wanted: Fields = {"schema": schema.decode(), "name": name or "answer"}
    if description:
        wanted["description"] = description
    return {"type": "json_schema", "structure": {"jsonSchema": wanted}}


def _additional(one: Conversation, losses: Losses) -> Fields:
    """What only Claude's models take: how much to think, and ``top_k``."""
    if "claude" not in one.model:
        for name in ("effort", "thinking_budget", "top_k"):
            if getattr(one, name) not in (None, "none", 0):
                losses.add(name)
        if one.adaptive_thinking:
            losses.add("thinking_budget")
        return {}
    asked: Fields = {}
    config: Fields = {}
    thinks = claude.write_thinking(one, asked, config, losses)
    if not thinks and claude.version_of(one.model) < (5, 0):
        asked.clear()  # what is off by default need not be said
    if config:
        asked["output_config"] = config
    if one.top_k is not None and not thinks and not claude.samples_no_more(one.model):
        asked["top_k"] = one.top_k
    elif one.top_k is not None:
        losses.add("top_k")
    return asked


def _tools(one: Conversation) -> Fields | None:
    if not one.tools:
        return None
    tools: list[Fields] = []
    for tool in one.tools:
        spec: Fields = {"name": tool.name, "inputSchema": {"json": msgspec.Raw(tool.schema)}}
        if tool.description:
            spec["description"] = tool.description
        if tool.strict is not None:
            spec["strict"] = tool.strict
        tools.extend(_marked({"toolSpec": spec}, tool.cache))
    config: Fields = {"tools": tools}
    choice = one.tool_choice
    if choice is None:
        return config
    if choice.mode == "none":
        if _uses_tools(one):
            raise refuse("tool_choice", "Amazon Bedrock cannot forbid tools in a conversation that has used them")
        return None
    kind = {"auto": "auto", "required": "any", "named": "tool"}[choice.mode]
    config["toolChoice"] = {kind: {"name": choice.name} if choice.mode == "named" else {}}
    return config


def _uses_tools(one: Conversation) -> bool:
    return any(isinstance(part, ToolCall | ToolResult) for message in one.messages for part in message.parts)


def _marked(block: Fields, cache: str) -> list[Fields]:
    if not cache:
        return [block]
    point: Fields = {"type": "default"}
    if cache != "5m":
        point["ttl"] = cache
    return [block, {"cachePoint": point}]


def _messages(one: Conversation, losses: Losses) -> list[Fields]:
    """The turns; sides must alternate, so neighbours of one side are one message."""
    written: list[Fields] = []
    for message in one.messages:
        if message.role == "system":
            losses.add("messages.system")
        blocks = _blocks(message, losses)
        if not blocks:
            continue
        role = "assistant" if message.role == "assistant" else "user"
        before = written[-1]["content"] if written and written[-1]["role"] == role else None
        if isinstance(before, list):
            before.extend(blocks)
        else:
            written.append({"role": role, "content": blocks})
    return written


def _blocks(message: Message, losses: Losses) -> list[Fields]:
    return [block for part in message.parts for block in _block(part, losses)]


def _block(part: Part, losses: Losses) -> list[Fields]:
    if isinstance(part, Text):
        return _marked({"text": part.text}, part.cache) if part.text else []
    if isinstance(part, Image):
        return _marked(_image(part, losses), part.cache)
    if isinstance(part, Refusal):
        losses.add("messages.refusal")
        return [{"text": part.text}]
    if isinstance(part, ToolCall):
        given = arguments_object(part.arguments, "tool_calls.function.arguments")
        use: Fields = {"toolUseId": claude.call_id(part.id), "name": part.name, "input": given}
        return _marked({"toolUse": use}, part.cache)
    if isinstance(part, ToolResult):
        said = [block for one in part.parts for block in _block(one, losses)] or [{"text": " "}]
        result: Fields = {"toolUseId": claude.call_id(part.call_id), "content": said}
        if part.is_error:
            result["status"] = "error"
        return _marked({"toolResult": result}, part.cache)
    return _thought(part, losses)


def _thought(part: Thinking, losses: Losses) -> list[Fields]:
    if part.signer != "anthropic":
        losses.add("messages.thinking")
        return []
    if part.redacted:
        return [{"reasoningContent": {"redactedContent": part.signature}}]
    return [{"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}]


def _image(part: Image, losses: Losses) -> Fields:
    if part.url:
        hint = "Send the picture as a base64 data URL."
        raise refuse("image_url", "Amazon Bedrock takes pictures as base64 only", hint)
    if part.detail:
        losses.add("image.detail")
    form = part.media_type.removeprefix("image/").replace("jpg", "jpeg")
    if form not in _PICTURES:
        raise refuse("image_url", f"Amazon Bedrock takes no '{part.media_type[:40]}' pictures")
    return {"image": {"format": form, "source": {"bytes": part.data}}}
