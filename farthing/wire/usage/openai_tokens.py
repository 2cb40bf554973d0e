"""The token object of OpenAI and of all who copy it, normalised once for every endpoint.

Chat says ``prompt_tokens`` and ``completion_tokens``, Responses, realtime, images and transcription say
``input_tokens`` and ``output_tokens``; both totals include everything. Cached, cache-written, audio, image, reasoning
and rejected-prediction tokens are parts of them.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from farthing.core.types import UsagePart, UsageSource
from farthing.core.units import (
    INPUT,
    INPUT_CACHE_READ,
    INPUT_CACHE_WRITE,
    INPUT_CACHE_WRITE_12H,
    INPUT_CACHE_WRITE_30M,
    OUTPUT,
    OUTPUT_REASONING,
)
from farthing.wire.usage.reading import Count, Notes
from farthing.wire.usage.tally import Lines, cache_writes, check_total, input_lines, output_lines, part_of


class CachedKinds(msgspec.Struct, frozen=True, gc=False):
    """Cached input by kind (realtime; ``cached_*`` names: hosted image generation)."""

    text_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None
    cached_text_tokens: Count | None = None
    cached_image_tokens: Count | None = None


class WriteDetails(msgspec.Struct, frozen=True, gc=False):
    """Cache writes by lifetime (Responses)."""

    ttl_30m_tokens: Count | None = None
    ttl_12h_tokens: Count | None = None


class InputDetails(msgspec.Struct, frozen=True, gc=False):
    """Parts of the input total."""

    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    cache_write_tokens_details: WriteDetails | None = None
    text_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None
    video_tokens: Count | None = None
    cached_tokens_details: CachedKinds | None = None


class OutputDetails(msgspec.Struct, frozen=True, gc=False):
    """Parts of the output total."""

    reasoning_tokens: Count | None = None
    rejected_prediction_tokens: Count | None = None
    text_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class TokenUsage(msgspec.Struct, frozen=True, gc=False):
    """A usage object under any of the names in use."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    prompt_tokens_details: InputDetails | None = None
    input_tokens_details: InputDetails | None = None
    input_token_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    output_tokens_details: OutputDetails | None = None
    output_token_details: OutputDetails | None = None
    cached_tokens: Count | None = None
    """Top-level form of Together, Moonshot and hosted image generation."""
    cached_tokens_details: CachedKinds | None = None
    prompt_cache_hit_tokens: Count | None = None
    prompt_cache_miss_tokens: Count | None = None
    """DeepSeek."""
    reasoning_tokens: Count | None = None
    """Top-level form of Perplexity and some gateways."""
    service_tier: str | None = None
    seconds: Decimal | None = None
    """Transcription billed by duration."""


TOKEN_USAGE: Final = msgspec.json.Decoder(TokenUsage)

_NO_INPUT: Final = InputDetails()


class Totals(msgspec.Struct, frozen=True, gc=False):
    """The two totals, and whether the provider said them."""

    input: int
    output: int
    stated: bool
    """At least one of them was said; otherwise there is no usage here."""
    whole: bool
    """Nothing that should have been said is missing."""


def totals_of(usage: TokenUsage, notes: Notes, *, output_expected: bool = True) -> Totals:
    """Input and output totals; a missing one follows from the grand total where that was said."""
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    if prompt is not None and (completion is not None or not output_expected):
        return Totals(prompt, completion or 0, True, True)
    grand = usage.total_tokens
    if grand is None and prompt is None and completion is None:
        return Totals(0, 0, False, False)
    notes.append("input_total_missing" if prompt is None else "output_total_missing")
    if grand is None or (prompt is None and completion is None):
        return Totals(prompt if prompt is not None else grand or 0, completion or 0, True, False)
    rest = grand - (prompt or 0) - (completion or 0)
    if rest < 0:
        notes.append(f"part_gt_total:{grand - rest}>{grand}")
    found = max(rest, 0)
    return Totals(
        prompt if prompt is not None else found, completion if completion is not None else found, True, rest >= 0
    )


