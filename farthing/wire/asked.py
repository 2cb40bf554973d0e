"""What a conversation asks and what a model answered, as text: all that routers and cascades look at."""

import json
from typing import Any

import msgspec

from farthing.core.cascade_checks import Answer
from farthing.core.types import Endpoint

Json = dict[str, Any]


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part | str] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message] = []
    input: str | list[_Message] = []
    prompt: str | list[str] = ""


_BODY = msgspec.json.Decoder(_Body, strict=False)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as a router sees it."""

    first: str
    """The first user message: what a conversation is judged by, the same in every one of its calls."""
    turns: int
    """Answers that the conversation holds already."""


def asked(endpoint: Endpoint, body: bytes) -> Asked:
    """The conversation in a request; empty where there is none to read."""
    try:
        shape = _BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Asked(first="", turns=0)
    if endpoint == "completions":
        return Asked(first=shape.prompt if isinstance(shape.prompt, str) else "\n".join(shape.prompt), turns=0)
    if endpoint == "responses" and isinstance(shape.input, str):
        return Asked(first=shape.input, turns=0)
    messages = shape.input if endpoint == "responses" and isinstance(shape.input, list) else shape.messages
    first = next((_text(message) for message in messages if message.role == "user"), "")
    return Asked(first=first, turns=sum(message.role == "assistant" for message in messages))


def _text(message: _Message) -> str:
    content = message.content
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(part if isinstance(part, str) else part.text for part in content)


def alone(endpoint: Endpoint, body: bytes, *, logprobs: bool) -> bytes:
    """The request without streaming, with token log probabilities where they are wanted and the API has them."""
    fields: Json = msgspec.json.decode(body)
    fields.pop("stream", None)
    fields.pop("stream_options", None)
    if logprobs and endpoint == "chat":
        fields["logprobs"] = True
    return msgspec.json.encode(fields)


def without_logprobs(body: bytes) -> bytes:
    """An answer as if its caller's own request, which did not ask for log probabilities, had been sent."""
    fields: Json = msgspec.json.decode(body)
    for choice in fields.get("choices", ()):
        if choice.get("logprobs") is not None:
            choice["logprobs"] = None
    return msgspec.json.encode(fields)


def answered(endpoint: Endpoint, model: str, body: bytes) -> Answer | None:
    """The first answer in a complete reply of the caller's dialect; None when it cannot be read."""
    try:
        fields: Json = msgspec.json.decode(body)
        if endpoint == "chat":
            return _chat(model, fields)
        if endpoint == "messages":
            return _messages(model, fields)
        if endpoint == "responses":
            return _responses(model, fields)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    return None


def _chat(model: str, fields: Json) -> Answer:
    choice = fields["choices"][0]
    message = choice["message"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
    marks = [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or ()]
    return Answer(
        model=model,
        text=message.get("content") or "",
        tool_calls=tuple(calls),
        finish=str(choice.get("finish_reason") or ""),
        logprob=sum(marks) / len(marks) if marks else None,
    )


def _messages(model: str, fields: Json) -> Answer:
    blocks = fields["content"]
    return Answer(
        model=model,
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        tool_calls=tuple(
            (block["name"], json.dumps(block["input"])) for block in blocks if block["type"] == "tool_use"
        ),
        finish=str(fields.get("stop_reason") or ""),
    )


def _responses(model: str, fields: Json) -> Answer:
    texts, calls = [], []
    for item in fields["output"]:
        if item["type"] == "message":
            texts += [part.get("text", "") for part in item["content"] if part["type"] == "output_text"]
        elif item["type"] == "function_call":
            calls.append((item["name"], item["arguments"]))
    finish = "stop" if fields.get("status") == "completed" else str(fields.get("status"))
    return Answer(model=model, text="".join(texts), tool_calls=tuple(calls), finish=finish)


def tools_of(endpoint: Endpoint, body: bytes) -> tuple[tuple[str, str], ...]:
    """(name, JSON schema of the arguments) of the request's own tools."""
    found = []
    for tool in msgspec.json.decode(body).get("tools") or ():
        shape = tool.get("function", tool) if isinstance(tool, dict) else {}
        rules = shape.get("input_schema" if endpoint == "messages" else "parameters") or {}
        if "name" in shape:
            found.append((str(shape["name"]), json.dumps(rules)))
    return tuple(found)


def schema_of(endpoint: Endpoint, body: bytes) -> str:
    """The JSON schema that the request itself asks the answer to keep; empty: none."""
    fields: Json = msgspec.json.decode(body)
    if endpoint == "chat":
        given = (fields.get("response_format") or {}).get("json_schema") or {}
    else:
        given = (fields.get("text") or {}).get("format") or {}
    schema = given.get("schema") if isinstance(given, dict) else None
    return json.dumps(schema) if schema else ""


def question(endpoint: Endpoint, model: str, prompt: str, *, tokens: int) -> bytes:
    """A request of the caller's dialect that asks one thing and wants a short answer."""
    turns = [{"role": "user", "content": prompt}]
    if endpoint == "messages":
        return msgspec.json.encode({"model": model, "max_tokens": tokens, "messages": turns, "temperature": 0})
    if endpoint == "responses":
        return msgspec.json.encode({"model": model, "max_output_tokens": max(16, tokens), "input": prompt})
    return msgspec.json.encode({"model": model, "max_completion_tokens": tokens, "messages": turns, "temperature": 0})
