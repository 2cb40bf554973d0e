"""The gateway's own OpenAPI description: the metered paths with what Farthing itself requires of a body."""

from typing import Any

from farthing import __version__
from farthing.server.openapi_batches import batch_paths

_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string"}, "content": {}},
}


def _body(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    shape = {"type": "object", "required": required, "properties": properties, "additionalProperties": True}
    return {"required": True, "content": {"application/json": {"schema": shape}}}


def _path(summary: str, body: dict[str, Any], *, streams: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {}}
    if streams:
        content["text/event-stream"] = {}
    error = {"description": "An error in the caller's dialect", "content": {"application/json": {}}}
    answers: dict[str, Any] = {"200": {"description": "The provider's answer", "content": content}}
    answers.update({code: error for code in ("400", "401", "403", "404", "409", "413", "422", "429", "4XX", "5XX")})
    return {"post": {"summary": summary, "requestBody": body, "responses": answers}}


def _outcomes() -> dict[str, Any]:
    text = {"type": "string", "maxLength": 128}
    one = {
        "type": "object",
        "required": ["id", "kind"],
        "properties": {
            "id": {**text, "minLength": 1},
            "kind": {"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}$"},
            "at": {"type": ["string", "integer"]},
            "session": text,
            "request_id": text,
            "value_usd": {"type": "string"},
            "success": {"type": "boolean"},
        },
        "additionalProperties": False,
    }
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": 1000}
    error = {"description": "An error", "content": {"application/json": {}}}
    answers: dict[str, Any] = {
        code: {"description": "Taken", "content": {"application/json": {}}} for code in ("200", "201")
    }
    answers.update({code: error for code in ("400", "401", "409", "413", "503")})
    body = {"required": True, "content": {"application/json": {"schema": {"anyOf": [one, many]}}}}
    return {"post": {"summary": "What calls were good for", "requestBody": body, "responses": answers}}


def document(pages: dict[str, Any] | None = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document served at ``/openapi.json``; ``pages``: the paths of the reports' API."""
    model = {"type": "string", "minLength": 1, "maxLength": 256}
    cap = {"type": ["integer", "null"], "minimum": 0, "maximum": 10_000_000}
    stream = {"type": ["boolean", "null"]}
    messages = {"type": "array", "items": _MESSAGE}
    plain = {"get": {"responses": {"200": {"description": "OK"}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Farthing gateway", "version": __version__},
        "paths": {
            "/v1/chat/completions": _path(
                "OpenAI chat completions",
                _body(
                    ["model", "messages"],
                    {
                        "model": model,
                        "messages": messages,
                        "stream": stream,
                        "max_tokens": cap,
                        "max_completion_tokens": cap,
                        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
                        "user": {"type": ["string", "null"]},
                        "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
                    },
                ),
                streams=True,
            ),
            "/v1/completions": _path(
                "OpenAI completions",
                _body(["model", "prompt"], {"model": model, "prompt": {}, "stream": stream, "max_tokens": cap}),
                streams=True,
            ),
            "/v1/embeddings": _path(
                "OpenAI embeddings", _body(["model", "input"], {"model": model, "input": {}}), streams=False
            ),
            "/v1/responses": _path(
                "OpenAI responses",
                _body(
                    ["model", "input"],
                    {"model": model, "input": {}, "stream": stream, "max_output_tokens": cap},
                ),
                streams=True,
            ),
            "/v1/messages": _path(
                "Anthropic messages",
                _body(
                    ["model", "messages", "max_tokens"],
                    {"model": model, "messages": messages, "stream": stream, "max_tokens": cap},
                ),
                streams=True,
            ),
            "/v1/messages/count_tokens": _path(
                "Anthropic token count (free)",
                _body(["model", "messages"], {"model": model, "messages": messages}),
                streams=False,
            ),
            "/api/v1/outcomes": _outcomes(),
            **batch_paths(),
            "/v1/models": plain,
            "/healthz": plain,
            "/readyz": {"get": {"responses": {"200": {"description": "Ready"}, "503": {"description": "Not ready"}}}},
            "/metrics": plain,
            **(pages or {}),
        },
    }
