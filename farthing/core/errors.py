"""The error tree: every failure Farthing raises on purpose, with a stable code and an HTTP status.

::

    FarthingError
    ├─ ConfigError                       start-up; every problem listed at once
    │   ├─ PolicyError
    │   └─ PriceBookError
    ├─ RequestError                      4xx, the caller can fix it
    │   ├─ BadRequest  Untranslatable  Unauthorized  Forbidden  UnknownModel  NotFound  TooLong  NotCached
    │   ├─ Throttled  Deferred           429 by a budget's threshold
    │   └─ BudgetExceeded                429 that must not be retried
    │       └─ SpendingTooFast
    ├─ ProviderFailed                    the upstream's fault
    │   ├─ RateLimited  Overloaded  TimedOut  Rejected  StreamBroken
    ├─ StoreFailed
    │   ├─ StoreUnavailable  OutageAllowanceSpent  Conflict
    └─ Unpriced

Codes are part of the API: documented in ``docs/reference/errors.md`` and tested to be unique.
"""

from typing import ClassVar


class FarthingError(Exception):
    """The root of every error Farthing raises on purpose."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        """``message`` says what went wrong and where; ``hint`` says how to fix it."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        ends = not self.hint or self.message[-1:] in (".", "?", "!", "…", "")
        return f"{self.message}{'' if ends else '.'} {self.hint}".strip()


class ConfigError(FarthingError):
    """The configuration cannot be used; ``problems`` lists everything that is wrong with it."""

    code = "config_invalid"

    def __init__(self, problems: tuple[str, ...] | list[str], *, source: str = "configuration") -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1))
        count = len(self.problems)
        super().__init__(f"{source}: {count} problem{'s' if count != 1 else ''}\n{lines}")


class PolicyError(ConfigError):
    """A policy is inconsistent or names something that does not exist."""

    code = "policy_invalid"


class PriceBookError(ConfigError):
    """A price file is malformed, conflicting or would overwrite history."""

    code = "price_book_invalid"


class RequestError(FarthingError):
    """The caller's request cannot be served as it is."""

    code = "bad_request"
    http_status = 400

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class BadRequest(RequestError):
    """Malformed JSON, a wrong type, an impossible value."""


class Untranslatable(RequestError):
    """The provider chosen speaks another API, which has no words for ``param``."""

    code = "not_translatable"


class Unauthorized(RequestError):
    """No key, an unknown key, or a revoked one."""

    code = "invalid_api_key"
    http_status = 401


class Forbidden(RequestError):
    """The key is valid but may not do this."""

    code = "forbidden"
    http_status = 403


class UnknownModel(RequestError):
    """No configured provider serves this model."""

    code = "model_not_found"
    http_status = 404


class NotFound(RequestError):
    """No such path or object."""

    code = "not_found"
    http_status = 404


class TooLong(RequestError):
    """The body or the prompt is larger than allowed."""

    code = "request_too_large"
    http_status = 413


class NotCached(RequestError):
    """The caller wanted an answer from the cache only, and there is none."""

    code = "not_cached"
    http_status = 504


class BudgetExceeded(RequestError):
    """A hard limit would be crossed; refused before any money was spent. Never worth an automatic retry."""

    code = "budget_exceeded"
    http_status = 429

    def __init__(
        self, message: str, *, hint: str = "", budget: str, left: str, limit: str, resets_at_ms: int | None
    ) -> None:
        super().__init__(message, hint=hint)
        self.budget = budget
        self.left = left
        self.limit = limit
        self.resets_at_ms = resets_at_ms


class SpendingTooFast(BudgetExceeded):
    """A counter is blocked because its calls cost more per minute than they may; it goes on when they slow down."""

    code = "spending_too_fast"
    retry_after_ms: int | None = None


class Throttled(RequestError):
    """A budget's threshold slows its calls down; this one may be tried again after ``retry_after_ms``."""

    code = "throttled"
    http_status = 429
    retryable = True
    retry_after_ms: int | None = None


class Deferred(RequestError):
    """A call that says it can wait, while a budget's threshold leaves such calls to the batch API."""

    code = "deferred"
    http_status = 429
    retry_after_ms: int | None = None


class ProviderFailed(FarthingError):
    """The upstream provider did not answer as it should."""

    code = "provider_failed"
    http_status = 502

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        status: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        body: bytes = b"",
        sent: bool = True,
    ) -> None:
        """``sent`` is False when the request certainly never reached the provider, so nothing can be billed."""
        super().__init__(message, hint=hint)
        self.status = status
        self.headers = headers
        self.body = body
        self.sent = sent


class RateLimited(ProviderFailed):
    """429 from the provider; ``retry_after_ms`` is what it asked for, if anything."""

    code = "provider_rate_limited"
    http_status = 429
    retryable = True
    retry_after_ms: int | None = None


class Overloaded(ProviderFailed):
    """5xx or 529 from the provider, or a connection that could not be made."""

    code = "provider_overloaded"
    http_status = 503
    retryable = True
    retry_after_ms: int | None = None


class TimedOut(ProviderFailed):
    """The provider did not answer within the deadline; it may still bill."""

    code = "provider_timed_out"
    http_status = 504
    retryable = True


class Rejected(ProviderFailed):
    """A 4xx of the provider that repeats if repeated; passed to the caller as it came."""

    code = "provider_rejected"
    http_status = 400


class StreamBroken(ProviderFailed):
    """The provider's answer ended before it was complete."""

    code = "provider_stream_broken"


class StoreFailed(FarthingError):
    """The ledger could not do what was asked."""

    code = "store_failed"
    http_status = 503


class StoreUnavailable(StoreFailed):
    """The ledger cannot be reached or written (disk full, locked, gone)."""

    code = "store_unavailable"
    retryable = True


class OutageAllowanceSpent(StoreUnavailable):
    """The store is away, and what policy lets through without it is used up: refused even under ``allow``."""

    code = "outage_allowance_spent"


class Conflict(StoreFailed):
    """The same id came again with other content."""

    code = "conflict"
    http_status = 409


class Unpriced(FarthingError):
    """No price is known; an unknown price is a state, never zero."""

    code = "unpriced"
    http_status = 422

    def __init__(self, message: str, *, hint: str = "", reason: str) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
