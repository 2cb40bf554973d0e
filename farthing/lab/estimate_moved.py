"""What a replay booked by estimate, summed up as far as the error of the total needs it.

Three things are summed of the calls that were moved to a model: how much their cost changes with the mean length of
its answers, how much chance their single answers bring, and how far the answers that the log has of them are from the
mean of all that their own model gave. Equal questions may have equal answers, and answers of one conversation are
alike, so the chance of those adds up before it is squared.
"""

import math
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

ASKED_MAX: Final = 1_000_000
"""Questions, and conversations, that are told apart."""
Moves = tuple[str, str, int, int | None]
"""(model whose answer the log has, model wanted, size class of the prompt, cap)."""


class One(NamedTuple):
    """Which question is asked, in which conversation."""

    question: str
    """Its digest; empty: not known."""
    talk: int
    alone: bool
    """It belongs to no conversation."""


class Moved(msgspec.Struct, kw_only=True):
    """Sums over requests that were estimated alike."""

    count: int = 0
    slope: float = 0.0
    """Nano-USD by which they change with each token of the mean length of answers."""
    output_nusd: float = 0.0
    excess: float = 0.0
    """Nano-USD that come from the log's own answers being longer than their model's mean."""
    input_nusd: float = 0.0
    taken: float = 0.0
    own_input: float = 0.0
    """Summed variance of single prompts about their estimates, tokens²."""


class Chances(msgspec.Struct, kw_only=True):
    """The chance in single answers, nano-USD²: were all different, and were those of a conversation the same."""

    apart: float = 0.0
    alike: float = 0.0
    third: float = 0.0
    """Third central moment of their sum, nano-USD³."""


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What an estimator has booked so far."""

    moved: tuple[tuple[Moves, Moved], ...]
    chances: dict[str, Chances]
    spreads: dict[int, float]
    told: dict[str, tuple[float, float]]


class Sums:
    """The sums of one replay."""

    def __init__(self) -> None:
        self.moved: dict[Moves, Moved] = {}
        self.chances: dict[str, Chances] = {}
        """By ``source model`` wanted; of the log's own answers: by ``source > model``."""
        self.told: dict[str, tuple[float, float]] = {}
        """By model, of questions that it had answered before: nano-USD², were all different, and by question."""
        self._spreads: dict[int, float] = {}

    def varies(self, name: str, among: str, one: One, deviation: float, skew: float) -> None:
        """One more answer, with this standard deviation in nano-USD and this skewness.

        ``among``: whose answers it may be alike to, those of the same question or conversation.
        """
        sums = self.chances.setdefault(name, Chances())
        before = self._before(f"q {one.question} {among}", deviation) if one.question else 0.0
        sums.apart += deviation * (2 * before + deviation)
        sums.third += skew * ((before + deviation) ** 3 - before**3)
        if not one.alone:
            before = self._before(f"t {one.talk} {among}", deviation)
        sums.alike += deviation * (2 * before + deviation)

    def of_talk(self, talk: int, among: str) -> float:
        """The summed deviations of a conversation's answers."""
        return self._spreads.get(_key(f"t {talk} {among}"), 0.0)

    def known(self, model: str, question: str, deviation: float) -> None:
        """A question that the model had answered before, with this deviation between two answers to it."""
        before = self._before(f"a {question} {model}", deviation)
        apart, alike = self.told.get(model, (0.0, 0.0))
        self.told[model] = (apart + deviation * deviation, alike + deviation * (2 * before + deviation))

    def _before(self, name: str, deviation: float) -> float:
        """The deviations so far of what has this name."""
        key = _key(name)
        before = self._spreads.get(key, 0.0)
        if len(self._spreads) >= ASKED_MAX:
            self._spreads.clear()
        self._spreads[key] = before + deviation
        return before

    def state(self) -> Booked:
        """What has been booked, for :meth:`restore`."""
        return Booked(moved=tuple(self.moved.items()), chances=self.chances, spreads=self._spreads, told=self.told)

    def restore(self, booked: Booked) -> None:
        """Goes on from there; for one that has booked nothing."""
        self.moved = dict(booked.moved)
        self.chances, self._spreads, self.told = booked.chances, booked.spreads, booked.told


def trusted(distance: float, variance: float, usual: float) -> tuple[float, float]:
    """(how much of a distance from the mean is taken for a difference, the variance of what that leaves open).

    Either the calls were drawn by chance, and the distance is chance of this ``variance``; or they are of another
    kind than the rest, which differs by ``usual`` (a standard deviation). Before one has looked, both are as likely
    (Bayes).
    """
    if variance <= 0 or not math.isfinite(variance):
        return 1.0, 0.0
    wide = usual * usual / variance
    whole = wide / (1 + wide)
    log_odds = distance * distance / variance * whole / 2 - math.log1p(wide) / 2
    chance = 1 / (1 + math.exp(-min(50.0, log_odds)))
    kept = chance * whole
    return kept, variance * kept + chance * (1 - chance) * (whole * distance) ** 2


def _key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=7).digest())
