"""The learned router and the gate on RouteLLM's MMLU records (Mixtral 8x7B and GPT-4-1106)."""

import math
import pathlib
import statistics
import time
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq

from farthing.core.route_model import RouteModel
from farthing.core.route_rules import complexity
from farthing.lab.route_eval import apgr, cost_at, cpt, curve
from farthing.lab.route_policy import gate_thresholds, region
from farthing.lab.route_train import Labelled, LabelledSet, train

WEAK_COST, STRONG_COST = 0.24, 24.7
"""USD per million tokens, as in RouteLLM's paper."""
TRAIN = 7_000
LABELS = (300, 1_500, 7_000)
MARGIN = 0.03
GATE_LABELS = (200, 500, 1_000)


class Records:
    """All prompts with both models' results."""

    def __init__(self, folder: pathlib.Path) -> None:
        table = pq.read_table(folder / "routing_mmlu.parquet").to_pydict()
        self.prompts: list[str] = table["prompt"]
        self.subjects: list[str] = table["subject"]
        self.weak = np.array(table["mixtral_8x7b_correct"], dtype=float)
        self.strong = np.array(table["gpt_4_1106_correct"], dtype=float)

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(7,000 prompts to label from, the others to test on)."""
        order = np.random.default_rng(seed).permutation(len(self.prompts))
        return order[:TRAIN], order[TRAIN:]

    def labelled(self, places: np.ndarray, *, tagged: bool = False) -> LabelledSet:
        rows = tuple(
            Labelled(
                prompt=self.prompts[place],
                quality=(float(self.weak[place]), float(self.strong[place])),
                tag=self.subjects[place] if tagged else "",
            )
            for place in places
        )
        return LabelledSet(models=("mixtral-8x7b", "gpt-4-1106"), rows=rows)

    def gains(self, model: RouteModel, places: np.ndarray, *, tagged: bool = False) -> np.ndarray:
        found = []
        for place in places:
            tag = self.subjects[place] if tagged else ""
            (_, weak), (_, strong) = model.scores(self.prompts[place], tag=tag).quality
            found.append(strong - weak)
        return np.array(found)


def learned(records: Records, seeds: int) -> list[tuple[str, ...]]:
    """One row for each number of labels: APGR, CPT, cost at 98 % of the strong model's quality."""
    rows = []
    for count in LABELS:
        for tagged in (False, True):
            found = []
            for seed in range(seeds):
                pool, test = records.split(seed)
                table = train(records.labelled(pool[:count], tagged=tagged), seed=seed).table
                gain = records.gains(RouteModel(table), test, tagged=tagged)
                size = len(test)
                line = curve(
                    gain,
                    records.weak[test],
                    records.strong[test],
                    weak_cost=np.full(size, WEAK_COST),
                    strong_cost=np.full(size, STRONG_COST),
                )
                found.append((apgr(line), cpt(line, 0.5), cpt(line, 0.8), cost_at(line, 0.98)))
            means = [statistics.fmean(column) for column in zip(*found, strict=True)]
            spread = statistics.stdev([one[0] for one in found])
            name = f"{count:,} labels{', with the subject as route tag' if tagged else ''}"
            rows.append((name, f"{means[0]:.3f} ± {spread:.3f}", *(f"{100 * one:.1f} %" for one in means[1:])))
    return rows


def decision_time(records: Records) -> list[tuple[str, ...]]:
    """CPU-µs of one decision (features, coverage, both heads): p50, p95, p99 over 3,000 test prompts.

    Once as they come, each prompt decided once, which is what a gateway pays; and the quickest of seven.
    """
    pool, test = records.split(0)
    model = RouteModel(train(records.labelled(pool[:1_500]), seed=0).table)
    prompts = [records.prompts[place] for place in test[:3_000]]
    found = []
    ways = (
        ("learned router, one pass", model.scores, 1),
        ("learned router, quickest of seven", model.scores, 7),
        ("scored heuristic, one pass", complexity, 1),
    )
    for name, decide, tries in ways:
        times = sorted(_quickest(decide, prompt, tries) for prompt in prompts)
        figures = (times[len(times) // 2], times[int(len(times) * 0.95)], times[int(len(times) * 0.99)])
        found.append((name, *(f"{figure:.0f}" for figure in figures)))
    return found


def _quickest(decide: Callable[[str], object], prompt: str, tries: int) -> float:
    """CPU-µs of the quickest of some decisions: what else runs on the machine is not the router's."""
    best = math.inf
    for _ in range(tries):
        begun = time.thread_time_ns()
        decide(prompt)
        best = min(best, time.thread_time_ns() - begun)
    return best / 1_000


def gate(records: Records, runs: int) -> list[tuple[str, ...]]:
    """Rows (labels, method, traffic downgraded, true drop, violations) over simulated runs of the whole procedure."""
    prepared = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(records.prompts))
        router, rest = order[:1_500], order[1_500:]
        model = RouteModel(train(records.labelled(router), seed=seed).table)
        prepared.append((rest, records.gains(model, rest)))
    rows = []
    difference = records.strong - records.weak
    for count in GATE_LABELS:
        for method in ("betting", "normal"):
            rows.append(_gate_row(prepared, difference, count, method, runs))
    return rows


def _gate_row(prepared: list, difference: np.ndarray, count: int, method: str, runs: int) -> tuple[str, ...]:
    random = np.random.default_rng(count)
    shares, drops, broken = [], [], 0
    top = region(count)
    steps = tuple(np.round(np.arange(0.1, top + 1e-9, 0.02), 3))
    for run in range(runs):
        rest, gain = prepared[run % len(prepared)]
        order = random.permutation(len(rest))
        near, far = order[: len(rest) // 2], order[len(rest) // 2 :]
        able = near[gain[near] < np.quantile(gain[near], top)]
        drawn = random.choice(able, count, replace=False)
        best, _ = gate_thresholds(
            gain[near], difference[rest[drawn]].tolist(), gain[drawn], margin=MARGIN, method=method, steps=steps
        )
        limit = best.threshold if best else -np.inf
        shares.append(float((gain[far] < limit).mean()))
        drop = float(difference[rest][gain < limit].sum() / len(rest))
        drops.append(drop)
        broken += drop > MARGIN
    return (
        f"{count:,} labels in the lowest {100 * top:.0f} %",
        method,
        f"{100 * statistics.fmean(shares):.1f} %",
        f"{100 * statistics.fmean(drops):.2f}",
        f"{100 * broken / runs:.1f} % of {runs}",
    )
