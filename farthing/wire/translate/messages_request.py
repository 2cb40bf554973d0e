"""Anthropic messages: the request, read and written."""

from typing import Final, Literal

from farthing.core.errors import BadRequest
from farthing.wire.canonical import (
    Conversation,
    Image,
    Message,
    Part,
    ResponseFormat,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from farthing.wire.translate.fields import (
    Fields,
    Losses,
    dumps,
    flag,
    items,
    number,
    obj,
    refuse,
    sift,
    sift_top,
    text,
    whole,
)
from farthing.wire.translate.openai_shared import effort as effort_of

_KNOWN: Final = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences",
        "tools", "tool_choice", "thinking", "output_config", "output_format", "service_tier", "metadata",
        "cache_control",
    }
)  # fmt: skip
_LOST: Final = frozenset(
    {"speed", "context_management", "cache_control", "diagnostics", "user_profile_id", "workspace_id"}
)
_REFUSED: Final = {
    "mcp_servers": "servers that Anthropic calls itself cannot be called by another provider",
    "container": "a container at Anthropic exists nowhere else",
    "inference_geo": "where another provider computes cannot be promised here",
}


def read(body: Fields, losses: Losses) -> Conversation:
    """A conversation from the body of ``POST /v1/messages``."""
    sift_top(body, _KNOWN - _LOST, _LOST, _REFUSED, losses)
    thinking = obj(body.get("thinking") or {}, "thinking")
    sift(thinking, ("type", "budget_tokens"), losses, "thinking")
    config = obj(body.get("output_config") or {}, "output_config")
    sift(config, ("effort", "format"), losses, "output_config")
    metadata = obj(body.get("metadata") or {}, "metadata")
    sift(metadata, ("user_id",), losses, "metadata")
    if thinking.get("type") not in (None, "enabled", "disabled", "adaptive"):
        losses.add("thinking")
    choice, parallel = _choice(body.get("tool_choice"))
    budget = whole(thinking.get("budget_tokens"), "thinking.budget_tokens")
    return Conversation(
        model=text(body.get("model"), "model"),
        system=_system(body.get("system"), losses),
        messages=_messages(items(body.get("messages"), "messages"), losses),
        tools=tuple(
            _tool(obj(tool, f"tools[{place}]"), f"tools[{place}]", losses)
            for place, tool in enumerate(items(body.get("tools"), "tools"))
        ),
        tool_choice=choice,
        parallel_tools=parallel,
        response_format=_format(config.get("format") or body.get("output_format")),
        max_tokens=whole(body.get("max_tokens"), "max_tokens"),
        stop=tuple(text(one, "stop_sequences") for one in items(body.get("stop_sequences"), "stop_sequences")),
        temperature=number(body.get("temperature"), "temperature"),
        top_p=number(body.get("top_p"), "top_p"),
        top_k=whole(body.get("top_k"), "top_k"),
        effort=effort_of(config.get("effort"), "output_config.effort"),
        thinking_budget=0 if thinking.get("type") == "disabled" else budget,
        adaptive_thinking=thinking.get("type") == "adaptive",
        service_tier="default" if body.get("service_tier") == "standard_only" else _auto(body.get("service_tier")),
        user=text(metadata.get("user_id"), "metadata.user_id"),
        stream=bool(flag(body.get("stream"), "stream")),
        include_usage=True,
    )


def _auto(value: object) -> Literal["", "auto"]:
    return "auto" if value == "auto" else ""


def _format(value: object) -> ResponseFormat | None:
    if value is None:
        return None
    wanted = obj(value, "output_config.format")
    if wanted.get("type") != "json_schema":
        raise refuse("output_config.format.type", f"'{str(wanted.get('type'))[:40]}' exists nowhere else")
    schema = dumps(obj(wanted.get("schema"), "output_config.format.schema"))
    return ResponseFormat(kind="schema", schema=schema, strict=True)


def _system(value: object, losses: Losses) -> tuple[Text, ...]:
    if value is None or isinstance(value, str):
        return (Text(text=value),) if value else ()
    parts = contents(value, "system", losses)
    return tuple(part for part in parts if isinstance(part, Text))


def _choice(value: object) -> tuple[ToolChoice | None, bool | None]:
    """(the choice, whether calls may be parallel)."""
    if value is None:
        return None, None
    choice = obj(value, "tool_choice")
    serial = flag(choice.get("disable_parallel_tool_use"), "tool_choice.disable_parallel_tool_use")
    parallel = None if serial is None else not serial
    kind = choice.get("type")
    if kind == "tool":
        return ToolChoice(mode="named", name=text(choice.get("name"), "tool_choice.name")), parallel
    if kind == "any":
        return ToolChoice(mode="required"), parallel
    if kind == "none":
        return ToolChoice(mode="none"), parallel
    if kind == "auto":
        return ToolChoice(mode="auto"), parallel
    raise BadRequest("'tool_choice.type' must be auto, any, tool or none.", param="tool_choice.type")


