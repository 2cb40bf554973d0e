"""The capacity planner: arithmetic of the field, published measurements, and plans that cannot be."""

import csv
import json
import os
import statistics
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.cli import main
from farthing.lab.capacity import Outcome, plan
from farthing.lab.capacity_plan import Api, Demand, Model, Plan, Serving, Spend, gpus, models, priced
from farthing.lab.relations import ask
from farthing.lab.tariff import Rates

DATA = os.environ.get("FARTHING_DATA", "")
MINI, GPT_4O, SONNET = (0.15, 0.6), (2.5, 10.0), (3.0, 15.0)


def worked(
    model: str, gpu: str, usd: float | None, *, api=MINI, requests=10_000.0, demand=None, spend=None, **serving
) -> Outcome:
    found = {"input_tokens": 1_000, "output_tokens": 500, "concurrency": 88, **serving}
    return plan(
        Plan(
            model=model,
            gpu=gpu,
            serving=Serving(**found),
            demand=Demand(requests_per_day=requests, **(demand or {})),
            spend=Spend(usd_per_gpu_hour=usd, **(spend or {})),
            api=Api(input=api[0], output=api[1]),
        )
    )


def test_an_always_on_gpu_for_fifteen_million_tokens_a_day_is_five_times_dearer_than_the_api():
    found = worked("llama-3.1-8b", "a10g", 1.006, weights="int4")
    assert float(found["tokens_per_day"]) == 15_000_000
    assert float(found["self_usd_per_day"]) == pytest.approx(24.14, abs=0.01)
    assert float(found["api_usd_per_month"] * 24 / 730) == pytest.approx(4.50)
    assert float(found["self_usd_per_month"] / found["api_usd_per_month"]) == pytest.approx(5.4, abs=0.05)
    assert not found.cheaper
    assert float(found["breakeven_tokens_per_day"]) == pytest.approx(80e6, rel=0.01)
    # 1.9 GPU-hours of work, as measured rates say: 1,440 tokens in and 720 out a second
    assert float(found["output_per_second"]) == pytest.approx(720, rel=0.1)
    assert float(found["utilisation"] * 24) == pytest.approx(1.9, rel=0.1)


@pytest.mark.parametrize(
    ("gpu", "count", "usd", "model", "api", "mtok"),
    [
        ("a10g", 1, 1.006, "llama-3.1-8b", MINI, 80),
        ("a10g", 1, 0.43, "llama-3.1-8b", MINI, 34),
        ("l4", 1, 0.80, "llama-3.1-8b", MINI, 64),
        ("h100", 1, 3.49, "llama-3.1-8b", MINI, 280),
        ("h100", 1, 6.88, "llama-3.1-8b", MINI, 550),
        ("h100", 2, 3.49, "llama-3.1-70b", GPT_4O, 34),
        ("h100", 2, 6.88, "llama-3.1-70b", GPT_4O, 66),
        ("h100", 2, 3.49, "llama-3.1-70b", (0.6, 0.6), 279),
    ],
)
def test_the_break_even_volume_depends_on_the_price_displaced(gpu, count, usd, model, api, mtok):
    found = worked(model, gpu, usd, api=api, gpus=count, weights="int4" if gpu == "a10g" else "fp8")
    assert float(found["breakeven_tokens_per_day"]) == pytest.approx(mtok * 1e6, rel=0.015)


def test_llama_70b_at_full_use_costs_three_to_six_times_what_a_guide_prints():
    cheap = worked("llama-3.1-70b", "h100", 3.49, gpus=2, weights="fp8", input_tokens=500, output_tokens=200,
                   concurrency=256, requests_per_second=13.7)  # fmt: skip
    dear = worked("llama-3.1-70b", "h100", 6.88, gpus=2, weights="fp8", input_tokens=500, output_tokens=200,
                  concurrency=256, requests_per_second=13.7)  # fmt: skip
    for found, million in ((cheap, 141), (dear, 278)):
        assert float(found["self_usd_per_mtok_full"] * 700) == pytest.approx(million, rel=0.01)
        assert found.measured
    estimated = worked("llama-3.1-70b", "h100", 3.49, gpus=2, weights="fp8", input_tokens=500, output_tokens=200,
                       concurrency=256)  # fmt: skip
    assert float(estimated["requests_per_second"]) == pytest.approx(13.7, rel=0.1)


