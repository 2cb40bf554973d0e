"""Counting tokens before the provider does."""

from typing import Protocol

import msgspec


class TokenCount(msgspec.Struct, frozen=True, kw_only=True):
    """A count with its method and an upper bound that reservations may rely on."""

    tokens: int
    bound: int
    """No tokenizer of this model's family yields more."""
    method: str


class Tokenizer(Protocol):
    """Counts text; may take milliseconds for long text."""

    def count(self, text: bytes, *, model: str) -> TokenCount: ...
