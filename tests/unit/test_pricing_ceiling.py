"""Ceilings: what they assume, that they hold for the dearest usage there can be, and that they are no looser."""

import pytest

from farthing.adapters.price_feeds import BookPrices, load_book
from farthing.core.price_book import Resolved
from farthing.core.types import Bounds, Target, Usage, UsagePart

BOOK = load_book().book
PRICES = BookPrices(BOOK)
NOW = 1_795_014_000_000  # 2026-11-18T15:00:00Z
INPUTS = (
    "input",
    "input_tool",
    "input_cache_read",
    "input_cache_write",
    "input_cache_write_5m",
    "input_cache_write_30m",
)
OUTPUTS = ("output", "output_reasoning", "output_audio", "output_image", "output_video", "output_citation")


def at(provider: str, model: str, region: str = "") -> Target:
    return Target(provider=provider, price_as=provider, model=model, region=region)


def ceiling(provider: str, model: str, region: str = "", **bounds) -> int | None:
    asked = {"input_tokens": 1_000_000, "output_tokens": 0, "cache_write": False, "service_tier": "default", **bounds}
    return PRICES.ceiling(Bounds(**asked), at(provider, model, region), at_ms=NOW)


def dearest(entry, tokens: int, output: int) -> int:
    """The most that spending a whole bound on single units costs, over every tier the provider may choose."""
    target = at(entry.provider, entry.id)
    resolved = Resolved(entry.provider, entry.provider, entry.id, "", None)
    most = 0
    for tier in ("", *BOOK.values_of(resolved, "service_tier")):
        for facets in ((), (("region", "us"),)) if entry.provider == "anthropic" else ((),):
            for unit in INPUTS:
                for out in OUTPUTS:
                    part = UsagePart(lines=((unit, tokens), (out, output)), tier_basis=tokens)
                    usage = Usage(parts=(part,), source="reported", service_tier=tier, facets=facets)
                    most = max(most, PRICES.charge(usage, target, at_ms=NOW).total or 0)
    return most


INTERESTING = [
    entry
    for entry in BOOK.models()
    if entry.provider in ("openai", "anthropic", "google", "x-ai", "perplexity", "mistral", "groq", "azure")
    and BOOK.rows(entry.provider, entry.id)
]


@pytest.mark.parametrize("tokens", [1_000, 150_000, 300_000])
def test_a_ceiling_is_the_cost_of_the_dearest_usage_and_no_more(tokens):
    compared = 0
    for entry in INTERESTING:
        most = dearest(entry, tokens, 700)
        limit = PRICES.ceiling(
            Bounds(input_tokens=tokens, output_tokens=700), at(entry.provider, entry.id), at_ms=NOW
        )
        if not most or limit is None:
            continue
        assert most <= limit, f"{entry.provider}/{entry.id}"
        assert limit - most <= tokens + 700, f"{entry.provider}/{entry.id}: looser than a nano-dollar per token"
        compared += 1
    assert compared > 200


@pytest.mark.parametrize(
    ("provider", "model", "bounds", "usd"),
    [
        ("openai", "gpt-4o", {"input_tokens": 1_000, "output_tokens": 100}, "0.0035"),
        ("openai", "gpt-4o", {"input_tokens": 1_000, "output_tokens": 100, "choices": 3}, "0.0055"),
        ("openai", "gpt-4o", {"input_tokens": 1_000, "output_tokens": 100, "service_tier": "priority"}, "0.00595"),
        ("openai", "gpt-4o", {"input_tokens": 1_000, "output_tokens": 100, "service_tier": ""}, "0.00595"),
        ("openai", "gpt-4o", {"input_tokens": 1_000, "output_tokens": 100, "service_tier": "auto"}, "0.00595"),
        ("openai", "gpt-5", {"input_tokens": 1_000, "output_tokens": 100, "service_tier": "flex"}, "0.00225"),
        ("openai", "gpt-5.4", {"input_tokens": 272_000}, "0.68"),
        ("openai", "gpt-5.4", {"input_tokens": 272_001}, "1.360005"),
        ("openai", "gpt-5.6-sol", {"input_tokens": 1_000, "cache_write": True}, "0.005"),
        ("openai", "gpt-4o", {"input_tokens": 1_000, "hosted_tools": (("web_search_preview", 2),)}, "0.0225"),
        ("openai", "gpt-4o", {"input_tokens": 1_000, "hosted_tools": (("web_search", 0),)}, "0.1025"),
        ("openai", "gpt-4o", {"input_tokens": 10, "unbounded": True}, "0.32"),
        ("anthropic", "claude-sonnet-4-5", {"input_tokens": 1_000}, "0.003"),
        ("anthropic", "claude-sonnet-4-5", {"input_tokens": 1_000, "cache_write": True}, "0.00375"),
        (
            "anthropic",
            "claude-sonnet-4-5",
            {"input_tokens": 1_000, "cache_write": True, "cache_ttl_long": True},
            "0.006",
        ),
        ("anthropic", "claude-opus-4-6", {"input_tokens": 1_000}, "0.0055"),
        ("google", "gemini-2.5-flash", {"input_tokens": 1_000}, "0.0003"),
        ("google", "gemini-2.5-flash", {"input_tokens": 1_000, "images": 1}, "0.001"),
        ("perplexity", "sonar-pro", {"input_tokens": 1_000}, "0.017"),
    ],
)
def test_a_ceiling_assumes_the_worst_of_what_the_call_leaves_open(provider, model, bounds, usd):
    whole, _, fraction = usd.partition(".")
    assert ceiling(provider, model, **bounds) == int(whole) * 10**9 + int(fraction.ljust(9, "0"))


@pytest.mark.parametrize(
    ("provider", "model", "bounds"),
    [
        ("openai", "no-such-model", {}),
        ("openai", "text-embedding-3-small", {"output_tokens": 1}),
        ("openai", "ft:gpt-4.1-2025-04-14:acme::9x", {"service_tier": "priority"}),
        ("anthropic", "claude-sonnet-4-5", {"facets": (("speed", "fast"),)}),
        ("anthropic", "claude-sonnet-4-5", {"hosted_tools": (("teleport", 1),)}),
        ("perplexity", "perplexity/sonar", {"unbounded": True}),
    ],
)
def test_a_ceiling_that_would_need_an_unknown_price_is_none(provider, model, bounds):
    assert ceiling(provider, model, **bounds) is None


def test_the_region_of_the_upstream_counts():
    plain = ceiling("openai", "gpt-5.4", input_tokens=1_000)
    assert ceiling("openai", "gpt-5.4", region="eu", input_tokens=1_000) * 10 == plain * 11


def test_peak_hours_count_only_within_them():
    def at_hour(hour: int) -> int | None:
        instant = 1_795_132_800_000 - 2 * 86_400_000 + hour * 3_600_000  # Wednesday
        return PRICES.ceiling(
            Bounds(input_tokens=1_000_000, output_tokens=0), at("deepseek", "deepseek-v4-pro"), at_ms=instant
        )

    assert at_hour(2) == 1_320_000_000
    assert at_hour(5) == 660_000_000


def test_the_context_window_is_known_by_name():
    assert PRICES.context_window(at("openai", "gpt-4o-2024-08-06")) == 128_000
    assert PRICES.context_window(at("openai", "no-such-model")) is None