@pytest.mark.parametrize(
    ("gpu", "usd", "tokens_per_second", "times"),
    [
        ("l4", 0.80, 44_444, 5.9),
        ("l40s", 1.50, 138_889, 6.1),
        ("a100", 4.0, 555_556, 28),
        ("h100", 8.0, 2_222_222, 36),
    ],
)
def test_rates_beyond_the_arithmetic_are_called_impossible(gpu, usd, tokens_per_second, times):
    peak = {"l4": 121, "l40s": 362, "a100": 312, "h100": 989}[gpu]
    own = msgspec.structs.replace(models()["llama-3.1-8b"], parameters=8e9)
    asked = Plan(
        model=own,
        gpu=msgspec.structs.replace(gpus()[gpu], tflops={"bf16": peak}),
        serving=Serving(input_tokens=500, output_tokens=200, requests_per_second=tokens_per_second / 700),
        demand=Demand(requests_per_day=1000),
        spend=Spend(usd_per_gpu_hour=usd),
        api=Api(input=1, output=1),
    )
    found = plan(asked)
    assert float(found["of_bound"]) == pytest.approx(times, rel=0.02)
    assert any(note.startswith("Impossible") for note in found.notes)


@pytest.mark.parametrize(
    ("relation", "numbers", "right"),
    [
        ("gpu_hours", {"tokens": 10_000_000, "tokens_per_second": 30}, 92.6),
        ("gpu_cost", {"tokens": 15_000_000, "tokens_per_second": 30, "usd_per_hour": 1.01}, 140.28),
        ("gpu_cost", {"tokens": 1_000_000, "tokens_per_second": 30, "usd_per_hour": 1.01}, 9.35),
        ("gpu_breakeven_rate", {"usd_per_hour": 1.01, "api_rate": 0.3}, 935),
        ("gpu_month_tokens", {"usd_per_hour": 1.01, "api_rate": 0.3}, 2.46e9),
        ("gpu_month_tokens", {"usd_per_hour": 1.01, "api_rate": 4.643}, 159e6),
        ("gpu_month_tokens", {"usd_per_hour": 1.01, "api_rate": 6.429}, 115e6),
        ("gpu_breakeven_volume", {"usd_per_hour": 1.006, "api_rate": 0.3}, 80e6),
        ("gpu_floor_cost", {"tokens": 7e8, "usd_per_hour": 4, "tflops": 312, "parameters": 7e10}, 349),
        ("gpu_floor_cost", {"tokens": 7e8, "usd_per_hour": 4, "tflops": 312 * 0.4, "parameters": 7e10}, 870),
        ("gpu_floor", {"usd_per_hour": 0.8, "tflops": 121, "parameters": 8e9}, 0.029),
        ("gpu_floor", {"usd_per_hour": 1.5, "tflops": 362, "parameters": 8e9}, 0.0184),
        ("gpu_floor", {"usd_per_hour": 4, "tflops": 312 * 0.4, "parameters": 8e9}, 0.143),
        ("gpu_floor", {"usd_per_hour": 8, "tflops": 989 * 0.4, "parameters": 8e9}, 0.090),
        ("gpu_bandwidth_per_dollar", {"gb_per_s": 864, "usd_per_hour": 1.5}, 576),
        ("gpu_bandwidth_per_dollar", {"gb_per_s": 2000, "usd_per_hour": 4}, 500),
        ("gpu_bandwidth_per_dollar", {"gb_per_s": 3350, "usd_per_hour": 8}, 419),
        ("gpu_bandwidth_per_dollar", {"gb_per_s": 300, "usd_per_hour": 0.8}, 375),
        ("autoscale_saving", {"first": 2, "second": 8, "third": 4, "fourth": 1}, 0.53),
        ("spot_price", {"spot": 9.0, "rework": 0.1}, 10.0),
        ("serverless_duty", {"dedicated": 3.49, "by_second": 3.95, "idle": 0}, 0.88),
        ("serverless_duty", {"dedicated": 3.99, "by_second": 3.95, "idle": 0}, 1.01),
        # gpt-4o: a month's reservation beside paying by the token; yearly; with four fifths read from the cache
        ("provisioned_breakeven", {"unit_month": 260, "tokens_per_minute": 4750, "input_rate": 1.25, "hit": 0,
                                   "read": 0.1}, 1.0),
        ("provisioned_breakeven", {"unit_month": 221, "tokens_per_minute": 2500, "input_rate": 2.5, "hit": 0,
                                   "read": 0.5}, 0.807),
        ("provisioned_breakeven", {"unit_month": 221, "tokens_per_minute": 4750, "input_rate": 1.25, "hit": 0.8,
                                   "read": 0.1}, 0.61),
    ],
)  # fmt: skip
def test_the_arithmetic_of_the_field_comes_out(relation, numbers, right):
    assert ask(relation, numbers).value == pytest.approx(right, rel=0.016)


