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

from farthing.core.policy_routes import CascadeRules
from farthing.core.types import Exchange, Target, Usage, UsagePart
from farthing.core.units import INPUT_UNITS, OUTPUT_UNITS
from farthing.lab.estimate_error import Chance, Error, Sample, moments
from farthing.lab.estimate_verdicts import Drawings
from farthing.lab.replay_log import Logged
from farthing.lab.replay_provider import Drawn
from farthing.lab.replay_verdicts import Counts, Verdicts

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
_RUN: Final = 1_000
"""Names of strata of several sizes begin here."""
Kind = tuple[str, int]
"""(model, power of two that the body's bytes are below, or a run of several; ``ANY``: of any size)."""
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


def together(found: Iterable[Seen | None]) -> Seen:
    """What several say, as one."""
    whole = Seen()
    for one in found:
        if one is not None:
            for name in ("count", "sent", "taken", "sent2", "taken2", "both"):
                setattr(whole, name, getattr(whole, name) + getattr(one, name))
            whole.lengths.extend(one.lengths)
    return whole


class Length(msgspec.Struct, frozen=True):
    """Answers of one model under a cap."""

    mean: float
    variance: float
    sample: int
    third: float = 0.0
    """The third central moment."""

    @property
    def error(self) -> float:
        """Relative standard error of the mean."""
        return math.sqrt(self.variance / self.sample) / self.mean if self.sample and self.mean else 0.0


_NO_LENGTH: Final = Length(mean=0.0, variance=0.0, sample=0)


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
    own_third: float = 0.0
    """The third central moment of their sum, tokens³."""
    own_input: float = 0.0


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What an estimator has booked so far."""

    moved: tuple[tuple[Kind, Kind, int | None, Moved], ...]
    spreads: dict[int, float]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD about an estimated total: its 95 % prediction interval is [total − below, total + above]."""

    below: int
    above: int
    """More than ``below`` as a rule: a few answers are very long, and a log may happen to lack them."""
    priors: tuple[str, ...]
    """What rests on a guess and no measurement, in words."""

    @property
    def half(self) -> int:
        """Half of its width."""
        return (self.below + self.above) // 2

    def covers(self, truth: int, total: int) -> bool:
        """The truth is in it."""
        return total - self.below <= truth <= total + self.above


