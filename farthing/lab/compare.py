"""Sums of replays, kept apart by how sure they are, and what differs between two of them."""

import heapq
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, get_args

import msgspec

from farthing.core.types import Exchange, LedgerEntry, Usage
from farthing.engine.caching_books import CACHE_HIT
from farthing.lab.estimate import Booked, Estimator, Interval
from farthing.lab.replay_log import Logged, answering
from farthing.lab.replay_outcome import Fidelity, Outcome, input_nusd

CHANGED_MAX: Final = 20
FIDELITIES: Final[tuple[Fidelity, ...]] = get_args(Fidelity)
_LATENCY_EDGES_MS: Final = tuple(round(10 * 1.1**step) for step in range(150))
_USUAL_MS: Final = 32_768
_PLACES: Final = b"".join(
    bytes([place]) * (min(edge, _USUAL_MS - 1) - before)
    for place, (before, edge) in enumerate(pairwise((-1, *_LATENCY_EDGES_MS)))
    if before < _USUAL_MS - 1
)
"""``bisect_left`` of the edges, by latency, of those that are usual."""


class Part(msgspec.Struct, kw_only=True):
    """Requests of one fidelity."""

    requests: int = 0
    nusd: int = 0
    unpriced: int = 0
    """Requests with an entry whose price is unknown; their cost is in no sum."""


