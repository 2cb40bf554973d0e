"""Offline token counts: OpenAI's encodings exactly, other families by a factor over them.

The factors and their source: measured against the families' own tokenizers and, for Claude, against billed usage.
The bound is what reservations use: it leaves room for the formatting that each string of a prompt can cost.
"""

import threading
from typing import Final, Protocol

from farthing.ports.tokens import TokenCount

_CL100K: Final = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-", "text-davinci")
_OPENAI: Final = (
    *_CL100K,
    "gpt-",
    "chatgpt",
    "o1",
    "o3",
    "o4",
    "codex",
    "computer-use",
    "davinci",
    "babbage",
    "ft:gpt",
)
_FAMILIES: Final = (
    ("claude-2", 105, 140),
    ("opus-4-7", 153, 220),
    ("opus-4-8", 153, 220),
    ("opus-4.7", 153, 220),
    ("opus-5", 153, 220),
    ("sonnet-5", 153, 220),
    ("haiku-5", 153, 220),
    ("claude", 118, 200),
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
"""(name part, percent of o200k expected, percent that no text of ours has passed); the first that fits counts."""
_OTHERS: Final = (110, 200)
"""Of a family nobody has measured."""


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


def exact_encoding(model: str) -> str:
    """The encoding that this model's provider uses, when it is one we have; empty otherwise."""
    name = model.rpartition("/")[2].lower()
    if any(part in name for part, _, _ in _FAMILIES) or not name.startswith(_OPENAI):
        return ""
    return "cl100k_base" if name == "gpt-4" or name.startswith(_CL100K) else "o200k_base"


def family_factors(model: str) -> tuple[int, int]:
    """(percent of o200k expected, percent that is not passed) for models counted by their family."""
    name = model.rpartition("/")[2].lower()
    return next(((expected, most) for part, expected, most in _FAMILIES if part in name), _OTHERS)
