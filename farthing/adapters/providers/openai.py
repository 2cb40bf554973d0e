"""The codec of OpenAI and of every server that speaks its API."""

from collections.abc import Mapping

from farthing.core.errors import ProviderFailed
from farthing.core.types import Bounds, Request, Target
from farthing.ports.provider import HttpRequest, UsageReader
from farthing.wire import usage as usages
from farthing.wire.failures import failure
from farthing.wire.headers import Travellers, travelling
from farthing.wire.openai import bounds_of

_PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
}


class OpenAICodec:
    """Bytes for one OpenAI-compatible upstream."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        secret: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        price_as: str = "",
    ) -> None:
        """``base_url`` ends with the API version; an empty ``secret`` lets the caller's own credentials through."""
        self.name = name
        self._urls = {endpoint: base_url.rstrip("/") + path for endpoint, path in _PATHS.items()}
        extra = [(key.lower().encode(), value.encode()) for key, value in headers]
        if secret:
            extra.append((b"authorization", b"Bearer " + secret.encode()))
        self._travellers = Travellers(tuple(extra))
        self._passes_credentials = not secret
        self._readers: Mapping[str, UsageReader] = {
            endpoint: usages.reader_for(price_as or name, endpoint) for endpoint in _PATHS
        }

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        if self._passes_credentials and not request.scope.key:  # a Farthing key is nobody else's business
            own = [pair for pair in request.headers if pair[0] in (b"authorization", b"api-key")]
            headers = self._travellers.made([*travelling(request.headers), *own])
        else:
            headers = self._travellers.of(request.headers)
        return HttpRequest(method="POST", url=self._urls[request.view.endpoint], headers=headers, body=body)

    def reader(self, request: Request) -> UsageReader:
        return self._readers[request.view.endpoint]

    def bounds(self, request: Request, target: Target) -> Bounds:
        return bounds_of(request.view)

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        return failure(status, headers, body, provider=self.name)