SIZES = st.builds(
    Model,
    parameters=st.floats(1e9, 5e10),
    layers=st.integers(8, 90),
    heads=st.sampled_from([16, 32, 64]),
    kv_heads=st.sampled_from([1, 4, 8]),
    head_size=st.sampled_from([64, 128]),
    width=st.integers(1024, 8192),
)


@settings(max_examples=60, deadline=None)
@given(
    SIZES, st.integers(1, 4), st.floats(16, 4_000), st.floats(1, 2_000), st.integers(1, 300), st.floats(1, 1e6),
    st.floats(1, 4), st.floats(0.3, 1),
)  # fmt: skip
def test_a_plan_never_promises_more_than_the_arithmetic_the_memory_or_the_clock_allow(
    model, count, tokens_in, tokens_out, concurrency, requests, peak, busy
):
    found = plan(
        Plan(
            model=model,
            gpu="h200",
            serving=Serving(gpus=count, input_tokens=tokens_in, output_tokens=tokens_out, concurrency=concurrency),
            demand=Demand(requests_per_day=requests, peak=peak, utilisation=busy),
            spend=Spend(usd_per_gpu_hour=3),
            api=Api(input=1, output=4),
        )
    )
    assert found["of_bound"] <= 1
    assert found["running"] <= max(1, concurrency)
    assert float(found["utilisation"]) * peak <= busy * 1.0001
    fewer = found["replicas"] - 1
    if fewer >= 1:  # one replica less would be busier than planned for
        assert float(found["utilisation"] * found["replicas"] / fewer) * peak > busy * 0.9999
    # at the break-even volume these very GPUs cost what the API costs
    even = found["breakeven_requests_per_day"]
    assert float(even * found["api_usd_per_request"]) == pytest.approx(float(found["self_usd_per_day"]), rel=1e-9)


