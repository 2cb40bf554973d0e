"""The OpenAI dialect: what a request body asks for, its edits, and the shape of errors."""

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from farthing.core.errors import BadRequest
from farthing.core.types import Bounds, Endpoint, PromptParts, PromptView
from farthing.wire import body as bodies


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ChatBody(PromptParts, kw_only=True):
    model: str
    messages: msgspec.Raw
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: msgspec.Raw = bodies.NULL
    web_search_options: msgspec.Raw = bodies.NULL


class _CompletionBody(msgspec.Struct):
    model: str
    prompt: msgspec.Raw = bodies.NULL
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    user: str | None = None


class _EmbeddingBody(msgspec.Struct):
    model: str
    input: msgspec.Raw
    user: str | None = None


class _ResponsesBody(msgspec.Struct):
    model: str
    input: msgspec.Raw = bodies.NULL
    instructions: msgspec.Raw = bodies.NULL
    stream: bool | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    temperature: float | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: msgspec.Raw = bodies.NULL
    tools: msgspec.Raw = bodies.NULL
    previous_response_id: str | None = None
    conversation: msgspec.Raw = bodies.NULL
    background: bool | None = None


_CHAT = msgspec.json.Decoder(_ChatBody)
_COMPLETION = msgspec.json.Decoder(_CompletionBody)
_EMBEDDING = msgspec.json.Decoder(_EmbeddingBody)
_RESPONSES = msgspec.json.Decoder(_ResponsesBody)
_TOOL_TYPES = msgspec.json.Decoder(list[dict[str, Any]])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_UNDERSCORE = ord("_")
_PROMPT_OVERHEAD = 64
"""Tokens that chat formatting may add beyond the body's bytes (empty bodies, priming)."""
_COMPLETION_CAP = 16
"""The legacy completions endpoint answers 16 tokens unless told otherwise."""


def _count(raw: msgspec.Raw, mark: bytes) -> int:
    return 0 if raw is bodies.NULL else bytes(raw).count(mark)


def _content(messages: bytes) -> tuple[int, bool]:
    """(images, whether something in them is not text and not in the body)."""
    if _UNDERSCORE not in messages:  # as all of the names do
        return 0, False
    find = messages.find  # ``in`` on bytes raises and clears a TypeError before it looks
    outside = find(b'"file_id"') >= 0 or find(b'"file_data"') >= 0 or find(b'"input_audio"') >= 0
    return messages.count(b'"image_url"'), outside


def view_chat(body: bytes) -> PromptView:
    """Reads ``POST /v1/chat/completions``. Raises :class:`BadRequest`."""
    return read_chat(body)[0]


def read_chat(body: bytes) -> tuple[PromptView, PromptParts]:
    """The same, and the prompt's values. Raises :class:`BadRequest`."""
    read, settings = bodies.decode_prompt(_CHAT, body, _KNOWN)
    messages = bytes(read.messages)
    if messages[:1] != b"[":
        raise BadRequest("'messages' must be a list.", param="messages")
    images, outside = _content(messages)
    known = _KNOWN.get(settings)
    if known is not None:
        return replace(known, body_bytes=len(body), images=images, unbounded=outside), read
    view = _chat_view(read, len(body), images, outside)
    if settings:
        if len(_KNOWN) >= _KNOWN_MAX:
            _KNOWN.clear()
        _KNOWN[settings] = view
    return view, read


_KNOWN: Final[dict[bytes, PromptView]] = {}
"""Views of late by their bodies without messages: applications ask in the same way again and again."""
_KNOWN_MAX: Final = 4_096


def _chat_view(read: _ChatBody, size: int, images: int, outside: bool) -> PromptView:
    cap = bodies.output_cap(read.max_completion_tokens, "max_completion_tokens")
    if cap is None:
        cap = bodies.output_cap(read.max_tokens, "max_tokens")
    return PromptView(
        endpoint="chat",
        model=read.model,
        stream=bool(read.stream),
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
        output_tokens_max=cap,
        choices=bodies.choices(read.n, "n"),
        body_bytes=size,
        images=images,
        unbounded=outside,
        tools=_count(read.tools, b'"type"') + _count(read.functions, b'"name"'),
        hosted_tools=(("web_search", 0),) if bodies.given(read.web_search_options) else (),
        service_tier=read.service_tier or "",
        temperature=read.temperature,
        user=(read.user or read.safety_identifier or "")[:256],
        metadata=() if read.metadata is bodies.NULL else bodies.text_pairs(read.metadata),
    )


def view_completion(body: bytes) -> PromptView:
    """Reads ``POST /v1/completions``. Raises :class:`BadRequest`."""
    read = bodies.decode(_COMPLETION, body)
    cap = bodies.output_cap(read.max_tokens, "max_tokens")
    best_of = bodies.choices(read.best_of, "best_of")
    prompts = _prompts(read.prompt)
    return PromptView(
        endpoint="completions",
        model=read.model,
        stream=bool(read.stream),
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
        output_tokens_max=_COMPLETION_CAP if cap is None else cap,
        choices=max(bodies.choices(read.n, "n"), best_of) * prompts,
        body_bytes=len(body),
        temperature=read.temperature,
        user=(read.user or "")[:256],
    )


