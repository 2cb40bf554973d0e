"""Training of the learned query router: cross-fitted ridge regression on hashed words, one head per model.

Deterministic: the same labels and seed give the same table, byte for byte on one platform. Needs numpy
(``pip install farthing[lab]``); deciding does not.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from farthing.core.route_features import NUMBERS, SEEN_SIZE, TABLE_SIZE, Features, read, seen_place, tag_place
from farthing.core.route_model import ZERO, Head, RouteTable, bytes_to_bits, pack

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RIDGE_CHOICES = (3.0, 10.0, 30.0)
"""Penalties tried by cross-validation, on features whose words have weight one quarter."""
NUMBER_SCALES = (0.0, 0.05)
"""Weights of the counts beside the words that are tried; 0 leaves them out."""
TAG_SCALE = 0.5
WORD_SCALE = 0.25
_STEPS_MAX = 30
_TOLERANCE = 1e-7


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt with what each model made of it."""

    prompt: str
    quality: tuple[float, ...]
    """0 to 1 for each model of the set, in its order."""
    cost: tuple[int, ...] = ()
    """Nano-USD for each model; empty when unknown."""
    tag: str = ""
    id: str = ""


class LabelledSet(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts labelled for the same models."""

    models: tuple[str, ...]
    rows: tuple[Labelled, ...]

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the set's canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]


class Trained(NamedTuple):
    """A table and how it does on prompts it has not seen."""

    table: RouteTable
    held_out: Floats
    """(rows, models): each prompt's scores from the folds it was not in."""


class Matrix:
    """A sparse matrix, with the two products that ridge regression needs."""

    def __init__(self, row: Ints, column: Ints, value: Floats, *, rows: int, width: int) -> None:
        self.rows = rows
        self.width = width
        self._row = row
        self._column = column
        self._value = value

    def times(self, weights: Floats) -> Floats:
        """Row scores."""
        scores = np.bincount(self._row, weights=self._value * weights[self._column], minlength=self.rows)
        return scores.astype(np.float64)

    def back(self, residuals: Floats) -> Floats:
        """Column sums of the residuals."""
        sums = np.bincount(self._column, weights=self._value * residuals[self._row], minlength=self.width)
        return sums.astype(np.float64)


def train(labelled: LabelledSet, *, seed: int = 0, folds: int = 5, coverage_min: float = 0.6) -> Trained:
    """A table for the set's models. Raises :class:`ValueError` for fewer than 20 prompts or two models.

    Penalty and the weight of the counts are chosen by cross-validation on the gain between the models; the scores
    are then recalibrated (a straight line per model) on the held-out scores of shuffled folds.
    """
    if len(labelled.models) < 2 or len(labelled.rows) < 20:
        raise ValueError("training needs at least 20 labelled prompts and two models")
    features = [read(row.prompt) for row in labelled.rows]
    quality = np.array([row.quality for row in labelled.rows], dtype=np.float64)
    order = np.random.default_rng(seed).permutation(len(features))
    parts = np.array_split(order, min(folds, len(features)))
    best: _Choice | None = None
    tried: set[tuple[float, float]] = set()
    for number_scale in NUMBER_SCALES:
        best = _better(best, labelled, features, quality, parts, (number_scale, RIDGE_CHOICES[1]), tried)
    for ridge in RIDGE_CHOICES:
        assert best is not None
        best = _better(best, labelled, features, quality, parts, (best[1], ridge), tried)
    assert best is not None
    _, number_scale, ridge, held_out = best
    columns = _Columns(labelled.rows, features, number_scale)
    everything = np.arange(len(features))
    fitted = columns.fit(everything, quality, ridge)
    slopes, held_out = _recalibrated(held_out, quality)
    card = _card(labelled, seed, ridge, number_scale, held_out, quality)
    table = _table(labelled, columns, fitted, slopes, quality, coverage_min, card)
    return Trained(table, held_out)


_Choice = tuple[float, float, float, Floats]
"""(loss, weight of the counts, penalty, held-out scores)"""


def _better(
    best: _Choice | None,
    labelled: LabelledSet,
    features: list[Features],
    quality: Floats,
    parts: Sequence[Ints],
    setting: tuple[float, float],
    tried: set[tuple[float, float]],
) -> _Choice | None:
    """The better of what stands and one more setting, judged on prompts that the fit has not seen."""
    if setting in tried:
        return best
    tried.add(setting)
    held_out = _held_out(_Columns(labelled.rows, features, setting[0]), quality, parts, setting[1])
    loss = _gain_loss(held_out, quality)
    return (loss, *setting, held_out) if best is None or loss < best[0] else best


class _Columns:
    """Features of all prompts as sparse rows: words, counts, tag."""

    def __init__(self, rows: Sequence[Labelled], features: Sequence[Features], number_scale: float) -> None:
        self.number_scale = number_scale
        self.features = features
        self.tags = np.array([tag_place(row.tag) if row.tag else -1 for row in rows])
        sizes = [len(each.ids) for each in features]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._ids = np.array([place for each in features for place in sorted(each.ids)], dtype=np.int64)
        self._scale = np.array([each.scale for each in features]) * WORD_SCALE
        self._numbers = np.array([each.numbers for each in features], dtype=np.float64)

    def fit(self, chosen: Ints, quality: Floats, ridge: float) -> "_Fitted":
        """Ridge weights of every model from the chosen prompts."""
        _, ids = self._words(chosen)
        frequency = np.bincount(ids, minlength=TABLE_SIZE)
        rarity = np.where(frequency > 0, np.log((1 + len(chosen)) / (1 + frequency)) + 1.0, 0.0)
        spreads = self._numbers[chosen].std(axis=0)
        spreads[spreads < 1e-9] = 1.0
        means = quality[chosen].mean(axis=0)
        shape = _Fitted(rarity, self._numbers[chosen].mean(axis=0), spreads, np.zeros((0, 0)), means)
        matrix = self.matrix(chosen, shape)
        weights = [_ridge(matrix, quality[chosen, m] - means[m], ridge) for m in range(quality.shape[1])]
        return shape._replace(weights=np.array(weights))

    def matrix(self, chosen: Ints, shape: "_Fitted") -> Matrix:
        """Sparse rows of the chosen prompts under one fit's rarities and standardisation."""
        row, ids = self._words(chosen)
        count = len(chosen)
        standard = np.clip((self._numbers[chosen] - shape.centres) / shape.spreads, -4.0, 4.0)
        tagged = np.nonzero(self.tags[chosen] >= 0)[0]
        places = np.tile(np.arange(TABLE_SIZE, TABLE_SIZE + len(NUMBERS)), count)
        return Matrix(
            np.concatenate([row, np.repeat(np.arange(count), len(NUMBERS)), tagged]),
            np.concatenate([ids, places, self.tags[chosen][tagged]]),
            np.concatenate(
                [
                    shape.rarity[ids] * self._scale[chosen][row],
                    standard.ravel() * self.number_scale,
                    np.full(len(tagged), TAG_SCALE),
                ]
            ),
            rows=count,
            width=TABLE_SIZE + len(NUMBERS),
        )

    def _words(self, chosen: Ints) -> tuple[Ints, Ints]:
        """(position in ``chosen``, table place) of every distinct word and pair."""
        starts, ends = self._starts[chosen], self._starts[chosen + 1]
        sizes = ends - starts
        row = np.repeat(np.arange(len(chosen)), sizes)
        inside = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return row, self._ids[starts[row] + inside]


class _Fitted(NamedTuple):
    rarity: Floats
    centres: Floats
    spreads: Floats
    weights: Floats
    """(models, columns)"""
    means: Floats


def _ridge(matrix: Matrix, target: Floats, ridge: float) -> Floats:
    """Conjugate gradients on (AᵀA + ridge) w = Aᵀ target."""
    right = matrix.back(target)
    found = np.zeros_like(right)
    left, step = right.copy(), right.copy()
    size = float(left @ left)
    start = size
    for _ in range(_STEPS_MAX):
        if size <= _TOLERANCE * start or size == 0.0:
            break
        turned = matrix.back(matrix.times(step)) + ridge * step
        reach = size / float(step @ turned)
        found += reach * step
        left -= reach * turned
        after = float(left @ left)
        step = left + (after / size) * step
        size = after
    return found


def _held_out(columns: _Columns, quality: Floats, parts: Sequence[Ints], ridge: float) -> Floats:
    scores = np.zeros_like(quality)
    for number, part in enumerate(parts):
        rest = np.sort(np.concatenate([other for place, other in enumerate(parts) if place != number]))
        fitted = columns.fit(rest, quality, ridge)
        matrix = columns.matrix(part, fitted)
        for m in range(quality.shape[1]):
            scores[part, m] = fitted.means[m] + matrix.times(fitted.weights[m])
    return scores


def _gain_loss(scores: Floats, quality: Floats) -> float:
    """Mean squared error of every model's lead over the average model: what choosing between them depends on."""
    lead = scores - scores.mean(axis=1, keepdims=True)
    truth = quality - quality.mean(axis=1, keepdims=True)
    return float(((lead - truth) ** 2).mean())


def _recalibrated(scores: Floats, quality: Floats) -> tuple[tuple[float, float], Floats]:
    """(slope of what all models share, slope of each model's lead), and the recalibrated scores.

    One slope for the leads keeps the order in which prompts are worth the stronger model.
    """
    shared, lead = _parted(scores - scores.mean(axis=0))
    true_shared, true_lead = _parted(quality - quality.mean(axis=0))
    slopes = (_slope(shared, true_shared), _slope(lead, true_lead))
    fixed = quality.mean(axis=0) + slopes[0] * shared + slopes[1] * lead
    return slopes, np.clip(fixed, 0.0, 1.0)


def _parted(values: Floats) -> tuple[Floats, Floats]:
    """(mean over the models, each model's difference from it); rows are prompts."""
    shared = values.mean(axis=1, keepdims=True)
    return shared, values - shared


def _slope(estimate: Floats, truth: Floats) -> float:
    spread = float((estimate * estimate).sum())
    return min(3.0, max(0.1, float((estimate * truth).sum()) / spread)) if spread > 1e-12 else 1.0


def _table(
    labelled: LabelledSet,
    columns: _Columns,
    fitted: _Fitted,
    slopes: tuple[float, float],
    quality: Floats,
    coverage_min: float,
    card: dict[str, str],
) -> RouteTable:
    seen = bytearray(SEEN_SIZE)
    for each in columns.features:
        for word in each.words:
            seen[seen_place(word)] = 1
    shared = fitted.weights.mean(axis=0)
    weights = slopes[0] * shared + slopes[1] * (fitted.weights - shared)
    heads = tuple(
        _head(model, weights[m], fitted, columns, float(quality[:, m].mean()))
        for m, model in enumerate(labelled.models)
    )
    return RouteTable(
        heads=heads,
        centres=tuple(map(float, fitted.centres)),
        spreads=tuple(map(float, fitted.spreads)),
        seen=pack(bytes_to_bits(bytes(seen))),
        coverage_min=coverage_min,
        card=card,
    )


def _head(model: str, weights: Floats, fitted: _Fitted, columns: _Columns, bias: float) -> Head:
    tags = {int(tag) for tag in columns.tags if tag >= 0}
    words = weights[:TABLE_SIZE] * fitted.rarity * WORD_SCALE
    tag_weights = np.zeros(TABLE_SIZE)
    for tag in tags:
        tag_weights[tag] = weights[tag]
    largest = float(np.abs(words).max()) or 1.0
    step = largest / 127.0
    tag_largest = float(np.abs(tag_weights).max()) * TAG_SCALE
    tag_step = tag_largest / 127.0
    packed = np.rint(words / step)
    for tag in tags:  # a tag's place belongs to the tag alone
        packed[tag] = np.rint(tag_weights[tag] * TAG_SCALE / tag_step) if tag_step else 0
    raw = (packed.astype(np.int64) + ZERO).astype(np.uint8).tobytes()
    numbers = tuple(map(float, weights[TABLE_SIZE:] * columns.number_scale))
    return Head(model=model, bias=bias, step=step, weights=pack(raw), numbers=numbers, tag_step=tag_step)


def _card(
    labelled: LabelledSet, seed: int, ridge: float, number_scale: float, scores: Floats, quality: Floats
) -> dict[str, str]:
    means = ", ".join(f"{m} {q:.4f}" for m, q in zip(labelled.models, quality.mean(axis=0), strict=True))
    errors = np.sqrt(((scores - quality) ** 2).mean(axis=0))
    return {
        "labels": str(len(labelled.rows)),
        "data": labelled.digest,
        "seed": str(seed),
        "ridge": str(ridge),
        "number_scale": str(number_scale),
        "mean_quality": means,
        "held_out_rmse": ", ".join(f"{m} {e:.4f}" for m, e in zip(labelled.models, errors, strict=True)),
        "method": "ridge on hashed words and word pairs; penalty by cross-validation; scores recalibrated held out",
    }
