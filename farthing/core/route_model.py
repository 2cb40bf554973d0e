"""The learned query router's table: one linear score per model, read from hashed words in pure integers.

The table travels inside the policy's artefact as text (``RouteTable``, JSON) and is unpacked once (``RouteModel``).
A score estimates the chance that a model answers the prompt well. Weights are whole steps of ``step`` around 128, one
byte each: a decision adds bytes, nothing else. Training is in ``farthing.lab.route_train``.
"""

import hashlib
import zlib
from base64 import b64decode, b64encode
from math import isfinite
from operator import itemgetter, mul
from typing import NamedTuple

import msgspec

from farthing.core.errors import PolicyError
from farthing.core.route_features import (
    FEATURES_VERSION,
    NUMBERS,
    SEEN_SIZE,
    TABLE_SIZE,
    Features,
    coverage,
    read,
    tag_place,
)

ZERO = 128
"""The byte that stands for weight nought."""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model's part of the table."""

    model: str
    bias: float
    """The score of an empty prompt: the model's mean quality on the training prompts."""
    step: float
    """What one step of a weight is worth."""
    weights: str
    """``TABLE_SIZE`` bytes, zlib, base64."""
    numbers: tuple[float, ...]
    """Weights of the standardised counts, in the order of ``route_features.NUMBERS``."""
    tag_step: float = 0.0
    """What one step of the tag's weight is worth; the caller's route tag counts more than one word of many."""


class RouteTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trained router as it is stored."""

    features: str = FEATURES_VERSION
    heads: tuple[Head, ...]
    centres: tuple[float, ...]
    """Mean of each count over the training prompts."""
    spreads: tuple[float, ...]
    """Standard deviation of each; never zero."""
    seen: str
    """``SEEN_SIZE`` bits: the words of the training prompts, zlib, base64."""
    coverage_min: float = 0.6
    """Prompts with a smaller share of known words are not judged: they go to the strong model."""
    card: dict[str, str] = {}
    """The model card: labels, seed, data digest, cross-fitted quality, date of the data."""

    @property
    def ref(self) -> str:
        """First 12 hex digits of the SHA-256 of the table's canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]


class Scores(NamedTuple):
    """What the router thinks of one prompt."""

    quality: tuple[tuple[str, float], ...]
    """(model, estimated chance of a good answer, 0 to 1), in the order of the heads."""
    coverage: float
    supported: bool
    """Enough of the prompt's words were seen in training for the scores to mean anything."""


class RouteModel:
    """A table, unpacked. Raises :class:`PolicyError` for a table of another features version or a damaged one."""

    def __init__(self, table: RouteTable) -> None:
        _check(table)
        self.table = table
        self.ref = table.ref
        self.models = tuple(head.model for head in table.heads)
        weights = [inflate(head.weights, TABLE_SIZE) for head in table.heads]
        self._weights = tuple(weights)
        self._seen = bits_to_bytes(inflate(table.seen, SEEN_SIZE // 8))
        self._linear = tuple(
            (head.model, head.step, raw, *_linear(head, table))
            for head, raw in zip(table.heads, weights, strict=True)
        )

    def scores(self, text: str, *, tag: str = "") -> Scores:
        """Estimated quality of every model on a prompt, clipped to 0..1."""
        return self.score(read(text), tag=tag)

    def score(self, features: Features, *, tag: str = "") -> Scores:
        """The same for features that are read already."""
        ids, scale, words, numbers = features
        zero = ZERO * len(ids)
        taken = itemgetter(*ids) if len(ids) > 1 else None  # one walk over the places in C, for each head
        found: list[tuple[str, float]] = []
        for model, step, weights, start, slopes in self._linear:
            total = sum(taken(weights)) if taken is not None else sum([weights[place] for place in ids])
            value = start + step * scale * (total - zero)
            if slopes:
                value += sum(map(mul, slopes, numbers))
            found.append((model, value))
        if tag:
            found = self._tagged(found, tag)
        found = [(model, 0.0 if value < 0.0 else 1.0 if value > 1.0 else value) for model, value in found]
        covered = coverage(words, self._seen)
        return Scores(tuple(found), covered, covered >= self.table.coverage_min)

    def _tagged(self, found: list[tuple[str, float]], tag: str) -> list[tuple[str, float]]:
        place = tag_place(tag)
        heads = zip(found, self.table.heads, self._weights, strict=True)
        return [(model, value + head.tag_step * (weights[place] - ZERO)) for (model, value), head, weights in heads]


def pack(raw: bytes) -> str:
    """Bytes as they stand in a table: zlib at a fixed level, base64."""
    return b64encode(zlib.compress(raw, 9)).decode()


def bytes_to_bits(flags: bytes) -> bytes:
    """One bit for each byte that is not zero, lowest bit first."""
    out = bytearray(len(flags) // 8)
    for place, flag in enumerate(flags):
        if flag:
            out[place >> 3] |= 1 << (place & 7)
    return bytes(out)


def bits_to_bytes(bits: bytes) -> bytes:
    """The reverse: a byte of 0 or 1 for each bit."""
    eights = [bytes((value >> place) & 1 for place in range(8)) for value in range(256)]
    return b"".join([eights[value] for value in bits])


def inflate(text: str, size: int) -> bytes:
    """The bytes that :func:`pack` made a text of. Raises :class:`PolicyError` unless they are ``size``."""
    try:
        reader = zlib.decompressobj()
        raw = reader.decompress(b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise PolicyError([f"the table is damaged: {error}"], source="route table") from error
    if len(raw) != size:
        raise PolicyError([f"the table is damaged: {len(raw)} bytes, {size} expected"], source="route table")
    return raw


def _linear(head: Head, table: RouteTable) -> tuple[float, tuple[float, ...]]:
    """(bias, slope per raw count): standardisation folded into the weights, so that a decision need not do it."""
    slopes = tuple(weight / spread for weight, spread in zip(head.numbers, table.spreads, strict=True))
    if not any(slopes):
        return head.bias, ()
    return head.bias - sum(slope * centre for slope, centre in zip(slopes, table.centres, strict=True)), slopes


def _check(table: RouteTable) -> None:
    problems = []
    if table.features != FEATURES_VERSION:
        problems.append(
            f"features is '{table.features}', this version reads '{FEATURES_VERSION}'; "
            "train again with 'farthing route train'"
        )
    if len(table.heads) < 2:
        problems.append("heads: at least two models are needed")
    if len({head.model for head in table.heads}) != len(table.heads):
        problems.append("heads: a model stands twice")
    for name, values in (("centres", table.centres), ("spreads", table.spreads)):
        if len(values) != len(NUMBERS) or not all(map(isfinite, values)):
            problems.append(f"{name}: {len(NUMBERS)} finite numbers are expected")
    if not all(spread > 0 for spread in table.spreads):
        problems.append("spreads: must be above zero")
    for head in table.heads:
        figures = (head.bias, head.step, head.tag_step, *head.numbers)
        if len(head.numbers) != len(NUMBERS) or not all(map(isfinite, figures)):
            problems.append(f"heads '{head.model}': {len(NUMBERS)} finite number weights are expected")
    if problems:
        raise PolicyError(problems, source="route table")
