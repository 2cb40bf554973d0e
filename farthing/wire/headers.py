"""Which of a caller's headers travel on to a provider."""

from typing import Final

_STAYS: Final = frozenset(
    {
        b"host", b"content-length", b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer",
        b"upgrade", b"proxy-authorization", b"proxy-connection", b"accept-encoding", b"authorization",
        b"x-api-key", b"api-key", b"cookie", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto",
        b"x-forwarded-host", b"x-real-ip",
    }
)  # fmt: skip


def travelling(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    """The caller's headers without connection matters, credentials and Farthing's own."""
    return [pair for pair in headers if pair[0] not in _STAYS and not pair[0].startswith(b"x-farthing")]


def retry_after_ms(headers: tuple[tuple[bytes, bytes], ...]) -> int | None:
    """What ``retry-after-ms`` or ``retry-after`` (seconds) asks for; dates and nonsense count as not said."""
    for name, scale in ((b"retry-after-ms", 1), (b"retry-after", 1000)):
        for given, value in headers:
            if given == name:
                try:
                    return max(0, min(int(float(value) * scale), 86_400_000))
                except ValueError:
                    return None
    return None
