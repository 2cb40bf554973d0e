"""The simulated provider's price list and model cards, read from its own ``prices.json``.

Prices are typed by hand from the providers' public pages and shared with nothing else in Farthing. A price is an
``int`` of pico-USD per token ($1 per million tokens is 1_000_000).
"""

from decimal import Decimal
from functools import lru_cache
from importlib import resources

import msgspec

UNITS = ("input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "output")
"""Price columns; reasoning tokens are billed at ``output``."""


class RawModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of ``prices.json`` as written: prices are decimal strings in USD per million tokens."""

    id: str
    provider: str
    served: str
    kind: str = "chat"
    aliases: tuple[str, ...] = ()
    encoding: str = "o200k"
    token_percent: int = 100
    context: int
    output_max: int = 0
    cache_min: int = 0
    reasoning: bool = False
    image_base: int = 85
    image_tile: int = 170
    answer_median: int = 160
    ttft_ms: int = 400
    token_ms: int = 12
    dimensions: int = 0
    geo_us_bp: int = 10_000
    long_from: int = 0
    prices: dict[str, dict[str, str]]


class RawCatalog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: where the prices were read, when, and the rows."""

    sources: dict[str, str]
    checked_on: str
    checked_against: str
    unit: str
    models: tuple[RawModel, ...]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One model the provider serves."""

    id: str
    provider: str
    served: str
    """The dated name answers carry in ``model``."""
    kind: str
    """``chat``, ``completion`` or ``embedding``."""
    encoding: str
    token_percent: int
    """Model tokens per 100 tokens of ``encoding`` (118 for the pseudo-Claude tokenizer)."""
    context: int
    output_max: int
    cache_min: int
    """Shortest cacheable prompt prefix in tokens; 0: no prompt cache."""
    reasoning: bool
    image_base: int
    image_tile: int
    answer_median: int
    ttft_ms: int
    token_ms: int
    dimensions: int
    geo_us_bp: int
    """Basis points for ``inference_geo: us``; 10_000 means the model has no regional price."""
    long_from: int
    """Prompts longer than this many tokens are re-priced whole by the ``long_*`` columns; 0: never."""
    prices: dict[str, dict[str, int]]
    """Tier (``default``, ``long_default``, ``flex`` ...) to unit to pico-USD per token."""

    def tokens(self, raw: int) -> int:
        """Model tokens for ``raw`` tokens of the base encoding, rounded half up."""
        return raw if self.token_percent == 100 else (raw * self.token_percent + 50) // 100

    def raw_cap(self, tokens: int) -> int:
        """The most base-encoding tokens that fit into ``tokens`` model tokens."""
        return tokens if self.token_percent == 100 else (tokens * 100 + 49) // self.token_percent


def _pico(text: str) -> int:
    value = Decimal(text) * 1_000_000
    if value != value.to_integral_value():
        raise ValueError(f"prices.json: {text!r} USD per million tokens is finer than a pico-dollar per token")
    return int(value)


def _card(raw: RawModel) -> Card:
    prices = {tier: {unit: _pico(text) for unit, text in row.items()} for tier, row in raw.prices.items()}
    unknown = {unit for row in prices.values() for unit in row} - set(UNITS)
    if unknown:
        raise ValueError(f"prices.json: {raw.id} names unknown price columns {sorted(unknown)}; use {UNITS}")
    fields = {name: getattr(raw, name) for name in raw.__struct_fields__ if name not in ("aliases", "prices")}
    return Card(**fields, prices=prices)


class Catalog:
    """Finds a model card by any name the provider accepts."""

    def __init__(self, raw: RawCatalog) -> None:
        self.checked_on = raw.checked_on
        self.cards = tuple(_card(row) for row in raw.models)
        self._by_name: dict[str, Card] = {}
        for row, card in zip(raw.models, self.cards, strict=True):
            for name in {row.id, row.served, *row.aliases}:
                if name in self._by_name:
                    raise ValueError(f"prices.json: two models answer to {name!r}")
                self._by_name[name] = card

    def find(self, provider: str, name: str) -> Card | None:
        """The card that answers to ``name`` at ``provider``; None: the provider has no such model."""
        card = self._by_name.get(name)
        return card if card is not None and card.provider == provider else None


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalog in the package; parsed once per process, immutable."""
    data = resources.files("farthing.sim").joinpath("prices.json").read_bytes()
    return Catalog(msgspec.json.decode(data, type=RawCatalog))
