"""A model of the providers' prompt caches, for replay and for the doctor: what would have been read and written.

A prompt is a chain of blocks; each block's name covers all that came before it, so equal names mean equal prefixes. A
block can be read while it is alive, and only if every block before it can. Sources: the providers' documentation on
prompt caching (minimum length, time to live and its refresh, write premium, granularity).
"""

from collections.abc import Hashable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

import msgspec

FOREVER_MS: Final = 2**62
MINIMUM_TOKENS: Final = 1_024
"""The shortest prefix that providers cache, where they name no other for a model."""
SWEEP_ABOVE: Final = 1_000_000
"""Blocks remembered before dead ones are dropped."""


class CacheRule(msgspec.Struct, frozen=True, kw_only=True):
    """How one provider's cache behaves and what it charges, relative to the input price."""

    name: str
    ttl_ms: int
    minimum_tokens: int = MINIMUM_TOKENS
    """Shorter prefixes are neither written nor read."""
    step_tokens: int = 1
    """Reads come in multiples of this beyond the minimum."""
    refreshed: bool = True
    """Reading a block makes it live on for another ``ttl_ms``."""
    read_bp: int = 1_000
    """Price of a read token in basis points of the input price."""
    write_bp: int = 12_500
    """Price of a written token in basis points of the input price; 10,000 where writing is free."""

    def of(self, model: str) -> "CacheRule":
        """The rule as it is for a model: with its own minimum."""
        least = minimum_tokens(model)
        return self if least == self.minimum_tokens else msgspec.structs.replace(self, minimum_tokens=least)


ANTHROPIC_5M: Final = CacheRule(name="5m", ttl_ms=300_000, read_bp=1_000, write_bp=12_500)
ANTHROPIC_1H: Final = CacheRule(name="1h", ttl_ms=3_600_000, read_bp=1_000, write_bp=20_000)
OPENAI_AUTO: Final = CacheRule(
    name="automatic", ttl_ms=300_000, step_tokens=128, read_bp=5_000, write_bp=10_000
)  # fmt: skip
"""Entries live five to ten minutes of quiet; five is what can be relied on."""

_MINIMA: Final = (
    ("*haiku-3*", 2_048),
    ("*3-5-haiku*", 2_048),
    ("*3-haiku*", 2_048),
    ("*haiku*", 4_096),
    ("*opus-4-[56]*", 4_096),
    ("*opus-4-7*", 2_048),
    ("*opus-5*", 512),
    ("*gemini-2.5-flash*", 2_048),
    ("*gemini-*", 4_096),
)
"""Models whose providers name another minimum; Claude's names have dots at resellers."""


@lru_cache(maxsize=1_024)
def minimum_tokens(model: str) -> int:
    """The shortest prefix that a model's provider caches; 1,024 tokens where its documentation names no other."""
    name = model.lower().replace("claude-", "").replace(".", "-") if "claude" in model.lower() else model.lower()
    return next((tokens for pattern, tokens in _MINIMA if fnmatchcase(name, pattern)), MINIMUM_TOKENS)


class Use(msgspec.Struct, frozen=True):
    """What the tokens of one prompt did; the rest is input at the plain price."""

    read: int = 0
    written: int = 0


class PrefixCache:
    """One provider's cache over time. Requests must come in the order of their arrival."""

    def __init__(self, rule: CacheRule) -> None:
        self.rule = rule
        self._until: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._until)

    def use(self, blocks: Sequence[Hashable], sizes: Sequence[int], at_ms: int, *, marked: bool = True) -> Use:
        """Reads and writes of a prompt with these blocks of ``sizes`` tokens; they are cached from now on.

        ``marked`` false: the caller set no breakpoint where the provider wants one; nothing is read or written. What
        the blocks do not cover (a tail shorter than a block) must not be in ``sizes``.
        """
        rule = self.rule
        total = sum(sizes)
        if not marked or total < rule.minimum_tokens:
            return Use()
        until = self._until
        alive = read = 0
        for block, size in zip(blocks, sizes, strict=True):
            if until.get(block, -1) <= at_ms:
                break
            alive += 1
            read += size
        if read < rule.minimum_tokens:
            read = 0
        else:
            read -= (read - rule.minimum_tokens) % rule.step_tokens
        self._keep(blocks, alive if not rule.refreshed else 0, at_ms)
        written = total - read if rule.write_bp != 10_000 else 0
        return Use(read=read, written=written)

    def _keep(self, blocks: Sequence[Hashable], first: int, at_ms: int) -> None:
        until = at_ms + self.rule.ttl_ms
        if len(self._until) > SWEEP_ABOVE:
            self._until = {block: end for block, end in self._until.items() if end > at_ms}
        for block in blocks[first:]:
            self._until[block] = until


def cost_bp(rule: CacheRule, tokens: int, use: Use) -> int:
    """What a prompt of ``tokens`` costs, in basis points of one input token's price (× 10,000 per plain token)."""
    return (tokens - use.read - use.written) * 10_000 + use.read * rule.read_bp + use.written * rule.write_bp
