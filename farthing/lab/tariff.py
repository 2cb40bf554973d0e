"""What a model's tokens cost for calculations: by length of the prompt, from a cache, in a batch, out of the book."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final

import msgspec

from farthing.core.price_book import PriceBook, Rate, Resolved
from farthing.core.units import INPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE_1H, INPUT_CACHE_WRITE_5M, OUTPUT

PUSD_PER_USD_PER_MILLION: Final = 1_000_000
"""Pico-USD per token in one USD per million tokens."""


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens of one model."""

    input: float
    output: float
    cache_read: float | None = None
    """None: the provider has no prompt cache, or its price is unknown."""
    cache_write_5m: float | None = None
    """None: writing costs the input rate (automatic caches)."""
    cache_write_1h: float | None = None
    from_tokens: int = 0
    """The shortest prompt, cached tokens included, of which every token costs this."""
    longer: tuple["Rates", ...] = ()
    """Rates of longer prompts, ascending by ``from_tokens``."""
    batch: "Rates | None" = None
    """Rates of the provider's batch API; None: not known."""

    def at(self, prompt_tokens: Fraction | float) -> "Rates":
        """The rates of a prompt of that length."""
        found = self
        for one in self.longer:
            if one.from_tokens <= prompt_tokens:
                found = one
        return found


def rates_in_book(book: PriceBook, resolved: Resolved, at_ms: int) -> Rates | None:
    """The ordinary rates of a model at an instant, and those of its batches; None without a price for text."""
    plain = _rates(book.sheet(resolved, {}, at_ms).rates)
    if plain is None:
        return None
    own = "batch" in book.values_of(resolved, "processing")
    batch = _rates(book.sheet(resolved, {"processing": "batch"}, at_ms).rates) if own else None
    return msgspec.structs.replace(plain, batch=batch)


def _rates(rates: dict[str, Rate]) -> Rates | None:
    if INPUT not in rates or OUTPUT not in rates:
        return None
    units = (INPUT, OUTPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE_5M, INPUT_CACHE_WRITE_1H)
    first, *longer = (_of_length(rates, tokens) for tokens in thresholds(rates, units))
    return msgspec.structs.replace(first, longer=tuple(longer))


def thresholds(rates: dict[str, Rate], units: Iterable[str]) -> list[int]:
    """Prompt lengths at which a price changes. What only tokens beyond a length cost is no step of the prompt."""
    return sorted({0, *(step[0] for unit in units if unit in rates for step in _steps(rates[unit]))})


def _steps(rate: Rate) -> Iterator[tuple[int, int, str]]:
    yield from rate.steps[:1] if rate.marginal else rate.steps


def pico_usd(rate: Rate, tokens: int) -> Fraction:
    """What one unit costs in a prompt of that length, in pico-USD."""
    price = next(price for begins, price, _ in reversed(tuple(_steps(rate))) if begins <= tokens or not begins)
    return Fraction(price * rate.numerator, rate.denominator)


def _of_length(rates: dict[str, Rate], tokens: int) -> Rates:
    def usd(unit: str) -> float | None:
        return float(pico_usd(rates[unit], tokens) / PUSD_PER_USD_PER_MILLION) if unit in rates else None

    return Rates(
        input=usd(INPUT) or 0.0,
        output=usd(OUTPUT) or 0.0,
        cache_read=usd(INPUT_CACHE_READ),
        cache_write_5m=usd(INPUT_CACHE_WRITE_5M),
        cache_write_1h=usd(INPUT_CACHE_WRITE_1H),
        from_tokens=tokens,
    )
