"""Today's ordinary rates of the price book, for pages that work bills out."""

from typing import Final

from farthing.core.errors import BadRequest
from farthing.core.price_book import PriceBook
from farthing.lab.tariff import Rates, rates_in_book

MODELS: Final = (
    "openai/gpt-4o", "openai/gpt-4o-mini", "openai/gpt-4.1", "openai/gpt-4.1-mini", "openai/gpt-4.1-nano",
    "anthropic/claude-opus-4-5", "anthropic/claude-sonnet-4-5", "anthropic/claude-haiku-4-5",
)  # fmt: skip
"""What forms offer, as far as the book has it."""


def known(book: PriceBook) -> tuple[str, ...]:
    """The models that forms offer."""
    return tuple(name for name in MODELS if _has(book, name))


def rates_of(book: PriceBook, name: str, at_ms: int) -> Rates:
    """Today's ordinary rates of ``provider/model``. Raises ``BadRequest`` for models without them."""
    provider, _, model = name.partition("/")
    resolved = book.resolve(provider, model)
    found = None if resolved is None else rates_in_book(book, resolved, at_ms)
    if found is None:
        raise BadRequest(f"'{name[:80]}' has no price for text in and out.", hint="Choose provider/model of Prices.")
    return found


def _has(book: PriceBook, name: str) -> bool:
    provider, _, model = name.partition("/")
    return book.resolve(provider, model) is not None
