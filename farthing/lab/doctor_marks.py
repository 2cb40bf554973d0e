"""Where breakpoints of the prompt cache belong: the deepest point to which a feature's prompts still agree."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from farthing.core.types import Exchange
from farthing.lab.doctor import ask_of
from farthing.lab.rates import BookRates

CALLS_MIN: Final = 20
DEPTH_MAX: Final = 12
FAMILIES_MAX: Final = 200
CHAINS_MAX: Final = 4_000
REUSED_MIN: Final = 0.5
"""A prefix that less than half of the calls share with an earlier one is not worth a mark of its own."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one feature's prompts on one model should be marked."""

    feature: str
    provider: str
    model: str
    requests: int
    after: str
    """The section behind which the mark belongs, "" where no prefix is shared."""
    tokens: int
    """Tokens up to there, on average."""
    reused: float
    """Share of the calls whose prefix up to there an earlier one had."""
    marked: float
    """Share of the calls that come with marks."""
    needs_marks: bool
    too_short: bool
    """Shorter than the provider caches."""


class _Family(msgspec.Struct):
    requests: int = 0
    marked: int = 0
    chains: list[Counter[int]] = msgspec.field(default_factory=list)
    reached: list[int] = msgspec.field(default_factory=list)
    repeated: list[int] = msgspec.field(default_factory=list)
    tokens: list[int] = msgspec.field(default_factory=list)
    roles: list[Counter[str]] = msgspec.field(default_factory=list)


class Places:
    """Watches a log go by, in order of arrival. Memory is bounded."""

    def __init__(self, rates: BookRates) -> None:
        self._rates = rates
        self._families: OrderedDict[tuple[str, str, str], _Family] = OrderedDict()

    def watch(self, exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
        """Passes the exchanges on."""
        for exchange in exchanges:
            self._add(exchange)
            yield exchange

    def found(self) -> tuple[Place, ...]:
        """One place for each feature and model with enough calls, the most calls first."""
        places = [self._place(key, one) for key, one in self._families.items() if one.requests >= CALLS_MIN]
        return tuple(sorted(places, key=lambda one: (-one.requests, one.feature, one.model)))

    def _add(self, exchange: Exchange) -> None:
        ask = ask_of(exchange)
        if ask is None or not ask.size:
            return
        key = (exchange.scope.feature, ask.provider, ask.model)
        one = self._families.get(key)
        if one is None:
            if len(self._families) >= FAMILIES_MAX:
                return
            one = self._families[key] = _Family()
        one.requests += 1
        one.marked += bool(ask.marks)
        chain, size = 0, 0
        for depth, section in enumerate(ask.sections[:DEPTH_MAX]):
            chain, size = hash((chain, section.digest)), size + section.size
            if depth == len(one.chains):
                one.chains.append(Counter())
                one.roles.append(Counter())
                for counts in (one.reached, one.repeated, one.tokens):
                    counts.append(0)
            one.reached[depth] += 1
            one.repeated[depth] += one.chains[depth][chain] > 0
            one.tokens[depth] += ask.input_tokens * size // ask.size
            one.roles[depth][section.role] += 1
            if chain in one.chains[depth] or len(one.chains[depth]) < CHAINS_MAX:
                one.chains[depth][chain] += 1

    def _place(self, key: tuple[str, str, str], one: _Family) -> Place:
        feature, provider, model = key
        deepest = -1
        for depth, repeated in enumerate(one.repeated):
            if repeated / one.requests >= REUSED_MIN:
                deepest = depth
        shared = deepest >= 0
        tokens = one.tokens[deepest] // one.reached[deepest] if shared else 0
        role = one.roles[deepest].most_common(1)[0][0] if shared else ""
        return Place(
            feature=feature,
            provider=provider,
            model=model,
            requests=one.requests,
            after=f"section {deepest + 1} ({role})" if shared else "",
            tokens=tokens,
            reused=one.repeated[deepest] / one.requests if shared else 0.0,
            marked=one.marked / one.requests,
            needs_marks=self._rates.needs_marks(provider),
            too_short=shared and tokens < self._rates.rule(provider, model).minimum_tokens,
        )
