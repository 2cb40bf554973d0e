"""The Anthropic dialect: what a request body asks for, its edits, and the shape of errors."""

from typing import Any, Final

import msgspec

from farthing.core.errors import BadRequest
from farthing.core.types import Endpoint, PromptParts, PromptView
from farthing.wire import body as bodies


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _MessagesBody(PromptParts, kw_only=True):
    model: str
    messages: msgspec.Raw
    max_tokens: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    service_tier: str | None = None
    metadata: _Metadata | None = None
    mcp_servers: msgspec.Raw = bodies.NULL
    container: msgspec.Raw = bodies.NULL
    speed: str | None = None
    inference_geo: str | None = None


_MESSAGES = msgspec.json.Decoder(_MessagesBody)
_TOOLS = msgspec.json.Decoder(list[dict[str, Any]])
_TIERS = {"standard_only": "default", "auto": "auto"}


def _read(body: bytes, endpoint: Endpoint) -> tuple[PromptView, PromptParts]:
    read, _ = bodies.decode_prompt(_MESSAGES, body, {})
    messages = bytes(read.messages)
    if not messages.startswith(b"["):
        raise BadRequest("'messages' must be a list.", param="messages")
    if endpoint == "messages" and read.max_tokens is None:
        raise BadRequest("The request body has no 'max_tokens'.", hint="Add it.", param="max_tokens")
    hosted = _hosted_tools(read.tools)
    outside = b'"file_id"' in messages or b'"type":"url"' in messages or b'"type": "url"' in messages
    has_servers = bytes(read.mcp_servers) not in (b"null", b"[]")
    view = PromptView(
        endpoint=endpoint,
        model=read.model,
        stream=bool(read.stream),
        include_usage=True,
        output_tokens_max=bodies.output_cap(read.max_tokens, "max_tokens"),
        body_bytes=len(body),
        images=messages.count(b'"image"'),
        unbounded=bool(hosted or outside or has_servers or bodies.given(read.container)),
        tools=bytes(read.tools).count(b'"input_schema"'),
        hosted_tools=hosted,
        cache_marks=body.count(b'"cache_control"'),
        cache_ttl_long=b'"1h"' in body,
        service_tier=_TIERS.get(read.service_tier or "auto", read.service_tier or "auto"),
        facets=tuple(
            (name, value[:32]) for name, value in (("region", read.inference_geo), ("speed", read.speed)) if value
        ),
        temperature=read.temperature,
    )
    user = ((read.metadata.user_id if read.metadata else "") or "")[:256]
    return msgspec.structs.replace(view, user=user) if user else view, read


def _hosted_tools(raw: msgspec.Raw) -> tuple[tuple[str, int], ...]:
    """Tools that Anthropic runs itself, by billable unit, with the caller's ``max_uses``."""
    if not bodies.given(raw):
        return ()
    try:
        tools = _TOOLS.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest("'tools' must be a list of objects.", param="tools") from None
    found: dict[str, int] = {}
    for tool in tools:
        kind = str(tool.get("type") or "custom")
        uses = tool.get("max_uses")
        uses = uses if isinstance(uses, int) and uses > 0 else 0
        if kind.startswith("web_search"):
            found["web_search"] = uses
        elif kind.startswith("web_fetch"):
            found["web_fetch"] = uses
        elif kind.startswith("code_execution"):
            found["code_session"] = uses
    return tuple(sorted(found.items()))


def view_messages(body: bytes) -> PromptView:
    """Reads ``POST /v1/messages``. Raises :class:`BadRequest`."""
    return read_messages(body)[0]


def read_messages(body: bytes) -> tuple[PromptView, PromptParts]:
    """The same, and the prompt's values. Raises :class:`BadRequest`."""
    return _read(body, "messages")


def view_count(body: bytes) -> PromptView:
    """Reads ``POST /v1/messages/count_tokens``. Raises :class:`BadRequest`."""
    return _read(body, "count_tokens")[0]


VIEWS = {"messages": view_messages, "count_tokens": view_count}


def cap_output(body: bytes, cap: int) -> bytes:
    """The same request with ``max_tokens`` set to ``cap``."""
    return bodies.set_value(body, "max_tokens", str(cap).encode())


def set_model(body: bytes, model: str) -> bytes:
    """The same request for another model."""
    return bodies.set_value(body, "model", msgspec.json.encode(model))


_KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
          529: "overloaded_error"}  # fmt: skip


def error_body(*, message: str, code: str, status: int, request_id: str = "") -> bytes:
    """An error as Anthropic's clients expect it."""
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    shape: dict[str, object] = {"type": "error", "error": {"type": kind, "message": message, "code": code}}
    if request_id:
        shape["request_id"] = request_id
    return msgspec.json.encode(shape)


PATHS: Final[dict[str, Endpoint]] = {"/v1/messages": "messages", "/v1/messages/count_tokens": "count_tokens"}
"""The paths of this dialect that Farthing meters."""
