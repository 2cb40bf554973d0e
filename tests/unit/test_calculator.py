"""The calculator: figures of the field recomputed, formulas that do no harm, levers that interact as in life."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.cli import main as group
from farthing.lab.formula import Formula, FormulaError, exact
from farthing.lab.relations import ask, claims, recompute, relations
from farthing.lab.scenario import AnswerCache, Batch, PromptCache, Route, Scenario, Shorten, Work, Workload
from farthing.lab.tariff import Rates

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "calculator.json").read_text(encoding="utf-8"))
"""Claim -> [right value, whether the printed one holds]."""


@pytest.mark.parametrize("claim", GOLDEN)
def test_every_figure_is_reached_and_every_wrong_one_explained(claim):
    right, holds = GOLDEN[claim]
    found = recompute(claim)
    assert found.answer.value == pytest.approx(right, rel=1e-9, abs=1e-9)
    assert bool(found.holds) == holds
    if found.holds is False:
        assert len(found.claim.why) > 20
    assert found.answer.lines[-1].startswith(found.claim.relation + " = ")


def test_every_claim_and_relation_can_be_worked_out():
    for claim in claims():
        recompute(claim)
    assert {claim.relation for claim in claims().values()} <= relations().keys()


def test_every_claim_that_does_not_hold_says_why():
    """What no source prints has a reason to be here too."""
    assert [one for one in claims() if recompute(one).holds is not True and len(claims()[one].why) <= 20] == []


def test_the_other_figures_of_the_sources_are_recomputed_too():
    """By hand from the sources' prices: classifier, cascade, one hit, even the dearest GPU."""
    by_hand = {
        "route.mix3": 0.2 * 195 + 0.8 * 3250,
        "route.mix1.net_saving": 1 - (1111.5 + 86.7) / 3250,
        "cascade.10pct": 195 + 109.35 + 325,
        "anthropic.hit": 0.003 + 0.00015 + 0.003,
        "variability.simple": 0.0014,
        "selfhost.breakeven": 1.01 * 24 / 0.3 * 1e6,
        "roi.high": 949_000,
        "agent20": 325_000,
        "chat20": 68_500,
    }
    assert {name: recompute(name).answer.value for name in by_hand} == pytest.approx(by_hand)
    assert [name for name in by_hand if recompute(name).claim.printed and recompute(name).holds] == []


@pytest.mark.parametrize(
    ("question", "numbers", "said"),
    [
        ("routed_cost", {"simple": 1.2, "small": 195, "large": 3250}, "simple = 1.2 is a fraction"),
        ("routed_cost", {"simple": -1, "small": 195, "large": -2}, "large = -2 must not be negative"),
        ("cached_prompt_day", {"hit": 80, "requests": 1, "prefix_tokens": 1, "fresh_tokens": 1, "output_tokens": 1,
                               "input_rate": 1, "output_rate": 1, "write": 1, "read": 1}, "hit = 80 is a fraction"),
        ("spot_price", {"spot": 1, "rework": 1.5}, "rework = 1.5 is a fraction"),
    ],
)  # fmt: skip
def test_shares_beyond_the_whole_and_negative_amounts_have_no_answer(question, numbers, said):
    with pytest.raises(FormulaError, match=said):
        ask(question, numbers)


def test_an_answer_shows_its_formula_with_the_numbers():
    (line,) = ask("cache_breakeven_hit", {"write": 1.25, "read": 0.1}).lines
    assert line == (
        "cache_breakeven_hit = (write-1)/(write-read) = (1.25 - 1) / (1.25 - 0.1) = 0.2173913043"
    )  # fmt: skip


def test_all_wrong_inputs_are_named_at_once():
    with pytest.raises(FormulaError) as caught:
        ask("poisson_hit", {"gap": "often", "tl": 3})
    text = str(caught.value)
    assert "no input 'tl'" in text
    assert "ttl (life of a cache entry" in text
    assert "gap: 'often' is not a number" in text


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "(1).real", "a if b else c", "[1]", "lambda: 1", "a<b", "min()", "open(1)", "'x'", "True"],
)  # fmt: skip
def test_formulas_know_arithmetic_and_nothing_else(text):
    with pytest.raises(FormulaError):
        Formula(text)


@pytest.mark.parametrize("text", ["1/0", "2**1000", "2**(1/2)", "ln(0)", "exp(1000)", "0**(-1)"])
def test_impossible_arithmetic_is_an_error_not_a_crash(text):
    with pytest.raises(FormulaError):
        Formula(text).value({})


@given(st.lists(st.integers(-99, 99), min_size=3, max_size=3))
def test_formulas_are_exact(values):
    a, b, c = (Fraction(value, 7) for value in values)
    found = Formula("(a + b*c - a/11)**3 - min(a, b) + mean(a, b, c)").value({"a": a, "b": b, "c": c})
    assert found == (a + b * c - a / 11) ** 3 - min(a, b) + (a + b + c) / 3
    assert exact(0.1) == Fraction(1, 10)


BIG = Rates(input=3, output=15, cache_read=0.3, cache_write_5m=3.75, cache_write_1h=6)
SMALL = Rates(input=0.15, output=0.6)


