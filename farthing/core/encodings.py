"""Which models count tokens alike: OpenAI's encodings by name, other families by a factor over them."""

from functools import lru_cache
from typing import Final

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


@lru_cache(maxsize=4_096)
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
