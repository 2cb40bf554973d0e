"""Opportunities in where and when calls are made: cheaper models of the same log, and the providers' batch prices."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

import msgspec

from farthing.core.types import Exchange, Usage, UsagePart
from farthing.core.units import INPUT, INPUT_UNITS, OUTPUT, OUTPUT_UNITS
from farthing.lab.optimize import Opportunity, PriceOf, Seen

CALLS_MIN: Final = 20
"""Answers that a model must have given to be thought of for others' calls."""
BURST_MIN: Final = 30
"""Calls of one feature in one hour, none streamed and none with tools, that look like a job."""
_SAID: Final = frozenset({"batch", "deferrable", "offline"})
_HOUR_MS: Final = 3_600_000
_UNITS: Final = {INPUT: INPUT_UNITS, OUTPUT: OUTPUT_UNITS}


class Models:
    """What each model's calls would have cost at the cheapest other model that this traffic uses."""

    def __init__(self, price_of: PriceOf) -> None:
        self._price_of = price_of
        self._calls: Counter[tuple[str, str, str]] = Counter()
        self._nusd: Counter[tuple[str, str, str]] = Counter()
        self._tokens: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._at_ms = 0

    def see(self, seen: Seen) -> None:
        if not seen.answered or not seen.input_nusd + seen.output_nusd:
            return
        key = (seen.provider, seen.model, seen.exchange.view.endpoint)
        self._calls[key] += 1
        self._nusd[key] += seen.nusd
        self._tokens[key][0] += seen.input_tokens
        self._tokens[key][1] += seen.output_tokens
        self._at_ms = max(self._at_ms, seen.exchange.received_at_ms)

    def found(self) -> Iterator[Opportunity]:
        for key, nusd in self._nusd.items():
            model, endpoint = key[1:]
            best: tuple[int, str] | None = None
            for other in self._calls:
                if other[:2] == key[:2] or other[2] != endpoint or self._calls[other] < CALLS_MIN:
                    continue
                cost = self._at(other, self._tokens[key])
                if cost is not None and (best is None or cost < best[0]):
                    best = (cost, other[1])
            if best is None or endpoint == "embeddings":
                continue
            yield Opportunity(
                kind="cheaper_model",
                of=model,
                nusd=nusd - best[0],
                sure="estimated",
                requests=self._calls[key],
                evidence=(
                    f"the same tokens at {best[1]} cost {best[0] / max(1, nusd):.0%}; "
                    "an upper bound: all calls, no cache, equal lengths"
                ),
                risk="high",
                effort="high",
                try_=f"farthing eval with {model} and {best[1]}, then a route with a rollout: quality decides",
            )

    def _at(self, other: tuple[str, str, str], tokens: list[int]) -> int | None:
        lines = tuple((unit, many) for unit, many in zip((INPUT, OUTPUT), tokens, strict=True) if many)
        usage = Usage(source="estimated", parts=(UsagePart(lines=lines),))
        return self._price_of(usage, other[0], other[1], self._at_ms).total


class Deferrable:
    """Calls that nobody waits for: those that say so, and bursts of one feature without streams or tools."""

    def __init__(self, price_of: PriceOf) -> None:
        self._price_of = price_of
        self._bursts: Counter[tuple[str, int]] = Counter()
        self._burst_nusd: Counter[tuple[str, int]] = Counter()
        self._said = self._said_nusd = 0

    def see(self, seen: Seen) -> None:
        exchange = seen.exchange
        usage = exchange.usage
        view = exchange.view
        if not seen.answered or usage is None or view.stream or view.tools or usage.service_tier == "batch":
            return
        batch = msgspec.structs.replace(usage, service_tier="batch", stated_pusd=None)
        charge = self._price_of(batch, seen.provider, seen.model, exchange.received_at_ms)
        if charge.total is None or charge.total >= seen.nusd:
            return
        if says_so(exchange):
            self._said += 1
            self._said_nusd += seen.nusd - charge.total
        elif not exchange.scope.session and not exchange.scope.user:
            place = (seen.feature, exchange.received_at_ms // _HOUR_MS)
            self._bursts[place] += 1
            self._burst_nusd[place] += seen.nusd - charge.total

    def found(self) -> Iterator[Opportunity]:
        jobs = [place for place, calls in self._bursts.items() if calls >= BURST_MIN]
        nusd = self._said_nusd + sum(self._burst_nusd[place] for place in jobs)
        calls = self._said + sum(self._bursts[place] for place in jobs)
        if calls:
            names = ", ".join(sorted({feature or "(no feature)" for feature, _ in jobs})[:3]) or "-"
            yield Opportunity(
                kind="batch",
                nusd=nusd,
                sure="repriced",
                requests=calls,
                evidence=(
                    f"{self._said} calls say that they can wait; {calls - self._said} came in bursts without user, "
                    f"session, stream or tools: {names}"
                ),
                risk="none" if not jobs else "low",
                effort="medium",
                try_="send them to the provider's batch API: half the price, within 24 hours",
            )


def says_so(exchange: Exchange) -> bool:
    """A tag's name or value says that the call can wait."""
    return any(name in _SAID or value in _SAID for name, value in exchange.scope.tags)
