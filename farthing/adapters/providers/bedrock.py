"""The codec of Amazon Bedrock's Converse API, with a Bedrock API key as the bearer token."""

from urllib.parse import quote

from farthing.core.errors import ProviderFailed
from farthing.core.types import Bounds, Request, Target
from farthing.ports.provider import HttpRequest, UsageReader
from farthing.wire import usage as usages
from farthing.wire.failures import failure
from farthing.wire.headers import travelling

_PROMPT_OVERHEAD = 64
_TOOL_OVERHEAD = 1_024
"""Tokens of the system prompt that models get when tools are present (346 to 530 documented for Claude)."""
_IMAGE_TOKENS = 5_000
"""What one picture costs at most, whatever its size in bytes: 4,784 for Claude's largest."""


class BedrockCodec:
    """Bytes for Converse in one region; requests come translated."""

    def __init__(
        self, *, name: str, base_url: str, secret: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """``base_url`` is the region's runtime: ``https://bedrock-runtime.us-east-1.amazonaws.com``."""
        self.name = name
        self._base = base_url.rstrip("/")
        extra = [(key.lower().encode(), value.encode()) for key, value in headers]
        if secret:
            extra.append((b"authorization", b"Bearer " + secret.encode()))
        self._extra = tuple(extra)
        self._reader = usages.reader("aws.converse")

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        """A caller's own credentials are never passed on: they are for another API."""
        method = "converse-stream" if request.view.stream else "converse"
        url = f"{self._base}/model/{quote(target.model, safe='')}/{method}"
        return HttpRequest(method="POST", url=url, headers=(*travelling(request.headers), *self._extra), body=body)

    def reader(self, request: Request) -> UsageReader:
        return self._reader

    def bounds(self, request: Request, target: Target) -> Bounds:
        view = request.view
        overhead = _PROMPT_OVERHEAD + (_TOOL_OVERHEAD if view.tools else 0) + _IMAGE_TOKENS * view.images
        return Bounds(
            input_tokens=view.body_bytes + overhead,
            output_tokens=view.output_tokens_max or 0,
            images=view.images,
            unbounded=view.unbounded,
            cache_write=view.cache_marks > 0,
            cache_ttl_long=view.cache_ttl_long,
            service_tier=view.service_tier or "default",
        )

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        return failure(status, headers, body, provider=self.name)
