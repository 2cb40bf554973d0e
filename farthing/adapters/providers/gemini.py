"""The codec of Google's Gemini API: ``generateContent``, the model's name in the path."""

import re
from urllib.parse import quote

from farthing.core.errors import ProviderFailed
from farthing.core.types import Bounds, Request, Target
from farthing.ports.provider import HttpRequest, UsageReader
from farthing.wire import usage as usages
from farthing.wire.failures import failure
from farthing.wire.headers import travelling

_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d+)(?:\.\d+)?s"')
"""Where Google says how long to wait: in the error's details, not in a header."""
_PROMPT_OVERHEAD = 64
_TOOL_OVERHEAD = 512
_IMAGE_TOKENS = 2_300
"""What one picture costs at most, whatever its size in bytes: 2,240 at the highest resolution."""


class GeminiCodec:
    """Bytes for one upstream that speaks Gemini's API; requests come translated."""

    def __init__(
        self, *, name: str, base_url: str, secret: str = "", headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """``base_url`` ends with the API version: ``https://generativelanguage.googleapis.com/v1beta``."""
        self.name = name
        self._base = base_url.rstrip("/")
        extra = [(key.lower().encode(), value.encode()) for key, value in headers]
        if secret:
            extra.append((b"x-goog-api-key", secret.encode()))
        self._extra = tuple(extra)
        self._reader = usages.reader("google.gemini")

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        """A caller's own credentials are never passed on: they are for another API."""
        method = "streamGenerateContent?alt=sse" if request.view.stream else "generateContent"
        url = f"{self._base}/models/{quote(target.model, safe='')}:{method}"
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
            cache_write=False,
            service_tier=view.service_tier or "default",
        )

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        delay = _RETRY_DELAY.search(body) if status in (429, 503) else None
        if delay is not None and not any(name == b"retry-after" for name, _ in headers):
            headers = (*headers, (b"retry-after", delay[1]))
        return failure(status, headers, body, provider=self.name)