class Bill(msgspec.Struct, kw_only=True):
    """What a replay came to. Amounts of different fidelity are never added without saying so."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    cached: int = 0
    """Answered from a cache."""
    rerouted: int = 0
    """Answered by another model than the log's."""
    similar: int = 0
    """Answered with the answer to a similar question."""
    accepted: int = 0
    """Cheap answers that a cascade gave to the caller."""
    parts: dict[Fidelity, Part] = msgspec.field(default_factory=lambda: {name: Part() for name in FIDELITIES})
    by_model: dict[str, int] = msgspec.field(default_factory=dict)
    """Nano-USD by model served."""
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    """Refused requests by error."""
    latencies: list[int] = msgspec.field(default_factory=lambda: [0] * (len(_LATENCY_EDGES_MS) + 1))
    interval: Interval = msgspec.field(default_factory=lambda: Interval(below=0, above=0, priors=()))

    @property
    def nusd(self) -> int:
        """Nano-USD over every fidelity: say how much of it is estimated beside it."""
        return sum(part.nusd for part in self.parts.values())

    def share(self, fidelity: Fidelity) -> float:
        """The part of the bill that has this fidelity."""
        return self.parts[fidelity].nusd / self.nusd if self.nusd else 0.0

    def latency_ms(self, quantile: float) -> int:
        """A quantile of the latency of answered requests, to within a tenth."""
        wanted, passed = quantile * sum(self.latencies), 0
        for place, count in enumerate(self.latencies):
            passed += count
            if passed >= wanted and count:
                return _LATENCY_EDGES_MS[min(place, len(_LATENCY_EDGES_MS) - 1)]
        return 0


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One request whose cost differs from the log's."""

    request_id: str
    before_nusd: int
    after_nusd: int
    before: str
    """Model and outcome."""
    after: str
    fidelity: Fidelity


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Where a tally stands."""

    bill: Bill
    changed: tuple[Changed, ...]
    booked: Booked | None = None
    """What the estimator has booked."""


class Tally:
    """A sink for replays."""

    def __init__(self, estimator: Estimator | None = None) -> None:
        self._bill = Bill()
        self._plain: dict[Fidelity, dict[str, list[int]]] = {name: {} for name in FIDELITIES}
        """[answered, nano-USD] by model, of calls with one entry at a known price that are in no other sum yet."""
        self._refused: dict[Fidelity, dict[str, int]] = {name: {} for name in FIDELITIES}
        """Refused calls by error, in no other sum yet."""
        self._estimator = estimator
        self._changed: list[tuple[int, str, Changed]] = []
        self._least = -1
        """Changes of no more than that are not remembered."""

    @property
    def bill(self) -> Bill:
        """The sums as they stand."""
        bill = self._bill
        for fidelity, models in self._plain.items():
            part = bill.parts[fidelity]
            for model, (count, nusd) in models.items():
                bill.requests += count
                bill.answered += count
                part.requests += count
                part.nusd += nusd
                bill.by_model[model] = bill.by_model.get(model, 0) + nusd
            models.clear()
        for fidelity, errors in self._refused.items():
            for error, count in errors.items():
                bill.requests += count
                bill.parts[fidelity].requests += count
                self._failed("refused", error, count)
            errors.clear()
        return bill

    def __call__(self, outcome: Outcome) -> None:
        source = outcome.logged.source
        if not outcome.entries:
            self.unanswered(source, outcome.outcome, outcome.error, outcome.latency_ms, fidelity=outcome.fidelity)
            return
        amount = outcome.amount
        self._add(source, outcome.fidelity, amount)
        if outcome.outcome == "answered":
            hit = any(one.stage == "cache" and one.action == "hit" for one in outcome.decisions)
            self._answered(outcome.latency_ms, hit)
            self._bill.similar += any(one.reason == "semantic_hit" for one in outcome.decisions)
            self._bill.accepted += any((one.stage, one.action) == ("cascade", "accept") for one in outcome.decisions)
            moved = outcome.guesses.get(outcome.entries[-1].attempt, "")
            self._bill.rerouted += bool(moved and outcome.logged.model and moved != outcome.logged.model)
        else:
            self._failed(outcome.outcome, outcome.error)
        by_model = self._bill.by_model
        for entry in outcome.entries:
            by_model[entry.model] = by_model.get(entry.model, 0) + (entry.charge.total or 0)
            if outcome.guesses:
                self._estimated(outcome, entry)
        if self._estimator is not None and (outcome.drawn is not None or outcome.similar):
            _presumed(self._estimator, outcome)
        if amount is not None and amount != source.amount and source.amount is not None:
            self._remember(source, amount, outcome.entries[-1].model, outcome.outcome, outcome.fidelity)

    def answered(
        self, source: Exchange, model: str, total: int | None, fidelity: Fidelity, latency_ms: int, cached: bool
    ) -> None:
        """A call with one entry of this model at this charge; ``cached``: a cache answered it."""
        if total is None:
            self._add(source, fidelity, total)
            self._answered(latency_ms, cached)
            self._bill.by_model.setdefault(model, 0)
            return
        models = self._plain[fidelity]
        try:
            found = models[model]
        except KeyError:
            found = models[model] = [0, 0]
        found[0] += 1
        found[1] += total
        bill, before = self._bill, source.amount
        place = _PLACES[latency_ms] if latency_ms < _USUAL_MS else bisect_left(_LATENCY_EDGES_MS, latency_ms)
        bill.latencies[place] += 1
        if cached:
            bill.cached += 1
        if total != before and before is not None:
            change = total - before
            if change > self._least or -change > self._least:
                self._remember(source, total, model, "answered", fidelity)

    def estimated(
        self,
        logged: Logged,
        model: str,
        guess: str | None,
        usage: Usage,
        cost: tuple[int | None, int],
        fidelity: Fidelity,
        latency_ms: int,
    ) -> None:
        """A call with one entry of this model whose consumption was estimated at ``guess``; None: a cache knew it.

        ``cost``: nano-USD, and those of the input.
        """
        source, (total, taken) = logged.source, cost
        self._add(source, fidelity, total)
        self._answered(latency_ms, False)
        self._bill.rerouted += bool(guess and logged.model and guess != logged.model)
        by_model = self._bill.by_model
        by_model[model] = by_model.get(model, 0) + (total or 0)
        if guess is not None:
            self._guessed(logged, guess, usage, total, taken)
        if total is not None and total != source.amount and source.amount is not None:
            self._remember(source, total, model, "answered", fidelity)

    def unanswered(
        self, source: Exchange, outcome: str, error: str, latency_ms: int, *, fidelity: Fidelity = "exact"
    ) -> None:
        """A call without an entry."""
        if outcome == "refused":
            errors = self._refused[fidelity]
            errors[error] = errors.get(error, 0) + 1
        else:
            self._add(source, fidelity, 0)
            if outcome == "answered":  # nobody bills for it
                self._answered(latency_ms, False)
            else:
                self._failed(outcome, error)
        before = source.amount
        if before and before > self._least:
            self._remember(source, 0, "", outcome, fidelity)

    def changed(self) -> list[Changed]:
        """The requests that changed most, the largest change first."""
        return [one for _, _, one in sorted(self._changed, reverse=True)]

    def told(self) -> Told:
        """Where it stands, for :meth:`restore`."""
        booked = self._estimator.state() if self._estimator is not None else None
        return Told(bill=self.bill, changed=tuple(one for _, _, one in self._changed), booked=booked)

    def restore(self, told: Told) -> None:
        """Goes on from there; for a tally that has been told nothing."""
        self._bill = told.bill
        self._changed = [(abs(one.after_nusd - one.before_nusd), one.request_id, one) for one in told.changed]
        heapq.heapify(self._changed)
        self._least = -1 if len(self._changed) < CHANGED_MAX else self._changed[0][0]
        if self._estimator is not None and told.booked is not None:
            self._estimator.restore(told.booked)

    def finish(self) -> Bill:
        """The bill with its interval."""
        if self._estimator is not None:
            self._bill.interval = self._estimator.interval()
        return self.bill

    def _add(self, source: Exchange, fidelity: Fidelity, amount: int | None) -> None:
        self._bill.requests += 1
        part = self._bill.parts[fidelity]
        part.requests += 1
        if amount is None:
            part.unpriced += 1
        else:
            part.nusd += amount

    def _answered(self, latency_ms: int, cached: bool) -> None:
        bill = self._bill
        bill.answered += 1
        bill.latencies[bisect_left(_LATENCY_EDGES_MS, latency_ms)] += 1
        bill.cached += cached

    def _failed(self, outcome: str, error: str, count: int = 1) -> None:
        bill = self._bill
        if outcome != "refused":
            bill.failed += count
            return
        bill.refused += count
        reason = error.partition(":")[0]
        bill.refusals[reason] = bill.refusals.get(reason, 0) + count

    def _estimated(self, outcome: Outcome, entry: LedgerEntry) -> None:
        model = outcome.guesses.get(entry.attempt)
        if model is not None:
            charge = entry.charge
            self._guessed(outcome.logged, model, entry.usage, charge.total, input_nusd(charge))

    def _guessed(self, logged: Logged, model: str, usage: Usage, total: int | None, taken: int) -> None:
        if self._estimator is not None and total is not None:
            self._estimator.booked(logged, model, usage, taken, total - taken)

    def _remember(self, source: Exchange, amount: int, served: str, outcome: str, fidelity: Fidelity) -> None:
        before = source.amount or 0
        change = abs(amount - before)
        if change <= self._least:
            return
        was = answering(source)
        one = Changed(
            request_id=source.request_id,
            before_nusd=before,
            after_nusd=amount,
            before=f"{was.model if was is not None else '-'} {source.outcome}",
            after=f"{served or '-'} {outcome}",
            fidelity=fidelity,
        )
        heapq.heappush(self._changed, (change, source.request_id, one))
        if len(self._changed) > CHANGED_MAX:
            heapq.heappop(self._changed)
        if len(self._changed) == CHANGED_MAX:
            self._least = self._changed[0][0]


def _presumed(estimator: Estimator, outcome: Outcome) -> None:
    """What hangs on a verdict, or on a similar question, that another policy than the log's may see otherwise."""
    last = outcome.entries[-1]
    if outcome.drawn is not None:
        estimator.drew(outcome.drawn, outcome.logged.source.received_digest)
    if outcome.similar:
        estimator.presumed(last.baseline or 0 if last.charge.reason == CACHE_HIT else last.charge.total or 0)


