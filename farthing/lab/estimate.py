"""What another model would have consumed: estimates from the log itself, with the error they carry.

A request that one model answered is estimated at another by two ratios: tokens per byte of prompt, and length of
answers under the request's own cap, both of prompts about as large. A request that nobody answered is estimated by
the same means of its model. All of it comes from the answers in the log; where the log knows too few of them a prior
with a wide error stands in, and the estimate says so.
"""

import math
import random
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

import msgspec

from farthing.core.savings import student
from farthing.core.types import Exchange, Target, Usage, UsagePart
from farthing.core.units import INPUT_UNITS, OUTPUT_UNITS
from farthing.lab.replay_log import Logged

SAMPLES_MIN: Final = 30
"""Answers of a model below which its ratios are a prior."""
SAMPLES_KEPT: Final = 2_000
"""Lengths of answers kept of each model, drawn evenly."""
PRIOR_SPREAD: Final = 0.30
"""Standard deviation of the log of a ratio that nothing is known about."""
PRIOR_OUTPUT: Final = 250
"""Output tokens of an answer where nothing is known."""
ASKED_MAX: Final = 1_000_000
"""Questions that are told apart."""
ANY: Final = -1
Kind = tuple[str, int]
"""(model, power of two that the body's bytes are below; ``ANY``: of any size)."""
_LENGTH: Final = frozenset({"length", "max_tokens", "max_output_tokens"})


class Seen:
    """What the answers of one model say."""

    def __init__(self) -> None:
        self.count = 0
        self.sent = self.taken = self.sent2 = self.taken2 = self.both = 0
        """Sums of prompt bytes, of input tokens, of their squares and of their product."""
        self.lengths: list[int] = []
        """Output tokens of answers that ended by themselves."""
        self._whole = 0
        self._rng = random.Random(7)

    def add(self, sent: int, taken: int, given: int, *, cut: bool) -> None:
        """One answer; ``cut``: its cap ended it, so its length says little."""
        self.count += 1
        self.sent += sent
        self.taken += taken
        self.sent2 += sent * sent
        self.taken2 += taken * taken
        self.both += sent * taken
        if cut:
            return
        self._whole += 1
        if len(self.lengths) < SAMPLES_KEPT:
            self.lengths.append(given)
        else:
            place = self._rng.randrange(self._whole)
            if place < SAMPLES_KEPT:
                self.lengths[place] = given

    @property
    def per_byte(self) -> float:
        """Input tokens per byte of body."""
        return self.taken / self.sent if self.sent else 0.0

    @property
    def input_variance(self) -> float:
        """Of one request's input tokens about their estimate from its bytes."""
        rate = self.per_byte
        left = self.taken2 - 2 * rate * self.both + rate * rate * self.sent2
        return max(0.0, left / self.count) if self.count else 0.0

    def known(self) -> bool:
        """There are enough answers to say something."""
        return min(self.count, len(self.lengths)) >= SAMPLES_MIN


class Length(msgspec.Struct, frozen=True):
    """Answers of one model under a cap."""

    mean: float
    variance: float
    sample: int

    @property
    def error(self) -> float:
        """Relative standard error of the mean."""
        return math.sqrt(self.variance / self.sample) / self.mean if self.sample and self.mean else 0.0


class Moved(msgspec.Struct, kw_only=True):
    """Sums over requests that were estimated alike: what the error of their total is made of."""

    count: int = 0
    given: float = 0.0
    """Estimated output tokens."""
    output_nusd: float = 0.0
    input_nusd: float = 0.0
    taken: float = 0.0
    own: float = 0.0
    """Summed variance of single answers about their estimates, tokens²."""
    own_input: float = 0.0


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What an estimator has booked so far."""

    moved: tuple[tuple[Kind, Kind, int | None, Moved], ...]
    spreads: dict[int, float]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD to add to an estimated total: its 95 % prediction interval is [total − half, total + half]."""

    half: int
    priors: tuple[str, ...]
    """Pairs of models whose ratio is a prior, not a measurement."""