def token_part(
    usage: TokenUsage,
    totals: Totals,
    notes: Notes,
    *,
    model: str = "",
    reasoning_beside: bool = False,
    text_is_all: bool = False,
) -> UsagePart:
    """The disjoint lines of one usage object.

    ``reasoning_beside``: this provider counts reasoning next to the output total, not in it (xAI chat, Perplexity).
    Elsewhere the grand total decides when it fits only the other reading. ``text_is_all``: ``text_tokens`` counts
    every kind (xAI), so it is not checked against the sum.
    """
    if not reasoning_beside:
        plain = plain_lines(usage)
        if plain is not None:
            return UsagePart(lines=plain, tier_basis=totals.input, model=model)
    lines = _input(usage, totals.input, notes, text_is_all=text_is_all)
    details = usage.completion_tokens_details or usage.output_tokens_details or usage.output_token_details
    reasoning = _reasoning(usage, details)
    beside = _is_beside(usage, totals, reasoning, notes, expected=reasoning_beside)
    output = totals.output + reasoning if beside else totals.output
    if details is None:
        lines |= output_lines(output, notes, reasoning=reasoning)
    else:
        lines |= _output(details, output, reasoning, notes)
    check_total(usage.total_tokens, totals.input + output, notes)
    return part_of(lines, tier_basis=totals.input, model=model)


def plain_lines(usage: TokenUsage) -> tuple[tuple[str, int], ...] | None:
    """The lines of a usage object that says nothing but chat's own names, of text, without contradiction.

    Most are like that. None: it takes the long way, which finds the same for those that are.
    """
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt is None or completion is None or usage.total_tokens != prompt + completion or _says_more(usage):
        return None
    read = reasoning = 0
    taken = usage.prompt_tokens_details
    if taken is not None:
        read = taken.cached_tokens or 0
        if taken.cache_write_tokens or taken.cache_write_tokens_details or taken.cached_tokens_details:
            return None
        if taken.audio_tokens or taken.image_tokens or taken.video_tokens:
            return None
    given = usage.completion_tokens_details
    if given is not None:
        reasoning = given.reasoning_tokens or 0
        if given.audio_tokens or given.image_tokens or given.rejected_prediction_tokens:
            return None
    if read > prompt or reasoning > completion:
        return None
    if not read and not reasoning and prompt and completion:
        return ((INPUT, prompt), (OUTPUT, completion))
    lines = ((INPUT, prompt - read), (INPUT_CACHE_READ, read), (OUTPUT, completion - reasoning),
             (OUTPUT_REASONING, reasoning))  # fmt: skip
    return tuple([line for line in lines if line[1]])


def _says_more(usage: TokenUsage) -> bool:
    """Counts under names that chat does not have."""
    return not (
        usage.cached_tokens is None
        and usage.cached_tokens_details is None
        and usage.prompt_cache_hit_tokens is None
        and usage.reasoning_tokens is None
        and usage.input_tokens is None
        and usage.output_tokens is None
        and usage.input_tokens_details is None
        and usage.input_token_details is None
        and usage.output_tokens_details is None
        and usage.output_token_details is None
    )


def _reasoning(usage: TokenUsage, details: OutputDetails | None) -> int:
    if details is not None and details.reasoning_tokens is not None:
        return details.reasoning_tokens
    return usage.reasoning_tokens or 0


def _is_beside(usage: TokenUsage, totals: Totals, reasoning: int, notes: Notes, *, expected: bool) -> bool:
    """Whether reasoning must be added to the output total."""
    grand = usage.total_tokens
    inside_sum = totals.input + totals.output
    if not reasoning or grand is None:
        return expected and reasoning > 0
    if expected:
        inside = grand == inside_sum and reasoning <= totals.output
        if inside:
            notes.append(f"reasoning_inside_output:{grand}={totals.input}+{totals.output}")
        return not inside
    if grand == inside_sum + reasoning:
        notes.append(f"reasoning_beside_output:{grand}={totals.input}+{totals.output}+{reasoning}")
        return True
    return False


