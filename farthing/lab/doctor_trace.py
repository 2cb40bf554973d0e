"""The cache doctor on a trace of prefix blocks: how much could be read, and which time to live pays."""

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from farthing.core.prefix_cache import ANTHROPIC_1H, ANTHROPIC_5M, OPENAI_AUTO, CacheRule, PrefixCache, cost_bp

HASHED_BLOCK_TOKENS: Final = 512
"""Tokens of one block of the traces that name blocks by ``hash_ids``."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a trace."""

    at_ms: int
    tokens: int
    blocks: tuple[Hashable, ...]
    """Chained names of its blocks in order."""
    output_tokens: int = 0

    def sizes(self, block_tokens: int) -> list[int]:
        """Tokens of each block; the last one may be short."""
        whole = [block_tokens] * len(self.blocks)
        if whole:
            whole[-1] = max(0, min(block_tokens, self.tokens - block_tokens * (len(whole) - 1)))
        return whole


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A trace under one cache rule. Costs are in basis points of an input token's price."""

    rule: CacheRule
    prompts: int
    tokens: int
    read: int
    written: int
    cost_bp: int

    @property
    def plain_bp(self) -> int:
        """The cost without any cache."""
        return self.tokens * 10_000

    @property
    def saved_bp(self) -> int:
        """What the cache saves; negative where writing costs more than reading saves."""
        return self.plain_bp - self.cost_bp


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace could read."""

    prompts: int
    tokens: int
    cacheable: int
    """Tokens of prefixes that an earlier prompt had, however long ago: no time to live can read more."""
    readings: tuple[Reading, ...]
    """One per rule, as given."""
    best: str
    """Name of the cheapest rule; ``none`` where no cache pays."""


def read_trace(path: Path) -> Iterator[Prompt]:
    """Prompts of a JSON Lines trace: ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``.

    Raises ``ValueError`` naming the line that is not so.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                yield Prompt(
                    at_ms=int(row["timestamp"]),
                    tokens=int(row["input_length"]),
                    output_tokens=int(row.get("output_length", 0)),
                    blocks=tuple(row["hash_ids"]),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} line {number} is no prompt with hash_ids: {error}") from None


def diagnose(
    prompts: Iterable[Prompt],
    rules: Sequence[CacheRule] = (ANTHROPIC_5M, ANTHROPIC_1H, OPENAI_AUTO),
    *,
    block_tokens: int = HASHED_BLOCK_TOKENS,
) -> Diagnosis:
    """Runs a trace through each rule's cache in order of arrival."""
    caches = [PrefixCache(rule) for rule in rules]
    sums = [[0, 0, 0] for _ in rules]
    seen: set[Hashable] = set()
    count = tokens = cacheable = 0
    for prompt in sorted(prompts, key=lambda one: one.at_ms):
        sizes = prompt.sizes(block_tokens)
        count += 1
        tokens += prompt.tokens
        cacheable += _known(prompt.blocks, sizes, seen)
        seen.update(prompt.blocks)
        for cache, sums_of in zip(caches, sums, strict=True):
            use = cache.use(prompt.blocks, sizes, prompt.at_ms)
            sums_of[0] += use.read
            sums_of[1] += use.written
            sums_of[2] += cost_bp(cache.rule, prompt.tokens, use)
    readings = tuple(
        Reading(rule=rule, prompts=count, tokens=tokens, read=read, written=written, cost_bp=cost)
        for rule, (read, written, cost) in zip(rules, sums, strict=True)
    )
    cheapest = min(readings, key=lambda one: one.cost_bp, default=None)
    best = cheapest.rule.name if cheapest is not None and cheapest.saved_bp > 0 else "none"
    return Diagnosis(prompts=count, tokens=tokens, cacheable=cacheable, readings=readings, best=best)


def _known(blocks: Sequence[Hashable], sizes: Sequence[int], seen: set[Hashable]) -> int:
    total = 0
    for block, size in zip(blocks, sizes, strict=True):
        if block not in seen:
            break
        total += size
    return total
