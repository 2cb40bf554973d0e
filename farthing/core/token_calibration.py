"""Learning how a model's provider counts tokens, from the usage that every answer reports.

Billed tokens are regressed on what can be counted here: tokens of a known encoding, characters of kinds that
tokenizers treat differently, strings that formatting wraps. One recursive least-squares step an answer; errors are
relative, so a long prompt weighs no more than a short one. Pure arithmetic on floats; nothing here is billed.
"""

import re
from typing import Final

import msgspec

SETTLED_AFTER: Final = 10
"""Answers before a learned estimate replaces the family's factor."""
_NAMES: Final = ("known", "digits", "wide", "other", "spaces", "blank", "marks", "letters", "words", "strings", "one")
"""The features: ``_features`` in order."""
_PRIOR_VARIANCES: Final = (0.05, 0.05, 0.25, 0.1, 0.05, 0.05, 0.05, 0.002, 0.05, 4.0, 100.0)
_NOISE: Final = 0.02**2
_WANDER: Final = 1e-5
"""Of its prior variance, how much less sure of a weight each answer leaves us: providers change tokenizers."""
_FORGET: Final = 0.999
_WIDE: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_SPACES: Final = re.compile(r"\s{2,}")
_MARKS: Final = re.compile(r"[^\w\s]")
_DIGITS: Final = re.compile(r"[0-9]")
_LETTERS: Final = re.compile(r"[A-Za-z]")
_WORDS: Final = re.compile(r"[A-Za-z]+")
_ASCII: Final = re.compile(r"[\x00-\x7f]+")


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """What of a text is counted, in characters unless it says otherwise."""

    known: int
    """Tokens of the reference encoding."""
    digits: int
    wide: int
    """Han, kana, hangul."""
    other: int
    """Other characters outside ASCII."""
    spaces: int
    """Runs of two or more."""
    blank: int
    """Their characters."""
    marks: int
    letters: int
    words: int
    """Runs of them."""
    strings: int
    """Strings that the prompt is made of."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one model's counting."""

    weights: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    answers: int = 0
    error: float = 0.0
    """Mean relative error of the last predictions, each made before its answer was known."""
    worst: float = 0.0
    """Largest share by which a settled prediction was too low, slowly forgotten."""


def sizes_of(text: str, *, known: int, strings: int) -> Sizes:
    """The features of a text; ``known`` is its count in the reference encoding."""
    runs = _SPACES.findall(text)
    wide = len(_WIDE.findall(text))
    outside = len(_ASCII.sub("", text))
    return Sizes(
        known=known,
        digits=len(_DIGITS.findall(text)),
        wide=wide,
        other=outside - wide,
        spaces=len(runs),
        blank=sum(map(len, runs)),
        marks=len(_MARKS.findall(text)),
        letters=len(_LETTERS.findall(text)),
        words=len(_WORDS.findall(text)),
        strings=strings,
    )


def fresh(factor: float) -> Calibration:
    """Nothing learned yet: the family's factor over the reference encoding."""
    size = range(len(_NAMES))
    return Calibration(
        weights=tuple(factor if i == 0 else 0.0 for i in size),
        covariance=tuple(tuple(_PRIOR_VARIANCES[i] if i == j else 0.0 for j in size) for i in size),
    )


def predicted(state: Calibration, sizes: Sizes) -> float:
    """Tokens that the provider will bill for this prompt; never fewer than one."""
    return max(1.0, sum(weight * value for weight, value in zip(state.weights, _features(sizes), strict=True)))


def observed(state: Calibration, sizes: Sizes, billed: int) -> Calibration:
    """The state after an answer that billed ``billed`` input tokens; others than positive are ignored."""
    if billed < 1 or sizes.known < 1:
        return state
    guess = predicted(state, sizes)
    miss = (billed - guess) / billed
    features = [value / billed for value in _features(sizes)]
    reach = [sum(a * b for a, b in zip(row, features, strict=True)) for row in state.covariance]
    scale = _NOISE + sum(a * b for a, b in zip(reach, features, strict=True))
    gain = [one / scale for one in reach]
    residual = 1.0 - sum(a * b for a, b in zip(state.weights, features, strict=True))
    if state.answers >= SETTLED_AFTER:  # one odd answer (hidden content, a provider's surcharge) must not unlearn
        bound = max(0.1, 5 * state.error)
        residual = max(-bound, min(bound, residual))
    weights = tuple(weight + one * residual for weight, one in zip(state.weights, gain, strict=True))
    covariance = tuple(
        tuple(
            value - pull * other + (_WANDER * _PRIOR_VARIANCES[i] if i == j else 0.0)
            for j, (value, other) in enumerate(zip(row, reach, strict=True))
        )
        for i, (row, pull) in enumerate(zip(state.covariance, gain, strict=True))
    )
    share = max(0.05, 1 / (state.answers + 1))
    worst = state.worst if state.answers < SETTLED_AFTER else max(miss, state.worst * _FORGET)
    return Calibration(
        weights=weights,
        covariance=covariance,
        answers=state.answers + 1,
        error=state.error + share * (abs(miss) - state.error),
        worst=worst,
    )


def upper(state: Calibration, sizes: Sizes, family: int) -> int:
    """A bound that reservations may rely on: the family's, widened where answers have shown that it is too low.

    It is never narrowed: a learned mean says little about the dearest prompt.
    """
    if state.answers < SETTLED_AFTER:
        return family
    margin = 1.05 + max(3 * state.error, state.worst)
    return max(family, int(predicted(state, sizes) * margin) + 1)


def _features(sizes: Sizes) -> tuple[float, ...]:
    return (
        float(sizes.known),
        float(sizes.digits),
        float(sizes.wide),
        float(sizes.other),
        float(sizes.spaces),
        float(sizes.blank),
        float(sizes.marks),
        float(sizes.letters),
        float(sizes.words),
        float(sizes.strings),
        1.0,
    )
