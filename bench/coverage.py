"""How often the 95 % interval of an estimate holds the truth: made-up calls, where the estimator alone is at work.

A cell is a kind of traffic and a way in which calls come to be estimated. Lengths of answers are drawn for every
model, so that what the other policy costs is known. Prints for each cell how often the interval holds that, with the
95 % interval of this share itself (Wilson), how often the truth is above and below, and the interval's half-width.

``TRAFFIC`` is what the method was worked out on, ``HELD_OUT`` what it was not. Whole runs against the simulator are
in ``bench/prediction.py``.

Usage: python bench/coverage.py [--runs 200] [--calls 400] [--first 0] [--traffic talks,tails] [--moves route]
"""

import argparse
import math
import random
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from farthing.core.types import AttemptFact, Exchange, PromptView, Scope, Target, Usage, UsagePart
from farthing.lab.estimate import Estimator, Interval
from farthing.lab.replay_log import logged

INPUT = {"a": 2_500, "b": 150, "c": 2_000}
"""Nano-USD a token; calls move from ``a`` (and are logged at ``b`` where they fell back)."""
OUTPUT = {"a": 10_000, "b": 600, "c": 8_000}
REPEATED = 12
"""Questions that are asked again and again."""
Z = 1.96


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of traffic."""

    models: tuple[str, ...] = ("a", "a", "b", "c")
    lengths: tuple[int, int, int] = (190, 170, 200)
    """Median answers of the three models."""
    tail: float = 0.55
    """Standard deviation of the log of one answer; of ``pareto``: the tail index."""
    tails: tuple[float, ...] = ()
    """Each model's own, in its place."""
    shape: str = "lognormal"
    wants: tuple[float, ...] = (1.0,)
    """How long answers are that a conversation asks for, one of these."""
    trait: float = 0.0
    """Standard deviation of the log of what a conversation adds to that."""
    common: float = 0.0
    """Standard deviation of the log of what a question adds, at whatever model."""
    turns: int = 1
    again: float = 0.05
    small: float = 0.6
    """How long answers to the shortest prompts are, over the others."""
    grows: float = 0.0
    """Answers go with this power of the size of their prompt."""


TRAFFIC = {
    "plain": Traffic(again=0.3),
    "talks": Traffic(turns=8, wants=(0.2, 1, 1, 2)),
    "tails": Traffic(tail=1.0),
    "demand": Traffic(wants=(0.2, 1, 1, 2)),
    "uneven": Traffic(models=("a",) * 8 + ("b", "c"), again=0.3),
}
HELD_OUT = {
    "even": Traffic(tail=0.25, again=0.0),
    "heavier tails": Traffic(tail=1.3),
    "pareto": Traffic(shape="pareto", tail=3.0),
    "unlike models": Traffic(lengths=(300, 60, 900), again=0.2),
    "short talks": Traffic(turns=3, trait=0.6),
    "long talks": Traffic(turns=25, trait=0.6),
    "question decides": Traffic(common=0.8, tail=0.2),
    "grows": Traffic(grows=0.7, small=1.0, turns=4),
    "few of one": Traffic(models=("a",) * 17 + ("b",) * 2 + ("c",)),
    "unlike tails": Traffic(tails=(0.4, 0.9, 0.9)),
}
MOVES = ("refused", "route", "half", "team", "fallback", "all")
"""Refused in bursts; small prompts to another model; half of a model's calls; half of its conversations; another
model where one in three fell back; all of a model's calls."""


class Made(NamedTuple):
    """One call, and what it would come to at each model."""

    model: str
    size: int
    taken: int
    given: dict[str, int]
    talk: str
    question: str
    team: bool


class Found(NamedTuple):
    """One run, nano-USD."""

    guess: int
    truth: int
    interval: Interval


class _Talk:
    def __init__(self, name: str, kind: Traffic, rng: random.Random) -> None:
        self.name, self.model, self.turn, self.team = name, rng.choice(kind.models), 0, rng.random() < 0.5
        self.wants = rng.choice(kind.wants) * rng.lognormvariate(0, kind.trait)


def calls(kind: Traffic, number: int, seed: int) -> Iterator[Made]:
    """Questions to three models, alone or in conversations, some asked again and again."""
    rng = random.Random(seed)
    talks: list[_Talk] = []
    for at in range(number):
        if rng.random() < kind.again:
            which = rng.randrange(REPEATED)
            same = random.Random(f"{seed} {which}")
            given = _lengths(kind, 0.6, same)
            yield Made("b", 197 + (which > 9), 30, given, "", f"again {which}", False)
            continue
        if kind.turns == 1 or not talks or rng.random() < 1 / kind.turns:
            talks = [*talks, _Talk(f"s{at}", kind, rng)][-6:]
            talk = talks[-1]
        else:
            talk = rng.choice(talks)
        words = rng.randrange(5, 150)
        taken, size = 16 + words + talk.turn * 190, 94 + 5 * words + talk.turn * 550
        talk.turn += 1
        wants = talk.wants * (kind.small if taken < 40 else 1.0) * (size / 400) ** kind.grows
        wants *= rng.lognormvariate(0, kind.common)
        given = _lengths(kind, wants, rng)
        yield Made(talk.model, size, taken, given, talk.name if kind.turns > 1 else "", f"q{at}", talk.team)


