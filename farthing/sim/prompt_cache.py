"""The providers' prompt caches, as their documentation describes them.

OpenAI: automatic; prefixes of at least 1,024 tokens in steps of 128; an entry lives 5 to 10 minutes after its last
use (each draws its own lifetime in between), per API key and model. Models that charge for writes (GPT-5.6 on) keep
entries for 30 minutes.

Anthropic: up to 4 explicit marks; a mark is ignored below the model's minimum; a lookup walks back up to 20 blocks
from each mark and takes the longest live prefix; a hit refreshes the entry; marks after the hit are written, 1-hour
marks before 5-minute ones.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

import msgspec

from farthing.sim.errors import invalid
from farthing.sim.prompt import Block, Prompt
from farthing.sim.tokens import packed_ids

STEP = 128
LOOKBACK_BLOCKS = 20
MARKS_MAX = 4
TTL_MS = {"5m": 300_000, "1h": 3_600_000}
CHARGED_TTL_MS = 1_800_000
"""Idle lifetime of OpenAI prefixes whose writing is charged."""
SWEEP_ABOVE = 50_000
"""Entries; past this many, dead ones are dropped before new ones are written."""


class CacheUse(msgspec.Struct, frozen=True):
    """What a prompt's tokens did: the rest of the prompt is uncached input."""

    read: int = 0
    write_5m: int = 0
    write_1h: int = 0


class _Entries:
    """Digests with an expiry on the injected clock."""

    def __init__(self) -> None:
        self._until: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._until)

    def alive(self, digest: bytes, now: int) -> bool:
        return self._until.get(digest, -1) > now

    def keep(self, digest: bytes, until: int, now: int) -> None:
        if len(self._until) >= SWEEP_ABOVE and digest not in self._until:
            self._until = {key: end for key, end in self._until.items() if end > now}
        self._until[digest] = max(until, self._until.get(digest, 0))

    def clear(self) -> None:
        self._until.clear()


def _packed(block: Block) -> bytes:
    """Four bytes per token. Overhead tokens come first and repeat a label, so that other roles never match."""
    ids = b"" if block.pseudo else packed_ids(block.text)
    missing = block.tokens - len(ids) // 4
    label = blake2b(block.text.encode("utf-8", "replace") if block.pseudo else b"", digest_size=4).digest()
    return label * missing + ids


class OpenAiCache:
    """OpenAI's automatic prompt cache."""

    def __init__(self, ttl_ms: tuple[int, int]) -> None:
        self._ttl = ttl_ms
        self._entries = _Entries()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget every prefix."""
        self._entries.clear()

    def _lifetime(self, digest: bytes) -> int:
        low, high = self._ttl
        return low + int.from_bytes(digest[:4], "big") % max(1, high - low + 1)

    def use(self, scope: str, prompt: Prompt, minimum: int, now: int, *, charged: bool = False) -> tuple[int, int]:
        """(tokens read, tokens newly written) of ``prompt``; their sum is 0 or ``minimum`` + k × 128.

        Its prefixes are cached from now on; ``charged`` ones live for :data:`CHARGED_TTL_MS`.
        """
        total = prompt.tokens
        if not minimum or total < minimum:
            return 0, 0
        data = memoryview(b"".join(_packed(block) for block in prompt.blocks))
        state = blake2b(scope.encode(), digest_size=16)
        checkpoints: list[tuple[int, bytes]] = []
        start = 0
        for end in range(minimum, total + 1, STEP):
            state.update(data[start * 4 : end * 4])
            checkpoints.append((end, state.copy().digest()))
            start = end
        read = 0
        for end, digest in reversed(checkpoints):
            if self._entries.alive(digest, now):
                read = end
                break
        for _, digest in checkpoints:
            lifetime = CHARGED_TTL_MS if charged else self._lifetime(digest)
            self._entries.keep(digest, now + lifetime, now)
        return read, checkpoints[-1][0] - read


class AnthropicCache:
    """Anthropic's explicit prompt cache."""

    def __init__(self) -> None:
        self._entries = _Entries()

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget every prefix."""
        self._entries.clear()

    def use(self, scope: str, prompt: Prompt, minimum: int, now: int) -> CacheUse:
        """Reads and writes of ``prompt``; raises a 400 :class:`~farthing.sim.errors.ApiError` on bad marks."""
        blocks = prompt.blocks
        marks = [index for index, block in enumerate(blocks) if block.ttl]
        _check_marks(blocks, marks)
        sums = list(accumulate(block.tokens for block in blocks))
        marks = [index for index in marks if minimum and sums[index] >= minimum]
        if not marks:
            return CacheUse()
        digests = _prefix_digests(scope, blocks[: marks[-1] + 1])
        hit = self._longest_hit(marks, digests, now)
        for ttl in TTL_MS:
            key = digests[hit] + ttl.encode() if hit >= 0 else b""
            if key and self._entries.alive(key, now):
                self._entries.keep(key, now + TTL_MS[ttl], now)
        for index in marks:
            ttl = blocks[index].ttl
            self._entries.keep(digests[index] + ttl.encode(), now + TTL_MS[ttl], now)
        return _split(blocks, marks, sums, hit)

    def _longest_hit(self, marks: Sequence[int], digests: Sequence[bytes], now: int) -> int:
        for mark in reversed(marks):
            for index in range(mark, max(-1, mark - LOOKBACK_BLOCKS - 1), -1):
                if any(self._entries.alive(digests[index] + ttl.encode(), now) for ttl in TTL_MS):
                    return index
        return -1


def _check_marks(blocks: Sequence[Block], marks: Sequence[int]) -> None:
    if len(marks) > MARKS_MAX:
        raise invalid(f"A maximum of {MARKS_MAX} blocks with cache_control may be provided. Found {len(marks)}.")
    ttls = [blocks[index].ttl for index in marks]
    if ttls != sorted(ttls):
        raise invalid("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.")


def _prefix_digests(scope: str, blocks: Sequence[Block]) -> list[bytes]:
    state = blake2b(scope.encode(), digest_size=16)
    digests = []
    for block in blocks:
        state.update(block.text.encode("utf-8", "replace"))
        state.update(b"\0\1" if block.pseudo else b"\0\0")
        digests.append(state.copy().digest())
    return digests


def _split(blocks: Sequence[Block], marks: Sequence[int], sums: Sequence[int], hit: int) -> CacheUse:
    """Read up to the hit; write 1 h up to the last later 1-hour mark, then 5 m up to the last mark."""
    read = sums[hit] if hit >= 0 else 0
    hours = max((sums[index] for index in marks if index > hit and blocks[index].ttl == "1h"), default=read)
    last = max((sums[index] for index in marks if index > hit), default=read)
    return CacheUse(read=read, write_1h=hours - read, write_5m=last - hours)
