"""Anthropic's usage object: input excludes the cache, output includes thinking, iterations are rated one by one."""

from typing import Any, Final

import msgspec

from farthing.core.types import UsagePart, UsageSource
from farthing.core.units import (
    INPUT,
    INPUT_CACHE_READ,
    INPUT_CACHE_WRITE_1H,
    INPUT_CACHE_WRITE_5M,
    OUTPUT,
    OUTPUT_REASONING,
)
from farthing.wire.usage.reading import Count, Notes
from farthing.wire.usage.tally import Lines, cache_writes, part_of, within


class CacheCreation(msgspec.Struct, frozen=True, gc=False):
    """Cache writes by lifetime."""

    ephemeral_5m_input_tokens: Count | None = None
    ephemeral_1h_input_tokens: Count | None = None


class OutputDetails(msgspec.Struct, frozen=True, gc=False):
    """The part of the output that nobody sees."""

    thinking_tokens: Count | None = None


class ServerTools(msgspec.Struct, frozen=True, gc=False):
    """Requests of the provider's own tools."""

    web_search_requests: Count | None = None
    web_fetch_requests: Count | None = None


class CreditStatus(msgspec.Struct, frozen=True, gc=False):
    """Whether a fallback credit re-priced this answer."""

    type: str | None = None
    reason: str | None = None


class FallbackCredit(msgspec.Struct, frozen=True, gc=False):
    """Outcome of a fallback credit token."""

    status: CreditStatus | None = None


class Iteration(msgspec.Struct, frozen=True, gc=False):
    """One model run inside the answer."""

    type: str | None = None
    model: str | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None


class MessageUsage(msgspec.Struct, frozen=True, gc=False):
    """The usage of a message, or of one event of its stream."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: CacheCreation | None = None
    output_tokens_details: OutputDetails | None = None
    server_tool_use: ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    iterations: list[Iteration] | None = None
    fallback_credit: FallbackCredit | None = None


MESSAGE_USAGE: Final = msgspec.json.Decoder(MessageUsage)

_OUTSIDE_TOTALS: Final = frozenset({"compaction", "advisor_message"})
"""Iterations whose tokens are not in the top-level fields."""

_COUNTERS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


def message_parts(usage: MessageUsage, notes: Notes, *, model: str) -> list[UsagePart]:
    """One part per model run; a single part where no iterations are reported."""
    if usage.iterations:
        parts = _iteration_parts(usage, usage.iterations, notes, model=model)
    else:
        parts = [_run_part(usage, notes)]
    tools = _tool_lines(usage.server_tool_use)
    if tools:
        place = next((place for place, part in enumerate(parts) if not part.model), None)
        if place is None:
            return [*parts, part_of(tools, tier_basis=0)]
        own = parts[place]
        parts[place] = part_of(dict(own.lines) | tools, tier_basis=own.tier_basis)
    return parts


def source_of(usage: MessageUsage, *, complete: bool) -> UsageSource:
    """How far these numbers can be relied on."""
    has_input = any(
        figure is not None
        for figure in (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    )
    has_output = usage.output_tokens is not None
    if usage.iterations or (has_input and has_output):
        return "reported" if complete else "partial"
    if has_input or has_output:
        return "partial"
    return "missing" if complete else "partial"


def merge(start: MessageUsage | None, delta: MessageUsage, notes: Notes) -> MessageUsage:
    """What a stream has said so far: the later event's fields over the earlier one's.

    Counters are cumulative: never added, and never lower than before (a server that repeats them as zeros takes
    nothing back; it is noted).
    """
    if start is None:
        return delta
    fields: dict[str, Any] = {}
    for name in MessageUsage.__struct_fields__:
        later = getattr(delta, name)
        earlier = getattr(start, name)
        if later is None:
            fields[name] = earlier
        elif name in _COUNTERS and earlier is not None and earlier > later:
            notes.append(f"decreased:{name}:{earlier}>{later}")
            fields[name] = earlier
        else:
            fields[name] = later
    return msgspec.structs.replace(delta, **fields)


def _run_part(run: MessageUsage | Iteration, notes: Notes, *, model: str = "") -> UsagePart:
    split = run.cache_creation
    if run.cache_creation_input_tokens or split is not None:
        by_ttl = (
            (INPUT_CACHE_WRITE_5M, (split.ephemeral_5m_input_tokens or 0) if split else 0),
            (INPUT_CACHE_WRITE_1H, (split.ephemeral_1h_input_tokens or 0) if split else 0),
        )
        writes = cache_writes(run.cache_creation_input_tokens, by_ttl, notes)
    else:
        writes = {}
    uncached = run.input_tokens or 0
    read = run.cache_read_input_tokens or 0
    output = run.output_tokens or 0
    details = run.output_tokens_details
    thinking = within((details.thinking_tokens or 0) if details else 0, output, "thinking_gt_output", notes)
    lines: Lines = {
        INPUT: uncached,
        INPUT_CACHE_READ: read,
        **writes,
        OUTPUT: output - thinking,
        OUTPUT_REASONING: thinking,
    }
    return part_of(lines, tier_basis=uncached + read + sum(writes.values()), model=model)


def _tool_lines(tools: ServerTools | None) -> Lines:
    if tools is None:
        return {}
    lines = {"web_search": tools.web_search_requests or 0, "web_fetch": tools.web_fetch_requests or 0}
    return {unit: quantity for unit, quantity in lines.items() if quantity}


def _iteration_parts(
    usage: MessageUsage, iterations: list[Iteration], notes: Notes, *, model: str
) -> list[UsagePart]:
    parts = [_run_part(run, notes, model=run.model if run.model and run.model != model else "") for run in iterations]
    rest = _not_in_iterations(usage, iterations, notes)
    if rest is not None:
        parts.append(_run_part(rest, notes))
    return parts


def _not_in_iterations(usage: MessageUsage, iterations: list[Iteration], notes: Notes) -> MessageUsage | None:
    """Tokens of the top-level totals that no iteration accounts for; the iterations decide everything else.

    The top level sums the answer's own runs, or repeats the input of one of them: both readings agree with the
    iterations. Compaction and advisor runs are never part of it.
    """
    own = [run for run in iterations if run.type not in _OUTSIDE_TOTALS]
    left: dict[str, Any] = {}
    for name in _COUNTERS:
        stated = getattr(usage, name)
        figures = [getattr(run, name) or 0 for run in own]
        summed = sum(figures)
        if stated is None or stated == summed or stated in figures:
            continue
        notes.append(f"iterations_mismatch:{name}:{summed}!={stated}")
        if stated > summed:
            left[name] = stated - summed
    return MessageUsage(**left) if left else None
