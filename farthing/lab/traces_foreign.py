"""Exports of other tools as flat rows: LiteLLM, Langfuse, Helicone; the providers' reports and spans stand beside it.

Every layout turns one record of its tool into rows of the fields that ``farthing.lab.traces`` reads. ``input`` counts
all input tokens, ``cached`` and ``written_*`` are parts of it, ``cost`` is what the tool itself says, in dollars.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from farthing.lab.traces_cells import Flat, Json, either, first, listed, number, table, tags, text
from farthing.lab.traces_reports import anthropic_usage, openai_usage

_CALLS: Final = (None, "", "GENERATION", "EMBEDDING")
"""Langfuse's types of observations that are calls of models; others count where they cost something."""


def litellm(record: Json) -> Iterator[Flat]:
    """One row of LiteLLM_SpendLogs, as ``/spend/logs`` or a table export has it."""
    meta = table(record.get("metadata"))
    usage = table(meta.get("usage_object"))
    details = table(usage.get("prompt_tokens_details"))
    by_life = table(details.get("cache_creation_token_details"))
    key = text(meta.get("user_api_key_alias")) or text(record.get("api_key"))[-8:]
    prompt = number(record.get("prompt_tokens"))
    cached = number(first(usage.get("cache_read_input_tokens"), details.get("cached_tokens")))
    written = number(first(usage.get("cache_creation_input_tokens"), details.get("cache_creation_tokens")))
    long = min(written, number(by_life.get("ephemeral_1h_input_tokens")))
    yield {
        "id": record.get("request_id"),
        "time": record.get("startTime"),
        "until": record.get("endTime"),
        "model": record.get("model"),
        "provider": record.get("custom_llm_provider"),
        # Old versions leave cached tokens of Anthropic's out of the prompt.
        "input": prompt + cached + written if cached + written > prompt else prompt,
        "cached": cached,
        "written_5m": written - long,
        "written_1h": long,
        "output": number(record.get("completion_tokens")),
        "cost": record.get("spend"),
        "team": text(meta.get("user_api_key_team_alias")) or record.get("team_id"),
        "user": text(record.get("end_user")) or record.get("user"),
        "session": record.get("session_id"),
        "tag:key": key,
        "failed": record.get("status") == "failure",
        **tags(listed(record.get("request_tags"))),
    }


def langfuse(record: Json) -> Iterator[Flat]:
    """One observation, of the API (``startTime``) or of a blob export (``start_time``).

    ``usageDetails`` are disjoint, ``usage`` counts all input.
    """
    details = {name: number(count) for name, count in table(either(record, "usageDetails", "usage_details")).items()}
    usage, costs = table(record.get("usage")), table(either(record, "costDetails", "cost_details"))
    total, cached, written, output = _disjoint(details) if details else (0, 0, 0, 0)
    if not details:
        said = either(record, "promptTokens", "inputUsage", "inputTokens", "input_tokens")
        total = number(first(usage.get("input"), usage.get("promptTokens"), said))
        said = either(record, "completionTokens", "outputUsage", "outputTokens", "output_tokens")
        output = number(first(usage.get("output"), usage.get("completionTokens"), said))
    cost = first(either(record, "calculatedTotalCost", "totalCost", "total_cost"), costs.get("total"))
    if record.get("type") not in _CALLS and not total and not output and not float(str(cost or 0)):
        return
    yield {
        "id": record.get("id"),
        "time": either(record, "startTime", "start_time"),
        "until": either(record, "endTime", "end_time"),
        "model": either(record, "providedModelName", "provided_model_name", "model"),
        "input": total,
        "cached": cached,
        "written_5m": written,
        "output": output,
        "cost": cost,
        "user": either(record, "userId", "user_id"),
        "session": either(record, "sessionId", "session_id", "traceId", "trace_id"),
        "feature": either(record, "traceName", "trace_name", "name"),
        "failed": record.get("level") == "ERROR",
        **tags(listed(record.get("tags"))),
    }


