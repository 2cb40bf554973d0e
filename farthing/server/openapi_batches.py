"""The OpenAPI description of batches: both providers' paths, and calls that wait."""

from typing import Any

_ERROR = {"description": "An error in the API's dialect", "content": {"application/json": {}}}
_CODES = ("400", "401", "403", "404", "409", "413", "422", "429", "4XX", "5XX")


def batch_paths() -> dict[str, Any]:
    """Paths by name."""
    one, files, batches, messages = ({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
                                     "/v1/files", "/v1/batches", "/v1/messages/batches")  # fmt: skip
    create = {
        "type": "object",
        "required": ["input_file_id", "endpoint"],
        "properties": {
            "input_file_id": {"type": "string"},
            "endpoint": {"type": "string"},
            "completion_window": {"type": "string"},
            "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        },
    }
    request = {
        "type": "object",
        "required": ["custom_id", "params"],
        "properties": {"custom_id": {"type": "string"}, "params": {"type": "object"}},
    }
    requests = {
        "type": "object",
        "required": ["requests"],
        "properties": {"requests": {"type": "array", "items": request, "minItems": 1}},
    }
    form = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"const": "batch"}},
    }
    named = {"parameters": [one]}
    return {
        files: {
            "get": _act("Files of requests and of results"),
            "post": _act("Upload a file of requests", _body("multipart/form-data", form)),
        },
        files + "/{id}": {**named, "get": _act("A file"), "delete": _act("Delete a file")},
        files + "/{id}/content": {**named, "get": _act("A file's bytes", answer="application/octet-stream")},
        batches: {
            "get": _act("OpenAI batches of this key"),
            "post": _act("Create a batch, held at its ceiling", _body("application/json", create)),
        },
        batches + "/{id}": {**named, "get": _act("A batch")},
        batches + "/{id}/cancel": {**named, "post": _act("Cancel a batch")},
        messages: {
            "get": _act("Anthropic batches of this key"),
            "post": _act("Create a batch, held at its ceiling", _body("application/json", requests)),
        },
        messages + "/{id}": {**named, "get": _act("A batch"), "delete": _act("Delete a batch that has ended")},
        messages + "/{id}/results": {**named, "get": _act("Results, one a line", answer="application/x-jsonl")},
        messages + "/{id}/cancel": {**named, "post": _act("Cancel a batch")},
        "/api/v1/deferred/{id}": {
            **named,
            "get": _act("A call that waits for a batch, or its answer"),
            "delete": _act("Take a call back that is still queued"),
        },
    }


def _body(kind: str, shape: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": {**shape, "additionalProperties": True}}}}


def _act(summary: str, body: dict[str, Any] | None = None, *, answer: str = "application/json") -> dict[str, Any]:
    found: dict[str, Any] = {"summary": summary}
    if body is not None:
        found["requestBody"] = body
    done = {"200": {"description": "Done", "content": {answer: {}}}}
    return {**found, "responses": {**done, **dict.fromkeys(_CODES, _ERROR)}}
