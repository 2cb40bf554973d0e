"""Exports of other tools as flat rows: LiteLLM, Langfuse, Helicone, OpenAI's and Anthropic's usage, OTLP JSON.

Every layout turns one record of its tool into rows of the fields that ``farthing.lab.traces`` reads. ``input`` counts
all input tokens, ``cached`` and ``written_*`` are parts of it, ``cost`` is what the tool itself says, in dollars.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

import msgspec

Json = Mapping[str, object]
Flat = dict[str, object]

_AGENT_SPANS: Final = frozenset({"invoke_agent", "create_agent", "invoke_workflow", "execute_tool"})
"""Their usage is that of the spans inside them."""


def litellm(record: Json) -> Iterator[Flat]:
    """One row of LiteLLM_SpendLogs, as ``/spend/logs`` or a table export has it."""
    meta = _table(record.get("metadata"))
    usage = _table(meta.get("usage_object"))
    details = _table(usage.get("prompt_tokens_details"))
    key = _text(meta.get("user_api_key_alias")) or _text(record.get("api_key"))[-8:]
    yield {
        "id": record.get("request_id"),
        "time": _time(record.get("startTime")),
        "until": _time(record.get("endTime")),
        "model": record.get("model"),
        "provider": record.get("custom_llm_provider"),
        "input": record.get("prompt_tokens"),
        "cached": _first(usage.get("cache_read_input_tokens"), details.get("cached_tokens")),
        "written_5m": usage.get("cache_creation_input_tokens"),
        "output": record.get("completion_tokens"),
        "cost": record.get("spend"),
        "team": _text(meta.get("user_api_key_team_alias")) or record.get("team_id"),
        "user": _text(record.get("end_user")) or record.get("user"),
        "session": record.get("session_id"),
        "tag:key": key,
        "failed": record.get("status") == "failure",
        **_tags(_list(record.get("request_tags"))),
    }


def langfuse(record: Json) -> Iterator[Flat]:
    """One observation; only generations have usage. ``usageDetails`` are disjoint, ``usage`` counts all input."""
    if record.get("type") not in (None, "", "GENERATION", "EMBEDDING"):
        return
    details = {name: _number(count) for name, count in _table(record.get("usageDetails")).items()}
    usage, costs = _table(record.get("usage")), _table(record.get("costDetails"))
    if details:
        cached = sum(n for name, n in details.items() if "cache" in name and "creat" not in name)
        written = sum(n for name, n in details.items() if "cache" in name and "creat" in name)
        total = sum(n for name, n in details.items() if name.startswith(("input", "cache")) or name == "prompt")
        output = sum(n for name, n in details.items() if name.startswith(("output", "completion")))
    else:
        cached = written = 0
        total = _number(_first(usage.get("input"), usage.get("promptTokens"), record.get("promptTokens"),
                               record.get("inputUsage")))  # fmt: skip
        output = _number(_first(usage.get("output"), usage.get("completionTokens"), record.get("completionTokens"),
                                record.get("outputUsage")))  # fmt: skip
    yield {
        "id": record.get("id"),
        "time": _time(record.get("startTime")),
        "until": _time(record.get("endTime")),
        "model": _first(record.get("providedModelName"), record.get("model")),
        "input": total,
        "cached": cached,
        "written_5m": written,
        "output": output,
        "cost": _first(record.get("calculatedTotalCost"), record.get("totalCost"), costs.get("total")),
        "user": record.get("userId"),
        "session": _first(record.get("sessionId"), record.get("traceId")),
        "feature": _first(record.get("traceName"), record.get("name")),
        "failed": record.get("level") == "ERROR",
        **_tags(_list(record.get("tags"))),
    }


def helicone(record: Json) -> Iterator[Flat]:
    """One request. Whether ``prompt_tokens`` holds the cached ones is told by the record's own total."""
    said = _table(_first(record.get("request_properties"), record.get("properties")))
    prompt = _number(_first(record.get("prompt_tokens"), record.get("promptTokens")))
    output = _number(_first(record.get("completion_tokens"), record.get("completionTokens")))
    cached = _number(_first(record.get("prompt_cache_read_tokens"), record.get("promptCacheReadTokens")))
    written = _number(_first(record.get("prompt_cache_write_tokens"), record.get("promptCacheWriteTokens")))
    total = _number(_first(record.get("total_tokens"), record.get("totalTokens")))
    apart = total == prompt + cached + written + output and (cached or written)
    status = _number(_first(record.get("response_status"), record.get("status")))
    yield {
        "id": _first(record.get("request_id"), record.get("id")),
        "time": _time(_first(record.get("request_created_at"), record.get("createdAt"))),
        "latency_ms": _first(record.get("delay_ms"), record.get("latency")),
        "model": _first(record.get("response_model"), record.get("model"), record.get("request_model")),
        "provider": record.get("provider"),
        "input": prompt + (cached + written if apart else 0),
        "cached": cached,
        "written_5m": written,
        "output": output,
        "cost": _first(record.get("costUSD"), record.get("cost_usd"), record.get("cost")),
        "user": _first(record.get("request_user_id"), record.get("userId")),
        "session": said.get("Helicone-Session-Id"),
        "feature": said.get("Feature") or said.get("feature"),
        "failed": status >= 400,
        **{f"tag:{name}"[:64]: value for name, value in said.items() if not name.startswith("Helicone-")},
    }


