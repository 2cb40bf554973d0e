"""Names find their model by data alone, never by a common beginning."""

import pytest

from farthing.adapters.price_feeds import load_book
from farthing.core.price_book import PriceBook
from farthing.core.pricing import charge
from farthing.core.pricing_names import is_snapshot_of
from farthing.core.types import Target, Usage, UsagePart

BOOK = load_book().book
NOW = 1_795_014_000_000


@pytest.mark.parametrize(
    ("provider", "name", "model"),
    [
        ("openai", "gpt-4", "gpt-4"),
        ("openai", "gpt-4-turbo", "gpt-4-turbo"),
        ("openai", "gpt-4o", "gpt-4o"),
        ("openai", "GPT-4o", "gpt-4o"),
        ("openai", "gpt-4o-mini", "gpt-4o-mini"),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai", "openai/gpt-4o", "gpt-4o"),
        ("openai", "gpt-5.4-20260305", "gpt-5.4"),
        ("openai", "ft:gpt-4o-2024-08-06:acme::9x", "ft:gpt-4o"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::9x", "ft:gpt-4o-mini"),
        ("openai", "ft:gpt-4.1-mini-2025-04-14:acme::9x", "ft:gpt-4.1-mini"),
        ("anthropic", "claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic", "claude-sonnet-4-5-latest", "claude-sonnet-4-5"),
        ("anthropic", "claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("google", "claude-sonnet-4@20250514", "claude-4-sonnet"),
        ("google", "claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("google", "models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("google", "publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        (
            "aws",
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        ),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "regional.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("azure", "gpt-35-turbo-0125", "gpt-35-turbo-0125"),
        ("azure", "gpt-5-2025-08-07", "gpt-5"),
        ("groq", "openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        ("anthropic", "claude-2.1", "claude-2"),
        ("anthropic", "claude-3-7-sonnet-20250219:thinking", "claude-3-7-sonnet-latest"),
        ("anthropic", "claude-sonnet-4-5-thinking", "claude-sonnet-4-5"),
        ("anthropic", "claude-sonnet-4-5[1m]", "claude-sonnet-4-5"),
        ("google", "claude-opus-4-6@default", "claude-opus-4-6"),
        ("google", "claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet"),
        ("google", "gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("google", "gemini-2.0-flash-thinking-exp-01-21", "gemini-2.0-flash"),
        ("google", "gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("google", "gemini-3.5-flash-20260519", "gemini-3.5-flash"),
        ("google", "gemma-3-27b-it", "gemma-3"),
        ("mistral", "magistral-small-2506", "magistral-small"),
        ("aws", "anthropic.claude-3-haiku-20240307-v1:0:200k", "regional.anthropic.claude-3-haiku-20240307-v1:0"),
        ("openai", "omni-moderation-latest", "moderation"),
        ("azure", "o4-mini-deep-research", "o4-mini-deep-research"),
    ],
)
def test_a_name_finds_its_model(provider, name, model):
    found = BOOK.resolve(provider, name)
    assert found is not None
    assert found.model == model


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", ""),
        ("openai", "gpt"),
        ("openai", "gpt-4-super"),
        ("openai", "gpt-4o-mini-super"),
        ("openai", "gpt-4o-2031-01-01"),
        ("openai", "my-gpt-4o"),
        ("openai", "gpt-4o" * 100),
        ("anthropic", "claude-opus-4-10"),
        ("anthropic", "claude-opus-4-10-20270101"),
        ("anthropic", "claude-opus-4-1x"),
        ("anthropic", "anthropic.claude-sonnet-4-20250929-v1:0"),
        ("anthropic", "claude-sonnet-4-20250929"),
        ("anthropic", "claude-opus-4-1-20250514"),
        ("google", "claude-sonnet-4@20250929"),
        ("aws", "anthropic.claude-sonnet-4-20250929-v1:0"),
        ("anthropic", "claude-sonnet-4-5-mini"),
        ("anthropic", "claude-3-haiku-ultra"),
        ("anthropic", "claude-sonnet-4-5-foo"),
        ("anthropic", "claude-sonnet-4-5-foo-20250929"),
        ("anthropic", "claude-sonnet-4-5-20250929-foo"),
        ("anthropic", "claude-sonnet-4-5.1"),
        ("anthropic", "claude-haiku-4-5:batch"),
        ("google", "foo-claude-sonnet-4-5"),
        ("google", "claude-opus-4-6-fast"),
        ("google", "gemini-3.5-flash-8b"),
        ("google", "gemini-3.8-flash-cyber"),
        ("azure", "my-o4-mini"),
        ("aws", "us.meta.llama3-3-70b-instruct-foo-v1:0"),
        ("deepseek", "deepseek-r1-distill-llama-70b"),
        ("openai", "acme-moderation"),
        ("aws", "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123"),
        ("nobody", "gpt-4o"),
    ],
)
def test_a_name_nobody_claims_is_unknown_and_unpriced(provider, name):
    assert BOOK.resolve(provider, name) is None
    usage = Usage(parts=(UsagePart(lines=(("input", 1),)),), source="reported")
    got = charge(BOOK, usage, Target(provider=provider, price_as=provider, model=name), at_ms=NOW)
    assert (got.total, got.state, got.reason) == (None, "unpriced", "unknown_model")


def test_an_installations_own_clause_means_what_it_says(tmp_path):
    own = tmp_path / "own.yml"
    own.write_text(
        "provider: local\nsource: self_hosted\nmodels:\n"
        "  - {id: llama, match: {starts_with: llama-prod}, prices: [{input: '1', output: '2'}]}\n"
    )
    book = load_book((own,)).book
    found = book.resolve("local", "llama-prod-mini-blue")
    assert found is not None
    assert found.model == "llama"
    assert book.resolve("local", "llama-production") is None


def bill(served: str, sent: str, price_model: str = "", provider: str = "openai") -> tuple[int | None, str]:
    usage = Usage(parts=(UsagePart(lines=(("input", 1_000_000),)),), source="reported", model=served)
    target = Target(provider=provider, price_as=provider, model=sent, price_model=price_model)
    got = charge(BOOK, usage, target, at_ms=NOW)
    return got.total, got.reason


def test_the_served_model_is_billed_not_the_asked_one():
    assert bill("gpt-4o-2024-05-13", "gpt-4o") == (5_000_000_000, "")


def test_a_served_snapshot_the_book_has_not_seen_costs_what_its_alias_costs():
    assert bill("gpt-4o-2031-01-01", "gpt-4o") == (2_500_000_000, "")


def test_a_served_name_that_is_something_else_has_no_price():
    assert bill("gpt-4o-mini-super", "gpt-4o") == (None, "unknown_model")


def test_a_mapped_name_is_billed_whatever_the_answer_calls_itself():
    assert bill("gpt-4o-2024-05-13", "prod-7", "gpt-4o-mini", "azure") == (150_000_000, "")


def test_a_deployment_name_without_a_mapping_is_billed_by_the_served_model():
    assert bill("gpt-4o-mini-2024-07-18", "prod-7", provider="azure") == (150_000_000, "")


@pytest.mark.parametrize(
    ("served", "asked", "snapshot"),
    [
        ("gpt-4o-2031-01-01", "gpt-4o", True),
        ("gpt-4o-20310101", "gpt-4o", True),
        ("claude-x@20310101", "claude-x", True),
        ("gpt-4o-mini", "gpt-4o", False),
        ("gpt-4o-mini-2031-01-01", "gpt-4o", False),
        ("gpt-4o", "", False),
    ],
)
def test_only_a_date_or_version_makes_a_snapshot(served, asked, snapshot):
    assert is_snapshot_of(served, asked) is snapshot


def test_every_name_of_the_base_list_resolves_as_the_list_itself_resolves_it():
    from genai_prices import data

    base = load_book(corrections=False).book
    compared = 0
    for provider in data.providers:
        for model in provider.models:
            for name in (model.id, *(clause.text for clause in _equals(base, provider.id, model.id))):
                theirs = provider.find_model(name, all_providers=data.providers)
                ours = base.resolve(provider.id, name)
                if theirs is not None:
                    assert ours is not None, f"{provider.id}/{name}"
                    assert ours.model == theirs.id, f"{provider.id}/{name}"
                    compared += 1
    assert compared > 3_000


def _equals(book: PriceBook, provider: str, model: str):
    from farthing.core.pricing_names import flat

    entry = next(entry for entry in book.models(provider) if entry.id == model)
    return [clause for clause in flat(entry.match) if clause.kind == "equals"]


def test_names_from_outside_cannot_fill_the_memory():
    for number in range(20_000):
        BOOK.resolve("openai", f"made-up-{number}")
    assert len(BOOK._resolved) <= 8_192