def work(levers, **workload) -> Work:
    given_ = {"model": "big", "requests_per_day": 100, "input_tokens": 10_050, "output_tokens": 200, **workload}
    scenario = Scenario(workload=Workload(**given_), levers=levers, rates={"big": BIG, "small": SMALL})
    return Work(scenario, lambda model: pytest.fail(f"{model} has rates"))


def test_the_time_to_live_decides_the_sign():
    even = PromptCache(prefix_tokens=10_000, ttl="5m", arrival="even")
    short = work({"cache": PromptCache(prefix_tokens=10_000, ttl="5m")}, days=1).outcome()
    long = work({"cache": PromptCache(prefix_tokens=10_000, ttl="1h")}, days=1).outcome()
    cold = work({"cache": even}, days=1).outcome()
    assert short.baseline.nusd == 3_315_000_000
    assert 1 - short.final.nusd / short.baseline.nusd == pytest.approx(0.0790538285)
    assert 1 - long.final.nusd / long.baseline.nusd == pytest.approx(0.7878214282)
    assert cold.final.nusd == 4_065_000_000
    assert "costs more than it saves" in cold.notes[0]
    assert not long.notes


def reference(rate, tokens_in, tokens_out, hit, share, escalated, cut, discount, batched) -> float:
    """The same scenario by hand: answer cache, shortening, routing, five-minute prompt cache, batch; USD a day."""
    asked = rate * (1 - hit)
    kept = min(2_000, tokens_in) if tokens_in >= 1024 else 0  # the prefix is not shortened
    fresh_in, out = kept + (tokens_in - kept) * (1 - cut), tokens_out * (1 - cut)
    total = rate * (2 - hit) * 12 / 1e6 + asked * 40 / 1e6
    for part, prices in ((1 - share + share * escalated, BIG), (share, SMALL)):
        calls = asked * part
        text, prefix = fresh_in, 0.0
        if prices is BIG and fresh_in >= 1024:
            size = min(2_000, fresh_in)
            warm = 1 - math.exp(-5 / (24 * 60 / calls)) if calls else 0.0
            text, prefix = fresh_in - size, size * ((1 - warm) * 3.75 + warm * 0.3)
        day = calls * (text * prices.input + out * prices.output + prefix) / 1e6
        total += day * (1 - batched * discount)
    return total


FRACTION = st.integers(0, 100).map(lambda value: value / 100)


@settings(max_examples=40)
@given(st.integers(1, 50_000), st.integers(0, 9_000), st.integers(0, 900), *[FRACTION] * 6)
def test_levers_interact_as_worked_out_by_hand(
    rate, tokens_in, tokens_out, hit, share, escalated, cut, discount, batched
):
    found = work(
        {
            "batch": Batch(share=batched, discount=discount),
            "cache": PromptCache(prefix_tokens=2_000),
            "route": Route(share=share, to="small", usd_per_million_decisions=40, escalated=escalated),
            "short": Shorten(input=cut, output=cut),
            "answers": AnswerCache(hit=hit, usd_per_million_lookups=12),
        },
        requests_per_day=rate,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        days=1,
    ).outcome()
    by_hand = reference(rate, tokens_in, tokens_out, hit, share, escalated, cut, discount, batched)
    assert found.final.nusd == pytest.approx(by_hand * 1e9, rel=1e-9, abs=1)
    saved = found.baseline.nusd - found.final.nusd
    assert sum(found.ordered.values()) == sum(found.averaged.values()) == saved


def test_prompts_are_shortened_outside_the_cached_prefix_only():
    """C158: what an edit saves is counted on what is billed after the cache."""
    levers = {"cut": Shorten(input=0.4), "cache": PromptCache(prefix_tokens=7_000, arrival="always_warm")}
    found = work(levers, requests_per_day=200, input_tokens=7_500, output_tokens=310, days=1).outcome()
    fresh, prefix = 500 * 0.6, 7_000 * (3.75 + 199 * 0.3) / 200
    assert found.final.nusd == pytest.approx(200 * (fresh * 3 + 310 * 15 + prefix) * 1e3)
    assert found.averaged["cut"] == pytest.approx(200 * 500 * 0.4 * 3 * 1e3)
    # what is below the minimum is no prefix
    short = work({**levers, "cache": PromptCache(prefix_tokens=900)}, input_tokens=7_500, days=1).outcome()
    assert short.averaged["cut"] == pytest.approx(100 * 7_500 * 0.4 * 3 * 1e3)


def test_ranges_hold_the_likely_bill():
    found = work({"answers": AnswerCache(hit=(0.1, 0.2, 0.4))}, requests_per_day=(50, 100, 400)).outcome()
    assert found.low < found.final.nusd < found.high
    assert found.low == work({"a": AnswerCache(hit=0.4)}, requests_per_day=50).outcome().final.nusd
    assert found.high == work({"a": AnswerCache(hit=0.1)}, requests_per_day=400).outcome().final.nusd