def openai_usage(bucket: Json) -> Iterator[Flat]:
    """One bucket of ``/v1/organization/usage/completions``: a row for each of its results, of many calls each."""
    for result in _records(bucket.get("results")):
        yield {
            "time": _time(bucket.get("start_time")),
            "model": result.get("model"),
            "provider": "openai",
            "input": result.get("input_tokens"),
            "cached": result.get("input_cached_tokens"),
            "output": result.get("output_tokens"),
            "calls": result.get("num_model_requests"),
            "tier": "batch" if result.get("batch") else result.get("service_tier"),
            "project": result.get("project_id"),
            "user": result.get("user_id"),
            "tag:key": result.get("api_key_id"),
        }


def anthropic_usage(bucket: Json) -> Iterator[Flat]:
    """One bucket of ``/v1/organizations/usage_report/messages``."""
    for result in _records(bucket.get("results")):
        made = _table(result.get("cache_creation"))
        parts = [
            _number(result.get("uncached_input_tokens")),
            _number(result.get("cache_read_input_tokens")),
            _number(made.get("ephemeral_5m_input_tokens")),
            _number(made.get("ephemeral_1h_input_tokens")),
        ]
        yield {
            "time": _time(bucket.get("starting_at")),
            "model": result.get("model"),
            "provider": "anthropic",
            "input": sum(parts),
            "cached": parts[1],
            "written_5m": parts[2],
            "written_1h": parts[3],
            "output": result.get("output_tokens"),
            "tier": result.get("service_tier"),
            "project": result.get("workspace_id"),
            "tag:key": result.get("api_key_id"),
        }


