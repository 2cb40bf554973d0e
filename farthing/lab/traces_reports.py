"""The providers' own usage, from their report APIs and from the files of their consoles, as flat rows.

A row sums many calls. What a long prompt costs more is decided by each call, so the sum says nothing about it: rows
carry ``tier_basis``, from the mean call (OpenAI) or the named context window (Anthropic).
"""

from collections.abc import Iterator
from typing import Final

from farthing.lab.traces_cells import Flat, Json, either, number, records, table, yes

LONG_CONTEXT_TOKENS: Final = 200_001
"""A prompt of Anthropic's long context window, whose tier begins beyond 200,000 tokens."""

_NO_REGION: Final = ("", "global", "not_available", "None")


def openai_usage(bucket: Json) -> Iterator[Flat]:
    """One bucket of ``/v1/organization/usage/…``, or one line of the dashboard's file; empty ones have no row."""
    results = records(bucket.get("results")) if "results" in bucket else iter((bucket,))
    for result in results:
        calls, tokens = number(result.get("num_model_requests")), number(result.get("input_tokens"))
        cached, written = number(result.get("input_cached_tokens")), number(result.get("output_tokens"))
        if not calls and not tokens and not written:
            continue
        yield {
            "time": bucket.get("start_time"),
            "model": result.get("model"),
            "provider": "openai",
            "input": tokens,
            "cached": cached,
            "output": written,
            # Which cached tokens are audio is not said: text is cached first, as prompts begin with it.
            **_some("audio_in", min(number(result.get("input_audio_tokens")), tokens - cached)),
            **_some("audio_out", min(number(result.get("output_audio_tokens")), written)),
            "calls": max(1, calls),
            "tier": "batch" if yes(result.get("batch")) else result.get("service_tier"),
            "project": result.get("project_id"),
            "user": result.get("user_id"),
            "tag:key": result.get("api_key_id"),
        }


def _some(name: str, count: int) -> Flat:
    """A count where there is any: rows are named by what they hold."""
    return {name: count} if count > 0 else {}


def anthropic_usage(bucket: Json) -> Iterator[Flat]:
    """One bucket of ``/v1/organizations/usage_report/messages``, or one line of the console's file."""
    if "results" not in bucket:
        yield from _console(bucket)
        return
    for result in records(bucket.get("results")):
        made, tools = table(result.get("cache_creation")), table(result.get("server_tool_use"))
        yield _anthropic(
            result,
            fresh=result.get("uncached_input_tokens"),
            read=result.get("cache_read_input_tokens"),
            short=made.get("ephemeral_5m_input_tokens"),
            long=made.get("ephemeral_1h_input_tokens"),
            searches=tools.get("web_search_requests"),
        ) | {
            "time": bucket.get("starting_at"),
            "model": result.get("model"),
            "output": number(result.get("output_tokens")),
            "tier": result.get("service_tier"),
            "project": result.get("workspace_id"),
            "tag:key": result.get("api_key_id"),
        }  # fmt: skip


def _console(line: Json) -> Iterator[Flat]:
    yield _anthropic(
        line,
        fresh=line.get("usage_input_tokens_no_cache"),
        read=line.get("usage_input_tokens_cache_read"),
        short=either(line, "usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write"),
        long=line.get("usage_input_tokens_cache_write_1h"),
        searches=line.get("web_search_count"),
    ) | {
        "time": line.get("usage_date_utc"),
        "model": line.get("model_version"),
        "output": number(line.get("usage_output_tokens")),
        "tier": line.get("usage_type"),
        "project": line.get("workspace"),
        "tag:key": line.get("api_key"),
    }


def _anthropic(
    said: Json, *, fresh: object, read: object, short: object, long: object, searches: object
) -> Flat:  # fmt: skip
    cached, written_5m, written_1h = number(read), number(short), number(long)
    region, speed = str(said.get("inference_geo") or ""), str(said.get("speed") or "")
    return {
        "provider": "anthropic",
        "input": number(fresh) + cached + written_5m + written_1h,
        "cached": cached,
        "written_5m": written_5m,
        "written_1h": written_1h,
        "searches": number(searches),
        "tier_basis": LONG_CONTEXT_TOKENS if _is_long(str(said.get("context_window") or "")) else 1,
        "region": "" if region in _NO_REGION else region,
        "speed": speed if speed == "fast" else "",
    }


def _is_long(window: str) -> bool:
    """``200k-1M``, ``> 200k`` and ``200k+``; ``0-200k`` and ``≤ 200k`` are not. No window named: the ordinary one."""
    plain = window.lower().replace(" ", "")
    return plain.startswith((">", "200k"))