def saved(before: Bill, after: Bill) -> Mapping[Fidelity, int]:
    """Nano-USD saved, by the fidelity of the after side; they sum to the difference of the bills.

    What the before side holds in other fidelities than ``exact`` is set against the same fidelity.
    """
    exactly = {name: -after.parts[name].nusd for name in FIDELITIES}
    for name in FIDELITIES:
        exactly[name] += before.parts[name].nusd
    return exactly


def merged(bills: Sequence[Bill]) -> Bill:
    """Bills of parts of one log as one. Intervals add up: what the estimates do not know is the same in all."""
    whole = Bill()
    for bill in bills:
        for name in ("requests", "answered", "refused", "failed", "cached", "rerouted", "similar", "accepted"):
            setattr(whole, name, getattr(whole, name) + getattr(bill, name))
        for fidelity, part in bill.parts.items():
            mine = whole.parts[fidelity]
            mine.requests += part.requests
            mine.nusd += part.nusd
            mine.unpriced += part.unpriced
        for counts, more in ((whole.by_model, bill.by_model), (whole.refusals, bill.refusals)):
            for key, amount in more.items():
                counts[key] = counts.get(key, 0) + amount
        whole.latencies = [a + b for a, b in zip(whole.latencies, bill.latencies, strict=True)]
    priors = {one for bill in bills for one in bill.interval.priors}
    below, above = (sum(getattr(bill.interval, side) for bill in bills) for side in ("below", "above"))
    whole.interval = Interval(below=below, above=above, priors=tuple(sorted(priors)))
    return whole