def otel(resource: Json) -> Iterator[Flat]:
    """The spans of one ``resourceSpans``; those that only sum up the spans inside them are left out."""
    service = _attributes(_table(resource.get("resource")).get("attributes")).get("service.name")
    for scope in _records(resource.get("scopeSpans")):
        for span in _records(scope.get("spans")):
            said = _attributes(span.get("attributes"))
            spent = said.get("gen_ai.usage.input_tokens", said.get("gen_ai.usage.prompt_tokens"))
            if spent is None or said.get("gen_ai.operation.name") in _AGENT_SPANS:
                continue
            yield {
                "id": f"{span.get('traceId')}-{span.get('spanId')}",
                "time": _nano(span.get("startTimeUnixNano")),
                "until": _nano(span.get("endTimeUnixNano")),
                "model": _first(said.get("gen_ai.response.model"), said.get("gen_ai.request.model")),
                "provider": _first(said.get("gen_ai.provider.name"), said.get("gen_ai.system")),
                "input": spent,
                "cached": _first(said.get("gen_ai.usage.cache_read.input_tokens"),
                                 said.get("gen_ai.usage.cache_read_input_tokens")),
                "written_5m": _first(said.get("gen_ai.usage.cache_creation.input_tokens"),
                                     said.get("gen_ai.usage.cache_creation_input_tokens")),
                "output": _first(said.get("gen_ai.usage.output_tokens"),
                                 said.get("gen_ai.usage.completion_tokens"), 0),
                "cost": _first(said.get("gen_ai.usage.cost"), said.get("gen_ai.cost.total")),
                "project": service,
                "user": _first(said.get("user.id"), said.get("enduser.id")),
                "session": _first(said.get("session.id"), said.get("gen_ai.conversation.id")),
                "tag:trace": span.get("traceId"),
                "tag:span": span.get("parentSpanId"),
                "tag:agent": _first(said.get("gen_ai.agent.name"), said.get("gen_ai.agent.id")),
                "failed": _number(_table(span.get("status")).get("code")) == 2,
            }  # fmt: skip


LAYOUTS: Final[Mapping[str, Callable[[Json], Iterator[Flat]]]] = MappingProxyType(
    {
        "litellm": litellm,
        "langfuse": langfuse,
        "helicone": helicone,
        "openai-usage": openai_usage,
        "anthropic-usage": anthropic_usage,
        "otel": otel,
    }
)


def unwrap(found: object) -> Sequence[object]:
    """The records of a document: itself a list, or under ``data``, ``observations``, ``resourceSpans``…"""
    if isinstance(found, list):
        return [one for item in found for one in (unwrap(item) if _is_page(item) else [item])]
    if isinstance(found, dict):
        for name in ("data", "observations", "requests", "rows", "resourceSpans"):
            if isinstance(found.get(name), list):
                return unwrap(found[name])
    return [found]


def _is_page(item: object) -> bool:
    return isinstance(item, dict) and (item.get("object") == "page" or "resourceSpans" in item)


def _first(*values: object) -> object:
    return next((value for value in values if value not in (None, "")), None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _table(value: object) -> Json:
    """A table, or the text of one (CSV exports hold JSON in cells)."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[object]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return ()
    return value if isinstance(value, list) else ()


def _records(value: object) -> Iterator[Json]:
    return (one for one in _list(value) if isinstance(one, dict))


def _number(value: object) -> int:
    """A count; 0 where there is none. Raises ``ValueError``."""
    if value in (None, ""):
        return 0
    if isinstance(value, bool) or not isinstance(value, int | str | float) or float(value) != int(float(value)):
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return int(float(value))


def _time(value: object) -> object:
    """As ``farthing.lab.traces`` reads times: ISO text or whole seconds or milliseconds."""
    return int(value) if isinstance(value, float) else value


def _nano(value: object) -> str | None:
    if not isinstance(value, int | str) or not str(value).isdigit():
        return None
    return datetime.fromtimestamp(int(value) // 1_000_000 / 1000, UTC).isoformat(timespec="milliseconds")


def _tags(found: Sequence[object]) -> Flat:
    """``name:value`` and ``name=value`` as they are, bare words under their own name."""
    tags: Flat = {}
    for one in found:
        text = str(one)
        for mark in ("=", ":"):
            name, sign, value = text.partition(mark)
            if sign and name:
                tags[f"tag:{name}"[:64]] = value
                break
        else:
            tags[f"tag:{text}"[:64]] = "yes"
    return tags


def _attributes(found: object) -> dict[str, object]:
    """OTLP's ``[{key, value: {stringValue: …}}]``; a plain table is taken as it is."""
    if isinstance(found, dict):
        return found
    said: dict[str, object] = {}
    for one in _records(found):
        value = _table(one.get("value"))
        name, held = next(iter(value.items()), ("", None))
        said[str(one.get("key"))] = int(str(held)) if name == "intValue" else held
    return said
