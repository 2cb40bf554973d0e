"""An experiment read from the books: every conversation with its arm, its whole cost and what came of it.

Entries are read once, in any order of arrival. A conversation's cost is everything that was booked for it: attempts,
routers, judges, embeddings, corrections. What an arm's calls would have cost under the baseline is their covariate.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from farthing.core.arms import Part
from farthing.core.experiment import STAGE, Arm, Experiment, block_of, in_washout, matches, unit_of
from farthing.core.savings import Conversation
from farthing.core.types import Decision, Exchange, LedgerEntry, Target, Usage, UsagePart
from farthing.core.units import INPUT
from farthing.ports.outcomes import Outcome
from farthing.ports.prices import Prices

CARRY_MS: Final = 86_400_000
"""A conversation that spoke this shortly before the experiment began had begun without it, and is left out."""
LEVER: Final = "lever:"
"""Beginning of ``Charge.reason`` in entries of what saving itself cost."""
SIMILAR_HIT: Final = "semantic_hit"
"""``Decision.reason`` of an answer to a similar question."""
_REMOVED: Final = "tokens_less_about"

Worth = Callable[[LedgerEntry, int], int | None]
"""Nano-USD of so many more input tokens in the call of an entry; None: no price is known."""


class Talk:
    """One conversation, or one block of a switchback."""

    __slots__ = (
        "aborted", "answered", "arm", "baseline", "before", "calls", "cost", "crossed", "failed", "good", "hits",
        "latency_ms", "logged", "refused", "reported", "retries", "similar", "unit", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arm: Arm | None = None
        self.unit = ""
        self.cost = self.baseline = self.calls = self.hits = self.similar = 0
        self.unknown: set[str] = set()
        """Entries whose cost or baseline is not known."""
        self.crossed = self.before = False
        self.logged = self.answered = self.failed = self.refused = self.aborted = self.retries = self.latency_ms = 0
        self.good = self.reported = 0

    @property
    def kept(self) -> bool:
        """It can be measured."""
        return not (self.crossed or self.before or self.unknown) and self.baseline > 0


class ArmReader:
    """Feeds on the books of one experiment; ``talks`` are its conversations."""

    def __init__(self, experiment: Experiment, *, since_ms: int, until_ms: int, worth: Worth) -> None:
        """``since_ms`` to ``until_ms``: what is looked at; the experiment's own limits bind too."""
        if experiment.stopped_ms is not None and experiment.stopped_ms > until_ms:
            experiment = msgspec.structs.replace(experiment, stopped_ms=None)  # nobody knew of it then
        over_ms = experiment.over_ms
        self.experiment = experiment
        self.since_ms = max(since_ms, experiment.starts_ms)
        self.until_ms = until_ms if over_ms is None else min(until_ms, over_ms)
        self.unassigned = 0
        """Calls of its time and scope that bear no arm: served by a worker that did not know of it yet."""
        self.policies: set[str] = set()
        self.removed = 0
        """Nano-USD of what levers took out of prompts, added to the covariate by its estimated length."""
        self._worth = worth
        self._talks: dict[str, Talk] = {}
        self._before: set[str] = set()
        self._requests: dict[str, str] = {}

    @property
    def reads_from_ms(self) -> int:
        """Entries from this instant on are wanted."""
        return self.experiment.starts_ms - CARRY_MS

    @property
    def talks(self) -> tuple[Talk, ...]:
        """Conversations of either arm."""
        for key in self._before & self._talks.keys():
            self._talks[key].before = True
        return tuple(talk for talk in self._talks.values() if talk.arm is not None)

    def entry(self, entry: LedgerEntry) -> None:
        """Counts one entry."""
        at_ms = entry.received_at_ms
        if at_ms < self.experiment.starts_ms:
            if entry.scope.session and self.experiment.kind == "holdout":
                self._before.add(self._key(entry))
            return
        if not self._counts(at_ms):
            return
        note = note_of(entry.decisions, self.experiment.name)
        if note is None and not (entry.corrects or is_lever(entry)):
            self.unassigned += matches(self.experiment, entry.scope)
            return
        if note is None and not matches(self.experiment, entry.scope):
            return
        talk = self._talk(self._key(entry))
        if note is not None:
            _assign(talk, note)
            if entry.policy_ref:
                self.policies.add(entry.policy_ref)
        self._add(talk, entry)

    def exchange(self, exchange: Exchange) -> None:
        """Counts one request of the traffic log: how it ended and how long it took."""
        if not self._counts(exchange.received_at_ms):
            return
        note = note_of(exchange.decisions, self.experiment.name)
        if note is None:
            return
        key = self._key(exchange)
        self._requests[exchange.request_id] = key
        talk = self._talk(key)
        _assign(talk, note)
        talk.logged += 1
        talk.latency_ms += exchange.latency_ms if exchange.outcome == "answered" else 0
        talk.retries += max(0, len(exchange.attempts) - 1)
        setattr(talk, exchange.outcome, getattr(talk, exchange.outcome) + 1)

    def outcome(self, outcome: Outcome) -> None:
        """Counts one outcome, after entries and exchanges were read."""
        key = f"session:{outcome.session}" if outcome.session else self._requests.get(outcome.request_id, "")
        if self.experiment.kind == "switchback":
            key = self._requests.get(outcome.request_id, "") or (
                f"block:{block_of(self.experiment, outcome.at_ms)}" if self._counts(outcome.at_ms) else ""
            )
        talk = self._talks.get(key)
        if talk is not None:
            talk.reported += 1
            talk.good += outcome.success

    def arm(self, arm: Arm) -> tuple[Talk, ...]:
        """The arm's conversations whose cost can be measured."""
        return tuple(talk for talk in self.everyone(arm) if talk.kept)

    def everyone(self, arm: Arm) -> tuple[Talk, ...]:
        """The arm's conversations, those too that cost nothing because their calls were refused or failed."""
        return tuple(talk for talk in self.talks if talk.arm == arm and not (talk.crossed or talk.before))

    def _add(self, talk: Talk, entry: LedgerEntry) -> None:
        total, baseline = entry.charge.total, entry.baseline
        if total is None or (baseline is None and not entry.corrects):
            talk.unknown.add(entry.id)
            return
        if entry.corrects and baseline is not None:
            talk.unknown.discard(entry.corrects)
        talk.cost += total
        talk.baseline += baseline or 0
        if entry.kind == "charge" and not is_lever(entry):
            talk.calls += 1
            talk.hits += entry.attempt == 0
            talk.similar += entry.attempt == 0 and any(one.reason == SIMILAR_HIT for one in entry.decisions)
            tokens = removed_tokens(entry)
            if tokens:
                worth = self._worth(entry, tokens) or 0
                talk.baseline += worth
                self.removed += worth

    def _counts(self, at_ms: int) -> bool:
        return self.since_ms <= at_ms < self.until_ms and not in_washout(self.experiment, at_ms)

    def _key(self, one: LedgerEntry | Exchange) -> str:
        if self.experiment.kind == "switchback":
            return f"block:{block_of(self.experiment, one.received_at_ms)}"
        kind, key = unit_of(one.scope, one.request_id)
        return f"{kind}:{key}"

    def _talk(self, key: str) -> Talk:
        found = self._talks.get(key)
        if found is None:
            found = self._talks[key] = Talk()
            found.unit = key.partition(":")[0]
        return found


