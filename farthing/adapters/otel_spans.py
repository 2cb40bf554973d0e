"""The books as OpenTelemetry spans, in OTLP's JSON form.

A request is one ``SERVER`` span under the caller's ``traceparent``; each billed or failed try is a ``CLIENT`` span
in it, with the attributes of the GenAI semantic conventions and what Farthing knows besides: cost, team, feature. Ids
are derived from the records' own, so that a batch that is sent twice is the same spans.
Sources: opentelemetry.io/docs/specs/semconv/gen-ai, opentelemetry.io/docs/specs/otlp (JSON: ids in hex, 64-bit
numbers as strings).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_to_row
from farthing.core.types import AttemptFact, Exchange, LedgerEntry, Scope

Value = Mapping[str, object]
_SERVER: Final = 2
_CLIENT: Final = 3
_ERROR: Final = 2
_OPERATIONS: Final = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
_PROVIDERS: Final = {
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "gemini": "gcp.gemini",
    "azure": "azure.ai.openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
    "x-ai": "x_ai",
}
_TOKENS: Final = (
    ("gen_ai.usage.input_tokens", "input_tokens"),
    ("gen_ai.usage.output_tokens", "output_tokens"),
    ("gen_ai.usage.cache_read.input_tokens", "cache_read_tokens"),
    ("gen_ai.usage.cache_creation.input_tokens", "cache_write_tokens"),
)
_SCOPE: Final = ("org", "team", "project", "user", "feature", "customer")


def request_span(exchange: Exchange) -> Value:
    """The request as the caller saw it."""
    tags = dict(exchange.scope.tags)
    name = f"farthing {exchange.view.endpoint}"
    said = {
        "gen_ai.operation.name": _OPERATIONS.get(exchange.view.endpoint, exchange.view.endpoint),
        "gen_ai.request.model": exchange.view.model,
        "http.response.status_code": exchange.status,
        "farthing.request_id": exchange.request_id,
        "farthing.outcome": exchange.outcome,
        "farthing.cost_nano_usd": exchange.amount,
        **_whose(exchange.scope),
    }
    start = exchange.received_at_ms
    return {
        "traceId": trace_id(exchange.request_id, tags),
        "spanId": span_id(exchange.request_id),
        **({"parentSpanId": tags["span"]} if _is_hex(tags.get("span", ""), 16) else {}),
        "name": name,
        "kind": _SERVER,
        **_times(start, start + exchange.latency_ms),
        **_ending(said, exchange.error, exchange.status),
    }


def unbilled_spans(exchange: Exchange) -> Iterator[Value]:
    """Tries that no entry tells of: they cost time, not money."""
    for fact in exchange.attempts:
        if not fact.entry_id:
            yield _try_span(exchange, fact)


def entry_span(entry: LedgerEntry) -> Value:
    """One billed try, or a lever's own call, or an answer from a cache."""
    row = dict(zip(ENTRY_COLUMNS, entry_to_row(entry), strict=True))
    operation = _OPERATIONS.get(entry.endpoint, entry.endpoint)
    said = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(entry.provider, entry.provider),
        "gen_ai.request.model": entry.model_requested,
        "gen_ai.response.model": entry.model,
        "gen_ai.response.id": entry.usage.upstream_id,
        "gen_ai.response.finish_reasons": [entry.usage.finish_reason] if entry.usage.finish_reason else None,
        "http.response.status_code": entry.status,
        "farthing.entry_id": entry.id,
        "farthing.request_id": entry.request_id,
        "farthing.cost_nano_usd": entry.charge.total,
        "farthing.cost_state": entry.charge.state,
        "farthing.baseline_nano_usd": entry.baseline,
        "farthing.usage_source": entry.usage.source,
        "farthing.decisions": [f"{one.stage}:{one.action}" for one in entry.decisions] or None,
        **{name: row[column] for name, column in _TOKENS if entry.usage.parts},
        **_whose(entry.scope),
    }
    if entry.ttft_ms is not None:
        said["gen_ai.response.time_to_first_chunk"] = entry.ttft_ms / 1000
    return {
        "traceId": trace_id(entry.request_id, dict(entry.scope.tags)),
        "spanId": span_id(entry.id),
        "parentSpanId": span_id(entry.request_id),
        "name": f"{operation} {entry.model_requested}",
        "kind": _CLIENT,
        **_times(max(entry.received_at_ms, entry.booked_at_ms - entry.latency_ms), entry.booked_at_ms),
        **_ending(said, entry.error, entry.status),
    }


def batch(spans: Sequence[Value], *, version: str) -> Value:
    """The body of one OTLP export request."""
    resource = {"attributes": _attributes({"service.name": "farthing", "service.version": version})}
    scope = {"name": "farthing", "version": version}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": list(spans)}]}]}


def trace_id(request_id: str, tags: Mapping[str, str]) -> str:
    """The caller's trace, or one of the request's own."""
    named = tags.get("trace", "")
    return named if _is_hex(named, 32) else hashlib.sha256(request_id.encode()).hexdigest()[:32]


def span_id(record_id: str) -> str:
    """The same for the same record, whenever it is sent."""
    return hashlib.sha256(b"span " + record_id.encode()).hexdigest()[:16]


def _try_span(exchange: Exchange, fact: AttemptFact) -> Value:
    operation = _OPERATIONS.get(exchange.view.endpoint, exchange.view.endpoint)
    said = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(fact.provider, fact.provider),
        "gen_ai.request.model": fact.model,
        "http.response.status_code": fact.status,
        "farthing.request_id": exchange.request_id,
    }
    return {
        "traceId": trace_id(exchange.request_id, dict(exchange.scope.tags)),
        "spanId": span_id(f"{exchange.request_id}#{fact.attempt}"),
        "parentSpanId": span_id(exchange.request_id),
        "name": f"{operation} {fact.model}",
        "kind": _CLIENT,
        **_times(fact.started_at_ms, fact.started_at_ms + fact.latency_ms),
        **_ending(said, fact.error, fact.status),
    }


def _whose(scope: Scope) -> dict[str, object]:
    found: dict[str, object] = {f"farthing.{name}": getattr(scope, name) for name in _SCOPE}
    found["gen_ai.conversation.id"] = scope.session
    found |= {f"farthing.tag.{name}": value for name, value in scope.tags if name not in ("trace", "span")}
    return found


def _times(start_ms: int, end_ms: int) -> dict[str, object]:
    return {
        "startTimeUnixNano": str(start_ms * 1_000_000),
        "endTimeUnixNano": str(max(start_ms, end_ms) * 1_000_000),
    }


def _ending(said: dict[str, object], error: str, status: int) -> dict[str, object]:
    failed = error or (str(status) if status >= 400 else "")
    if failed:
        said["error.type"] = failed
    ending: dict[str, object] = {"attributes": _attributes(said)}
    return ending | {"status": {"code": _ERROR, "message": failed}} if failed else ending


def _attributes(said: Mapping[str, object]) -> list[Value]:
    """What is empty or unknown is left out: an unknown cost is not zero."""
    return [{"key": key, "value": _value(value)} for key, value in said.items() if value not in (None, "")]


def _value(value: object) -> Value:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": str(value)}


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef") and set(text) != {"0"}