class Estimator:
    """Learns from exchanges, then estimates. One per log."""

    def __init__(self) -> None:
        self._seen: dict[Kind, Seen] = {}
        self._asked: set[int] = set()
        self._spreads: dict[int, float] = {}
        self._moved: dict[tuple[Kind, Kind, int | None], Moved] = {}
        self._lengths: dict[tuple[Kind, int | None], Length] = {}
        self._strata: dict[str, list[tuple[int, int]]] = {}
        self._verdicts = Verdicts()
        self._drawings = Drawings()
        self._presumed = 0
        self.longest_ms = 0
        """The longest call of what was learned."""

    def learn(self, exchanges: Iterable[Exchange]) -> int:
        """Takes in whole answers with reported usage, others teach nothing; the number of exchanges."""
        number = 0
        for exchange in exchanges:
            number += 1
            self.longest_ms = max(self.longest_ms, exchange.latency_ms)
            self._verdicts.learn(exchange)
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
        self._strata.clear()
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
            given = round(said * self._output_ratio(source, wanted, cap))
            if cap is not None:
                given = min(given, cap * choices)
        lines = tuple(line for line in (("input", taken), ("output", given)) if line[1])
        return Usage(parts=(UsagePart(lines=lines, tier_basis=taken),), source="estimated", finish_reason="stop")

    def verdicts(self, model: str, rules: CascadeRules) -> Counts:
        """What cascades of the log found of a model's answers, as these rules would have it."""
        return self._verdicts.of(model, rules)

    def drew(self, drawn: Drawn, digest: str) -> None:
        """Remembers a verdict that was drawn, on the question of this digest."""
        self._drawings.add(drawn, digest)

    def presumed(self, nusd: int) -> None:
        """Remembers an amount that hangs on whether a similar question answers a call."""
        self._presumed += nusd

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
        choices = max(1, logged.request.view.choices)
        b, a, ratio = self._lengths_of(source, wanted, cap)
        own = (b.variance + ratio * ratio * a.variance) * choices
        third = (b.third - ratio**3 * a.third) * choices
        spread = math.sqrt(own)
        before = self._asked_before(logged.source.received_digest, model, spread)
        moved.own += spread * (2 * before + spread)
        if own:
            moved.own_third += third / own**1.5 * ((before + spread) ** 3 - before**3)
        if not source[0] and wanted in self._seen:
            moved.own_input += self._seen[wanted].input_variance

    def _asked_before(self, digest: str, model: str, spread: float) -> float:
        """The deviations of a question's answers so far: equal questions may have equal answers, so theirs add up."""
        if not digest:
            return 0.0
        key = int.from_bytes(blake2b(f"{digest} {model}".encode("utf-8", "replace"), digest_size=7).digest())
        before = self._spreads.get(key, 0.0)
        if len(self._spreads) >= ASKED_MAX:
            self._spreads.clear()
        self._spreads[key] = before + spread
        return before

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

        Errors of means are shared by everything that rests on them; chance in single answers is independent.
        """
        error, priors = Error(), set()
        slopes: dict[Kind, dict[int | None, float]] = {}
        for (source, model, cap), moved in sorted(self._moved.items(), key=str):
            b, a, ratio = self._lengths_of(source, model, cap)
            if not self._measured(source, model):
                priors.add(f"{source[0] or 'no answer'} → {model[0]}")
                error.guesses(f"{source} {model}", moved.output_nusd * PRIOR_SPREAD)
            elif source[0] != model[0]:
                for kind, mean, sign in ((model, b.mean, 1), (source, a.mean, -1)):
                    if mean:
                        by_cap = slopes.setdefault(kind, {})
                        by_cap[cap] = by_cap.get(cap, 0.0) + sign * moved.output_nusd / mean
            rate = moved.output_nusd / moved.given if moved.given else 0.0
            variance, third = moved.own * rate * rate, moved.own_third * rate**3
            whole = b.variance + ratio * ratio * a.variance
            share = b.variance / whole if whole else 1.0
            error.varies_with(_name(model), Chance(variance * share, third))
            if share < 1:
                error.varies_with(_name(source), Chance(variance * (1 - share)))
            self._input_error(error, source, model, moved)
        for kind, by_cap in slopes.items():
            self._rests(error, kind, by_cap)
        self._drawings.into(error)
        if self._presumed:
            priors.add("similar questions are answered as they were under the policy of the log")
            error.guesses("similar", self._presumed * PRIOR_SPREAD)
        below, above = error.reach()
        return Interval(below=round(below), above=round(above), priors=tuple(sorted(priors)))

    def _rests(self, error: Error, kind: Kind, slopes: dict[int | None, float]) -> None:
        """Estimates rest on the mean length of a kind's answers, under one cap or several."""
        sign = 1 if sum(slopes.values()) >= 0 else -1
        lengths = self._seen[kind].lengths
        pulls = [
            sign * sum(slope * (one if cap is None else min(one, cap)) for cap, slope in slopes.items())
            for one in lengths
        ]
        parts: tuple[str, ...] = ()
        if kind[1] == ANY:
            parts = tuple([_name(one) for one in self._seen if one[0] == kind[0] and one[1] != ANY])
        error.rests_on(_name(kind), moments(pulls)[1], sign, parts=parts)

    def _input_error(self, error: Error, source: Kind, model: Kind, moved: Moved) -> None:
        """What tokens per byte contribute."""
        spread = self._input_ratio(source, model)[1]
        rate = moved.input_nusd / moved.taken if moved.taken else 0.0
        size = max(2, min((self._seen[one].count for one in (source, model) if one in self._seen), default=2))
        name = f"input {source} {model}"
        error.rests_on(name, Sample(size, spread * spread * size), moved.input_nusd)
        error.varies_with(name, Chance(moved.own_input * rate * rate))

    def _kinds(self, logged: Logged, model: str) -> tuple[Kind, Kind]:
        """(what the log has, what is wanted): of prompts as large as this one where enough of either are known."""
        size = logged.request.view.body_bytes.bit_length()
        source = logged.model if logged.usage is not None else ""
        stratum = self._stratum(model, size)
        if source and not (self._known((source, size)) and self._known((model, size))):
            stratum = ANY  # a ratio is of all sizes, or of one: two models' neighbouring sizes are not alike
        elif source:
            stratum = size
        return (source, stratum), (model, stratum)

    def _stratum(self, model: str, size: int) -> int:
        """The sizes that are taken together with this one.

        Each stratum is a run of sizes with enough answers, and every size is in one: a size of which too little is
        known goes with its neighbours, never with all, of which most are estimated on their own.
        """
        strata = self._strata.get(model)
        if strata is None:
            strata = self._strata[model] = self._divided(model)
        return next((name for last, name in strata if size <= last), strata[-1][1] if strata else ANY)

    def _divided(self, model: str) -> list[tuple[int, int]]:
        """(largest size, name) of each stratum, the smallest first; none: too little is known of the model."""
        sizes = sorted({size for name, size in self._seen if name == model and 0 <= size < _RUN})
        runs: list[list[int]] = []
        run: list[int] = []
        for size in sizes:
            run.append(size)
            if together([self._seen.get((model, one)) for one in run]).known():
                runs.append(run)
                run = []
        if not runs:
            return []
        runs[-1] += run
        for sizes in runs:
            if len(sizes) > 1:
                self._seen[(model, _named(sizes))] = together([self._seen.get((model, one)) for one in sizes])
        return [(sizes[-1], _named(sizes)) for sizes in runs]

    def _length(self, kind: Kind, cap: int | None) -> Length:
        """Answers of a model that end by themselves or at ``cap``."""
        found = self._lengths.get((kind, cap))
        if found is None:
            seen = self._seen.get(kind)
            if seen is None or len(seen.lengths) < 2:
                mean = float(PRIOR_OUTPUT if cap is None else min(cap, PRIOR_OUTPUT))
                found = Length(mean=mean, variance=(mean * PRIOR_SPREAD) ** 2, sample=0)
            else:
                mean, sample = moments(seen.lengths if cap is None else [min(one, cap) for one in seen.lengths])
                found = Length(mean=mean, variance=sample.variance, sample=sample.size, third=sample.third)
            if len(self._lengths) > 10_000:
                self._lengths.clear()
            self._lengths[(kind, cap)] = found
        return found

    def _known(self, kind: Kind) -> bool:
        seen = self._seen.get(kind)
        return seen is not None and seen.known()

    def _measured(self, source: Kind, model: Kind) -> bool:
        """How long a model's answers are, against those of the source, was measured."""
        return source[0] == model[0] or (self._known(model) and (not source[0] or self._known(source)))

    def _lengths_of(self, source: Kind, model: Kind, cap: int | None) -> tuple[Length, Length, float]:
        """(answers wanted, those that the log has, the ratio of their means); nothing and 0 without a source."""
        b = self._length(model, cap)
        if not source[0]:
            return b, _NO_LENGTH, 0.0
        a = self._length(source, cap)
        return b, a, b.mean / a.mean if a.mean else 0.0

    def _output_ratio(self, source: Kind, model: Kind, cap: int | None) -> float:
        """What a logged answer's length is multiplied by."""
        if source[0] == model[0] or not self._measured(source, model):
            return 1.0
        return self._lengths_of(source, model, cap)[2] or 1.0

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

    def verdicts(self, model: str, rules: CascadeRules) -> Counts:
        self._learn()
        return super().verdicts(model, rules)

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


def _named(sizes: list[int]) -> int:
    return sizes[0] if len(sizes) == 1 else _RUN * sizes[-1] + sizes[0]


def _name(kind: Kind) -> str:
    return f"{kind[0]} {kind[1]}"


def _sums(usage: Usage) -> tuple[int, int]:
    taken = given = 0
    for part in usage.parts:
        for unit, quantity in part.lines:
            if unit in INPUT_UNITS:
                taken += quantity
            elif unit in OUTPUT_UNITS:
                given += quantity
    return taken, given
