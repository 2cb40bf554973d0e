"""Labelled prompts for tests of routers: easy ones and hard ones that their words tell apart."""

import random

from farthing.lab.route_train import Labelled, LabelledSet

EASY = (
    "please", "translate", "greet", "thank", "list", "name", "colour", "city", "simple", "short", "word", "phrase",
    "hello", "thanks",
)  # fmt: skip
HARD = (
    "prove", "derive", "theorem", "integral", "eigenvalue", "recursion", "optimise", "concurrency", "lemma", "bound",
)  # fmt: skip
BOTH = ("the", "a", "of", "to", "and", "in", "is", "for", "with", "on", "that", "this", "it", "as", "are")


def labelled(count: int, seed: int = 0, *, tagged: bool = False) -> LabelledSet:
    """Easy prompts that both models answer, and hard ones that only the large one does; four in ten are hard."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        hard = chance.random() < 0.4
        words = chance.choices(HARD if hard else EASY, k=6) + chance.choices(BOTH, k=6)
        chance.shuffle(words)
        weak = 0.0 if hard and chance.random() < 0.9 else 1.0
        tag = ("maths" if hard else "chat") if tagged else ""
        rows.append(
            Labelled(prompt=" ".join(words), quality=(weak, 1.0), cost=(1_000, 20_000), tag=tag, id=str(number))
        )
    return LabelledSet(models=("gpt-4o-mini", "gpt-4o"), rows=tuple(rows))