def test_everything_wrong_with_a_plan_is_said_at_once():
    wrong = Plan(
        model="gpt-9", gpu="toaster", serving=Serving(input_tokens=0, output_tokens=5, prefix_hit=2),
        demand=Demand(requests_per_day=-1, peak=0.5), spend=Spend(rework=1), api=Api(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="gpt-9") as caught:
        plan(wrong)
    for part in ("toaster", "input_tokens", "prefix_hit", "requests_per_day", "peak", "rework", "api:"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("gpus", "said"), [(1, "not even the weights"), (2, "")])
def test_a_model_that_does_not_fit_is_refused_with_the_way_out(gpus, said):
    def run() -> Outcome:
        return worked("llama-3.1-70b", "h100", 3.49, weights="fp8", gpus=gpus)

    if said:
        with pytest.raises(ValueError, match=said):
            run()
    else:
        assert float(run()["kv_gb"]) == pytest.approx(65.4)


def test_without_a_list_price_one_must_be_given():
    with pytest.raises(ValueError, match=r"spend\.usd_per_gpu_hour"):
        worked("llama-3.1-8b", "b200", None)


def test_prices_of_the_api_come_from_the_book_unless_given():
    asked = Plan(
        model="llama-3.1-8b", gpu="l4", serving=Serving(input_tokens=10, output_tokens=10),
        demand=Demand(requests_per_day=1), api=Api(model="x", cached_share=0.5),
    )  # fmt: skip
    found = priced(asked, lambda name: Rates(input=3, output=15, cache_read=0.3))
    assert (found.api.input, found.api.output, found.api.cache_read) == (3, 15, 0.3)
    own = msgspec.structs.replace(asked, api=Api(model="x", input=1, output=1))
    assert priced(own, lambda name: pytest.fail(name)) is own


def test_what_could_go_to_a_batch_costs_the_batch_prices():
    """A fifth in batches: 4/5 of the ordinary bill and 1/5 of what the batch's own lines say."""
    asked = Plan(
        model="llama-3.1-8b", gpu="l4", serving=Serving(input_tokens=1_000, output_tokens=100),
        demand=Demand(requests_per_day=1_000), api=Api(model="x", cached_share=0.5, batch_share=0.2),
    )  # fmt: skip

    def each(rates: Rates | None, **given: float) -> tuple[float, str]:
        api = msgspec.structs.replace(asked.api, **given)
        one = msgspec.structs.replace(asked, api=api)
        found = plan(priced(one, lambda name: rates or pytest.fail(name)))
        return float(found["api_usd_per_request"]) * 1e6, " ".join(found.notes)

    plain = 500 * 3 + 500 * 0.3 + 100 * 15
    batch = Rates(input=1, output=10, cache_read=0.2)
    whole = Rates(input=3, output=15, cache_read=0.3, batch=batch)
    assert each(whole)[0] == pytest.approx(0.8 * plain + 0.2 * (500 * 1 + 500 * 0.2 + 100 * 10))
    dearer_read = msgspec.structs.replace(whole, batch=Rates(input=1, output=10))
    assert each(dearer_read)[0] == pytest.approx(0.8 * plain + 0.2 * (1_000 * 1 + 100 * 10))
    without, said = each(Rates(input=3, output=15, cache_read=0.3))
    assert without == pytest.approx(plain)
    assert "No batch price is known" in said
    own, said = each(None, input=3, output=15)
    assert own == pytest.approx((1_000 * 3 + 100 * 15) * 0.9)
    assert "half of yours" in said
    longer = Rates(
        input=9, output=9, batch=Rates(input=1, output=1, longer=(Rates(input=2, output=2, from_tokens=9),))
    )
    assert each(longer)[0] == pytest.approx(0.8 * 1_100 * 9 + 0.2 * 1_100 * 2)


def test_the_command_prints_every_figure_with_its_formula(tmp_path: Path):
    example = Path(__file__).parents[2] / "docs" / "examples" / "capacity.toml"
    home = ["--home", str(tmp_path)]
    text = CliRunner().invoke(main, [*home, "capacity", str(example)])
    assert text.exit_code == 0, text.output
    assert "break even at" in text.output
    assert "weights_gb = parameters*weight_bytes/10**9 = 70600000000 * 1 / 10 ** 9 = 70.6" in text.output
    flags = ["--model", "llama-3.1-8b", "--gpu", "a10g", "--weights", "int4", "--input", "1000", "--output", "500",
             "--requests", "10000", "--instead-of", "gpt-4o-mini", "--format", "json"]  # fmt: skip
    beside, figures = json.loads(CliRunner().invoke(main, [*home, "capacity", *flags]).output)
    month = beside["rows"][0]
    assert (month["own_usd"], month["api_usd"]) == ("734.380000000", "136.875000000")
    assert any(row["figure"] == "kv_tokens" for row in figures["rows"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = 1", "is no TOML"),
        ('model = "llama-3.1-8b"\ngpu = "l4"\nserving = 1', "serving"),
        ('wrong = "x"', "wrong"),
        (None, "--model"),
    ],
)
def test_a_scenario_that_cannot_be_read_says_where(tmp_path: Path, text, said):
    path = tmp_path / "plan.toml"
    path.write_text("= broken" if said == "is no TOML" else text or "", encoding="utf-8")
    found = CliRunner().invoke(main, ["--home", str(tmp_path), "capacity", *([str(path)] if text else [])])
    assert found.exit_code != 0
    assert said in found.output


PARTS = {"Llama-3.1-8B": "llama-3.1-8b", "Llama-3.1-70B": "llama-3.1-70b", "Qwen3-32B": "qwen3-32b"}


@pytest.mark.skipif(not DATA, reason="FARTHING_DATA names no folder with the public measurements")
def test_the_estimate_is_as_good_as_the_guide_says_on_published_measurements():
    errors = []
    with (Path(DATA) / "llm_serving_silicon_sample.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            model = next((name for part, name in PARTS.items() if part in row["model_path"]), "")
            precision = {"fp4": "nvfp4", "": "bf16", "fp8": "fp8"}.get(row["precision"], "")
            gpu = row["system"].removesuffix("_sxm")
            plain = row["pp_size"] in ("", "1") and row["attention_dp_size"] in ("", "1")
            if not model or not precision or row["mode"] != "agg" or not plain or gpu not in ("h100", "h200", "b200"):
                continue
            if row["model_path"].startswith("nvidia/"):  # says fp8 in its name and nothing in its columns
                continue
            found = worked(
                model, gpu, 3.0, weights=precision, gpus=int(row["tp_size"]), input_tokens=int(row["isl"]),
                output_tokens=int(row["osl"]), concurrency=int(row["batch_size"]),
            )  # fmt: skip
            errors.append(abs(float(found["token_s"]) * 1000 / float(row["silicon_tpot_ms"]) - 1))
    assert len(errors) > 1_000
    assert statistics.mean(errors) < 0.16
    assert statistics.median(errors) < 0.11
    assert sum(error < 0.2 for error in errors) / len(errors) > 0.75
