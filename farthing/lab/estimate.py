"""What another model would have consumed: estimates from the log itself, with the error they carry.

A request that was answered by one model is estimated at another by two ratios: tokens per byte of prompt, and length
of answers. Both come from the requests of the log that either model answered; where the log knows too few of them a
prior with a wide error stands in, and the estimate says so.
"""

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from farthing.core.types import Exchange, Target, Usage, UsagePart
from farthing.core.units import INPUT_UNITS, OUTPUT_UNITS
from farthing.lab.replay_log import Logged

SAMPLES_MIN: Final = 30
"""Answers of a model below which its ratios are a prior."""
PRIOR_SPREAD: Final = 0.30
"""Standard deviation of the log of a ratio that nothing is known about."""
Z95: Final = 1.959964


class Seen(msgspec.Struct, kw_only=True):
    """Sums over the answers of one model."""

    count: int = 0
    sent_bytes: int = 0
    taken: int = 0
    given: int = 0
    given_squares: int = 0

    @property
    def mean(self) -> float:
        """Output tokens per answer."""
        return self.given / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Of output tokens per answer."""
        if self.count < 2:
            return 0.0
        return max(0.0, (self.given_squares - self.given * self.given / self.count) / (self.count - 1))


class Moved(msgspec.Struct, kw_only=True):
    """Sums over requests that were estimated at another model: what the error of their total is made of."""

    count: int = 0
    given_logged: int = 0
    given_estimated: float = 0.0
    output_nusd: float = 0.0
    """Nano-USD of the estimated output."""
    input_nusd: float = 0.0


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD to add to an estimated total: its 95 % prediction interval is [total − half, total + half]."""

    half: int
    priors: tuple[str, ...]
    """Pairs of models whose ratio is a prior, not a measurement."""


class Estimator:
    """Learns from exchanges, then estimates. One per log."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self._moved: dict[tuple[str, str], Moved] = {}

    def learn(self, exchanges: Iterable[Exchange]) -> None:
        """Takes in whole answers with reported usage; others teach nothing."""
        for exchange in exchanges:
            usage = exchange.usage
            if exchange.outcome != "answered" or usage is None or usage.source != "reported" or not exchange.attempts:
                continue
            seen = self._seen.setdefault(exchange.attempts[-1].model, Seen())
            taken, given = _sums(usage)
            seen.count += 1
            seen.sent_bytes += exchange.view.body_bytes
            seen.taken += taken
            seen.given += given
            seen.given_squares += given * given

    def usage(self, logged: Logged, target: Target) -> Usage:
        """The request's likely usage at ``target``, marked ``estimated``; nothing is read from a prompt cache."""
        taken, given = _sums(logged.usage) if logged.usage is not None else (0, 0)
        source = logged.model
        if logged.usage is None:  # it was refused or failed: only its size is known
            taken = round(logged.request.view.body_bytes * self._per_byte(target.model))
            seen = self._seen.get(target.model)
            given = round(seen.mean) if seen is not None and seen.count else 0
        else:
            taken = round(taken * self._input_ratio(source, target.model))
            given = round(given * self._output_ratio(source, target.model)[0])
        cap = logged.request.view.output_tokens_max
        if cap is not None:
            given = min(given, cap * max(1, logged.request.view.choices))
        lines = tuple(line for line in (("input", taken), ("output", given)) if line[1])
        return Usage(parts=(UsagePart(lines=lines, tier_basis=taken),), source="estimated", finish_reason="stop")

    def booked(self, logged: Logged, model: str, usage: Usage, input_nusd: int, output_nusd: int) -> None:
        """Remembers what an estimate was booked at; the interval is made of these."""
        moved = self._moved.setdefault((logged.model, model), Moved())
        moved.count += 1
        moved.given_logged += _sums(logged.usage)[1] if logged.usage is not None else 0
        moved.given_estimated += _sums(usage)[1]
        moved.output_nusd += output_nusd
        moved.input_nusd += input_nusd

    def interval(self) -> Interval:
        """The prediction interval of the sum of everything booked, over all pairs of models."""
        variance, priors = 0.0, []
        for (source, model), moved in sorted(self._moved.items()):
            _, spread, known = self._output_ratio(source, model)
            if not known:
                priors.append(f"{source or 'no answer'} → {model}")
            rate = moved.output_nusd / moved.given_estimated if moved.given_estimated else 0.0
            ratio_part = (moved.output_nusd * spread) ** 2
            own = self._own_variance(source, model) * moved.count * rate * rate
            input_part = (moved.input_nusd * (0.02 if known else 0.10)) ** 2
            variance += ratio_part + own + input_part
        return Interval(half=round(Z95 * math.sqrt(variance)), priors=tuple(priors))

    def _output_ratio(self, source: str, model: str) -> tuple[float, float, bool]:
        """(ratio of answer lengths, relative standard error, whether it was measured)."""
        a, b = self._seen.get(source), self._seen.get(model)
        if a is None or b is None or min(a.count, b.count) < SAMPLES_MIN or not a.mean or not b.mean:
            return 1.0, PRIOR_SPREAD, False
        error = math.sqrt(a.variance / a.count / a.mean**2 + b.variance / b.count / b.mean**2)
        return b.mean / a.mean, error, True

    def _own_variance(self, source: str, model: str) -> float:
        """Variance of one request's real answer about its estimate, in tokens²."""
        a, b = self._seen.get(source), self._seen.get(model)
        if b is None or b.count < 2:
            return a.variance if a is not None else 0.0
        ratio = b.mean / a.mean if a is not None and a.mean else 0.0
        return b.variance + ratio * ratio * (a.variance if a is not None else 0.0)

    def _input_ratio(self, source: str, model: str) -> float:
        a, b = self._known_per_byte(source), self._known_per_byte(model)
        return b / a if a and b else 1.0

    def _per_byte(self, model: str) -> float:
        """Tokens per byte of request body; a quarter where nothing is known."""
        return self._known_per_byte(model) or 0.25

    def _known_per_byte(self, model: str) -> float:
        """Tokens per byte as seen; 0 with too few answers to say."""
        seen = self._seen.get(model)
        if seen is None or seen.count < SAMPLES_MIN or not seen.sent_bytes:
            return 0.0
        return seen.taken / seen.sent_bytes


def _sums(usage: Usage) -> tuple[int, int]:
    taken = given = 0
    for part in usage.parts:
        for unit, quantity in part.lines:
            if unit in INPUT_UNITS:
                taken += quantity
            elif unit in OUTPUT_UNITS:
                given += quantity
    return taken, given
