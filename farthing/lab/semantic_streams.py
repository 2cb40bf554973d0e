"""Streams of questions through a semantic cache whose truth is known: what a rule serves, and what of it is wrong.

Requests of the same intent may share an answer, others may not. Every miss is answered by "the provider" and
inserted; the judge is an oracle that errs at a given rate. The cache's own decision is ``core.semantic`` and
``core.semantic_risk``, as the gateway runs it.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from farthing.core.guards import Reading, differences, overlap, read
from farthing.core.semantic import SIMILARITY_MIN, Candidate, Neighbour, candidate, rivals
from farthing.core.semantic_risk import RiskControl

Floats = NDArray[np.float32]

NEIGHBOURS = 8
RIVALS = 2
"""Other clusters that the judge is asked about after it said "different"."""
APPEAL_BELOW = 0.15
"""A "different" that the model did not expect is asked twice."""


class Workload:
    """Questions with their intents; similarities are computed once and shared by all runs."""

    def __init__(self, texts: Sequence[str], vectors: Floats, intents: NDArray[np.int64]) -> None:
        self.texts = texts
        self.intents = intents
        self.similarities: Floats = vectors @ vectors.T
        np.fill_diagonal(self.similarities, -1.0)
        self._readings: dict[int, Reading] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def guarded(self, a: int, b: int) -> bool:
        """A lexical guard keeps the answer to ``b`` from being served for ``a``."""
        ours, theirs = self._reading(a), self._reading(b)
        return bool(differences(ours, theirs)) or not overlap(ours, theirs)

    def _reading(self, place: int) -> Reading:
        if place not in self._readings:
            self._readings[place] = read(self.texts[place])
        return self._readings[place]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one stream came to. Shares are of all requests except ``wrong``, which is of the hits."""

    hits: float
    wrong: float
    judged: float = 0.0
    shadows: float = 0.0

    @property
    def net(self) -> float:
        """Calls really avoided: shadowed hits were paid for."""
        return self.hits - self.shadows


class Rule(Protocol):
    """What decides and learns in a stream."""

    def step(self, asked: int, top: NDArray[np.int64], near: Floats) -> int | None:
        """The entry (a position in the workload) whose answer is served, or None; then ``answered`` follows."""
        ...

    def answered(self, asked: int, top: NDArray[np.int64], near: Floats) -> None:
        """The provider answered ``asked``; the question is inserted after this."""
        ...


def stream(work: Workload, rule: Rule, order: NDArray[np.int64]) -> tuple[int, int]:
    """(hits, wrong hits) of the requests in this order, from an empty cache."""
    inserted = np.empty(len(order), dtype=np.int64)
    size = hits = wrong = 0
    for asked in order.tolist():
        row = work.similarities[asked, inserted[:size]]
        count = min(NEIGHBOURS, size)
        places = np.argpartition(-row, count - 1)[:count] if count else np.empty(0, dtype=np.int64)
        places = places[np.argsort(-row[places], kind="stable")]
        top, near = inserted[places], row[places]
        served = rule.step(asked, top, near)
        if served is not None:
            hits += 1
            wrong += bool(work.intents[served] != work.intents[asked])
            if not getattr(rule, "shadow", False):
                continue
        rule.answered(asked, top, near)
        inserted[size] = asked
        size += 1
    return hits, wrong


class Ours:
    """The risk-controlled cache."""

    def __init__(
        self,
        work: Workload,
        delta: float,
        *,
        seed: int,
        guards: bool = True,
        judge_error: float = 0.0,
        judge_share: float = 1.0,
    ) -> None:
        self._work = work
        self._control = RiskControl(delta)
        self._rng = np.random.default_rng([seed, 1])
        self._guards = guards
        self._error = judge_error
        self._judge_share = judge_share
        self._cluster: dict[int, str] = {}
        self._members: dict[str, int] = {}
        self.judged = self.shadows = 0
        self.shadow = False
        self._found: Candidate | None = None
        self._served: int | None = None
        self._share = 0.0

    def step(self, asked: int, top: NDArray[np.int64], near: Floats) -> int | None:
        """Serves what the bound allows and no guard forbids."""
        self.shadow = False
        self._served = None
        self._near = self._neighbours(top, near)
        self._found = candidate(self._near)
        if self._found is None:
            return None
        verdict = self._control.verdict(self._found.features)
        self._risk, self._share = verdict.risk, verdict.shadow_share
        if not verdict.serve:
            return None
        keys = [int(key) for key in self._found.keys]
        self._served = next((k for k in keys if not (self._guards and self._work.guarded(asked, k))), None)
        if self._served is None:
            return None
        self.shadow = bool(self._rng.random() < self._share)
        if not self.shadow:
            self._control.served(self._found.features)
        return self._served

    def answered(self, asked: int, top: NDArray[np.int64], near: Floats) -> None:
        """Compares the new answer with the candidate's and learns from it."""
        found = self._found
        if found is None:
            self._insert(asked, f"c{asked}", compared=True)
            return
        if not self.shadow and self._rng.random() >= self._judge_share:
            self._control.missed(found.features, None)
            self._insert(asked, f"c{asked}", compared=False)
            return
        entry = self._served if self._served is not None else int(found.keys[0])
        same = self._judge(asked, entry)
        if not same and self._error and self._risk < APPEAL_BELOW:
            same = self._judge(asked, entry)
        if self.shadow:
            self.shadows += 1
            self._control.shadowed(found.features, not same, share=self._share)
        else:
            self._control.missed(found.features, not same)
        cluster = found.cluster if same else None
        if cluster is None:
            others = rivals(self._near, found.cluster, most=RIVALS)
            cluster = next((one.cluster for one in others if self._judge(asked, int(one.key))), None)
        self._insert(asked, cluster or f"c{asked}", compared=True)

    def _neighbours(self, top: NDArray[np.int64], near: Floats) -> list[Neighbour]:
        cluster, members = self._cluster, self._members
        return [
            Neighbour(key=str(key), similarity=value, cluster=cluster[key], members=members[cluster[key]])
            for key, value in zip(top.tolist(), near.tolist(), strict=True)
            if value >= SIMILARITY_MIN
        ]

    def _insert(self, asked: int, cluster: str, *, compared: bool) -> None:
        self._cluster[asked] = cluster
        self._members[cluster] = self._members.get(cluster, 0) + compared

    def _judge(self, a: int, b: int) -> bool:
        self.judged += 1
        same = bool(self._work.intents[a] == self._work.intents[b])
        return same != (self._rng.random() < self._error) if self._error else same


