"""A provider's failure in a caller's dialect."""

from typing import Final

from farthing.core.types import Dialect
from farthing.wire.canonical import Failure
from farthing.wire.translate.fields import Fields, dumps

_OPENAI_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_CODES: Final = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_ANTHROPIC_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def status_for(dialect: Dialect, status: int) -> int:
    """The status that the dialect's clients know: 529 is Anthropic's own, 424 Amazon's word for a failed model."""
    if status == 424:
        return 502
    if status == 529 and dialect == "openai":
        return 503
    return status


def error_body(dialect: Dialect, failure: Failure, request_id: str = "") -> bytes:
    """The failure as JSON, with the provider's own words for what went wrong."""
    status = failure.status
    if dialect == "anthropic":
        kind = _ANTHROPIC_KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        shape: Fields = {"type": "error", "error": {"type": kind, "message": failure.message}}
        if request_id:
            shape["request_id"] = request_id
        return dumps(shape)
    kind = _OPENAI_KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = failure.code or _OPENAI_CODES.get(status)
    return dumps({"error": {"message": failure.message, "type": kind, "param": failure.param or None, "code": code}})
