"""What a prompt would cost: its tokens with their error, an answer's length as a range, and so a range of dollars."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from farthing.core.types import Charge, Usage, UsagePart
from farthing.core.units import INPUT, OUTPUT
from farthing.ports.tokens import TokenCount

ANSWERS_MIN: Final = 20
"""Answers of a model from which its own lengths are taken."""


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long answers are, in output tokens."""

    low: int
    likely: int
    high: int
    source: str
    """Where that is from, for people."""


ASSUMED: Final = Lengths(low=100, likely=300, high=1_000, source="assumed")

Rate = Callable[[Usage], Charge]


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt at one model. Amounts in nano-USD a call; None: no price is known."""

    input_tokens: int
    input_low: int
    input_high: int
    answer: Lengths
    low: int | None
    likely: int | None
    high: int | None
    fits: bool | None
    """Prompt and longest answer fit the model's window; None: its window is not known."""


def quote(counted: TokenCount, answer: Lengths, rate: Rate, *, window: int | None) -> Quote:
    """A quote; an error that was never measured widens the range to a third either way, within the sure bound."""
    error = 1 / 3 if counted.error is None else counted.error
    low = int(counted.tokens * (1 - error))
    high = min(counted.bound, math.ceil(counted.tokens * (1 + error)))
    return Quote(
        input_tokens=counted.tokens,
        input_low=low,
        input_high=max(high, counted.tokens),
        answer=answer,
        low=_cost(rate, low, answer.low),
        likely=_cost(rate, counted.tokens, answer.likely),
        high=_cost(rate, max(high, counted.tokens), answer.high),
        fits=None if window is None else max(high, counted.tokens) + answer.high <= window,
    )


def lengths_of(seen: Sequence[int], model: str) -> Lengths:
    """The middle and the middle four fifths of a model's own answers; assumed where there are too few."""
    if len(seen) < ANSWERS_MIN:
        return ASSUMED
    ordered = sorted(seen)
    at = [ordered[min(len(ordered) - 1, len(ordered) * part // 10)] for part in (1, 5, 9)]
    return Lengths(low=at[0], likely=at[1], high=at[2], source=f"{len(ordered)} answers of {model} in the log")


def _cost(rate: Rate, taken: int, given: int) -> int | None:
    lines = tuple((unit, many) for unit, many in ((INPUT, taken), (OUTPUT, given)) if many)
    return rate(Usage(source="estimated", parts=(UsagePart(lines=lines, tier_basis=taken),))).total
