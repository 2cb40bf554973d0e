"""The codec of Anthropic's Messages API."""

from farthing.core.errors import ProviderFailed
from farthing.core.types import Bounds, Request, Target
from farthing.ports.provider import HttpRequest, UsageReader
from farthing.wire import usage as usages
from farthing.wire.failures import failure
from farthing.wire.headers import Travellers, travelling

_PATHS = {"messages": "/messages", "count_tokens": "/messages/count_tokens"}
_TOOL_OVERHEAD = 1024
"""Tokens of the system prompt that the provider adds when tools are present (346 to 530 documented)."""
_PROMPT_OVERHEAD = 64
_DEFAULT_VERSION = (b"anthropic-version", b"2023-06-01")


class AnthropicCodec:
    """Bytes for one Anthropic-compatible upstream."""

    def __init__(
        self, *, name: str, base_url: str, secret: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """``base_url`` ends with the API version; an empty ``secret`` lets the caller's own credentials through."""
        self.name = name
        self._urls = {endpoint: base_url.rstrip("/") + path for endpoint, path in _PATHS.items()}
        extra = [(key.lower().encode(), value.encode()) for key, value in headers]
        if secret:
            extra.append((b"x-api-key", secret.encode()))
        self._travellers = Travellers(tuple(extra), default=(_DEFAULT_VERSION,))
        self._passes_credentials = not secret
        self._reader = usages.reader("anthropic.messages")

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        if self._passes_credentials and not request.scope.key:  # a Farthing key is nobody else's business
            own = [pair for pair in request.headers if pair[0] in (b"authorization", b"x-api-key")]
            headers = self._travellers.made([*travelling(request.headers), *own])
        else:
            headers = self._travellers.of(request.headers)
        return HttpRequest(method="POST", url=self._urls[request.view.endpoint], headers=headers, body=body)

    def reader(self, request: Request) -> UsageReader:
        return self._reader

    def bounds(self, request: Request, target: Target) -> Bounds:
        view = request.view
        overhead = _PROMPT_OVERHEAD + (_TOOL_OVERHEAD if view.tools or view.hosted_tools else 0)
        return Bounds(
            input_tokens=view.body_bytes + overhead,
            output_tokens=view.output_tokens_max or 0,
            images=view.images,
            unbounded=view.unbounded,
            cache_write=view.cache_marks > 0,
            cache_ttl_long=view.cache_ttl_long,
            service_tier=view.service_tier,
            hosted_tools=view.hosted_tools,
            facets=view.facets,
        )

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        return failure(status, headers, body, provider=self.name)
