"""Anthropic messages: the request, written."""

import hashlib
import re
from typing import Final, Literal

import msgspec

from farthing.wire.canonical import (
    Conversation,
    Image,
    Message,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from farthing.wire.translate.fields import Fields, Losses, arguments_object, without_nulls

MAX_TOKENS: Final = 4_096
"""Asked for when the caller caps nothing: Anthropic insists on a cap, and every Claude model takes this one."""
MAX_TOKENS_NEWER: Final = 16_384
"""Claude past 4.6 thinks within its cap, from 5 on without being asked."""
MAX_TOKENS_THINKING: Final = 32_000
JSON_ONLY: Final = "Answer with exactly one JSON object and nothing else."
_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_VERSION: Final = re.compile(r"claude-(?:[a-z]+-)?(\d)(?:[-.](\d{1,2}))?(?![\d])")
_BUDGETS: Final = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 24_576, "max": 24_576}
_BUDGET_MIN: Final = 1_024
_WORDS: Final = {"minimal": "low"}


def write(conversation: Conversation, losses: Losses) -> Fields:
    """The body of a message."""
    one = conversation
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if getattr(one, name) is not None:
            losses.add(name)
    body: Fields = {"model": one.model, "messages": _messages(one, losses)}
    system = [_text(part) for part in one.system]
    form = one.response_format
    config: Fields = {}
    if form is not None and form.kind == "json":
        losses.add("response_format")
        system.append({"type": "text", "text": JSON_ONLY})
    elif form is not None:
        if form.name or form.description:
            losses.add("response_format.name")
        if not form.strict:
            losses.add("response_format.strict")
        config["format"] = {"type": "json_schema", "schema": msgspec.Raw(form.schema)}
    body["system"] = (system[0]["text"] if len(system) == 1 and len(system[0]) == 2 else system) or None
    body["tools"] = [_tool(tool) for tool in one.tools] or None
    body["tool_choice"] = _choice(one)
    thinks = write_thinking(one, body, config, losses)
    body["output_config"] = config or None
    if one.max_tokens is None:
        losses.add("max_tokens")
    usual = MAX_TOKENS_NEWER if samples_no_more(one.model) else MAX_TOKENS
    body["max_tokens"] = one.max_tokens or (MAX_TOKENS_THINKING if thinks else usual)
    body["stop_sequences"] = list(one.stop) or None
    _sampling(one, body, losses, thinks=thinks)
    if one.service_tier in ("flex", "priority"):
        losses.add("service_tier")
    elif one.service_tier:
        body["service_tier"] = "standard_only" if one.service_tier == "default" else "auto"
    body["metadata"] = {"user_id": one.user} if one.user else None
    body["stream"] = one.stream or None
    return without_nulls(body)


def _sampling(one: Conversation, body: Fields, losses: Losses, *, thinks: bool) -> None:
    if samples_no_more(one.model):
        for name in ("temperature", "top_p", "top_k"):
            if getattr(one, name) is not None:
                losses.add(name)
        return
    temperature = one.temperature
    if temperature is not None and (temperature > 1 or (thinks and temperature != 1)):
        losses.add("temperature")
        temperature = None if thinks else 1.0
    if one.top_k is not None and thinks:
        losses.add("top_k")
    body["temperature"] = temperature
    body["top_p"] = one.top_p
    body["top_k"] = None if thinks else one.top_k


def _choice(one: Conversation) -> Fields | None:
    choice = one.tool_choice
    if not one.tools:
        return None
    if choice is None and one.parallel_tools is None:
        return None
    mode = choice.mode if choice is not None else "auto"
    written: Fields = {"type": {"required": "any", "named": "tool"}.get(mode, mode)}
    if choice is not None and choice.mode == "named":
        written["name"] = choice.name
    if one.parallel_tools is not None and mode != "none":
        written["disable_parallel_tool_use"] = not one.parallel_tools
    return written


def write_thinking(one: Conversation, body: Fields, config: Fields, losses: Losses) -> bool:
    """Writes how much to think; True when the model will. What Anthropic's rules forbid is declared instead."""
    if one.thinking_budget is not None or one.adaptive_thinking:
        return _as_said(one, body, config)
    if one.effort is None:
        return False
    if one.effort == "none":
        if version_of(one.model) >= (5, 0):
            body["thinking"] = {"type": "disabled"}
        return False
    forced = one.tool_choice is not None and one.tool_choice.mode in ("required", "named")
    if forced or _unsigned_loop(one):
        losses.add("effort")
        return False
    if thinks_adaptively(one.model):
        word = _WORDS.get(one.effort, one.effort)
        word = "max" if word == "xhigh" and not samples_no_more(one.model) else word
        config["effort"] = word
        if word != one.effort:
            losses.add("effort")
        body["thinking"] = {"type": "adaptive"}
        return True
    losses.add("effort")
    budget = min(_BUDGETS[one.effort], (one.max_tokens or MAX_TOKENS_THINKING) - 1)
    if budget < _BUDGET_MIN:
        return False
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    return True


