"""Which time to live pays on this log: the same prompts through each rule's cache, priced, writes included."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from farthing.core.money import PUSD_PER_NUSD
from farthing.core.prefix_cache import ANTHROPIC_1H, ANTHROPIC_5M, CacheRule, PrefixCache, cost_bp
from farthing.core.types import Exchange
from farthing.lab.doctor import RatesOf, ask_of

RULES: Final = (ANTHROPIC_5M, ANTHROPIC_1H)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule would save on the input of the prompts that need marks."""

    rule: CacheRule
    saved_nusd: int
    """Nano-USD, net of what writing costs; negative: it costs more than it saves."""


class TtlAdvice:
    """Watches a log go by, in order of arrival, and prices every rule on it."""

    def __init__(
        self, rates_of: RatesOf, needs_marks: Callable[[str], bool], rules: Sequence[CacheRule] = RULES
    ) -> None:
        """``needs_marks``: whether a provider lets callers choose the time to live."""
        self._rates_of = rates_of
        self._needs_marks = needs_marks
        self._rules = rules
        self._caches: dict[tuple[str, str, str], tuple[PrefixCache, ...]] = {}
        self._saved_pusd = [0] * len(rules)
        self.prompts = 0

    def watch(self, exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
        """Passes the exchanges on."""
        for exchange in exchanges:
            self._add(exchange)
            yield exchange

    def kept(self) -> tuple[Kept, ...]:
        """What each rule would save; empty when no prompt needed marks."""
        if not self.prompts:
            return ()
        return tuple(
            Kept(rule=rule, saved_nusd=saved // PUSD_PER_NUSD // 10_000)
            for rule, saved in zip(self._rules, self._saved_pusd, strict=True)
        )

    def _add(self, exchange: Exchange) -> None:
        ask = ask_of(exchange)
        if ask is None or not ask.size or not self._needs_marks(ask.provider):
            return
        rates = self._rates_of(ask.provider, ask.model)
        if rates is None or rates.read is None:
            return
        self.prompts += 1
        key = (ask.provider, ask.model, ask.owner)
        if key not in self._caches:
            self._caches[key] = tuple(PrefixCache(rule.of(ask.model)) for rule in self._rules)
        chain, names, sizes = "", [], []
        for section in ask.sections:
            chain = f"{chain}{section.digest}"
            names.append(hash(chain))
            sizes.append(ask.input_tokens * section.size // ask.size)
        for place, cache in enumerate(self._caches[key]):
            use = cache.use(names, sizes, ask.at_ms)
            self._saved_pusd[place] += rates.at(ask.input_tokens).input * (
                ask.input_tokens * 10_000 - cost_bp(cache.rule, ask.input_tokens, use)
            )