def _output(details: OutputDetails, total: int, reasoning: int, notes: Notes) -> Lines:
    if not (details.audio_tokens or details.image_tokens or details.rejected_prediction_tokens):
        return output_lines(total, notes, reasoning=reasoning)
    kinds: Lines = {}
    if details.audio_tokens:
        kinds["audio"] = details.audio_tokens
    if details.image_tokens:
        kinds["image"] = details.image_tokens
    return output_lines(
        total, notes, reasoning=reasoning, rejected=details.rejected_prediction_tokens or 0, kinds=kinds
    )


def _input(usage: TokenUsage, total: int, notes: Notes, *, text_is_all: bool) -> Lines:
    details = usage.prompt_tokens_details or usage.input_tokens_details or usage.input_token_details or _NO_INPUT
    read = _cached(usage, details, total, notes)
    writes: tuple[tuple[str, int], ...] = ()
    if details.cache_write_tokens or details.cache_write_tokens_details:
        writes = _writes(details, notes)
    if not (details.audio_tokens or details.image_tokens or details.video_tokens):
        return input_lines(total, notes, read=read, writes=writes)
    kinds = _kinds(details)
    if details.text_tokens and not text_is_all:
        summed = details.text_tokens + sum(kinds.values())
        if summed != total:
            notes.append(f"input_kinds_mismatch:{summed}!={total}")
    by_kind = details.cached_tokens_details or usage.cached_tokens_details
    kinds_read = _kinds_read(by_kind) if by_kind is not None else None
    return input_lines(total, notes, read=read, writes=writes, kinds=kinds, kinds_read=kinds_read)


def _cached(usage: TokenUsage, details: InputDetails, total: int, notes: Notes) -> int:
    """Cached input tokens, under whichever names are in use; where they disagree, the largest."""
    hit, miss = usage.prompt_cache_hit_tokens, usage.prompt_cache_miss_tokens
    by_kind = details.cached_tokens_details or usage.cached_tokens_details
    if hit is None and by_kind is None and usage.cached_tokens is None:
        return details.cached_tokens or 0
    if hit is not None and miss is not None and hit + miss != total:
        notes.append(f"cache_hit_miss_mismatch:{hit + miss}!={total}")
    stated = [quantity for quantity in (details.cached_tokens, usage.cached_tokens, hit) if quantity is not None]
    if by_kind is not None and not stated:
        stated = [sum(_kinds_read(by_kind).values()) + (by_kind.text_tokens or by_kind.cached_text_tokens or 0)]
    if not stated:
        return 0
    if max(stated) != min(stated):
        notes.append(f"cached_tokens_disagree:{max(stated)}!={min(stated)}")
    return max(stated)


def _writes(details: InputDetails, notes: Notes) -> tuple[tuple[str, int], ...]:
    split = details.cache_write_tokens_details
    if split is None:
        return ((INPUT_CACHE_WRITE, details.cache_write_tokens or 0),)
    by_ttl = (
        (INPUT_CACHE_WRITE_30M, split.ttl_30m_tokens or 0),
        (INPUT_CACHE_WRITE_12H, split.ttl_12h_tokens or 0),
    )
    return tuple(cache_writes(details.cache_write_tokens, by_ttl, notes).items())


def _kinds(details: InputDetails) -> Lines:
    kinds = (("audio", details.audio_tokens), ("image", details.image_tokens), ("video", details.video_tokens))
    return {kind: quantity for kind, quantity in kinds if quantity}


def _kinds_read(by_kind: CachedKinds) -> Mapping[str, int]:
    images = by_kind.image_tokens if by_kind.image_tokens is not None else by_kind.cached_image_tokens
    return {"audio": by_kind.audio_tokens or 0, "image": images or 0}


def source_of(totals: Totals, *, complete: bool = True) -> UsageSource:
    """How far a usage object with these totals can be relied on."""
    if not totals.stated:
        return "missing" if complete else "partial"
    return "reported" if complete and totals.whole else "partial"