class Estimator:
    """Learns from exchanges, then estimates. One per log."""

    def __init__(self) -> None:
        self._seen: dict[Kind, Seen] = {}
        self._asked: set[int] = set()
        self._spreads: dict[int, float] = {}
        self._moved: dict[tuple[Kind, Kind, int | None], Moved] = {}
        self._lengths: dict[tuple[Kind, int | None], Length] = {}
        self.longest_ms = 0
        """The longest call of what was learned."""

    def learn(self, exchanges: Iterable[Exchange]) -> int:
        """Takes in whole answers with reported usage, others teach nothing; the number of exchanges."""
        number = 0
        for exchange in exchanges:
            number += 1
            self.longest_ms = max(self.longest_ms, exchange.latency_ms)
            usage = exchange.usage
            if exchange.outcome != "answered" or usage is None or usage.source != "reported" or not exchange.attempts:
                continue
            model, size = exchange.attempts[-1].model, exchange.view.body_bytes
            if self._again(exchange.received_digest, model):
                continue
            taken, given = _sums(usage)
            given //= max(1, exchange.view.choices)
            for kind in ((model, size.bit_length()), (model, ANY)):
                self._seen.setdefault(kind, Seen()).add(size, taken, given, cut=usage.finish_reason in _LENGTH)
        self._lengths.clear()
        return number

    def _again(self, digest: str, model: str) -> bool:
        """The same question to the same model was learned from: its answer says nothing new."""
        key = hash((digest, model))
        if not digest or key not in self._asked:
            if len(self._asked) >= ASKED_MAX:
                self._asked.clear()
            self._asked.add(key)
            return False
        return True

    def usage(self, logged: Logged, target: Target) -> Usage:
        """The request's likely usage at ``target``, marked ``estimated``; nothing is read from a prompt cache."""
        view = logged.request.view
        cap, choices = view.output_tokens_max, max(1, view.choices)
        source, wanted = self._kinds(logged, target.model)
        if logged.usage is None:  # it was refused or failed: only its size is known
            seen = self._seen.get(wanted)
            taken = round(view.body_bytes * (seen.per_byte if seen is not None and seen.known() else 0.25))
            given = round(self._length(wanted, cap).mean * choices)
        else:
            before, said = _sums(logged.usage)
            taken = round(before * self._input_ratio(source, wanted)[0])
            given = round(said * self._output_ratio(source, wanted, cap)[0])
            if cap is not None:
                given = min(given, cap * choices)
        lines = tuple(line for line in (("input", taken), ("output", given)) if line[1])
        return Usage(parts=(UsagePart(lines=lines, tier_basis=taken),), source="estimated", finish_reason="stop")

    def booked(self, logged: Logged, model: str, usage: Usage, input_nusd: int, output_nusd: int) -> None:
        """Remembers what an estimate was booked at; the interval is made of these."""
        source, wanted = self._kinds(logged, model)
        cap = logged.request.view.output_tokens_max
        moved = self._moved.setdefault((source, wanted, cap), Moved())
        taken, given = _sums(usage)
        moved.count += 1
        moved.given += given
        moved.taken += taken
        moved.output_nusd += output_nusd
        moved.input_nusd += input_nusd
        b = self._length(wanted, cap)
        choices = max(1, logged.request.view.choices)
        own = b.variance * choices
        if source[0]:
            a = self._length(source, cap)
            ratio = b.mean / a.mean if a.mean else 0.0
            own += ratio * ratio * a.variance * choices
        moved.own += self._more(logged.source.received_digest, model, math.sqrt(own))
        if not source[0] and wanted in self._seen:
            moved.own_input += self._seen[wanted].input_variance

    def _more(self, digest: str, model: str, spread: float) -> float:
        """The variance that one more answer adds: equal questions may well have equal answers, so theirs adds up."""
        if not digest:
            return spread * spread
        key = int.from_bytes(blake2b(f"{digest} {model}".encode("utf-8", "replace"), digest_size=7).digest())
        before = self._spreads.get(key, 0.0)
        if len(self._spreads) >= ASKED_MAX:
            self._spreads.clear()
        self._spreads[key] = before + spread
        return spread * (2 * before + spread)

    def state(self) -> Booked:
        """What it has booked, for :meth:`restore`."""
        moved = tuple([(*pair, sums) for pair, sums in self._moved.items()])
        return Booked(moved=moved, spreads=self._spreads)

    def restore(self, booked: Booked) -> None:
        """Goes on from there; for one that has booked nothing. What was learned is learned again from the log."""
        self._moved = {(source, wanted, cap): sums for source, wanted, cap, sums in booked.moved}
        self._spreads = booked.spreads

    def interval(self) -> Interval:
        """The prediction interval of the sum of everything booked, over all pairs of models.

        Errors of ratios are shared by all requests of a pair and add up; those of single answers are independent.
        """
        shared: dict[tuple[Kind, Kind], float] = {}
        variance, priors = 0.0, set()
        for (source, model, cap), moved in sorted(self._moved.items(), key=str):
            _, spread, known = self._output_ratio(source, model, cap)
            _, input_spread = self._input_ratio(source, model)
            if not known:
                priors.add(f"{source[0] or 'no answer'} → {model[0]}")
            pair = (source, model)
            shared[pair] = shared.get(pair, 0.0) + math.hypot(
                moved.output_nusd * spread, moved.input_nusd * input_spread
            )
            rate = moved.output_nusd / moved.given if moved.given else 0.0
            input_rate = moved.input_nusd / moved.taken if moved.taken else 0.0
            variance += moved.own * rate * rate + moved.own_input * input_rate * input_rate
        squares = [(one * one, self._freedom(*pair)) for pair, one in shared.items()]
        variance += sum(square for square, _ in squares)
        spent = sum(square * square / freedom for square, freedom in squares)
        times = student(variance * variance / spent if spent else 1e9, 0.95)
        return Interval(half=round(times * math.sqrt(variance)), priors=tuple(sorted(priors)))

    def _freedom(self, source: Kind, model: Kind) -> float:
        """Degrees of freedom of a pair's ratio: answers that it rests on, less one."""
        known = [self._seen[kind] for kind in (source, model) if kind in self._seen]
        return max(2.0, min((len(seen.lengths) for seen in known), default=3) - 1.0)

    def _kinds(self, logged: Logged, model: str) -> tuple[Kind, Kind]:
        """(what the log has, what is wanted): of prompts as large as this one where enough of either are known."""
        size = logged.request.view.body_bytes.bit_length()
        source = logged.model if logged.usage is not None else ""
        fine = (model, size), (source, size)
        if self._known(fine[0]) and (not source or self._known(fine[1])):
            return fine[1] if source else ("", size), fine[0]
        return (source, ANY), (model, ANY)

    def _length(self, kind: Kind, cap: int | None) -> Length:
        """Answers of a model that end by themselves or at ``cap``."""
        found = self._lengths.get((kind, cap))
        if found is None:
            seen = self._seen.get(kind)
            if seen is None or len(seen.lengths) < 2:
                mean = float(PRIOR_OUTPUT if cap is None else min(cap, PRIOR_OUTPUT))
                found = Length(mean=mean, variance=(mean * PRIOR_SPREAD) ** 2, sample=0)
            else:
                lengths = seen.lengths if cap is None else [min(one, cap) for one in seen.lengths]
                mean = sum(lengths) / len(lengths)
                variance = sum((one - mean) ** 2 for one in lengths) / (len(lengths) - 1)
                found = Length(mean=mean, variance=variance, sample=len(lengths))
            if len(self._lengths) > 10_000:
                self._lengths.clear()
            self._lengths[(kind, cap)] = found
        return found

    def _known(self, kind: Kind) -> bool:
        seen = self._seen.get(kind)
        return seen is not None and seen.known()

    def _output_ratio(self, source: Kind, model: Kind, cap: int | None) -> tuple[float, float, bool]:
        """(ratio of answer lengths, relative standard error, whether it was measured); no source: of the mean."""
        b = self._length(model, cap)
        if not source[0]:
            return 1.0, b.error if self._known(model) else PRIOR_SPREAD, self._known(model)
        if source[0] == model[0]:
            return 1.0, 0.0, True
        a = self._length(source, cap)
        if not self._known(source) or not self._known(model) or not a.mean:
            return 1.0, PRIOR_SPREAD, False
        return b.mean / a.mean, math.hypot(a.error, b.error), True

    def _input_ratio(self, source: Kind, model: Kind) -> tuple[float, float]:
        """(ratio of tokens per byte, relative standard error)."""
        b = self._seen.get(model)
        if b is None or not b.known() or not b.taken:
            return 1.0, 0.10
        error = math.sqrt(b.input_variance * b.count) / b.taken
        if not source[0]:
            return 1.0, error
        if source[0] == model[0]:
            return 1.0, 0.0
        a = self._seen.get(source)
        if a is None or not a.known() or not a.taken or not a.per_byte:
            return 1.0, 0.10
        return b.per_byte / a.per_byte, math.hypot(error, math.sqrt(a.input_variance * a.count) / a.taken)


class Late(Estimator):
    """An estimator that learns from a log when it is first asked, and not at all when it never is."""

    def __init__(self, log: Callable[[], Iterable[Exchange]]) -> None:
        super().__init__()
        self._log: Callable[[], Iterable[Exchange]] | None = log

    def usage(self, logged: Logged, target: Target) -> Usage:
        self._learn()
        return super().usage(logged, target)

    def booked(self, logged: Logged, model: str, usage: Usage, input_nusd: int, output_nusd: int) -> None:
        self._learn()  # a replay that goes on books what was estimated before
        super().booked(logged, model, usage, input_nusd, output_nusd)

    def restore(self, booked: Booked) -> None:
        if booked.moved:
            self._learn()
        super().restore(booked)

    def _learn(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            self.learn(log())


def _sums(usage: Usage) -> tuple[int, int]:
    taken = given = 0
    for part in usage.parts:
        for unit, quantity in part.lines:
            if unit in INPUT_UNITS:
                taken += quantity
            elif unit in OUTPUT_UNITS:
                given += quantity
    return taken, given