class ArmSums(msgspec.Struct, frozen=True, kw_only=True):
    """One arm in figures."""

    conversations: int
    calls: int
    hits: int
    similar: int
    cost: int
    baseline: int
    logged: int
    answered: int
    failed: int
    refused: int
    aborted: int
    retries: int
    latency_ms: int
    reported: int
    good: int


def sums(talks: Iterable[Talk]) -> ArmSums:
    """The figures of conversations together."""
    found = tuple(talks)
    names = ArmSums.__struct_fields__[1:]
    return ArmSums(conversations=len(found), **{name: sum(getattr(talk, name) for talk in found) for name in names})


def costs(talks: Iterable[Talk]) -> tuple[Conversation, ...]:
    """Cost and repriced baseline of each conversation."""
    return tuple(Conversation(float(talk.cost), float(talk.baseline)) for talk in talks)


def bare_costs(talks: Iterable[Talk]) -> tuple[Conversation, ...]:
    """Cost of each conversation by itself, without the covariate."""
    return tuple(Conversation(float(talk.cost), 1.0) for talk in talks)


def covariates(talks: Iterable[Talk]) -> tuple[Conversation, ...]:
    """The covariate itself, call by call: what must be alike in both arms."""
    return tuple(Conversation(float(talk.baseline), float(talk.calls)) for talk in talks if talk.calls)


def parts(talks: Iterable[Talk], count: str, of: str) -> tuple[Part, ...]:
    """A rate's parts by conversation."""
    return tuple(Part(float(getattr(talk, count)), float(getattr(talk, of))) for talk in talks)


def is_lever(entry: LedgerEntry) -> bool:
    """The entry is what saving itself cost, not what was asked."""
    charge = entry.charge
    return charge.reason.startswith(LEVER) or (charge.total is None and entry.baseline == 0)


def removed_tokens(entry: LedgerEntry) -> int:
    """About how many tokens levers took out of the prompt of an entry."""
    return sum(
        int(value)
        for decision in entry.decisions
        if decision.stage == "levers"
        for name, value in decision.evidence
        if name == _REMOVED and value.isdigit()
    )


def note_of(decisions: tuple[Decision, ...], name: str) -> Decision | None:
    """The arm that an experiment gave a call."""
    for decision in decisions:
        if decision.stage == STAGE and ("experiment", name) in decision.evidence:
            return decision
    return None


def worth_of(prices: Prices) -> Worth:
    """What more input tokens would have cost in the call of an entry, by a price book."""

    def worth(entry: LedgerEntry, tokens: int) -> int | None:
        usage = Usage(source="estimated", parts=(UsagePart(lines=((INPUT, tokens),)),), model=entry.usage.model)
        return rated(prices, usage, entry)

    return worth


def rated(prices: Prices, usage: Usage, entry: LedgerEntry) -> int | None:
    """Nano-USD of another usage in the place of an entry's, at its model and instant; None: no price is known."""
    target = Target(provider=entry.provider, price_as=entry.price_as, model=entry.model)
    return prices.charge(usage, target, at_ms=entry.received_at_ms).total


def _assign(talk: Talk, note: Decision) -> None:
    arm: Arm = "control" if note.reason == "control" else "treated"
    if talk.arm is None:
        talk.arm = arm
    elif talk.arm != arm:
        talk.crossed = True
