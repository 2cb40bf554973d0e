"""Counting tokens before the provider does."""

from typing import Protocol

import msgspec


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """A count with its method and an upper bound that reservations may rely on."""

    tokens: int
    bound: int
    """No tokenizer of this model's family yields more."""
    method: str
    error: float | None = None
    """Mean relative error to expect; 0: exact; None: a family's factor, not measured here."""


class Tokenizer(Protocol):
    """Counts text; may take milliseconds for long text."""

    def count(self, text: bytes, *, model: str) -> TokenCount: ...


class UsageListener(Protocol):
    """Learns from what providers billed."""

    def heard(self, body: bytes, *, model: str, billed: int) -> None:
        """``billed`` input tokens for this request body. Returns at once; a listener that is behind drops it."""
        ...