def _prompts(raw: msgspec.Raw) -> int:
    """How many prompts a legacy body carries: a list of strings or of token lists is a batch."""
    if not bytes(raw).startswith(b"["):
        return 1
    return max(1, sum(bytes(item)[:1] in (b'"', b"[") for item in _ITEMS.decode(raw)))


def view_embedding(body: bytes) -> PromptView:
    """Reads ``POST /v1/embeddings``. Raises :class:`BadRequest`."""
    read = bodies.decode(_EMBEDDING, body)
    return PromptView(
        endpoint="embeddings",
        model=read.model,
        output_tokens_max=0,
        body_bytes=len(body),
        user=(read.user or "")[:256],
    )


def view_responses(body: bytes) -> PromptView:
    """Reads ``POST /v1/responses``. Raises :class:`BadRequest`."""
    read = bodies.decode(_RESPONSES, body)
    prompt = bytes(read.input)
    if read.background:
        raise BadRequest(
            "'background' responses finish outside this connection and cannot be metered here yet.",
            hint="Send the request without 'background'.",
            param="background",
        )
    hosted = _hosted_tools(read.tools, read.max_tool_calls or 0)
    outside = b'"file_id"' in prompt or b'"file_url"' in prompt or b'"file_data"' in prompt
    return PromptView(
        endpoint="responses",
        model=read.model,
        stream=bool(read.stream),
        include_usage=True,
        output_tokens_max=bodies.output_cap(read.max_output_tokens, "max_output_tokens"),
        body_bytes=len(body),
        images=prompt.count(b'"input_image"'),
        unbounded=bool(read.previous_response_id or bodies.given(read.conversation) or hosted or outside),
        tools=_count(read.tools, b'"type"'),
        hosted_tools=hosted,
        service_tier=read.service_tier or "",
        temperature=read.temperature,
        user=(read.user or read.safety_identifier or "")[:256],
        metadata=bodies.text_pairs(read.metadata),
    )


_HOSTED_UNITS = {
    "web_search": "web_search",
    "web_search_preview": "web_search",
    "file_search": "file_search",
    "code_interpreter": "code_session",
}


def _hosted_tools(raw: msgspec.Raw, calls_max: int) -> tuple[tuple[str, int], ...]:
    """Provider-run tools by billable unit; every type that is not a plain function counts."""
    if not bodies.given(raw):
        return ()
    try:
        tools = _TOOL_TYPES.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest("'tools' must be a list of objects.", param="tools") from None
    found: dict[str, int] = {}
    for tool in tools:
        kind = str(tool.get("type", "function"))
        if kind in ("function", "custom"):
            continue
        base = kind.split("_20", 1)[0]
        found[_HOSTED_UNITS.get(base, "tool_call")] = calls_max
    return tuple(sorted(found.items()))


VIEWS = {
    "chat": view_chat,
    "completions": view_completion,
    "embeddings": view_embedding,
    "responses": view_responses,
}


def bounds_of(view: PromptView) -> Bounds:
    """The most that a request of this dialect can consume; a call that names no tier is served at the default one."""
    return Bounds(
        input_tokens=view.body_bytes + _PROMPT_OVERHEAD,
        output_tokens=view.output_tokens_max or 0,
        choices=view.choices,
        images=view.images,
        unbounded=view.unbounded,
        service_tier=view.service_tier or "default",
        hosted_tools=view.hosted_tools,
    )


def ask_for_usage(body: bytes) -> bytes:
    """The same streamed request with ``stream_options.include_usage`` switched on."""
    if b'"stream_options"' not in body:
        return bodies.insert_value(body, b"stream_options", b'{"include_usage":true}')
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    given = fields.get("stream_options")
    options: dict[str, msgspec.Raw] = {}
    if given is not None and bytes(given) != b"null":
        options = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
    options["include_usage"] = msgspec.Raw(b"true")
    return bodies.set_value(body, "stream_options", msgspec.json.encode(options))


def cap_output(body: bytes, view: PromptView, cap: int) -> bytes:
    """The same request with its output cap set to ``cap`` under the name the caller or the endpoint uses."""
    value = str(cap).encode()
    if view.endpoint == "responses":
        return bodies.set_value(body, "max_output_tokens", value)
    if view.endpoint != "chat":
        return bodies.set_value(body, "max_tokens", value)
    said = [name for name in ("max_tokens", "max_completion_tokens") if bodies.has_key(body, name)]
    for name in said or ["max_completion_tokens"]:
        body = bodies.set_value(body, name, value)
    return body


def set_model(body: bytes, model: str) -> bytes:
    """The same request for another model."""
    return bodies.set_value(body, "model", msgspec.json.encode(model))


def error_body(*, message: str, code: str, status: int, param: str | None = None) -> bytes:
    """An error as OpenAI's clients expect it."""
    kinds = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
             404: "invalid_request_error", 413: "invalid_request_error", 429: "insufficient_quota"}  # fmt: skip
    kind = kinds.get(status, "api_error" if status >= 500 else "invalid_request_error")
    if status == 429 and code != "budget_exceeded":
        kind = "rate_limit_error"
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


PATHS: Final[dict[str, Endpoint]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/responses": "responses",
}
"""The paths of this dialect that Farthing meters."""
