"""Cascades on ZeroEval's recorded answers (GSM8K and CRUX): calibration half, test half, real token costs."""

import pathlib
import random
import statistics

import pyarrow.parquet as pq

from farthing.core.cascade_checks import Answer, comparable
from farthing.lab.route_cascade import (
    Plan,
    Prompt,
    Recorded,
    best_within,
    cheapest_near,
    cheapest_that_holds,
    plans,
    run,
)

STRONG = "claude-3-5-sonnet-20241022"
RATES = {
    "gpt-4o-mini-2024-07-18": ("0.15", "0.60"),
    "deepseek-v2.5-0908": ("0.14", "0.28"),
    "gemini-1.5-flash": ("0.075", "0.30"),
    "claude-3-haiku-20240307": ("0.25", "1.25"),
    "Meta-Llama-3.1-70B-Instruct": ("0.88", "0.88"),
    "Meta-Llama-3.1-8B-Instruct": ("0.18", "0.18"),
    "Qwen2-72B-Instruct": ("0.90", "0.90"),
    "gpt-4o-2024-08-06": ("2.50", "10.00"),
    "claude-3-5-sonnet-20240620": ("3.00", "15.00"),
    "claude-3-5-sonnet-20241022": ("3.00", "15.00"),
}
"""List prices of late 2024, USD per million tokens in and out; open models at a hoster's price of that time."""


def prompts(folder: pathlib.Path) -> list[Prompt]:
    """All prompts with every model's comparable answer, quality and cost in nano-USD."""
    found: dict[tuple[str, str], Prompt] = {}
    for row in pq.read_table(folder / "cascade_answers.parquet").to_pylist():
        model = row["model"]
        taken, given = (round(float(rate) * 1_000) for rate in RATES[model])
        answer = Answer(model=model, text=row["answer"]) if row["answer_extracted"] else None
        found.setdefault((row["dataset"], row["qid"]), {})[model] = Recorded(
            comparable(answer) if answer else "",
            float(row["correct"]),
            row["input_tokens"] * taken + row["output_tokens"] * given,
        )
    return [found[key] for key in sorted(found)]


def measure(folder: pathlib.Path, seeds: int) -> list[tuple[str, str, str, str]]:
    """Rows (strategy, quality of strong, cost of strong, plans chosen) over the seeds."""
    everything = prompts(folder)
    rows: dict[str, list[tuple[float, float, str]]] = {}
    for seed in range(seeds):
        order = list(range(len(everything)))
        random.Random(seed).shuffle(order)
        half = len(order) // 2
        calibration = [everything[place] for place in order[:half]]
        test = [everything[place] for place in order[half:]]
        for name, plan in _chosen(calibration):
            result = run(plan, test)
            quality = statistics.fmean(prompt[STRONG].quality for prompt in test)
            cost = sum(prompt[STRONG].cost for prompt in test)
            label = " → ".join(_short(model) for model in (*plan.asks, plan.strong))
            rows.setdefault(name, []).append((result.quality / quality, result.cost / cost, label))
    return [_row(name, found) for name, found in rows.items()]


def _chosen(calibration: list[Prompt]) -> list[tuple[str, Plan]]:
    strong = statistics.fmean(prompt[STRONG].quality for prompt in calibration)
    candidates = plans(calibration, STRONG)
    two = Plan(("gpt-4o-mini-2024-07-18", "deepseek-v2.5-0908"), STRONG)
    held, _ = cheapest_that_holds(calibration, candidates, margin=0.02 * strong)
    within = best_within(calibration, candidates, cost_share=0.44)
    near = cheapest_near(calibration, candidates, keep=0.98, reserve=0.75)
    always = Plan((), STRONG)
    return [
        ("gpt-4o-mini and deepseek agree, else Sonnet", two),
        ("98 %: cheapest with most of the loss in reserve", near.plan if near else always),
        ("98 %: cheapest that the gate proves on the calibration half", held.plan if held else always),
        ("100 %: best within 44 % of the cost", within.plan if within else always),
    ]


def _short(model: str) -> str:
    words = ("gpt-4o-mini", "gpt-4o", "deepseek", "gemini", "sonnet", "haiku", "70B", "8B", "72B")
    return next((word for word in words if word in model), model)


def _row(name: str, found: list[tuple[float, float, str]]) -> tuple[str, str, str, str]:
    quality = [one[0] for one in found]
    cost = [one[1] for one in found]
    labels = sorted({one[2] for one in found}, key=lambda label: -sum(one[2] == label for one in found))
    return (
        name,
        f"{statistics.fmean(quality):.4f} ± {statistics.pstdev(quality):.4f}",
        f"{statistics.fmean(cost):.3f} ± {statistics.pstdev(cost):.3f}",
        "; ".join(labels[:3]),
    )


if __name__ == "__main__":
    import os

    for row in measure(pathlib.Path(os.environ["FARTHING_DATA"]), 10):
        print(" | ".join(row))
