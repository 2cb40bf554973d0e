"""The codec of Amazon Bedrock's Converse API: a Bedrock API key as the bearer token, or requests signed for AWS."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

from farthing.core.errors import ProviderFailed
from farthing.core.signing_aws import AwsKeys, signed
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
_REGION = re.compile(r"bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")


def region_of(base_url: str) -> str:
    """The region in the address of a Bedrock runtime; empty: it names none."""
    found = _REGION.search(base_url)
    return found[1] if found else ""


class BedrockCodec:
    """Bytes for Converse in one region; requests come translated."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        secret: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        keys: Callable[[], AwsKeys] | None = None,
        region: str = "",
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """``base_url`` is the region's runtime: ``https://bedrock-runtime.us-east-1.amazonaws.com``.

        Without a ``secret`` and with ``keys`` each request is signed, at ``now_ms`` and for ``region``.
        """
        self.name = name
        self._base = base_url.rstrip("/")
        extra = [(key.lower().encode(), value.encode()) for key, value in headers]
        if secret:
            extra.append((b"authorization", b"Bearer " + secret.encode()))
        self._extra = tuple(extra)
        self._keys = None if secret else keys
        self._region = region or region_of(base_url)
        self._now_ms = now_ms
        self._reader = usages.reader("aws.converse")

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        """A caller's own credentials are never passed on: they are for another API."""
        method = "converse-stream" if request.view.stream else "converse"
        url = f"{self._base}/model/{quote(target.model, safe='')}/{method}"
        headers = (*travelling(request.headers), *self._extra)
        if self._keys is not None:
            headers = (*headers, *self._signed(url, headers, body, self._keys()))
        return HttpRequest(method="POST", url=url, headers=headers, body=body)

    def _signed(
        self, url: str, headers: tuple[tuple[bytes, bytes], ...], body: bytes, keys: AwsKeys
    ) -> list[tuple[bytes, bytes]]:
        at = f"{datetime.fromtimestamp(self._now_ms() / 1000, UTC):%Y%m%dT%H%M%SZ}"
        plain = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        added = signed("POST", url, plain, body, keys, region=self._region, service="bedrock", at=at)
        return [(name.encode(), value.encode()) for name, value in added]

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
