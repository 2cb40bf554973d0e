"""Offline token counts: OpenAI's encodings exactly, other families by a factor over them.

The factors and their source: measured against the families' own tokenizers and, for Claude, against billed usage.
The bound is what reservations use: it leaves room for the formatting that each string of a prompt can cost.
"""

import threading
from typing import Final, Protocol

from farthing.ports.tokens import TokenCount

_CL100K: Final = ("gpt-4-", "gpt-3.5", "text-embedding-", "text-davinci")
_FAMILIES: Final = (
    ("claude-2", 105, 140),
    ("claude", 120, 200),
    ("gemini", 110, 180),
    ("gemma", 110, 180),
    ("mistral", 108, 170),
    ("ministral", 108, 170),
    ("codestral", 108, 170),
    ("deepseek", 102, 150),
    ("qwen", 106, 160),
    ("llama", 102, 150),
    ("grok", 105, 170),
    ("command", 110, 180),
)
"""(name part, percent of o200k expected, percent that no text of ours has passed)."""


class _Encoding(Protocol):
    def count(self, text: str) -> int: ...


class BpeTokenizer:
    """Counts with the encodings of the ``rs-bpe`` package; loading takes a moment and happens at first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._encodings: dict[str, _Encoding] = {}

    def count(self, text: bytes, *, model: str) -> TokenCount:
        """Tokens of UTF-8 text for a model; invalid bytes count as replacement characters."""
        name = model.rpartition("/")[2].lower()
        old = name == "gpt-4" or name.startswith(_CL100K)
        encoding = "cl100k_base" if old else "o200k_base"
        tokens = self._encoding(encoding).count(text.decode("utf-8", "replace"))
        for part, expected, most in _FAMILIES:
            if part in name:
                return TokenCount(
                    tokens=-(-tokens * expected // 100),
                    bound=min(len(text), -(-tokens * most // 100)),
                    method=f"o200k_base×{expected}%",
                )
        return TokenCount(tokens=tokens, bound=tokens, method=encoding)

    def _encoding(self, name: str) -> _Encoding:
        with self._lock:
            found = self._encodings.get(name)
            if found is None:
                from rs_bpe.bpe import openai  # loading the ranks costs 0.3 s; most commands never count

                found = openai.o200k_base() if name == "o200k_base" else openai.cl100k_base()
                self._encodings[name] = found
            return found