def _as_said(one: Conversation, body: Fields, config: Fields) -> bool:
    """What a caller of this very dialect said."""
    if one.effort is not None:
        config["effort"] = one.effort
    if one.adaptive_thinking:
        body["thinking"] = {"type": "adaptive"}
        return True
    if one.thinking_budget:
        body["thinking"] = {"type": "enabled", "budget_tokens": one.thinking_budget}
        return True
    body["thinking"] = {"type": "disabled"}
    return False


def version_of(model: str) -> tuple[int, int]:
    """Claude's version by its name; names that say none count as the newest."""
    found = _VERSION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else (99, 0)


def thinks_adaptively(model: str) -> bool:
    """Claude from 4.6 on takes an effort; older ones take a budget of tokens."""
    return version_of(model) >= (4, 6)


def samples_no_more(model: str) -> bool:
    """Claude past 4.6 refuses ``temperature``, ``top_p`` and ``top_k``."""
    return version_of(model) > (4, 6)


def _unsigned_loop(one: Conversation) -> bool:
    """The turn being continued called tools without signed thinking: a model that thinks would refuse it."""
    if not one.messages or one.messages[-1].role != "tool":
        return False
    last = next((message for message in reversed(one.messages) if message.role == "assistant"), None)
    return last is None or not any(isinstance(part, Thinking) and part.signer == "anthropic" for part in last.parts)


# -- turns


def _messages(one: Conversation, losses: Losses) -> list[Fields]:
    """The turns; results join the user's words that follow them, because both are the user's there."""
    written: list[Fields] = []
    joins = False
    for message in one.messages:
        blocks = _blocks(message, losses)
        if not blocks:
            continue
        role: Literal["user", "assistant"] = "assistant" if message.role == "assistant" else "user"
        if message.role == "system":
            losses.add("messages.system")
        before = written[-1]["content"] if written else None
        if joins and role == "user" and isinstance(before, list):
            before.extend(blocks)
        else:
            written.append({"role": role, "content": blocks})
        joins = message.role == "tool"
    return [_plain(message) for message in written]


def _plain(message: Fields) -> Fields:
    blocks = message["content"]
    if isinstance(blocks, list) and len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return {"role": message["role"], "content": blocks[0]["text"]}
    return message


def _blocks(message: Message, losses: Losses) -> list[Fields]:
    found = [_block(part, losses) for part in message.parts]
    return [block for block in found if block is not None]


def _block(part: Part, losses: Losses) -> Fields | None:
    if isinstance(part, Text):
        return _text(part) if part.text else None
    if isinstance(part, Image):
        if part.detail:
            losses.add("image.detail")
        return _marked({"type": "image", "source": _source(part)}, part.cache)
    if isinstance(part, ToolCall):
        given = arguments_object(part.arguments, "tool_calls.function.arguments")
        block: Fields = {"type": "tool_use", "id": call_id(part.id), "name": part.name, "input": given}
        return _marked(block, part.cache)
    if isinstance(part, ToolResult):
        return _result(part, losses)
    if isinstance(part, Refusal):
        losses.add("messages.refusal")
        return {"type": "text", "text": part.text} if part.text else None
    if part.signer != "anthropic":
        losses.add("messages.thinking")
        return None
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.signature}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _text(part: Text) -> Fields:
    return _marked({"type": "text", "text": part.text}, part.cache)


def _marked(block: Fields, cache: str) -> Fields:
    if cache:
        block["cache_control"] = {"type": "ephemeral"} | ({"ttl": cache} if cache != "5m" else {})
    return block


def _source(part: Image) -> Fields:
    if part.url:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": part.media_type, "data": part.data}


def _result(part: ToolResult, losses: Losses) -> Fields:
    written = [_block(one, losses) for one in part.parts]
    blocks = [block for block in written if block is not None]
    content: object = blocks
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        content = blocks[0]["text"]
    block: Fields = {"type": "tool_result", "tool_use_id": call_id(part.call_id), "content": content or None}
    if part.is_error:
        block["is_error"] = True
    return without_nulls(_marked(block, part.cache))


def call_id(said: str) -> str:
    """A call's id as Anthropic and Amazon accept it: as it is, or a digest of it; the same for call and result."""
    if _ID.fullmatch(said):
        return said
    return "call_" + hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=12).hexdigest()


def _tool(tool: Tool) -> Fields:
    written: Fields = {"name": tool.name, "input_schema": msgspec.Raw(tool.schema)}
    if tool.description:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    return _marked(written, tool.cache)
