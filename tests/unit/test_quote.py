"""What prompts would cost, before they are sent."""

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from farthing.cli import main
from farthing.core.money import Nusd
from farthing.core.types import Charge
from farthing.lab.quote import ASSUMED, Lengths, lengths_of, quote
from farthing.ports.tokens import TokenCount

PROVIDERS = '[[providers]]\nname = "openai"\n[[providers]]\nname = "anthropic"\n'


def rate(usage):
    """Two nano-dollars a token in, ten a token out."""
    lines = dict(usage.parts[0].lines) if usage.parts[0].lines else {}
    return Charge(total=Nusd(2 * lines.get("input", 0) + 10 * lines.get("output", 0)), state="priced")


@given(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.one_of(st.none(), st.floats(0, 1)),
    st.integers(0, 500),
    st.integers(0, 500),
)
def test_a_range_holds_what_is_likely_and_never_passes_the_bound(tokens, more, error, low, spread):
    counted = TokenCount(tokens=tokens, bound=tokens + more, method="m", error=error)
    answer = Lengths(low=low, likely=low + spread // 2, high=low + spread, source="given")
    one = quote(counted, answer, rate, window=None)
    assert one.input_low <= one.input_tokens <= one.input_high <= counted.bound
    assert one.low <= one.likely <= one.high
    assert one.likely == 2 * tokens + 10 * answer.likely
    if error == 0:
        assert one.input_low == one.input_high == tokens
    if error is None and tokens > 10:
        assert one.input_low < tokens


def test_a_prompt_fits_when_its_longest_answer_does_too():
    counted = TokenCount(tokens=90, bound=200, method="m", error=0.5)
    answer = Lengths(low=1, likely=5, high=10, source="given")
    assert [quote(counted, answer, rate, window=window).fits for window in (144, 145, None)] == [False, True, None]


def test_an_unknown_price_is_unknown():
    counted = TokenCount(tokens=9, bound=9, method="m", error=0.0)
    one = quote(counted, ASSUMED, lambda usage: Charge(), window=None)
    assert (one.low, one.likely, one.high) == (None, None, None)


def test_lengths_are_the_models_own_once_there_are_enough():
    assert lengths_of(range(19), "m") is ASSUMED
    one = lengths_of(range(100), "m")
    assert (one.low, one.likely, one.high) == (10, 50, 90)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "farthing.toml").write_text(PROVIDERS)
    (tmp_path / "prompt.txt").write_text("Say in plain words what an order is. " * 50)

    def ask(*words):
        asked = [str(tmp_path / word) if word.endswith(".txt") else word for word in words]
        found = CliRunner().invoke(main, ["--home", str(tmp_path), *asked])
        return found

    return ask


def test_models_are_compared_cheapest_first_and_unknown_ones_last(run):
    found = run("compare", "nobody-knows", "gpt-4o", "gpt-4o-mini", "--prompt", "prompt.txt", "--format", "json")
    assert found.exit_code == 0, found.output
    rows = json.loads(found.output)["rows"]
    assert [row["model"] for row in rows] == ["gpt-4o-mini", "gpt-4o", "nobody-knows"]
    assert rows[2]["call_nusd"] is None
    assert rows[1]["method"] == "o200k_base, exact"


def test_models_of_makers_that_are_not_configured_here_are_compared_too(run):
    words = ("--prompt", "prompt.txt", "--output", "100", "--format", "json")
    rows = json.loads(run("compare", "gpt-4o", "gemini-2.5-pro", "openai/gpt-4o-mini", *words).output)["rows"]
    assert [row["model"] for row in rows] == ["openai/gpt-4o-mini", "gemini-2.5-pro", "gpt-4o"]
    gemini = rows[1]
    assert gemini["call_nusd"] == gemini["input_tokens"] * 1_250 + 100 * 10_000
    assert gemini["fits"] == "yes"


def test_a_month_is_so_many_calls(run):
    words = ("--model", "gpt-4o", "--output", "100", "--calls", "1000", "--format", "json")
    found = run("estimate", "prompt.txt", *words)
    (row,) = json.loads(found.output)["rows"]
    tokens = row["input_tokens"]
    assert row["month_nusd"] == row["month_low_nusd"] == 1_000 * (tokens * 2_500 + 100 * 10_000)


@pytest.mark.parametrize("said", ["x", "9-3", "-5", "1-x"])
def test_a_wrong_length_is_refused(run, said):
    assert run("estimate", "prompt.txt", f"--output={said}").exit_code == 2
