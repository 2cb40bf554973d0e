"""Gemini's ``usageMetadata``: totals, their kinds, and the traffic type that decides the price column."""

from typing import Final

import msgspec

from farthing.core.types import UsagePart
from farthing.wire.usage.context import served_tier
from farthing.wire.usage.reading import Count, Notes
from farthing.wire.usage.tally import Lines, input_lines, output_lines, part_of


class KindCount(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Tokens of one modality."""

    modality: str | None = None
    token_count: Count | None = None


class UsageMetadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The usage object; the Live API says ``response`` where others say ``candidates``."""

    prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    response_token_count: Count | None = None
    total_token_count: Count | None = None
    thoughts_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    prompt_tokens_details: list[KindCount] | None = None
    cache_tokens_details: list[KindCount] | None = None
    candidates_tokens_details: list[KindCount] | None = None
    response_tokens_details: list[KindCount] | None = None
    traffic_type: str | None = None
    service_tier: str | None = None


USAGE_METADATA: Final = msgspec.json.Decoder(UsageMetadata)

_TRAFFIC_TIERS: Final = {
    "on_demand": "default",
    "on_demand_priority": "priority",
    "on_demand_flex": "flex",
    "on_demand_offpeak": "offpeak",
    "provisioned_throughput": "provisioned",
}
_TEXT_KINDS: Final = frozenset({"text", "modality_unspecified", ""})
_INPUT_KINDS: Final = frozenset({"image", "audio", "video", "document"})
_OUTPUT_KINDS: Final = frozenset({"image", "audio", "video"})


def traffic_tier(tier: str | None, traffic: str) -> str:
    """The tier that served: stated on AI Studio, told by the traffic type on Vertex."""
    return served_tier(tier) or _TRAFFIC_TIERS.get(traffic, "")


def stated(usage: UsageMetadata) -> bool:
    """True when the object says anything about quantities."""
    totals = (usage.prompt_token_count, usage.total_token_count, usage.candidates_token_count)
    return any(total is not None for total in (*totals, usage.response_token_count))


def metadata_part(usage: UsageMetadata, notes: Notes) -> UsagePart:
    """The disjoint lines of one metadata object.

    Tool-use prompt tokens are input next to the prompt, and count for the context tier.
    """
    tool = usage.tool_use_prompt_token_count or 0
    shown = usage.candidates_token_count if usage.candidates_token_count is not None else usage.response_token_count
    thoughts = usage.thoughts_token_count or 0
    prompt = _prompt(usage, (shown or 0) + thoughts + tool, notes)
    details = usage.candidates_tokens_details or usage.response_tokens_details
    shown_total, thoughts = _outputs(usage, prompt + tool, shown or 0, thoughts, notes)
    output = output_lines(shown_total, notes, kinds=_kinds(details, shown or 0, "output", _OUTPUT_KINDS, notes))
    output["output_reasoning"] = thoughts
    read_details = usage.cache_tokens_details
    lines = input_lines(
        prompt,
        notes,
        read=usage.cached_content_token_count or 0,
        kinds=_kinds(usage.prompt_tokens_details, prompt, "prompt", _INPUT_KINDS, notes),
        kinds_read=_by_kind(read_details, _INPUT_KINDS) if read_details is not None else None,
    )
    lines["input_tool"] = tool
    return part_of(lines | output, tier_basis=prompt + tool)


def _prompt(usage: UsageMetadata, others: int, notes: Notes) -> int:
    """The prompt total; what the grand total leaves for it where it was not said."""
    if usage.prompt_token_count is not None:
        return usage.prompt_token_count
    notes.append("input_total_missing")
    return max(0, (usage.total_token_count or 0) - others)


def _outputs(usage: UsageMetadata, inputs: int, shown: int, thoughts: int, notes: Notes) -> tuple[int, int]:
    """Visible and thought tokens. Thoughts come on top, unless the grand total fits only with them inside."""
    total = usage.total_token_count
    if total is None or total == inputs + shown + thoughts:
        return shown, thoughts
    if thoughts and total == inputs + shown and thoughts <= shown:
        notes.append(f"thoughts_inside_candidates:{total}={inputs}+{shown}")
        return shown - thoughts, thoughts
    notes.append(f"total_mismatch:{inputs + shown + thoughts}!={total}")
    return shown, thoughts


def _by_kind(details: list[KindCount] | None, known: frozenset[str]) -> Lines:
    """Tokens of the ``known`` kinds; text is whatever they leave."""
    kinds: Lines = {}
    for entry in details or ():
        kind = (entry.modality or "").lower()
        if kind in known and entry.token_count:
            kinds[kind] = kinds.get(kind, 0) + entry.token_count
    return kinds


def _kinds(details: list[KindCount] | None, total: int, side: str, known: frozenset[str], notes: Notes) -> Lines:
    """Like :func:`_by_kind`, with the sum over all kinds checked against the total and new kinds noted."""
    if not details:
        return {}
    summed = sum(entry.token_count or 0 for entry in details)
    if summed != total:
        notes.append(f"{side}_kinds_mismatch:{summed}!={total}")
    for entry in details:
        kind = (entry.modality or "").lower()
        if kind not in known and kind not in _TEXT_KINDS and entry.token_count:
            notes.append(f"unknown_kind_as_text:{kind[:32]}={entry.token_count}")
    return _by_kind(details, known)
