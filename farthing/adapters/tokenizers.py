"""Offline token counts: OpenAI's encodings exactly, other families by a factor over them.

The factors and their source: measured against the families' own tokenizers and, for Claude, against billed usage.
The bound is what reservations use: it leaves room for the formatting that each string of a prompt can cost.
"""

import threading
from typing import Protocol

from farthing.core.encodings import exact_encoding as exact_encoding
from farthing.core.encodings import family_factors as family_factors
from farthing.ports.tokens import TokenCount


class _Encoding(Protocol):
    def count(self, text: str) -> int: ...


class BpeTokenizer:
    """Counts with the encodings of the ``rs-bpe`` package; loading takes a moment and happens at first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encodings: dict[str, _Encoding] = {}

    def count(self, text: bytes, *, model: str) -> TokenCount:
        """Tokens of UTF-8 text for a model; invalid bytes count as replacement characters."""
        encoding = exact_encoding(model)
        tokens = self.known(text.decode("utf-8", "replace"), encoding or "o200k_base")
        if encoding:
            return TokenCount(tokens=tokens, bound=tokens, method=encoding, error=0.0)
        expected, most = family_factors(model)
        return TokenCount(
            tokens=-(-tokens * expected // 100),
            bound=min(len(text), -(-tokens * most // 100)),
            method=f"o200k_base×{expected}%",
        )

    def known(self, text: str, encoding: str = "o200k_base") -> int:
        """Tokens in one of OpenAI's encodings."""
        return self._encoding(encoding).count(text)

    def _encoding(self, name: str) -> _Encoding:
        with self._lock:
            found = self._encodings.get(name)
            if found is None:
                from rs_bpe.bpe import openai  # loading the ranks costs 0.3 s; most commands never count

                found = openai.o200k_base() if name == "o200k_base" else openai.cl100k_base()
                self._encodings[name] = found
            return found
