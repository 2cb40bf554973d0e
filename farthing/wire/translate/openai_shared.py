"""What OpenAI's two formats have in common: contents, tools, choices and formats of answers."""

from collections.abc import Sequence
from typing import Final, Literal, cast, get_args

import msgspec

from farthing.core.errors import BadRequest
from farthing.wire.canonical import (
    Conversation,
    Effort,
    Image,
    Message,
    Part,
    Refusal,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from farthing.wire.translate.fields import Fields, Losses, dumps, flag, items, obj, refuse, sift, text

MESSAGE_KEYS: Final = frozenset(
    {"role", "content", "tool_calls", "tool_call_id", "refusal", "reasoning_content", "function_call", "audio"}
)
STOPS_MAX: Final = 4
_EFFORTS: Final = frozenset(get_args(Effort))
_TIERS: Final = frozenset({"auto", "default", "flex", "priority"})
_OPEN_SCHEMA: Final = b'{"type":"object","properties":{}}'


def texts(content: object, where: str) -> tuple[Text, ...]:
    """A content that may only be words."""
    parts = contents(content, where, Losses())
    for part in parts:
        if not isinstance(part, Text):
            raise refuse(where, "only text can stand here")
    return tuple(part for part in parts if isinstance(part, Text))


def contents(content: object, where: str, losses: Losses) -> tuple[Part, ...]:
    """A content: a string, or a list of parts. Empty text says nothing and is left out."""
    if content is None or isinstance(content, str):
        return (Text(text=content),) if content else ()
    found: list[Part] = []
    for place, item in enumerate(items(content, where)):
        part = _part(obj(item, f"{where}[{place}]"), f"{where}[{place}]", losses)
        if not (isinstance(part, Text) and not part.text):
            found.append(part)
    return tuple(found)


def _part(part: Fields, where: str, losses: Losses) -> Part:
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text"):
        sift(part, ("type", "text", "annotations", "logprobs"), losses, "content")
        return Text(text=text(part.get("text"), f"{where}.text"))
    if kind == "refusal":
        return Refusal(text=text(part.get("refusal"), f"{where}.refusal"))
    if kind == "image_url":
        sift(part, ("type", "image_url"), losses, "content")
        picture = obj(part.get("image_url"), f"{where}.image_url")
        return image(text(picture.get("url"), f"{where}.image_url.url"), picture.get("detail"), f"{where}.image_url")
    if kind == "input_image":
        sift(part, ("type", "image_url", "detail", "file_id"), losses, "content")
        if part.get("file_id") is not None:
            raise refuse(f"{where}.file_id", "a file kept at OpenAI cannot be read by another provider")
        return image(text(part.get("image_url"), f"{where}.image_url"), part.get("detail"), f"{where}.image_url")
    raise refuse(f"{where}.type", f"'{str(kind)[:40]}' parts are not translated")


def image(url: str, detail: object, where: str) -> Image:
    """A picture from a URL or a ``data:`` URL."""
    size = text(detail, f"{where}.detail")
    size = "" if size == "auto" else size
    if not url.startswith("data:"):
        if not url:
            raise BadRequest(f"'{where}' has no URL.", param=where)
        return Image(url=url, detail=size)
    head, comma, data = url[5:].partition(",")
    media, _, form = head.partition(";")
    if not comma or form != "base64":
        raise BadRequest(f"'{where}' must be a base64 data URL: data:image/png;base64,…", param=where)
    return Image(media_type=media or "image/png", data=data, detail=size)


def url_of(picture: Image) -> str:
    """The picture as a URL."""
    return picture.url or f"data:{picture.media_type};base64,{picture.data}"


def written_contents(parts: Sequence[Part], losses: Losses) -> str | list[Fields]:
    """A chat content: a plain string for one text, else parts."""
    if any(getattr(part, "cache", "") for part in parts):
        losses.add("cache_control")
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    written: list[Fields] = []
    for part in parts:
        if isinstance(part, Text):
            written.append({"type": "text", "text": part.text})
        elif isinstance(part, Image):
            picture: Fields = {"url": url_of(part)}
            if part.detail:
                picture["detail"] = part.detail
            written.append({"type": "image_url", "image_url": picture})
        elif isinstance(part, Refusal):
            written.append({"type": "refusal", "refusal": part.text})
    return written


def add_result(found: list[Message], result: ToolResult) -> None:
    """Adds a result to the turn of results that is being read, or begins one."""
    if found and found[-1].role == "tool":
        found[-1] = Message(role="tool", parts=(*found[-1].parts, result))
    else:
        found.append(Message(role="tool", parts=(result,)))


# -- tools


def chat_call(item: object, where: str, losses: Losses) -> ToolCall:
    """One of a message's ``tool_calls``."""
    call = obj(item, where)
    if call.get("type") not in (None, "function"):
        raise refuse(f"{where}.type", f"'{str(call.get('type'))[:40]}' calls are not translated")
    function = obj(call.get("function"), f"{where}.function")
    sift(call, ("id", "type", "function", "index"), losses, "messages.tool_calls")
    return ToolCall(
        id=text(call.get("id"), f"{where}.id"),
        name=text(function.get("name"), f"{where}.function.name"),
        arguments=text(function.get("arguments"), f"{where}.function.arguments"),
    )


def written_call(call: ToolCall, losses: Losses) -> Fields:
    """A call in a chat message."""
    if call.cache:
        losses.add("cache_control")
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}


