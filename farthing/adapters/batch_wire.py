"""Requests to a provider's batch API, with the provider's own key."""

from collections.abc import Sequence

from farthing.ports.provider import HttpRequest


class ProviderBatches:
    """``BatchWire`` of one provider."""

    def __init__(
        self, *, base_url: str, secret: str, anthropic: bool = False, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """``base_url`` ends with the API's version."""
        self._base = base_url.rstrip("/")
        extra = [(name.lower().encode(), value.encode()) for name, value in headers]
        if anthropic:
            extra.append((b"x-api-key", secret.encode()))
            if not any(name == b"anthropic-version" for name, _ in extra):
                extra.append((b"anthropic-version", b"2023-06-01"))
        else:
            extra.append((b"authorization", b"Bearer " + secret.encode()))
        self._extra = tuple(extra)

    def request(
        self, method: str, path: str, *, body: bytes = b"", content_type: str = "", beta: Sequence[bytes] = ()
    ) -> HttpRequest:
        headers = list(self._extra)
        if content_type:
            headers.append((b"content-type", content_type.encode()))
        headers += [(b"anthropic-beta", one) for one in beta]
        return HttpRequest(method=method, url=self._base + path, headers=tuple(headers), body=body)
