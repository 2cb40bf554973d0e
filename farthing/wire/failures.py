"""What a provider's non-2xx answer means."""

from typing import Final

from farthing.core.errors import Overloaded, ProviderFailed, RateLimited, Rejected, TimedOut
from farthing.wire.headers import retry_after_ms

_OVERLOADED: Final = frozenset({500, 502, 503, 520, 521, 522, 523, 524, 529})
_TIMED_OUT: Final = frozenset({408, 504})


def failure(status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes, *, provider: str) -> ProviderFailed:
    """The error for an answer; its body and headers are kept so that the caller gets them as they came."""
    text = f"{provider} answered {status}."
    error: ProviderFailed
    if status == 429:
        error = RateLimited(text, status=status, headers=headers, body=body)
        error.retry_after_ms = retry_after_ms(headers)
    elif status in _OVERLOADED:
        error = Overloaded(text, status=status, headers=headers, body=body)
        error.retry_after_ms = retry_after_ms(headers)
    elif status in _TIMED_OUT:
        error = TimedOut(text, status=status, headers=headers, body=body)
    elif status < 400:
        place = next((value for name, value in headers if name == b"location"), b"")[:200].decode("ascii", "replace")
        hint = f"Farthing follows no redirect ('{place}'): set the provider's base_url to where it really is."
        error = ProviderFailed(text, hint=hint, status=status, headers=headers, body=body)
    else:
        error = Rejected(text, status=status, headers=headers, body=body)
    return error
