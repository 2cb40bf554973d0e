"""Sending spans to an OpenTelemetry collector: OTLP over HTTP, JSON. Blocking."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final

import httpx
import msgspec

from farthing.adapters.otel_spans import batch, entry_span, request_span, unbilled_spans
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry

TIMEOUT_S: Final = 30.0


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: int | str = 0
    error_message: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    partial_success: _Partial | None = None


class OtelSink:
    """A ``Sink`` of spans. ``url`` is the collector's, with or without the path ``/v1/traces``."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url if url.rstrip("/").endswith("/v1/traces") else f"{url.rstrip('/')}/v1/traces"
        self._client = httpx.Client(
            headers={**headers, "content-type": "application/json"}, timeout=TIMEOUT_S, trust_env=False
        )
        self._version = version("farthing")
        self.rejected = 0
        """Spans that the collector took and threw away, as it said."""

    def prepare(self) -> None:
        """A collector needs nothing beforehand."""

    def put_entries(self, entries: Sequence[LedgerEntry]) -> None:
        """Raises ``StoreUnavailable``; then the same batch may be sent again. Corrections are no calls."""
        self._send([entry_span(entry) for entry in entries if entry.kind == "charge"])

    def put_exchanges(self, exchanges: Sequence[Exchange]) -> None:
        """Raises ``StoreUnavailable``; then the same batch may be sent again."""
        spans = []
        for exchange in exchanges:
            spans.append(request_span(exchange))
            spans.extend(unbilled_spans(exchange))
        self._send(spans)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _send(self, spans: Sequence[Mapping[str, object]]) -> None:
        if not spans:
            return
        try:
            answer = self._client.post(self._url, content=msgspec.json.encode(batch(spans, version=self._version)))
        except httpx.HTTPError as error:
            said = (str(error) or type(error).__name__).rstrip(".")
            raise StoreUnavailable(
                f"The collector at {self._url} cannot be reached: {said}.",
                hint="Check analytics.otlp_url, and whether the collector takes OTLP over HTTP.",
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise StoreUnavailable(
                f"The collector at {self._url} answered {answer.status_code}.",
                hint="Check analytics.otlp_url and the headers in the variable of analytics.otlp_headers_env.",
            )
        self.rejected += _rejected(answer.content)


def _rejected(body: bytes) -> int:
    try:
        partial = msgspec.json.decode(body or b"{}", type=_Answer).partial_success
    except msgspec.DecodeError:  # a collector that answers in protobuf although it was asked in JSON
        return 0
    return int(partial.rejected_spans) if partial is not None else 0
