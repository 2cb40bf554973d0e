"""The router by meaning (clusters) on the same splits as the learned one, and what a decision costs with it."""

import asyncio
import pathlib
import statistics
import time

import mmlu
import numpy as np

from farthing.adapters.embed_onnx import OnnxEmbedder
from farthing.core.route_clusters import ClusterModel
from farthing.core.route_model import RouteModel
from farthing.lab.route_clusters import train_clusters, vectors_of
from farthing.lab.route_eval import apgr, cost_at, cpt, curve
from farthing.lab.route_train import train
from farthing.ports.embed import Vector

_BATCH = 256


def sampled(records: mmlu.Records, size: int) -> np.ndarray:
    """The places of a fixed sample of the prompts; all of them for 0."""
    order = np.random.default_rng(7).permutation(len(records.prompts))
    return order[: size or len(order)]


def vectors(records: mmlu.Records, places: np.ndarray, folder: pathlib.Path) -> tuple[dict[int, Vector], str]:
    """(a vector for each of the places, the embedder's identity)."""

    async def made() -> tuple[dict[int, Vector], str]:
        embedder = OnnxEmbedder(folder)
        found: dict[int, Vector] = {}
        for start in range(0, len(places), _BATCH):
            part = places[start : start + _BATCH]
            got = await embedder.embed([records.prompts[place] for place in part])
            found.update(zip(map(int, part), got.vectors, strict=True))
        await embedder.close()
        return found, embedder.identity

    return asyncio.run(made())


def clusters(
    records: mmlu.Records, seeds: int, places: np.ndarray, made: dict[int, Vector], embedder: str
) -> list[tuple[str, ...]]:
    """Both routers on the same splits of the sample: half is labelled from, the other half tests."""
    rows = []
    for count in (one for one in mmlu.LABELS if one <= len(places) // 2):
        found: dict[str, list[tuple[float, ...]]] = {"by meaning": [], "by words": []}
        for seed in range(seeds):
            order = places[np.random.default_rng(seed).permutation(len(places))]
            chosen, test = order[:count], order[len(order) // 2 :]
            raw = vectors_of([made[int(place)] for place in chosen])
            model = ClusterModel(train_clusters(records.labelled(chosen), raw, embedder, seed=seed))
            gain = np.array([_gain(model, made[int(place)]) for place in test])
            found["by meaning"].append(_figures(records, gain, test))
            words = RouteModel(train(records.labelled(chosen), seed=seed).table)
            found["by words"].append(_figures(records, records.gains(words, test), test))
        for name, figures in found.items():
            means = [statistics.fmean(column) for column in zip(*figures, strict=True)]
            spread = statistics.stdev([one[0] for one in figures])
            shown = (f"{means[0]:.3f} ± {spread:.3f}", *(f"{100 * one:.1f} %" for one in means[1:]))
            rows.append((f"{count:,} labels, {name}, tested on {len(places) - len(places) // 2:,}", *shown))
    return rows


def _figures(records: mmlu.Records, gain: np.ndarray, test: np.ndarray) -> tuple[float, ...]:
    size = len(test)
    line = curve(
        gain,
        records.weak[test],
        records.strong[test],
        weak_cost=np.full(size, mmlu.WEAK_COST),
        strong_cost=np.full(size, mmlu.STRONG_COST),
    )
    return apgr(line), cpt(line, 0.5), cpt(line, 0.8), cost_at(line, 0.98)


def decision_time(
    records: mmlu.Records, places: np.ndarray, made: dict[int, Vector], identity: str, folder: pathlib.Path
) -> list[tuple]:
    """CPU-µs of looking one vector up, and of making it (all threads of the process)."""
    raw = vectors_of([made[int(place)] for place in places])
    table = train_clusters(records.labelled(places), raw, identity, sizes=(64,))
    model = ClusterModel(table)
    looks = sorted(_cpu(lambda place=place: model.scores(made[int(place)])) for place in places[:500])
    embedder = OnnxEmbedder(folder)

    async def one(place: int) -> float:
        begun = time.process_time_ns()
        await embedder.embed([records.prompts[place]])
        return (time.process_time_ns() - begun) / 1_000

    async def all_() -> list[float]:
        found = sorted([await one(place) for place in places[:150]])
        await embedder.close()
        return found

    makes = asyncio.run(all_())
    names = (f"clusters: look-up among {len(table.clusters)}", looks), ("clusters: embedding the prompt", makes)
    return [
        (name, *(f"{times[int(len(times) * share)]:,.0f}" for share in (0.5, 0.95, 0.99))) for name, times in names
    ]


def _cpu(act) -> float:
    begun = time.thread_time_ns()
    act()
    return (time.thread_time_ns() - begun) / 1_000


def _gain(model: ClusterModel, vector: Vector) -> float:
    (_, weak), (_, strong) = model.scores(vector).quality
    return strong - weak
