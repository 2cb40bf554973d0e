"""One table from Farthing's errors to what each dialect's clients expect."""

from farthing.core.errors import BudgetExceeded, FarthingError, ProviderFailed, RequestError
from farthing.core.types import Dialect
from farthing.ports.reply import Headers
from farthing.wire import anthropic, openai

_PASSED_ON = frozenset({b"content-type", b"retry-after", b"retry-after-ms", b"x-should-retry", b"x-request-id",
                        b"request-id"})  # fmt: skip
_JSON = (b"content-type", b"application/json")


def error_answer(error: FarthingError, dialect: Dialect, request_id: str) -> tuple[int, Headers, bytes]:
    """(status, headers, body) for a failed request. A provider's own error passes on as it came."""
    own: Headers = [(b"x-farthing-request-id", request_id.encode()), (b"x-farthing-error", error.code.encode())]
    if isinstance(error, ProviderFailed) and error.status is not None and error.status >= 400:
        kept = [
            pair
            for pair in error.headers
            if pair[0] in _PASSED_ON or pair[0].startswith((b"x-ratelimit", b"anthropic"))
        ]
        return error.status, kept + own, error.body
    if isinstance(error, BudgetExceeded):
        own.append((b"x-should-retry", b"false"))
        own.append((b"x-farthing-budget", error.budget.encode("ascii", "backslashreplace")))
        own.append((b"x-farthing-budget-left", error.left.encode()))
    elif not error.retryable:
        own.append((b"x-should-retry", b"false"))
    wait_ms: int | None = getattr(error, "retry_after_ms", None)
    if wait_ms is not None:
        own.append((b"retry-after", str(-(-wait_ms // 1000)).encode()))
    return error.http_status, [_JSON, *own], error_body(error, dialect, request_id)


def error_body(error: FarthingError, dialect: Dialect, request_id: str) -> bytes:
    """The error as JSON in the caller's dialect."""
    if dialect == "anthropic":
        return anthropic.error_body(
            message=str(error), code=error.code, status=error.http_status, request_id=request_id
        )
    param = error.param if isinstance(error, RequestError) else None
    return openai.error_body(message=str(error), code=error.code, status=error.http_status, param=param)