def _tool(tool: Fields, where: str, losses: Losses) -> Tool:
    if tool.get("type") not in (None, "custom"):
        raise refuse(f"{where}.type", f"'{str(tool.get('type'))[:40]}' is no function that the caller runs")
    sift(tool, ("type", "name", "description", "input_schema", "strict", "cache_control"), losses, "tools")
    return Tool(
        name=text(tool.get("name"), f"{where}.name"),
        description=text(tool.get("description"), f"{where}.description"),
        schema=dumps(obj(tool.get("input_schema"), f"{where}.input_schema")),
        strict=flag(tool.get("strict"), f"{where}.strict"),
        cache=_mark(tool),
    )


def _mark(block: Fields) -> str:
    mark = block.get("cache_control")
    return str(obj(mark, "cache_control").get("ttl") or "5m") if mark is not None else ""


def _messages(raw: list[object], losses: Losses) -> tuple[Message, ...]:
    """The turns; results that lead a user's message are a turn of their own."""
    found: list[Message] = []
    for place, item in enumerate(raw):
        where = f"messages[{place}]"
        message = obj(item, where)
        role = message.get("role")
        sift(message, ("role", "content"), losses, "messages")
        parts = contents(message.get("content"), f"{where}.content", losses)
        if role == "assistant":
            found.append(Message(role="assistant", parts=parts))
            continue
        if role == "system":
            found.append(Message(role="system", parts=parts))
            continue
        if role != "user":
            raise refuse(f"{where}.role", f"the role '{str(role)[:40]}' exists nowhere else")
        results = tuple(part for part in parts if isinstance(part, ToolResult))
        rest = tuple(part for part in parts if not isinstance(part, ToolResult))
        if results:
            found.append(Message(role="tool", parts=results))
        if rest or not results:
            found.append(Message(role="user", parts=rest))
    return tuple(found)


def contents(content: object, where: str, losses: Losses) -> tuple[Part, ...]:
    """A content: a string or a list of blocks. Empty text says nothing and is left out."""
    if content is None or isinstance(content, str):
        return (Text(text=content),) if content else ()
    found: list[Part] = []
    for place, item in enumerate(items(content, where)):
        part = block_of(obj(item, f"{where}[{place}]"), f"{where}[{place}]", losses)
        if not (isinstance(part, Text) and not part.text):
            found.append(part)
    return tuple(found)


_BLOCK_KEYS: Final = frozenset(
    {"type", "text", "cache_control", "source", "id", "name", "input", "tool_use_id", "content", "is_error",
     "thinking", "signature", "data", "caller"}
)  # fmt: skip


def block_of(block: Fields, where: str, losses: Losses) -> Part:
    """One content block, of a request or an answer."""
    kind = block.get("type")
    sift(block, _BLOCK_KEYS, losses, "messages.content")
    mark = _mark(block)
    if kind == "text":
        return Text(text=text(block.get("text"), f"{where}.text"), cache=mark)
    if kind == "image":
        return _image(obj(block.get("source"), f"{where}.source"), f"{where}.source", mark)
    if kind == "tool_use":
        given = obj(block.get("input") or {}, f"{where}.input")
        identity = text(block.get("id"), f"{where}.id")
        name = text(block.get("name"), f"{where}.name")
        return ToolCall(id=identity, name=name, arguments=dumps(given).decode(), cache=mark)
    if kind == "tool_result":
        parts = contents(block.get("content"), f"{where}.content", losses)
        kept = tuple(part for part in parts if isinstance(part, Text | Image))
        failed = bool(flag(block.get("is_error"), f"{where}.is_error"))
        identity = text(block.get("tool_use_id"), f"{where}.tool_use_id")
        return ToolResult(call_id=identity, parts=kept, is_error=failed, cache=mark)
    if kind == "thinking":
        signature = text(block.get("signature"), f"{where}.signature")
        said = text(block.get("thinking"), f"{where}.thinking")
        return Thinking(text=said, signature=signature, signer="anthropic" if signature else "")
    if kind == "redacted_thinking":
        return Thinking(signature=text(block.get("data"), f"{where}.data"), redacted=True, signer="anthropic")
    raise refuse(f"{where}.type", f"'{str(kind)[:40]}' blocks are not translated")


def _image(source: Fields, where: str, mark: str) -> Image:
    kind = source.get("type")
    if kind == "url":
        return Image(url=text(source.get("url"), f"{where}.url"), cache=mark)
    if kind == "base64":
        media = text(source.get("media_type"), f"{where}.media_type")
        return Image(media_type=media, data=text(source.get("data"), f"{where}.data"), cache=mark)
    raise refuse(f"{where}.type", f"a picture by '{str(kind)[:40]}' cannot be read by another provider")
