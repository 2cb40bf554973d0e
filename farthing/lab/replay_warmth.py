"""What providers' prompt caches hold in a replay, beside what they held in the log.

An answer of the log keeps the reads and writes that it had, as long as its provider's cache was the same under both
policies. It is not where an earlier call that begins alike was sent under one of them only: refused, answered from a
cache, sent elsewhere or at another time. Both courses are followed by the prompts' chained blocks: when a beginning
was last sent to a model in the log, and when in the replay.
"""

import math
from collections.abc import Container, Sequence
from typing import Final

import msgspec

from farthing.core.prefix_cache import minimum_tokens
from farthing.core.types import AttemptFact, Exchange, Target, Usage
from farthing.core.units import is_input

SURE_MS: Final = 300_000
"""A beginning that was sent within so long is in the cache."""
GONE_MS: Final = 3_600_000
"""One that was not sent for so long is not, whatever was paid for."""
KEPT_MS: Final = 600_000
"""As long as providers keep a beginning that nobody pays them to keep longer."""
SAME_MS: Final = 1_000
"""Two calls so close are one call at one time."""
BLOCKS_MAX: Final = 250_000
"""Beginnings remembered of a model before old ones are dropped."""
WARM_MIN: Final = 10
"""Calls with a beginning that had just been sent, and without reads, that show a provider without a cache."""
CACHES: Final = -1
_DENSER: Final = 1.5
"""As many times the tokens of an average byte may be in one."""
_NEVER: Final = -(2**62)


class Uses(msgspec.Struct, kw_only=True):
    """When the beginnings of prompts were last sent to one model: by the chained hash of their last block."""

    both: dict[str, int] = {}
    """Under the log's policy and in the replay."""
    log: dict[str, int] = {}
    """Under the log's policy only."""
    now: dict[str, int] = {}
    """In the replay only."""
    warm: dict[str, int] = {}
    """By prompts' first blocks: calls of the log with a beginning that had just been sent; ``CACHES``: some
    was read from the provider's cache or written to it. Not of the whole model: a part of a log knows its own."""
    parted_ms: int = _NEVER
    """When a call was last sent under one policy only."""

    def add(self, uses: dict[str, int], blocks: Sequence[str], at_ms: int) -> None:
        """These beginnings were sent at that time."""
        if len(uses) > BLOCKS_MAX:
            _sweep(uses, at_ms)
        uses.update(dict.fromkeys(blocks, at_ms))
        if uses is not self.both:
            self.parted_ms = max(self.parted_ms, at_ms)


