"""OpenAI chat completions: the request, read and written."""

from typing import Final

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
from farthing.wire.translate import openai_shared as shared
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
    without_nulls,
)

_KNOWN: Final = frozenset(
    {
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "temperature",
        "top_p", "seed", "frequency_penalty", "presence_penalty", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "reasoning_effort", "service_tier", "user", "safety_identifier", "n", "logprobs",
        "modalities", "top_k",
    }
)  # fmt: skip
_LOST: Final = frozenset(
    {"metadata", "store", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "prediction",
     "verbosity"}
)  # fmt: skip
_REFUSED: Final = {
    "top_logprobs": "other APIs give no log probabilities",
    "logit_bias": "other APIs cannot bias tokens",
    "audio": "sound is not translated",
    "functions": "legacy functions are not translated; use 'tools'",
    "function_call": "legacy functions are not translated; use 'tools' and 'tool_choice'",
    "web_search_options": "a tool that OpenAI runs itself exists nowhere else",
}


def read(body: Fields, losses: Losses) -> Conversation:
    """A conversation from the body of ``POST /v1/chat/completions``."""
    sift_top(body, _KNOWN, _LOST, _REFUSED, losses)
    if whole(body.get("n"), "n") not in (None, 1):
        raise refuse("n", "other APIs give one answer to a request")
    if flag(body.get("logprobs"), "logprobs"):
        raise refuse("logprobs", "other APIs give no log probabilities")
    if body.get("modalities") not in (None, ["text"]):
        raise refuse("modalities", "only text answers are translated")
    options = obj(body.get("stream_options") or {}, "stream_options")
    system, messages = _messages(items(body.get("messages"), "messages"), losses)
    cap = whole(body.get("max_completion_tokens"), "max_completion_tokens")
    return Conversation(
        model=text(body.get("model"), "model"),
        system=system,
        messages=messages,
        tools=tuple(
            shared.chat_tool(tool, f"tools[{place}]", losses)
            for place, tool in enumerate(items(body.get("tools"), "tools"))
        ),
        tool_choice=shared.chat_choice(body.get("tool_choice")),
        parallel_tools=flag(body.get("parallel_tool_calls"), "parallel_tool_calls"),
        response_format=shared.chat_format(body.get("response_format")),
        max_tokens=whole(body.get("max_tokens"), "max_tokens") if cap is None else cap,
        stop=shared.stops(body.get("stop")),
        temperature=number(body.get("temperature"), "temperature"),
        top_p=number(body.get("top_p"), "top_p"),
        top_k=whole(body.get("top_k"), "top_k"),
        seed=whole(body.get("seed"), "seed"),
        frequency_penalty=number(body.get("frequency_penalty"), "frequency_penalty"),
        presence_penalty=number(body.get("presence_penalty"), "presence_penalty"),
        effort=shared.effort(body.get("reasoning_effort"), "reasoning_effort"),
        service_tier=shared.tier(body.get("service_tier"), losses),
        user=text(body.get("user") or body.get("safety_identifier"), "user"),
        stream=bool(flag(body.get("stream"), "stream")),
        include_usage=bool(options.get("include_usage")),
    )


def _messages(raw: list[object], losses: Losses) -> tuple[tuple[Text, ...], tuple[Message, ...]]:
    """(the system prompt that leads, the turns after it); results of parallel calls become one turn."""
    system: list[Text] = []
    found: list[Message] = []
    for place, item in enumerate(raw):
        where = f"messages[{place}]"
        message = obj(item, where)
        role = text(message.get("role"), f"{where}.role")
        if role in ("system", "developer"):
            parts = shared.texts(message.get("content"), f"{where}.content")
            if found:
                found.append(Message(role="system", parts=parts))
            else:
                system.extend(parts)
        elif role == "user":
            found.append(
                Message(role="user", parts=shared.contents(message.get("content"), f"{where}.content", losses))
            )
        elif role == "assistant":
            found.append(Message(role="assistant", parts=_said(message, where, losses)))
        elif role == "tool":
            result = ToolResult(
                call_id=text(message.get("tool_call_id"), f"{where}.tool_call_id"),
                parts=shared.texts(message.get("content"), f"{where}.content"),
            )
            shared.add_result(found, result)
        else:
            raise refuse(f"{where}.role", f"the role '{role[:40]}' exists nowhere else")
        sift(message, shared.MESSAGE_KEYS, losses, "messages")
    return tuple(system), tuple(found)


