"""Rates of an installation's models, by the provider at which they are asked."""

from collections.abc import Iterable

import msgspec

from farthing.config import ProviderSettings
from farthing.core.prefix_cache import ANTHROPIC_5M, OPENAI_AUTO, CacheRule
from farthing.core.price_book import PriceBook, Rate
from farthing.core.types import Charge, Target, Usage
from farthing.core.units import INPUT, INPUT_CACHE_READ
from farthing.lab.doctor import Rates
from farthing.lab.optimize import PriceOf
from farthing.lab.tariff import pico_usd, thresholds
from farthing.ports.prices import Prices


class BookRates:
    """Input rates and cache rules out of the price book, at one instant; see :data:`farthing.lab.doctor.RatesOf`."""

    def __init__(self, book: PriceBook, providers: Iterable[ProviderSettings], now_ms: int) -> None:
        self._book = book
        self._settings = {one.name: one for one in providers}
        self._now_ms = now_ms
        self._memo: dict[tuple[str, str], Rates | None] = {}

    def __call__(self, provider: str, model: str) -> Rates | None:
        key = (provider, model)
        if key not in self._memo:
            self._memo[key] = self._find(provider, model)
        return self._memo[key]

    def rule(self, provider: str, model: str) -> CacheRule:
        """The cache rule of a provider's family, with the model's own minimum."""
        return (ANTHROPIC_5M if self.needs_marks(provider) else OPENAI_AUTO).of(model)

    def needs_marks(self, provider: str) -> bool:
        """Anthropic caches up to marks that the caller sets."""
        known = self._settings.get(provider)
        return known is not None and known.kind == "anthropic"

    def _find(self, provider: str, model: str) -> Rates | None:
        known = self._settings.get(provider)
        owner = (known.price_as or known.name) if known is not None else provider
        named = dict(known.price_models).get(model, model) if known is not None else model
        resolved = self._book.resolve(owner, named)
        if resolved is None:
            return None
        rates = self._book.sheet(resolved, {}, self._now_ms).rates
        if INPUT not in rates:
            return None
        first, *longer = (_of_length(rates, tokens) for tokens in thresholds(rates, (INPUT, INPUT_CACHE_READ)))
        return msgspec.structs.replace(first, longer=tuple(longer))


def _of_length(rates: dict[str, Rate], tokens: int) -> Rates:
    return Rates(
        input=round(pico_usd(rates[INPUT], tokens)),
        read=round(pico_usd(rates[INPUT_CACHE_READ], tokens)) if INPUT_CACHE_READ in rates else None,
        from_tokens=tokens,
    )


def price_of(prices: Prices, providers: Iterable[ProviderSettings]) -> PriceOf:
    """What usage costs at a configured provider."""
    known = {one.name: one for one in providers}

    def price(usage: Usage, provider: str, model: str, at_ms: int) -> Charge:
        settings = known.get(provider)
        owner = (settings.price_as or settings.name) if settings is not None else provider
        named = dict(settings.price_models).get(model, "") if settings is not None else ""
        return prices.charge(
            usage, Target(provider=provider, price_as=owner, model=model, price_model=named), at_ms=at_ms
        )

    return price
