"""The model of the providers' prompt caches, and the doctor on a trace, beside a slow, plain recomputation."""

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.config import ProviderSettings
from farthing.core.prefix_cache import (
    ANTHROPIC_1H,
    ANTHROPIC_5M,
    OPENAI_AUTO,
    CacheRule,
    PrefixCache,
    Use,
    minimum_tokens,
)
from farthing.lab.doctor_trace import Prompt, diagnose, read_trace
from farthing.lab.rates import BookRates
from farthing.library import price_book

DATA = os.environ.get("FARTHING_DATA", "")
RULES = (ANTHROPIC_5M, ANTHROPIC_1H, OPENAI_AUTO)


def brute(prompts: list[Prompt], rule: CacheRule, block_tokens: int) -> tuple[int, int]:
    """(read, written) by looking through the uses of each prefix for every prompt."""
    last_use: dict[tuple, list[int]] = {}
    read_sum = written_sum = 0
    for prompt in prompts:
        sizes = [min(block_tokens, prompt.tokens - block_tokens * place) for place in range(len(prompt.blocks))]
        if sum(sizes) < rule.minimum_tokens:
            continue
        depth = 0
        for place in range(1, len(prompt.blocks) + 1):
            uses = last_use.get(prompt.blocks[:place], [])
            if not any(prompt.at_ms - use < rule.ttl_ms for use in uses[-1:]):
                break
            depth = place
        read = sum(sizes[:depth])
        read = 0 if read < rule.minimum_tokens else read - (read - rule.minimum_tokens) % rule.step_tokens
        read_sum += read
        written_sum += sum(sizes) - read if rule.write_bp != 10_000 else 0
        for place in range(1, len(prompt.blocks) + 1):
            last_use.setdefault(prompt.blocks[:place], []).append(prompt.at_ms)
    return read_sum, written_sum


def chained(content: list[int]) -> tuple:
    """Names of blocks that cover everything before them."""
    return tuple(tuple(content[: place + 1]) for place in range(len(content)))


PROMPTS = st.lists(
    st.tuples(st.integers(0, 8_000_000), st.lists(st.integers(0, 2), min_size=1, max_size=8), st.integers(1, 512)),
    max_size=25,
).map(
    lambda rows: [
        Prompt(at_ms=at, blocks=chained(content), tokens=(len(content) - 1) * 512 + last)
        for at, content, last in sorted(rows, key=lambda row: row[0])
    ]
)


@given(PROMPTS)
def test_reads_and_writes_are_those_of_a_plain_recomputation(prompts):
    found = diagnose(prompts, RULES)
    for reading in found.readings:
        # Blocks of the reference are named by content, so a name in the trace is the whole prefix already.
        by_name = [Prompt(at_ms=p.at_ms, tokens=p.tokens, blocks=p.blocks) for p in prompts]
        assert (reading.read, reading.written) == brute(by_name, reading.rule, 512)
        assert reading.read <= found.cacheable <= found.tokens


@pytest.mark.skipif(not DATA, reason="FARTHING_DATA names no folder with the public traces")
def test_the_public_trace_gives_the_same_share_and_the_same_best_time_to_live():
    prompts = list(read_trace(Path(DATA) / "mooncake_conversation_trace.jsonl"))
    found = diagnose(prompts, RULES)
    assert found.prompts == 12_031
    seen: set[int] = set()
    cacheable = 0
    for prompt in prompts:
        for place, block in enumerate(prompt.blocks):
            if block not in seen:
                break
            cacheable += min(512, prompt.tokens - 512 * place)
        seen.update(prompt.blocks)
    assert found.cacheable == cacheable
    costs = {}
    for rule in RULES:
        # Ids of this trace are unique to their prefix, so a single id stands for it.
        last: dict[int, int] = {}
        read_sum = written_sum = 0
        for prompt in prompts:
            read = 0
            if prompt.tokens >= rule.minimum_tokens:
                for place, block in enumerate(prompt.blocks):
                    if prompt.at_ms - last.get(block, -(10**12)) >= rule.ttl_ms:
                        break
                    read += min(512, prompt.tokens - 512 * place)
                read = 0 if read < rule.minimum_tokens else read - (read - rule.minimum_tokens) % rule.step_tokens
                written_sum += prompt.tokens - read if rule.write_bp != 10_000 else 0
                for block in prompt.blocks:
                    last[block] = prompt.at_ms
            read_sum += read
        plain = found.tokens - read_sum - written_sum
        costs[rule.name] = plain * 10_000 + read_sum * rule.read_bp + written_sum * rule.write_bp
    assert {one.rule.name: one.cost_bp for one in found.readings} == costs
    assert found.best == min(costs, key=costs.get)
    assert costs["5m"] < found.tokens * 10_000 < costs["1h"]


def test_short_prompts_and_unmarked_ones_are_left_alone():
    cache = PrefixCache(ANTHROPIC_5M)
    assert cache.use(["a"], [1_023], 0) == Use()
    assert cache.use(["a"], [2_000], 0, marked=False) == Use()
    assert cache.use(["a"], [2_000], 0) == Use(read=0, written=2_000)
    assert cache.use(["a", "b"], [2_000, 500], 299_999) == Use(read=2_000, written=500)


def test_a_read_keeps_a_prefix_alive_only_where_the_provider_says_so():
    for refreshed, expected in ((True, 2_000), (False, 0)):
        cache = PrefixCache(CacheRule(name="x", ttl_ms=100, refreshed=refreshed))
        cache.use(["a"], [2_000], 0)
        cache.use(["a"], [2_000], 90)
        assert cache.use(["a"], [2_000], 180).read == expected


def test_a_broken_trace_line_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp":1,"input_length":5,"hash_ids":[1]}\n{"timestamp":1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        list(read_trace(path))


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("claude-haiku-4-5-20251001", 4_096),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", 4_096),
        ("anthropic/claude-opus-4.6", 4_096),
        ("claude-3-5-haiku-20241022", 2_048),
        ("claude-3-haiku", 2_048),
        ("claude-sonnet-4-5", 1_024),
        ("claude-opus-4-20250514", 1_024),
        ("gemini-2.5-pro", 4_096),
        ("gpt-4o", 1_024),
        ("somebodys-own", 1_024),
    ],
)
def test_each_models_own_minimum_decides_what_could_be_cached(model, least):
    assert minimum_tokens(model) == least
    rates = BookRates(price_book(), (ProviderSettings(name="anthropic", kind="anthropic", base_url=""),), 0)
    assert rates.rule("anthropic", model) == msgspec.structs.replace(ANTHROPIC_5M, minimum_tokens=least)
    assert rates.rule("openai", model) == msgspec.structs.replace(OPENAI_AUTO, minimum_tokens=least)