class Warmth:
    """Follows both courses of every model's cache."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str], Uses] = {}

    def same(self, exchange: Exchange, fact: AttemptFact, usage: Usage, at_ms: int) -> int | None:
        """A try of the log that is sent in the replay too, at ``at_ms``.

        None: it finds in the provider's cache what it found in the log. Otherwise: how many bytes of its beginning
        the cache holds in the replay. For exchanges with blocks.
        """
        uses, blocks, was_ms = self._uses(fact.provider, fact.model), exchange.blocks, fact.started_at_ms
        taken, cached = _input_of(usage)
        marked = cached or exchange.view.cache_marks or "claude" not in fact.model
        if taken < minimum_tokens(fact.model) or not marked:
            return None
        found, moved = None, abs(at_ms - was_ms) > SAME_MS
        if moved or uses.parted_ms > was_ms - GONE_MS:
            least = _least(exchange, taken, fact.model)
            if _differs(uses, blocks[least:], was_ms, at_ms):
                found = _bytes(exchange, _depth(uses, blocks, at_ms))
        warm = uses.warm.get(blocks[0], 0)
        if warm != CACHES:
            warm = self._learn(uses, exchange, taken, fact, cached=cached)
        if moved:
            uses.add(uses.log, blocks, was_ms)
            uses.add(uses.now, blocks, at_ms)
        else:
            uses.add(uses.both, blocks, was_ms)
        return found if warm < WARM_MIN else None

    def other(self, exchange: Exchange, target: Target, at_ms: int) -> int:
        """A call goes to a target that the log has no answer of; how many bytes of its beginning are held there."""
        uses = self._uses(target.provider, target.model)
        depth = _depth(uses, exchange.blocks, at_ms)
        uses.add(uses.now, exchange.blocks, at_ms)
        return _bytes(exchange, depth)

    def unsent(self, exchange: Exchange, made: Container[int] = ()) -> None:
        """The log's answered tries, but those at the places ``made``, are not made in the replay.

        What levers asked aside is left out: a replay does not ask it either.
        """
        for place, fact in enumerate(exchange.attempts):
            if 0 < fact.status < 300 and not fact.lever and place not in made:
                uses = self._uses(fact.provider, fact.model)
                uses.add(uses.log, exchange.blocks, fact.started_at_ms)

    def state(self) -> tuple[tuple[str, str, Uses], ...]:
        """What it remembers, for :meth:`restore`."""
        return tuple((provider, model, uses) for (provider, model), uses in self._models.items())

    def restore(self, state: Sequence[tuple[str, str, Uses]]) -> None:
        """Goes on from there."""
        self._models = {(provider, model): uses for provider, model, uses in state}

    def _uses(self, provider: str, model: str) -> Uses:
        found = self._models.get((provider, model))
        if found is None:
            found = self._models[(provider, model)] = Uses(both={}, log={}, now={}, warm={})
        return found

    def _learn(self, uses: Uses, exchange: Exchange, taken: int, fact: AttemptFact, *, cached: bool) -> int:
        """Whether this model's provider has a cache at all, by calls that begin alike; as ``Uses.warm`` says it."""
        first, at_ms = exchange.blocks[0], fact.started_at_ms
        warm = uses.warm.get(first, 0)
        if warm < WARM_MIN and not cached:
            least = _least(exchange, taken / _DENSER**2, fact.model)
            for block in reversed(exchange.blocks[least:]):
                if at_ms - max(uses.both.get(block, _NEVER), uses.log.get(block, _NEVER)) < SURE_MS:
                    uses.warm[first] = warm = warm + 1
                    break
        elif cached:
            uses.warm[first] = warm = CACHES
        if len(uses.warm) > BLOCKS_MAX:
            for old in list(uses.warm)[: BLOCKS_MAX // 2]:
                del uses.warm[old]
        return warm


def _input_of(usage: Usage) -> tuple[int, bool]:
    """(tokens of the prompt, whether some of them were read from a cache or written to one)."""
    taken, cached = 0, False
    for part in usage.parts:
        for unit, quantity in part.lines:
            if is_input(unit):
                taken += quantity
                cached = cached or unit.startswith("input_cache")
    return taken, cached


def _differs(uses: Uses, blocks: Sequence[str], was_ms: int, at_ms: int) -> bool:
    """The longest beginning that is held may be another one in the replay than in the log."""
    both, log, now = uses.both, uses.log, uses.now
    for block in reversed(blocks):
        common = both.get(block, _NEVER)
        before, after = max(common, log.get(block, _NEVER)), max(common, now.get(block, _NEVER))
        ago, since = was_ms - before, at_ms - after
        if ago < SURE_MS and since < SURE_MS:
            return False
        if (before != after or abs(ago - since) > SAME_MS) and (ago < GONE_MS or since < GONE_MS):
            return True
    return False


def _least(exchange: Exchange, taken: float, model: str) -> int:
    """The place of the first block with which a beginning may be long enough for a cache."""
    per_byte = taken / max(1, exchange.view.body_bytes) * _DENSER
    return max(0, math.ceil(minimum_tokens(model) / per_byte / exchange.block_bytes) - 2)


def _depth(uses: Uses, blocks: Sequence[str], at_ms: int) -> int:
    """How many blocks of the beginning have been sent in the replay lately."""
    both, now = uses.both, uses.now
    for place in range(len(blocks), 0, -1):
        block = blocks[place - 1]
        if at_ms - max(both.get(block, _NEVER), now.get(block, _NEVER)) < KEPT_MS:
            return place
    return 0


def _bytes(exchange: Exchange, depth: int) -> int:
    """Bytes of a beginning of so many whole blocks, up to where a section ends within the next one."""
    if not depth:
        return 0
    low = depth * exchange.block_bytes
    end, found = 0, []
    for section in exchange.sections:
        end += section.size + 1
        if low <= end < low + exchange.block_bytes:
            found.append(end)
        if end >= low + exchange.block_bytes:
            break
    return found[-1] if len(found) == 1 else low + exchange.block_bytes // 2


def _sweep(uses: dict[str, int], at_ms: int) -> None:
    """Forgets what no cache can hold any more, and half of the rest where that is not enough."""
    for kept_ms in (GONE_MS, KEPT_MS):
        for block in [block for block, used_ms in uses.items() if at_ms - used_ms >= kept_ms]:
            del uses[block]
        if len(uses) <= BLOCKS_MAX // 2:
            return
    for block in list(uses)[: len(uses) // 2]:
        del uses[block]
