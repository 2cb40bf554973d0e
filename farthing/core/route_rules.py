"""Routers that need no training: the rules and scores that the field's guides give, as documented baselines.

None of them is a good router (``docs/concepts/routing.md`` has the figures); they are here because they are asked
for, because a caller's own tag beats all of them, and because a learned router must beat them to be worth its labels.
"""

import re
from typing import Literal, NamedTuple

Tier = Literal["simple", "medium", "complex"]

RULES_VERSION = "rules-1"
SHORT_TOKENS = 50
"""Fewer prompt tokens than this, and no tools, is "simple" (C132)."""
SIMPLE_BELOW, COMPLEX_FROM = 0.3, 0.7

_FACTUAL = re.compile(r"(?:what|when|where|who|which)(?:\s+(?:is|are|was|were)|['’]s|['’]re)\b")
_PROCEDURAL = re.compile(r"\b(?:how\s+(?:to|do\s+(?:i|we|you)|can\s+(?:i|we))|steps?|procedures?)\b")
_ANALYTICAL = re.compile(r"\b(?:how|why|explain|compare|analy[sz]e)\b")
_MULTI_STEP = re.compile(
    r"\b(?:compar(?:e|es|ing)|analy[sz](?:e|es|ing)|design(?:s|ing)?|implement(?:s|ing)?|evaluat(?:e|es|ing)"
    r"|recommend(?:s|ing)?|strategi[sz](?:e|es|ing))\b"
)
_CONTEXT = re.compile(r"\b(?:previous(?:ly)?|earlier|mentioned)\b")


class Complexity(NamedTuple):
    """What the scored heuristic makes of a prompt."""

    score: float
    """0 to 1."""
    tier: Tier
    kind: str
    """``factual``, ``procedural``, ``analytical`` or ``general``."""
    words: int
    multi_step: bool
    context: bool


def complexity(text: str) -> Complexity:
    """The scored heuristic (C137) with whole words instead of fragments (C138).

    "What's" counts as "what is"; "how to" is procedural before "how" makes it analytical; "show" is not "how". Words
    below 10 add 0.1, below 30 0.3, else 0.5; factual 0.1, analytical 0.5, other 0.3; several steps 0.3; reference to
    what was said before 0.2; at most 1. Below 0.3 is simple, from 0.7 complex.
    """
    plain = " ".join(text.lower().split())
    words = plain.count(" ") + 1 if plain else 0
    kind = _kind(plain)
    multi_step = _MULTI_STEP.search(plain) is not None
    context = _CONTEXT.search(plain) is not None
    tenths = 1 if words < 10 else 3 if words < 30 else 5
    tenths += {"factual": 1, "analytical": 5}.get(kind, 3)
    tenths += 3 * multi_step + 2 * context
    score = min(10, tenths) / 10
    tier: Tier = "simple" if score < SIMPLE_BELOW else "medium" if score < COMPLEX_FROM else "complex"
    return Complexity(score, tier, kind, words, multi_step, context)


def _kind(text: str) -> str:
    if _FACTUAL.match(text):
        return "factual"
    if _PROCEDURAL.search(text):
        return "procedural"
    return "analytical" if _ANALYTICAL.search(text) else "general"


def by_length(tokens: int, tools: int, *, short: int = SHORT_TOKENS) -> Tier:
    """Short and without tools is simple, everything else complex (C132)."""
    return "simple" if tokens < short and not tools else "complex"


def tier_word(answer: str) -> Tier | None:
    """The tier that a classifier's one-word answer names; None for anything else.

    Only a whole first word counts ("Simple." is simple; "not simple" and "simplest" are nothing): what is not
    understood goes to the strong model, never to the cheapest (C125, C149).
    """
    word = answer.strip().strip("\"'`*.:!").lower()
    return word if word in ("simple", "medium", "complex") else None  # type: ignore[return-value]


CLASSIFIER_PROMPT = (
    "Classify the user's request as 'simple', 'medium' or 'complex'.\n"
    "simple: factual lookups, formatting, translation, simple questions\n"
    "medium: summaries, analysis, moderate reasoning\n"
    "complex: several steps of reasoning, code, creative writing\n"
    "Answer with one word."
)
"""The instruction of the small-model classifier (C125)."""