def ours(
    work: Workload,
    delta: float,
    *,
    seed: int,
    requests: int,
    guards: bool = True,
    judge_error: float = 0.0,
    judge_share: float = 1.0,
) -> Run:
    """One stream of the risk-controlled cache."""
    rule = Ours(work, delta, seed=seed, guards=guards, judge_error=judge_error, judge_share=judge_share)
    hits, wrong = stream(work, rule, order(work, seed, requests))
    return Run(
        hits=hits / requests,
        wrong=wrong / max(1, hits),
        judged=rule.judged / requests,
        shadows=rule.shadows / requests,
    )


class Fixed:
    """Serves the nearest above one cosine. 0.6 is GPTCache's own rule (4 − d² ≥ 0.8 · 4 over unit vectors)."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def step(self, asked: int, top: NDArray[np.int64], near: Floats) -> int | None:
        """The nearest, if near enough."""
        return int(top[0]) if len(top) and near[0] >= self._threshold else None

    def answered(self, asked: int, top: NDArray[np.int64], near: Floats) -> None:
        """Learns nothing."""


def fixed(work: Workload, threshold: float, *, seed: int, requests: int) -> Run:
    """One stream at a fixed cosine."""
    hits, wrong = stream(work, Fixed(threshold), order(work, seed, requests))
    return Run(hits=hits / requests, wrong=wrong / max(1, hits))


class PerEntry:
    """A threshold learned for every entry, after the vCache paper: exploits only where its own labels allow."""

    _EPSILONS = (0.01, 0.05, 0.1, 0.2)
    _QUANTILES = (2.326, 1.645, 1.282, 0.842)

    def __init__(self, work: Workload, delta: float, *, seed: int) -> None:
        self._work = work
        self._delta = delta
        self._rng = np.random.default_rng([seed, 2])
        self._labels: dict[int, list[tuple[float, bool]]] = {}

    def step(self, asked: int, top: NDArray[np.int64], near: Floats) -> int | None:
        """Serves the nearest with the probability that its own labels justify."""
        if not len(top) or self._rng.random() < self._explore(int(top[0]), float(near[0])):
            return None
        return int(top[0])

    def answered(self, asked: int, top: NDArray[np.int64], near: Floats) -> None:
        """One label for the nearest entry."""
        if len(top):
            same = bool(self._work.intents[asked] == self._work.intents[top[0]])
            self._labels.setdefault(int(top[0]), []).append((float(near[0]), same))

    def _explore(self, entry: int, similarity: float) -> float:
        labels = self._labels.get(entry, [])
        if len(labels) < 6:
            return 1.0
        middle, slope, spread = _fit([(s, 1.0 if same else 0.0) for s, same in labels])
        least = 1.0
        for epsilon, quantile in zip(self._EPSILONS, self._QUANTILES, strict=True):
            right = (1 - epsilon) / (1 + math.exp(-slope * (similarity - middle - quantile * spread)))
            least = min(least, 1 - self._delta / max(1e-9, 1 - right))
        return max(0.0, least)


def _fit(labels: list[tuple[float, float]]) -> tuple[float, float, float]:
    """(threshold, slope, the threshold's standard error) of a logistic curve through labels, lightly regularised."""
    base, slope = 0.0, 20.0
    for _ in range(15):
        g0, g1, h00, h01, h11 = -base * 0.1, -(slope - 20) * 0.01, 0.1, 0.0, 0.01
        for similarity, same in labels:
            x = similarity - 0.8
            chance = 1 / (1 + math.exp(-max(-30.0, min(30.0, base + slope * x))))
            curve = chance * (1 - chance)
            g0, g1 = g0 + same - chance, g1 + (same - chance) * x
            h00, h01, h11 = h00 + curve, h01 + curve * x, h11 + curve * x * x
        scale = h00 * h11 - h01 * h01
        base += max(-2.0, min(2.0, (h11 * g0 - h01 * g1) / scale))
        slope = max(1.0, slope + max(-10.0, min(10.0, (h00 * g1 - h01 * g0) / scale)))
    return 0.8 - base / slope, slope, math.sqrt(h11 / scale) / slope


def per_entry(work: Workload, delta: float, *, seed: int, requests: int) -> Run:
    """One stream of per-entry thresholds."""
    hits, wrong = stream(work, PerEntry(work, delta, seed=seed), order(work, seed, requests))
    return Run(hits=hits / requests, wrong=wrong / max(1, hits))


def order(work: Workload, seed: int, requests: int) -> NDArray[np.int64]:
    """The questions of one stream, each at most once."""
    return np.random.default_rng(seed).permutation(len(work))[:requests]
