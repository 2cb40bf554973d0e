"""The library call: usage objects as they come, models by bare name, nothing imported before it is needed."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from farthing import library
from farthing.adapters.price_feeds import load_book
from farthing.core.types import Charge, Usage, UsagePart
from farthing.library import cost, receipt_lines

OPENAI = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
WHEN = datetime(2026, 11, 18, tzinfo=UTC)


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    monkeypatch.setenv("FARTHING_HOME", str(tmp_path))
    library.price_book.cache_clear()
    yield
    library.price_book.cache_clear()


def test_a_bare_model_name_is_looked_up_at_its_maker():
    assert cost(OPENAI, "gpt-4o-mini", at=WHEN).total == 600 * 150 + 400 * 75 + 100 * 600


def test_a_provider_may_be_said_or_written_before_the_model():
    usage = {"inputTokens": 1000, "outputTokens": 10, "totalTokens": 1010}
    name = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    assert cost(usage, name, provider="aws", at=WHEN).total == 1000 * 3300 + 10 * 16500
    assert cost(OPENAI, "azure/gpt-4o-mini", at=WHEN).total == cost(OPENAI, "gpt-4o-mini", at=WHEN).total


def test_context_says_what_the_usage_does_not():
    plain = cost(OPENAI, "gpt-5", at=WHEN).total
    assert cost(OPENAI, "gpt-5", at=WHEN, processing="batch").total * 2 == plain
    assert cost(OPENAI, "gpt-5", at=WHEN, service_tier="priority").total == plain * 2


def test_responses_usage_and_sdk_objects_are_recognised():
    class Dumped:
        def model_dump(self) -> dict:
            return {"input_tokens": 1000, "output_tokens": 100, "input_tokens_details": {"cached_tokens": 400}}

    assert cost(Dumped(), "gpt-4o-mini", at=WHEN).total == cost(OPENAI, "gpt-4o-mini", at=WHEN).total


READS = {"cache_read_input_tokens": 500, "cache_creation_input_tokens": 1000}
CLAUDE = {"input_tokens": 10, "output_tokens": 10, **READS}


@pytest.mark.parametrize(
    ("usage", "model", "nusd"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}, "gemini-2.5-flash", 550_000),
        ({"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1400}, "gemini-2.5-flash", 1_300_000),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, "claude-sonnet-4-5", 105_000),
        (CLAUDE, "openrouter/anthropic/claude-sonnet-4.5", 4_080_000),
        (CLAUDE, "aws/global.anthropic.claude-sonnet-4-5-20250929-v1:0", 4_080_000),
        ({"inputTokens": 10, "outputTokens": 10}, "claude-sonnet-4-5", 180_000),
        ({"prompt_tokens": 1000, "completion_tokens": 100}, "cohere/command-a-03-2025", 3_500_000),
        ({"type": "duration", "seconds": 61.5}, "whisper-1", 6_150_000),
    ],
)
def test_a_usage_is_read_by_its_names_whoever_sold_the_model(usage, model, nusd):
    assert cost(usage, model, at=WHEN).total == nusd


def test_context_that_nobody_reads_is_refused():
    with pytest.raises(TypeError, match=r"servce_tier.*service_tier"):
        cost(OPENAI, "gpt-4o", at=WHEN, servce_tier="priority")
    assert cost(OPENAI, "claude-opus-4-6", at=WHEN, inference_geo="us").total == 600 * 5500 + 400 * 550 + 100 * 27500


@pytest.mark.parametrize(
    ("usage", "model", "context", "nusd"),
    [
        (OPENAI, "mistral-large-latest", {"at": "2025-12-01"}, 2_600_000),
        (OPENAI, "mistral-large-latest", {"at": "2025-12-02"}, 470_000),
        ({"prompt_tokens": 1000, "total_tokens": 1000}, "text-embedding-3-small", {"processing": "batch"}, 10_000),
        ({"input_tokens": 0, "output_tokens": 1000}, "gpt-image-1", {"api_flavor": "images"}, 40_000_000),
    ],
)
def test_corrections_of_the_base_list(usage, model, context, nusd):
    assert cost(usage, model, **{"at": WHEN, **context}).total == nusd


def test_a_usage_record_is_priced_as_it_is():
    record = Usage(parts=(UsagePart(lines=(("output", 7),)),), source="reported")
    assert cost(record, "gpt-4o", at=WHEN).total == 70_000


@pytest.mark.parametrize("at", [1_795_014_000_000, "2026-11-18T15:00:00Z", "2026-11-18", datetime(2026, 11, 18)])
def test_a_time_may_be_milliseconds_text_or_a_datetime(at):
    assert cost(OPENAI, "gpt-4o", at=at).state == "priced"


def test_without_a_time_it_is_now():
    assert cost(OPENAI, "gpt-4o").state == "priced"


def test_an_unknown_model_is_unpriced_with_a_reason():
    got = cost(OPENAI, "gpt-9000", at=WHEN)
    assert (got.total, got.state, got.reason) == (None, "unpriced", "unknown_model")
    assert receipt_lines(got)[-1] == "unpriced: unknown_model"


def test_what_is_no_usage_is_refused():
    with pytest.raises(TypeError, match="usage"):
        cost(7, "gpt-4o", at=WHEN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("usage", "model"),
    [
        ({"prompt_tokens": -5, "completion_tokens": 10}, "gpt-4o"),
        ({"prompt_tokens": 10**15, "completion_tokens": 10}, "gpt-4o"),
        ({"input_tokens": 7, "output_tokens": "many"}, "claude-sonnet-4-6"),
        ({"promptTokenCount": -4, "candidatesTokenCount": 3}, "google/gemini-2.5-flash"),
        ({"prompt_tokens": -5, "completion_tokens": 10, "total_tokens": 5}, "gpt-4o"),
        ({"inputTokens": 5, "outputTokens": -3}, "aws/us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ],
)
def test_a_total_that_cannot_be_read_is_not_priced_as_if_it_were_nothing(usage, model):
    record, _, charge = library.rated(usage, model, at=WHEN)
    assert (record.source, charge.state, charge.total) == ("partial", "unpriced", None)
    assert charge.reason == "usage_unreadable"


def test_a_detail_that_cannot_be_read_leaves_the_total():
    odd = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -3}}
    assert cost(odd, "gpt-4o", at=WHEN).total == 300_000


def test_a_receipt_shows_each_line_and_the_total():
    lines = receipt_lines(cost(OPENAI, "gpt-4o-mini", at=WHEN))
    assert lines[0].split() == ["600", "input", "×", "$0.15", "per", "1M", "=", "$0.000090000"]
    assert lines[-1] == "total $0.000180000"


def test_a_receipt_shows_factors_and_stated_costs():
    region = receipt_lines(cost(OPENAI, "gpt-5.4", at=WHEN, region="eu"))
    assert "× 1.1 (data_residency)" in region[0]
    stated = receipt_lines(cost({**OPENAI, "cost": 0.01}, "openai/gpt-4o", provider="openrouter", at=WHEN))
    assert stated[-1].startswith("total $0.010000000 as the provider stated; $")
    assert receipt_lines(Charge(total=0, state="free"))[-1] == "total $0.000000000 (free)"


def test_importing_the_library_imports_nothing_heavy():
    heavy = ("genai_prices", "httpx", "msgspec", "yaml")
    code = f"import sys, farthing.library; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_installed_book_is_the_default_book():
    assert library.price_book().ref == load_book().book.ref
