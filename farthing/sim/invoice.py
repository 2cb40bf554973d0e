"""The provider's own invoice: one line per call that consumed tokens, priced in integers.

Arithmetic: tokens × price (pico-USD per token), × basis points where a region has its own price, rounded half-even
to nano-USD **once per token class**; a line's amount is the sum of its classes. Reasoning and visible output are two
classes at the same price. The price tier depends on the served service tier and on the whole prompt's length.
"""

import os
from collections.abc import Iterator
from hashlib import sha256

import msgspec

from farthing.sim.catalog import Card

PICO_PER_NANO = 1_000
BASIS = 10_000


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Disjoint token classes of one call; their sum is what the provider reports as input plus output."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    """Visible output only."""
    reasoning: int = 0

    @property
    def prompt(self) -> int:
        """The whole prompt, whatever its cache state."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_5m + self.cache_write_1h

    @property
    def generated(self) -> int:
        """Visible and hidden output."""
        return self.output + self.reasoning


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One token class of an invoice line."""

    unit: str
    quantity: int
    price_pusd: int
    amount_nusd: int


class InvoiceLine(msgspec.Struct, frozen=True, kw_only=True):
    """One billed call."""

    id: str
    """The upstream id the answer carried (or would have carried)."""
    at: int
    """When the call arrived, ms since the epoch by the injected clock; decides its report bucket."""
    provider: str
    endpoint: str
    key: str
    """First 16 hex digits of the API key's SHA-256."""
    model: str
    """The served, dated name."""
    model_requested: str
    tier: str
    geo: str = ""
    tokens: Tokens
    images: int = 0
    charges: tuple[Charge, ...]
    amount_nusd: int
    stream: bool
    complete: bool
    """Generation reached its natural end."""
    delivered: bool
    """Every byte of the answer was handed to a connection that was still open."""
    fault: str = ""
    request: str = ""
    """The caller's own id of the call, from the ``request`` directive; attempts of one call share it."""
    long_context: bool = False


def key_hash(key: str) -> str:
    """How the invoice names an API key."""
    return sha256(key.encode()).hexdigest()[:16]


def _half_even(numerator: int, denominator: int) -> int:
    whole, rest = divmod(numerator, denominator)
    if rest * 2 > denominator or (rest * 2 == denominator and whole % 2):
        return whole + 1
    return whole


def served_tier(card: Card, wanted: str, prompt: int) -> str:
    """The tier the call is served at: ``wanted`` if the model prices it at this prompt length, else ``default``."""
    column = f"long_{wanted}" if card.long_from and prompt > card.long_from else wanted
    return wanted if column in card.prices else "default"


def rate(card: Card, tier: str, tokens: Tokens, geo: str = "") -> tuple[Charge, ...]:
    """The charges of ``tokens``; ``tier`` must come from :func:`served_tier`."""
    long = bool(card.long_from) and tokens.prompt > card.long_from
    prices = card.prices[f"long_{tier}" if long else tier]
    basis = card.geo_us_bp if geo == "us" else BASIS
    charges = []
    for unit in tokens.__struct_fields__:
        quantity = getattr(tokens, unit)
        if quantity:
            price = prices["output" if unit == "reasoning" else unit]
            amount = _half_even(quantity * price * basis, PICO_PER_NANO * BASIS)
            charges.append(Charge(unit=unit, quantity=quantity, price_pusd=price, amount_nusd=amount))
    return tuple(charges)


class Invoice:
    """All lines of one provider run, in billing order; optionally copied to an append-only file."""

    def __init__(self, file: str = "") -> None:
        self.lines: list[InvoiceLine] = []
        self.total_nusd = 0
        self._encoder = msgspec.json.Encoder()
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if file else -1

    def add(self, line: InvoiceLine) -> None:
        """Book ``line``; the file copy is with the operating system when this returns."""
        self.lines.append(line)
        self.total_nusd += line.amount_nusd
        if self._fd >= 0:
            os.write(self._fd, self._encoder.encode(line) + b"\n")

    def between(self, start_ms: int, end_ms: int | None = None) -> Iterator[InvoiceLine]:
        """Lines with ``start_ms <= at < end_ms``."""
        return (line for line in self.lines if line.at >= start_ms and (end_ms is None or line.at < end_ms))

    def clear(self) -> None:
        """Forget every line in memory; the file keeps them."""
        self.lines.clear()
        self.total_nusd = 0

    def close(self) -> None:
        """Close the file copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
