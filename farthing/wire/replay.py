"""Stored answers and streams: one whole JSON answer from a complete stream, and a real stream from a JSON answer.

An answer is kept once, as JSON, and delivered in whichever form the caller asks for. What cannot be put together
or taken apart without loss is not kept at all.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from farthing.core.types import Endpoint
from farthing.wire import replay_chat, replay_messages, replay_responses
from farthing.wire.replay_json import Json, Unreplayable, is_text
from farthing.wire.sse import SseSplitter

_decode = msgspec.json.Decoder(dict[str, object]).decode
_STOPS: Final = {"stop": "", "length": "length", "content_filter": "content_filter", "tool_calls": "tool_call",
                 "function_call": "tool_call", "end_turn": "", "stop_sequence": "", "max_tokens": "length",
                 "model_context_window_exceeded": "length", "tool_use": "tool_call",
                 "refusal": "refusal"}  # fmt: skip
_COLLECT: Final[dict[str, Callable[[list[Json]], Json]]] = {
    "chat": replay_chat.collect_chat,
    "completions": replay_chat.collect_completion,
    "responses": replay_responses.collect,
    "messages": replay_messages.collect,
}


def collected(endpoint: Endpoint, stream: bytes) -> bytes:
    """The JSON answer that a complete stream adds up to. Raises :class:`Unreplayable`."""
    collect = _COLLECT.get(endpoint)
    if collect is None:
        raise Unreplayable("endpoint")
    splitter = SseSplitter()
    payloads: list[Json] = []
    try:
        for event in [*splitter.feed(stream), *splitter.finish()]:
            if event.data != b"[DONE]":
                payloads.append(_decode(event.data))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unreplayable("unreadable") from error
    return msgspec.json.encode(collect(payloads))


def streamed(endpoint: Endpoint, body: bytes, *, include_usage: bool) -> tuple[bytes, bytes]:
    """(the answer as an event stream but its last event, the last event). Raises :class:`Unreplayable`."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unreplayable("unreadable") from error
    match endpoint:
        case "chat":
            return replay_chat.stream_chat(answer, include_usage=include_usage)
        case "completions":
            return replay_chat.stream_completion(answer, include_usage=include_usage)
        case "responses":
            return replay_responses.stream(answer)
        case "messages":
            return replay_messages.stream(answer)
        case _:
            raise Unreplayable("endpoint")


def with_usage(body: bytes, usage: bytes) -> bytes:
    """The answer with the provider's usage object where a stream left it out. Raises :class:`Unreplayable`."""
    try:
        answer = _decode(body)
        if isinstance(answer.get("usage"), dict):
            return body
        answer["usage"] = _decode(usage)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unreplayable("usage") from error
    return msgspec.json.encode(answer)


def objection(endpoint: Endpoint, body: bytes, *, tools: bool) -> str:
    """Why this answer must not be kept, as a slug; empty: it is whole and may be served again."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return "unreadable"
    if answer.get("error"):
        return "error"
    match endpoint:
        case "chat" | "completions":
            found = _choices(answer)
        case "responses":
            found = _response(answer)
        case "messages":
            found = _message(answer)
        case "embeddings":
            found = "" if answer.get("data") else "empty"
        case _:
            found = "endpoint"
    return "" if found == "tool_call" and tools else found


def _choices(answer: Json) -> str:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return "empty"
    called = ""
    for choice in choices:
        if not isinstance(choice, dict):
            return "unreadable"
        why = _STOPS.get(str(choice.get("finish_reason")), "unfinished")
        message = choice.get("message") or {}
        if why not in ("", "tool_call"):
            return why
        if message.get("refusal"):
            return "refusal"
        if message.get("audio"):
            return "modality"
        if message.get("tool_calls") or message.get("function_call") or why:
            called = "tool_call"
        elif not is_text(message.get("content")) and not is_text(choice.get("text")):
            return "empty"
    return called


def _response(answer: Json) -> str:
    if answer.get("status") != "completed":
        details = answer.get("incomplete_details")
        reason = str(details.get("reason", "")) if isinstance(details, dict) else ""
        return {"max_output_tokens": "length", "content_filter": "content_filter"}.get(reason, "unfinished")
    called, says = "", False
    output = answer.get("output")
    for item in output if isinstance(output, list) else []:
        kind = str(item.get("type", ""))
        if kind == "message":
            parts = item.get("content") or []
            if any(part.get("type") == "refusal" for part in parts):
                return "refusal"
            says = says or any(is_text(part.get("text")) for part in parts)
        elif kind != "reasoning":
            called = "tool_call"
    return called or ("" if says else "empty")


def _message(answer: Json) -> str:
    why = _STOPS.get(str(answer.get("stop_reason")), "unfinished")
    if why:
        return why
    content = answer.get("content")
    if not isinstance(content, list) or not content:
        return "empty"
    if any(str(block.get("type", "")).endswith(("tool_use", "tool_result")) for block in content):
        return "tool_call"
    return ""
