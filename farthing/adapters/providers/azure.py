"""The codec of Azure OpenAI: deployments in the path, ``api-key`` for a credential."""

from urllib.parse import quote

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
}


class AzureCodec:
    """Bytes for one Azure OpenAI resource; the model name a caller sends is the deployment's name."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        secret: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        api_version: str = "2024-10-21",
    ) -> None:
        """``base_url`` is the resource: ``https://NAME.openai.azure.com``."""
        self.name = name
        self._base = base_url.rstrip("/").removesuffix("/openai")
        self._query = f"?api-version={quote(api_version)}"
        extra = [(key.lower().encode(), value.encode()) for key, value in headers]
        if secret:
            extra.append((b"api-key", secret.encode()))
        self._travellers = Travellers(tuple(extra))
        self._passes_credentials = not secret

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        if self._passes_credentials and not request.scope.key:  # a Farthing key is nobody else's business
            own = [pair for pair in request.headers if pair[0] in (b"authorization", b"api-key")]
            headers = self._travellers.made([*travelling(request.headers), *own])
        else:
            headers = self._travellers.of(request.headers)
        endpoint = request.view.endpoint
        if endpoint == "responses":
            url = f"{self._base}/openai/responses{self._query}"
        else:
            url = f"{self._base}/openai/deployments/{quote(target.model, safe='')}{_PATHS[endpoint]}{self._query}"
        return HttpRequest(method="POST", url=url, headers=headers, body=body)

    def reader(self, request: Request) -> UsageReader:
        return usages.reader_for("azure", request.view.endpoint)

    def bounds(self, request: Request, target: Target) -> Bounds:
        return bounds_of(request.view)

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        return failure(status, headers, body, provider=self.name)
