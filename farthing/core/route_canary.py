"""The provider canary set: a few fixed prompts, asked again on a schedule, to notice models that change in silence.

Answers vary by themselves, so the set is asked twice at first: how often a model disagrees with itself is chance, and
only clearly more disagreement with the remembered answers is a change. A new version name is one at once. Pure.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from math import comb
from typing import NamedTuple

import msgspec

from farthing.core.cascade_checks import Answer, comparable
from farthing.core.rollout import CanaryPrint

PROMPTS_MIN = 10
"""Fewer could never tell a change from chance."""
PROMPTS_MAX = 200
CHANCE_MAX = 0.001
"""How rarely a model that did not change may be taken for one that did, each time the set is asked."""
_WORDS = re.compile(r"\w+")


class Changed(NamedTuple):
    """What is different about a model."""

    model: str
    why: str
    """``version:a->b`` or ``answers:differing/compared``."""


def print_of(answer: Answer) -> str:
    """Eight hex digits that equal answers share: by value where it can be compared, else by its words."""
    said = comparable(answer) or " ".join(_WORDS.findall(answer.text.casefold()))
    return blake2b(said.encode("utf-8", "replace"), digest_size=4).hexdigest()


def noise_of(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """(answers that differ, answers compared) of two askings; what was not answered is not compared."""
    both = [(one, other) for one, other in zip(first, second, strict=True) if one and other]
    return sum(one != other for one, other in both), len(both)


def change_of(before: CanaryPrint, after: CanaryPrint) -> Changed | None:
    """What changed between two askings; None: nothing that chance does not explain.

    Too few answers to compare (fewer than five) say nothing.
    """
    if before.version and after.version and before.version != after.version:
        return Changed(before.model, f"version:{before.version}->{after.version}")
    if len(before.prints) != len(after.prints):
        return None  # another set of prompts: this asking is what the next is compared with
    differing, compared = noise_of(before.prints, after.prints)
    if compared < 5 or more_than(before.noise, (differing, compared)) >= CHANCE_MAX:
        return None
    return Changed(before.model, f"answers:{differing}/{compared}")


def more_than(usual: tuple[int, int], now: tuple[int, int]) -> float:
    """The chance of so many differences or more if they were as likely as before (Fisher's exact test, one-sided)."""
    (few, of), (many, among) = usual, now
    whole, differing = of + among, few + many
    ways = comb(whole, among)
    found = sum(
        comb(differing, hits) * comb(whole - differing, among - hits)
        for hits in range(many, min(differing, among) + 1)
    )
    return found / ways if ways else 1.0


def read_prompts(data: bytes) -> tuple[str, ...]:
    """The prompts of a canary file: JSON Lines with ``prompt``. Raises :class:`ValueError` that names the line."""
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            fields = msgspec.json.decode(line, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number} is no JSON object: {error}") from None
        prompt = fields.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f'line {number} has no "prompt"')
        found.append(prompt)
    if not PROMPTS_MIN <= len(found) <= PROMPTS_MAX:
        raise ValueError(f"has {len(found)} prompts; {PROMPTS_MIN} to {PROMPTS_MAX} are expected, 50 are usual")
    return tuple(found)