def _said(message: Fields, where: str, losses: Losses) -> tuple[Part, ...]:
    if message.get("function_call") is not None:
        raise refuse(f"{where}.function_call", "legacy functions are not translated; use 'tool_calls'")
    if message.get("audio") is not None:
        raise refuse(f"{where}.audio", "sound is not translated")
    parts: list[Part] = []
    thought = text(message.get("reasoning_content"), f"{where}.reasoning_content")
    if thought:
        parts.append(Thinking(text=thought))
    parts.extend(shared.contents(message.get("content"), f"{where}.content", losses))
    declined = text(message.get("refusal"), f"{where}.refusal")
    if declined:
        parts.append(Refusal(text=declined))
    for place, item in enumerate(items(message.get("tool_calls"), f"{where}.tool_calls")):
        parts.append(shared.chat_call(item, f"{where}.tool_calls[{place}]", losses))
    return tuple(parts)


# -- writing


def write(conversation: Conversation, losses: Losses, *, include_usage: bool = True) -> Fields:
    """The body of a chat completion; ``include_usage`` asks for usage in a stream."""
    one = conversation
    body: Fields = {"model": one.model, "messages": _written(one, losses)}
    if one.tools:
        body["tools"] = [shared.written_chat_tool(tool, losses) for tool in one.tools]
    if one.tool_choice is not None:
        body["tool_choice"] = shared.written_chat_choice(one.tool_choice)
    if one.tools:
        body["parallel_tool_calls"] = one.parallel_tools
    if one.response_format is not None:
        body["response_format"] = shared.written_chat_format(one.response_format)
    if one.stop:
        body["stop"] = list(one.stop)
    if len(one.stop) > shared.STOPS_MAX:
        raise refuse("stop", f"OpenAI takes at most {shared.STOPS_MAX} stop sequences")
    body |= {
        "max_completion_tokens": one.max_tokens,
        "temperature": one.temperature,
        "top_p": one.top_p,
        "seed": one.seed,
        "frequency_penalty": one.frequency_penalty,
        "presence_penalty": one.presence_penalty,
        "reasoning_effort": shared.written_effort(one, losses),
        "service_tier": one.service_tier or None,
        "user": one.user or None,
        "stream": one.stream or None,
    }
    if one.stream and include_usage:
        body["stream_options"] = {"include_usage": True}
    if one.top_k is not None:
        losses.add("top_k")
    return without_nulls(body)


def _written(one: Conversation, losses: Losses) -> list[Fields]:
    messages: list[Fields] = []
    if one.system:
        messages.append({"role": "system", "content": shared.written_contents(one.system, losses)})
    for message in one.messages:
        if message.role == "tool":
            messages.extend(_results(message, losses))
        elif message.role == "assistant":
            messages.append(_answer(message, losses))
        else:
            messages.append({"role": message.role, "content": shared.written_contents(message.parts, losses)})
    return messages


def _results(message: Message, losses: Losses) -> list[Fields]:
    """One message for each result; pictures, which a result cannot hold there, follow as the user's."""
    written: list[Fields] = []
    pictures: list[Image] = []
    for result in message.parts:
        if not isinstance(result, ToolResult):
            continue
        if result.is_error:
            losses.add("messages.tool_result.is_error")
        if result.cache:
            losses.add("cache_control")
        said = [part for part in result.parts if isinstance(part, Text)]
        shown = [part for part in result.parts if isinstance(part, Image)]
        if shown:
            losses.add("messages.tool_result.image")
            pictures.extend(shown)
            said = said or [Text(text="The picture follows.")]
        content = shared.written_contents(tuple(said), losses)
        written.append({"role": "tool", "tool_call_id": result.call_id, "content": content})
    if pictures:
        written.append({"role": "user", "content": shared.written_contents(tuple(pictures), losses)})
    return written


def _answer(message: Message, losses: Losses) -> Fields:
    said = tuple(part for part in message.parts if isinstance(part, Text))
    refused = "".join(part.text for part in message.parts if isinstance(part, Refusal))
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    kinds = [isinstance(part, ToolCall) for part in message.parts]
    if kinds != sorted(kinds):  # a chat message has its words before its calls
        losses.add("messages.order")
    if any(isinstance(part, Thinking) for part in message.parts):
        losses.add("messages.thinking")
    written: Fields = {"role": "assistant"}
    if said or not (refused or calls):
        written["content"] = shared.written_contents(said, losses)
    if refused:
        written["refusal"] = refused
    if calls:
        written["tool_calls"] = [shared.written_call(call, losses) for call in calls]
    return written


def encode(body: Fields) -> bytes:
    """The body's bytes."""
    return dumps(body)