def test_everything_wrong_in_a_scenario_is_said_at_once():
    levers = {"a": Route(share=30, to="small"), "b": Batch(share=0.1), "c": Batch(share=0.1)}
    with pytest.raises(ValueError, match=r"a\.share = 30 is a fraction") as caught:
        work(levers, requests_per_day=(9, 1), output_tokens=-1, active_hours=25)
    for part in (
        "[9, 1] must be given from low to high",
        "-1 must not be negative",
        "active_hours",
        "b, c: only one",
    ):
        assert part in str(caught.value)


def test_what_is_no_number_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"workload\.requests_per_day = \[nan\] is no number to count with"):
        work({}, requests_per_day=math.nan)


def test_the_command_works_a_scenario_out_and_says_where_a_file_is_wrong(tmp_path):
    run = CliRunner()
    example = Path(__file__).parents[2] / "docs" / "examples" / "assistant.toml"
    base = ["--home", str(tmp_path)]
    done = run.invoke(group, [*base, "calc", str(example)])
    assert done.exit_code == 0, done.output
    assert "with all levers" in done.output
    bad = tmp_path / "bad.toml"
    bad.write_text('[workload]\nmodel = "gpt-4o"\nrequests_per_day = "many"\n', encoding="utf-8")
    wrong = run.invoke(group, [*base, "calc", str(bad)])
    assert wrong.exit_code == 1
    assert "requests_per_day" in wrong.output
    nothing = run.invoke(group, [*base, "calc"])
    assert nothing.exit_code == 2
    unknown = run.invoke(group, [*base, "calc", "--ask", "the_weather"])
    assert unknown.exit_code == 1
    assert "--questions" in unknown.output


def calculated(tmp_path, text: str) -> dict[str, object]:
    (tmp_path / "s.toml").write_text(text)
    found = CliRunner().invoke(group, ["--home", str(tmp_path), "calc", str(tmp_path / "s.toml"), "--format", "json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_long_prompts_pay_the_rates_of_long_prompts(tmp_path):
    load = '[workload]\nmodel = "gemini-2.5-pro"\nrequests_per_day = 100\ndays = 1\noutput_tokens = 1_000\n'
    long = calculated(tmp_path, load + "input_tokens = 250_000\n")
    assert long["total"]["bill_nusd"] == 100 * (250_000 * 2_500 + 1_000 * 15_000)
    assert "gemini-2.5-pro: prompts of 250000 tokens pay the rates from 200,001 tokens on" in long["notes"]
    edge = calculated(tmp_path, load + "input_tokens = 200_000\n")
    assert edge["total"]["bill_nusd"] == 100 * (200_000 * 1_250 + 1_000 * 10_000)


def test_a_prefix_below_the_models_own_minimum_is_not_cached(tmp_path):
    lever = '[levers.c]\ntype = "prompt_cache"\narrival = "always_warm"\nprefix_tokens = '
    load = '[workload]\nmodel = "{}"\nrequests_per_day = 100\ndays = 1\ninput_tokens = 5_000\noutput_tokens = 0\n'
    saved = {
        (model, tokens): calculated(tmp_path, load.format(model) + lever + str(tokens))["rows"][1][
            "saves_in_order_nusd"
        ]
        for model in ("claude-haiku-4-5", "claude-sonnet-4-5", "gpt-4o")
        for tokens in (1_000, 2_000, 4_096)
    }
    assert {key for key, amount in saved.items() if amount == 0} == {
        ("claude-haiku-4-5", 1_000), ("claude-haiku-4-5", 2_000), ("claude-sonnet-4-5", 1_000), ("gpt-4o", 1_000),
    }  # fmt: skip


def test_batches_pay_the_books_batch_prices_cached_input_included(tmp_path):
    """GPT-4o's cached input costs the same in a batch, Claude's half; without a batch price nothing is saved."""
    load = '[workload]\nmodel = "{}"\nrequests_per_day = 1_000\ndays = 1\ninput_tokens = 5_000\noutput_tokens = 100\n'
    cache = '[levers.c]\ntype = "prompt_cache"\narrival = "even"\nprefix_tokens = 4_500\n'
    levers = cache + '[levers.b]\ntype = "batch"\nshare = 0.4\n'
    by_hand = {
        "gpt-4o": 500 * 2.5 + 100 * 10 + 4_500 * 1.25 - 0.4 * (500 * 1.25 + 100 * 5),
        "claude-haiku-4-5": (500 * 1 + 100 * 5 + 4_500 * 0.1) * (1 - 0.4 / 2),
        "grok-4": 500 * 3 + 100 * 15 + 4_500 * 0.75,
    }
    for model, usd in by_hand.items():
        found = calculated(tmp_path, load.format(model) + levers)
        assert found["total"]["bill_nusd"] == pytest.approx(usd * 1e6), model
    assert "b: no batch price of grok-4 is known; nothing is saved there" in found["notes"]


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e-400"])
def test_numbers_beyond_all_bounds_are_refused_in_words(number):
    with pytest.raises(FormulaError, match="tokens is beyond"):
        ask("gpu_hours", {"tokens": number, "tokens_per_second": 1})