def chat_tool(item: object, where: str, losses: Losses) -> Tool:
    """A tool of a chat request. Raises for tools that are not functions."""
    tool = obj(item, where)
    if tool.get("type") not in (None, "function"):
        raise refuse(f"{where}.type", f"'{str(tool.get('type'))[:40]}' is no function that the caller runs")
    sift(tool, ("type", "function"), losses, "tools")
    return flat_tool(obj(tool.get("function"), f"{where}.function"), f"{where}.function", losses)


def flat_tool(function: Fields, where: str, losses: Losses) -> Tool:
    """A function with its name, description and parameters."""
    sift(function, ("type", "name", "description", "parameters", "strict"), losses, "tools")
    schema = function.get("parameters")
    return Tool(
        name=text(function.get("name"), f"{where}.name"),
        description=text(function.get("description"), f"{where}.description"),
        schema=dumps(obj(schema, f"{where}.parameters")) if schema is not None else _OPEN_SCHEMA,
        strict=flag(function.get("strict"), f"{where}.strict"),
    )


def written_tool(tool: Tool, losses: Losses) -> Fields:
    """A function as OpenAI describes it."""
    if tool.cache:
        losses.add("cache_control")
    written: Fields = {"name": tool.name, "parameters": msgspec.Raw(tool.schema)}
    if tool.description:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    return written


def written_chat_tool(tool: Tool, losses: Losses) -> Fields:
    """A tool of a chat request."""
    return {"type": "function", "function": written_tool(tool, losses)}


def chat_choice(value: object) -> ToolChoice | None:
    """``tool_choice`` of both formats: a word, or the name of a function."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in ("auto", "none", "required"):
            raise BadRequest(f"'tool_choice' is '{value[:40]}'; use auto, none or required.", param="tool_choice")
        return ToolChoice(mode=cast("Literal['auto', 'none', 'required']", value))
    choice = obj(value, "tool_choice")
    if choice.get("type") != "function":
        raise refuse("tool_choice.type", f"'{str(choice.get('type'))[:40]}' exists nowhere else")
    function = obj(choice.get("function", choice), "tool_choice.function")
    return ToolChoice(mode="named", name=text(function.get("name"), "tool_choice.function.name"))


def written_chat_choice(choice: ToolChoice) -> object:
    """``tool_choice`` of a chat request."""
    return choice.mode if choice.mode != "named" else {"type": "function", "function": {"name": choice.name}}


# -- formats, stops, effort, tier


def chat_format(value: object) -> ResponseFormat | None:
    """``response_format``."""
    if value is None:
        return None
    wanted = obj(value, "response_format")
    kind = wanted.get("type")
    if kind == "json_schema":
        return schema_format(
            obj(wanted.get("json_schema"), "response_format.json_schema"), "response_format.json_schema"
        )
    return plain_format(kind, "response_format")


def plain_format(kind: object, where: str) -> ResponseFormat | None:
    """``text`` or ``json_object``."""
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat(kind="json")
    raise refuse(f"{where}.type", f"'{str(kind)[:40]}' exists nowhere else")


def schema_format(wanted: Fields, where: str) -> ResponseFormat:
    """A named JSON schema."""
    schema = wanted.get("schema")
    return ResponseFormat(
        kind="schema",
        schema=dumps(obj(schema, f"{where}.schema")) if schema is not None else b"{}",
        name=text(wanted.get("name"), f"{where}.name"),
        description=text(wanted.get("description"), f"{where}.description"),
        strict=flag(wanted.get("strict"), f"{where}.strict"),
    )


def written_schema(wanted: ResponseFormat) -> Fields:
    """A JSON schema with the name that OpenAI asks for."""
    written: Fields = {"name": wanted.name or "answer", "schema": msgspec.Raw(wanted.schema)}
    if wanted.description:
        written["description"] = wanted.description
    if wanted.strict is not None:
        written["strict"] = wanted.strict
    return written


def written_chat_format(wanted: ResponseFormat) -> Fields:
    """``response_format``."""
    if wanted.kind == "json":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": written_schema(wanted)}


def stops(value: object) -> tuple[str, ...]:
    """``stop``: a string or a list of strings."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(text(item, f"stop[{place}]") for place, item in enumerate(items(value, "stop")))


def effort(value: object, where: str) -> Effort | None:
    """How hard to think. Raises :class:`BadRequest` for a word that nobody knows."""
    if value is None:
        return None
    if value not in _EFFORTS:
        raise BadRequest(f"'{where}' is '{str(value)[:40]}'; use one of {', '.join(sorted(_EFFORTS))}.", param=where)
    return cast("Effort", value)


_BUDGETS: Final = ((0, "none"), (2_048, "low"), (8_192, "medium"))


def written_effort(one: Conversation, losses: Losses) -> Effort | None:
    """The effort that was asked for, or the nearest word for a budget of thinking tokens."""
    if one.effort is not None:
        if one.thinking_budget is not None:
            losses.add("thinking_budget")
        return one.effort
    if one.thinking_budget is None:
        if one.adaptive_thinking:
            losses.add("thinking_budget")
        return None
    losses.add("thinking_budget")
    return cast("Effort", next((word for most, word in _BUDGETS if one.thinking_budget <= most), "high"))


def tier(value: object, losses: Losses) -> Literal["", "auto", "default", "flex", "priority"]:
    """The service tier; tiers that exist only at OpenAI are declared lost."""
    if value is None:
        return ""
    if value not in _TIERS:
        losses.add("service_tier")
        return ""
    return cast("Literal['auto', 'default', 'flex', 'priority']", value)
