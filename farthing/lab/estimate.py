"""What another model would have consumed: estimates from the log itself, with the error they carry.

A request that one model answered is estimated at another by two ratios: tokens per byte of prompt, and length of
answers under the request's own cap, both of prompts about as large. A request that nobody answered is estimated by
the same means of its model. Where the model has answered the same question elsewhere in the log, that is taken. Where
the log knows too few answers of a model a guess with a wide error stands in, and the interval says so.
"""

import math
from collections.abc import Callable, Iterable

from farthing.core.policy_routes import CascadeRules
from farthing.core.types import Exchange, Target, Usage, UsagePart
from farthing.engine.record import tokens_of
from farthing.lab.estimate_error import Error
from farthing.lab.estimate_interval import Interval, Reckoning
from farthing.lab.estimate_known import PRIOR_SPREAD, Known
from farthing.lab.estimate_moved import Booked, Moved, One, Sums
from farthing.lab.estimate_reads import CACHE_READ, Reading, read_of, rereads
from farthing.lab.estimate_seen import size_class, talk_of
from farthing.lab.estimate_verdicts import Drawings
from farthing.lab.replay_log import Logged
from farthing.lab.replay_provider import Drawn
from farthing.lab.replay_verdicts import Counts, Verdicts

__all__ = ["Booked", "Estimator", "Interval", "Late"]


class Estimator:
    """Learns from exchanges, then estimates. One per log."""

    def __init__(self) -> None:
        self._known = Known()
        self._sums = Sums()
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
            self._known.learn(exchange)
        return number

    def usage(self, logged: Logged, target: Target) -> Usage:
        """The request's likely usage at ``target``, marked ``estimated``."""
        view, known, model = logged.request.view, self._known, target.model
        cap, choices, at = _cap(logged), max(1, view.choices), size_class(view.body_bytes)
        told = known.told(logged.source.received_digest, model)
        if logged.kept and logged.usage is not None:
            taken = tokens_of(logged.usage)[0]
            return rereads(logged.usage, self._read(logged, model, taken).tokens)
        if logged.usage is not None and logged.model == model:
            taken, given = tokens_of(logged.usage)
        elif told is not None:
            taken, given = told[0], told[1] * choices
        elif logged.usage is None:  # it was refused or failed: only its size is known
            taken = round(view.body_bytes * known.input_of(model, at)[0])
            given = round(known.lengths(model, cap).mean(at) * choices)
        else:
            before, said = tokens_of(logged.usage)
            taken = round(before * known.input_ratio(logged.model, model, at)[0])
            given = round(self._elsewhere(logged.model, model, at, cap, said, choices))
        if cap is not None:
            given = min(given, cap * choices)
        read = self._read(logged, model, taken).tokens
        lines = tuple(line for line in (("input", taken - read), (CACHE_READ, read), ("output", given)) if line[1])
        return Usage(parts=(UsagePart(lines=lines, tier_basis=taken),), source="estimated", finish_reason="stop")

    def _read(self, logged: Logged, model: str, taken: int) -> Reading:
        """What of the prompt would come from the provider's cache."""
        if logged.held is not None:
            return self._known.reads.held(logged.source, model, taken, logged.held)
        if logged.usage is not None and logged.model == model:
            return Reading(read_of(logged.usage))
        return self._known.reads.of(logged.source, model, taken)

    def _elsewhere(self, source: str, model: str, at: int, cap: int | None, said: int, choices: int) -> float:
        """The length of an answer of which another model's is known."""
        known = self._known
        if cap is not None:
            said = min(said, cap * choices)
        if not known.measured(model):
            return said
        mean = known.lengths(model, cap).mean(at)
        usual = known.lengths(source, cap).mean(at) if known.measured(source) else 0.0
        return said * mean / usual if usual else mean * choices

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
        known, view = self._known, logged.request.view
        cap, choices, at = _cap(logged), max(1, view.choices), size_class(view.body_bytes)
        taken, given = tokens_of(usage)
        rate = output_nusd / given if given else 0.0
        if logged.kept:
            self._reread(logged, model, taken, at, input_nusd)
            return
        b = known.lengths(model, cap)
        one, spread = self._one(logged), rate * math.sqrt(choices)
        if self._told(logged, model, usage):
            repeats = known.repeats(model)
            deviation = b.deviation(at) if repeats is None else repeats
            self._sums.known(model, one.question or str(one.talk), spread * deviation)
            if logged.held is not None:
                self._reread(logged, model, taken, at, input_nusd)
            return
        source = logged.model if logged.usage is not None else ""
        moved = self._sums.moved.setdefault((source, model, at, cap), Moved())
        read = self._read(logged, model, taken)
        moved.own_input += read.variance * (1 + (2 * moved.count + 1) / read.sample)
        moved.count += 1
        moved.taken += taken
        moved.input_nusd += input_nusd
        moved.output_nusd += output_nusd
        moved.slope += rate * choices
        self._sums.varies(f"{source} {model}", model, one, spread * b.deviation(at), b.skew)
        if not source:
            moved.own_input += known.input_of(model, at)[1]
        elif known.measured(source) and known.measured(model):
            a = known.lengths(source, cap)
            moved.excess += output_nusd - rate * b.mean(at) * choices
            pair = f"{source} > {model}"
            relative = a.deviation(at) / a.mean(at) if a.mean(at) else 0.0
            self._sums.varies(pair, pair, one, spread * b.mean(at) * relative, 0.0)

    def _reread(self, logged: Logged, model: str, taken: int, at: int, input_nusd: int) -> None:
        """The answer is the log's; only what was read of its prompt is not known."""
        read = self._read(logged, model, taken)
        moved = self._sums.moved.setdefault((model, model, at, logged.request.view.output_tokens_max), Moved())
        moved.own_input += read.variance * (1 + (2 * moved.count + 1) / read.sample)
        moved.count += 1
        moved.taken += taken
        moved.input_nusd += input_nusd

    def _told(self, logged: Logged, model: str, usage: Usage) -> bool:
        """It was booked at what the model had said to the same question."""
        if logged.usage is not None and logged.model == model:
            return True
        if logged.answered_by and usage.model:
            return True
        return self._known.told(logged.source.received_digest, model) is not None

    def _one(self, logged: Logged) -> One:
        session, request = logged.request.scope.session, logged.request
        return One(logged.source.received_digest, talk_of(session, request.id), not session)

    def state(self) -> Booked:
        """What it has booked, for :meth:`restore`."""
        return self._sums.state()

    def restore(self, booked: Booked) -> None:
        """Goes on from there; for one that has booked nothing. What was learned is learned again from the log."""
        self._sums.restore(booked)

    def interval(self) -> Interval:
        """The prediction interval of the sum of everything booked, over all pairs of models."""
        error = Error()
        reckoning = Reckoning(self._known, self._sums, error)
        reckoning.add()
        self._drawings.into(error)
        priors = reckoning.priors
        if self._presumed:
            priors.add("similar questions are answered as they were under the policy of the log")
            error.guesses("similar", self._presumed * PRIOR_SPREAD)
        below, above = error.reach()
        shift = reckoning.shift
        return Interval(
            below=max(0, round(below - shift)), above=max(0, round(above + shift)), priors=tuple(sorted(priors))
        )


def _cap(logged: Logged) -> int | None:
    """What ends an answer: the caller's own cap, or a lower one that the replayed policy states."""
    own, stated = logged.request.view.output_tokens_max, logged.stated
    return own if stated is None else stated if own is None else min(own, stated)


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