def _disjoint(details: Mapping[str, int]) -> tuple[int, int, int, int]:
    """(all input, read from a cache, written to one, output) of Langfuse's usage types."""
    read = sum(count for name, count in details.items() if "cache" in name and "creat" not in name)
    written = sum(count for name, count in details.items() if "cache" in name and "creat" in name)
    own = any(name.startswith("input") for name in details)
    fresh = sum(
        count for name, count in details.items()
        if "cache" not in name and name.startswith("input" if own else "prompt")
    )  # fmt: skip
    said = "output" if any(name.startswith("output") for name in details) else "completion"
    output = sum(count for name, count in details.items() if name.startswith(said))
    return fresh + read + written, read, written, output


def helicone(record: Json) -> Iterator[Flat]:
    """One request of the API, or one line of the export tool's CSV."""
    said = table(first(record.get("request_properties"), record.get("properties")))
    cached = number(either(record, "prompt_cache_read_tokens", "promptCacheReadTokens"))
    written = number(either(record, "prompt_cache_write_tokens", "promptCacheWriteTokens"))
    status = number(either(record, "response_status", "status"))
    prompt, output = _helicone_tokens(record, cached + written)
    yield {
        "id": either(record, "request_id", "id", "response_id"),
        "time": either(record, "request_created_at", "createdAt"),
        "latency_ms": either(record, "delay_ms", "latency"),
        "model": either(record, "response_model", "model", "request_model"),
        "provider": record.get("provider"),
        "input": prompt,
        "cached": cached,
        "written_5m": written,
        "output": output,
        "cost": either(record, "costUSD", "cost_usd", "cost"),
        "user": either(record, "request_user_id", "userId"),
        "session": said.get("Helicone-Session-Id"),
        "feature": said.get("Feature") or said.get("feature"),
        "failed": status >= 400 or status < 0,  # cancelled ones and timeouts have a number below zero
        **{f"tag:{name}"[:64]: value for name, value in said.items() if not name.startswith("Helicone-")},
    }


def _helicone_tokens(record: Json, cache: int) -> tuple[int, int]:
    """(all input, all output): versions differ in what prompt and completion hold; the record's own total tells."""
    prompt = number(either(record, "prompt_tokens", "promptTokens"))
    output = number(either(record, "completion_tokens", "completionTokens"))
    total = number(either(record, "total_tokens", "totalTokens"))
    thought = number(either(record, "reasoning_tokens", "reasoningTokens"))
    beside = bool(thought) and total in (prompt + output + thought, prompt + cache + output + thought)
    anthropic = text(record.get("provider")).upper() == "ANTHROPIC"
    apart = beside or anthropic or total == prompt + cache + output or cache > prompt
    return prompt + (cache if apart else 0), output + (thought if beside else 0)


LAYOUTS: Final[Mapping[str, Callable[[Json], Iterator[Flat]]]] = MappingProxyType(
    {
        "litellm": litellm,
        "langfuse": langfuse,
        "helicone": helicone,
        "openai-usage": openai_usage,
        "anthropic-usage": anthropic_usage,
    }
)
"""Kinds whose records stand for themselves; spans are read together (``farthing.lab.traces_spans``)."""


def unwrap(found: object) -> Sequence[object]:
    """The records of a document: itself a list, or under ``data``, ``observations``, ``resourceSpans``…"""
    if isinstance(found, list):
        return [one for item in found for one in (unwrap(item) if _is_page(item) else [item])]
    if isinstance(found, dict):
        for name in ("data", "observations", "requests", "rows", "resourceSpans"):
            if isinstance(found.get(name), list):
                return unwrap(found[name])
    return [found]


def unfinished(pages: Sequence[object]) -> str:
    """What the pages of an API say of others that are not among them; empty: nothing, or nothing lacks."""
    found = [one for one in pages if isinstance(one, dict) and isinstance(one.get("data"), list) and "id" not in one]
    if not found:
        return ""
    last, several = found[-1], f"{len(found)} pages" if len(found) > 1 else "the page"
    if last.get("has_more") is True:
        at = text(last.get("next_page"))
        return f"more follows after {several} (has_more{': next_page ' + at[:80] if at else ''}): import that as well"
    whole = max(number(either({**table(one.get("meta")), **one}, "total_pages", "totalPages")) for one in found)
    return f"{len(found)} of {whole} pages are here: import the others as well" if whole > len(found) else ""


def _is_page(item: object) -> bool:
    return isinstance(item, dict) and (
        "resourceSpans" in item or (isinstance(item.get("data"), list) and "id" not in item)
    )