def _lengths(kind: Traffic, wants: float, rng: random.Random) -> dict[str, int]:
    """An answer of every model."""
    tails = kind.tails or (kind.tail,) * 3
    return {
        model: max(1, round(wants * median * _drawn(kind.shape, tail, rng)))
        for model, median, tail in zip("abc", kind.lengths, tails, strict=True)
    }


def _drawn(shape: str, tail: float, rng: random.Random) -> float:
    """Of a distribution with median 1."""
    return rng.paretovariate(tail) / 2 ** (1 / tail) if shape == "pareto" else rng.lognormvariate(0, tail)


def run(kind: Traffic, move: str, number: int, seed: int) -> Found:
    """What is estimated, and what it comes to."""
    rng = random.Random(f"move {seed}")
    log, wanted, busy = [], [], False
    for at, one in enumerate(calls(kind, number, seed)):
        served, answered, goes = one.model, True, ""
        if move == "refused":
            busy = rng.random() < (0.75 if busy else 0.35)
            if busy and one.model != "b":
                answered, goes = False, one.model
        elif one.model == "a":
            if move == "fallback" and rng.random() < 0.3:
                served, goes = "b", "c"
            elif move == "route" and one.taken < 110:
                goes = "b"
            elif move == "all" or (move == "half" and rng.random() < 0.5) or (move == "team" and one.team):
                goes = "c"
        log.append(exchange(at, one, served, answered=answered))
        if goes:
            wanted.append((log[-1], goes, one))
    estimator = Estimator()
    estimator.learn(log)
    guess = truth = 0
    for source, model, one in wanted:
        usage = estimator.usage(logged(source), Target(provider="p", price_as="p", model=model))
        lines = dict(usage.parts[0].lines)
        taken, given = lines.get("input", 0) * INPUT[model], lines.get("output", 0) * OUTPUT[model]
        guess += taken + given
        truth += one.taken * INPUT[model] + one.given[model] * OUTPUT[model]
        estimator.booked(logged(source), model, usage, taken, given)
    return Found(guess, truth, estimator.interval())


def exchange(at: int, one: Made, served: str, *, answered: bool) -> Exchange:
    """What the log has of a call."""
    fact = AttemptFact(
        attempt=1, provider="p", model=served, status=200, started_at_ms=at, latency_ms=5, entry_id=f"{at}-1"
    )
    lines = (("input", one.taken), ("output", one.given[served]))
    usage = Usage(parts=(UsagePart(lines=lines),), source="reported", finish_reason="stop")
    return Exchange(
        request_id=str(at),
        received_at_ms=at,
        scope=Scope(session=one.talk),
        dialect="openai",
        view=PromptView(endpoint="chat", model=one.model, body_bytes=one.size),
        outcome="answered" if answered else "refused",
        status=200,
        attempts=(fact,) if answered else (),
        received_digest=one.question,
        usage=usage if answered else None,
    )


def wilson(hits: int, number: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, square = hits / number, Z * Z / number
    middle = (share + square / 2) / (1 + square)
    reach = Z * math.sqrt(share * (1 - share) / number + square / number / 4) / (1 + square)
    return middle - reach, middle + reach


def line(name: str, found: list[Found]) -> str:
    """One cell in words."""
    above = sum(one.truth > one.guess + one.interval.above for one in found)
    below = sum(one.truth < one.guess - one.interval.below for one in found)
    held = len(found) - above - below
    low, high = wilson(held, len(found))
    half = statistics.median(one.interval.half / one.truth for one in found)
    return (
        f"{name:28} {len(found):5} runs: held {held / len(found):6.1%} ({low:.1%} to {high:.1%}), "
        f"truth above {above / len(found):5.1%}, below {below / len(found):5.1%}, half-width {half:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--traffic", default=",".join({**TRAFFIC, **HELD_OUT}), help="kinds, with commas")
    parser.add_argument("--moves", default=",".join(MOVES), help="ways, with commas")
    given = parser.parse_args()
    for kind in given.traffic.split(","):
        for move in given.moves.split(","):
            runs = (
                run({**TRAFFIC, **HELD_OUT}[kind], move, given.calls, seed)
                for seed in range(given.first, given.first + given.runs)
            )
            print(line(f"{kind}, {move}", [one for one in runs if one.truth]), flush=True)


if __name__ == "__main__":
    main()
