"""What a log says of its models: how long their answers are, how they count prompts, what they said to a question."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from farthing.core.encodings import exact_encoding
from farthing.core.types import Exchange
from farthing.engine.record import tokens_of
from farthing.lab.estimate_error import moments
from farthing.lab.estimate_levels import At, Levels, smoothed, wandering
from farthing.lab.estimate_moved import ASKED_MAX
from farthing.lab.estimate_reads import Reads
from farthing.lab.estimate_seen import Answer, Seen, likeness, size_class, talk_of

SAMPLES_MIN: Final = 5
"""Answers of a model below which its ratios are a guess."""
ONCE_MIN: Final = 10
"""Questions that were asked once, below which the answers to others are looked at too."""
PAIRS_MIN: Final = 10
"""Repeated questions of a model below which nobody knows how much its answers to one question differ."""
PRIOR_SPREAD: Final = 0.30
"""Standard deviation of the log of a ratio that nothing is known about."""
PRIOR_OUTPUT: Final = 250
"""Output tokens of an answer where nothing is known."""
OWN_SPREAD: Final = 0.6
"""Relative standard deviation of a single answer where nothing is known."""
NEAR_MIN: Final = 30
"""Prompts of about one size, below which those of neighbouring sizes are looked at too."""
_PER_BYTE: Final = 0.25
"""Input tokens of a byte where nothing is known."""
MODELS_DIFFER: Final = 0.5
"""How much models differ in the spread of their answers: standard deviation of the log of the variance."""
_LENGTHS_MAX: Final = 10_000
_ROUNDS: Final = 3
"""Levels and profile are taken from each other until they agree, about."""
_LENGTH: Final = frozenset({"length", "max_tokens", "max_output_tokens"})


Given = Mapping[int, Sequence[float]]
"""Lengths of answers by size class of their prompts."""


class Shared(NamedTuple):
    """What the lengths of answers of all models have in common."""

    profile: Levels
    """Mean lengths by size class, over the model's level."""
    step: float
    """By how much models differ in that: see ``Levels``."""
    variance: float
    """Of an answer over the mean of its model and size."""
    third: float
    answers: float
    """How many they are taken from; those of a conversation count for fewer."""
    worth: float
    """How many of a model's own answers say as much about its spread as all models together: the heavier the tails,
    the less a few answers say.
    """


class Lengths:
    """Answers of one model under a cap, by size of the prompt: one level, times a profile that models share, times
    what sets this one apart.
    """

    def __init__(self, given: Given, shared: Shared, crowd: float) -> None:
        """``crowd``: how many answers are worth one, as they are alike."""
        profile = self._profile = shared.profile
        self._numbers = {at: len(some) for at, some in given.items()}
        self.count = sum(self._numbers.values())
        self._base = sum([number * profile.at(at) for at, number in self._numbers.items()])
        self._level = sum(map(sum, given.values())) / self._base
        over = _over(given, profile, self._level)
        self.own = self.count / (self.count + shared.worth * crowd)
        """How much of what is known of its spread comes from its own answers, and not from all models'."""
        noise = self.own * within(over) + (1 - self.own) * shared.variance
        found = at_classes(over)
        self._levels = smoothed(found, noise * crowd, shared.step)
        means = {at: self._levels.at(at) for at in over}
        left = [one / mean for at, mean in means.items() for one in over[at]]
        _, sample = moments(left)
        spent = sum([one.number * self._levels.variance({at: 1.0}) for at, one in found.items()])
        spent = max(1.0, min(spent / (noise * crowd) if noise else 1.0, self.count / 2))
        variance = sample.variance * (self.count - 1) / (self.count - spent)
        self._variance = self.own * variance + (1 - self.own) * shared.variance
        self._third = self.own * sample.third + (1 - self.own) * shared.third
        others = 1 - self.own
        self.doubt = MODELS_DIFFER**2 * others * (1 + others * shared.worth / shared.answers)
        """Of the variance: relative variance."""

    def mean(self, at: int) -> float:
        """Output tokens, where the prompt is of this size class."""
        return self._level * self._profile.at(at) * self._levels.at(at)

    def deviation(self, at: int) -> float:
        """Standard deviation of one answer."""
        return self.mean(at) * math.sqrt(self._variance)

    @property
    def skew(self) -> float:
        """Skewness of one answer."""
        return self._third / self._variance**1.5 if self._variance > 0 else 0.0

    def variance(self, slopes: Mapping[int, float]) -> float:
        """Of what changes so much with the mean of each size class."""
        own = {at: slope * self._profile.at(at) for at, slope in slopes.items()}
        part = sum(own.values()) / self._base
        shared = {at: slopes.get(at, 0.0) - part * self._numbers.get(at, 0) for at in {*slopes, *self._numbers}}
        return self._level**2 * (self._levels.variance(own) + self._profile.variance(shared))


class Guess:
    """Stands in for ``Lengths`` where too little is known."""

    count = 0
    doubt = 0.0
    own = 1.0
    skew = 0.0

    def __init__(self, cap: int | None) -> None:
        self._mean = float(PRIOR_OUTPUT if cap is None else min(cap, PRIOR_OUTPUT))

    def mean(self, at: int) -> float:
        """A guess."""
        return self._mean

    def deviation(self, at: int) -> float:
        """Of one answer."""
        return self._mean * OWN_SPREAD

    def variance(self, slopes: Mapping[int, float]) -> float:
        """The guess has an error of its own."""
        return 0.0


class Silent:
    """Stands in for ``Lengths`` of a model that never wrote a token: one that embeds."""

    own = 1.0
    doubt = 0.0
    skew = 0.0

    def __init__(self, count: int) -> None:
        self.count = count

    def mean(self, at: int) -> float:
        """No tokens."""
        return 0.0

    def deviation(self, at: int) -> float:
        """Of one answer."""
        return 0.0

    def variance(self, slopes: Mapping[int, float]) -> float:
        """Its answers are all alike."""
        return 0.0


class Repeats(msgspec.Struct):
    """How much a model's answers to one question differ."""

    pairs: int = 0
    squares: float = 0.0
    """Of differences of lengths, tokens²."""


class Known:
    """Learns from exchanges; everything else asks it."""

    def __init__(self) -> None:
        self.by_model: dict[str, dict[int, Seen]] = {}
        """By size class of the prompt."""
        self.reads = Reads()
        self._told: dict[int, tuple[int, int]] = {}
        """(input, output tokens) of a model's latest answer to a question."""
        self._repeats: dict[str, Repeats] = {}
        self._asked: set[int] = set()
        self._again_asked: set[int] = set()
        self._once: dict[str, dict[int, list[Answer]]] = {}
        self._lengths: dict[tuple[str, int | None], Lengths | Guess | Silent] = {}
        self._nearby: dict[tuple[str, int], Seen] = {}
        self._likeness: float | None = None
        self._most: int | None = None
        self._measured: dict[str, bool] = {}
        self._profiles: dict[int | None, Shared] = {}

    def learn(self, exchange: Exchange) -> None:
        """Takes in a whole answer with reported usage; others teach nothing."""
        usage, question = exchange.usage, hash(exchange.received_digest) if exchange.received_digest else 0
        self._ask(question)
        whole = exchange.outcome == "answered" and usage is not None and usage.source == "reported"
        model, size = exchange.attempts[-1].model if whole and exchange.attempts else "", exchange.view.body_bytes
        self.reads.learn(exchange, model)
        if usage is None or not model:
            return
        taken, given = tokens_of(usage)
        given //= max(1, exchange.view.choices)
        cut = usage.finish_reason in _LENGTH
        if self._again(exchange.received_digest, model, taken, given, cut=cut):
            return
        talk = talk_of(exchange.scope.session, exchange.request_id)
        seen = self.by_model.setdefault(model, {}).setdefault(size_class(size), Seen())
        seen.add(size, taken, Answer(given, talk, question), cut=cut)
        if self._lengths or self._nearby or self._once or self._measured:
            for memo in (self._lengths, self._nearby, self._profiles, self._once, self._measured):
                memo.clear()
            self._likeness = self._most = None

    def _ask(self, question: int) -> None:
        """Questions that are asked again are of another kind than those that are asked once."""
        if not question:
            return
        if question in self._asked:
            self._again_asked.add(question)
        elif len(self._asked) < ASKED_MAX:
            self._asked.add(question)

    def _again(self, digest: str, model: str, taken: int, given: int, *, cut: bool) -> bool:
        """The model has answered the same question before: that says how much its answers to one question differ."""
        if not digest:
            return False
        key = hash((digest, model))
        before = self._told.get(key)
        if before is None:
            if len(self._told) >= ASKED_MAX:
                self._told.clear()
        elif not cut:
            repeats = self._repeats.setdefault(model, Repeats())
            repeats.pairs += 1
            repeats.squares += (given - before[1]) ** 2
        if not cut:
            self._told[key] = (taken, given)
        return before is not None

    def told(self, digest: str, model: str) -> tuple[int, int] | None:
        """(input, output tokens of one choice) of a model's answer to this very question; None: the log has none."""
        return self._told.get(hash((digest, model))) if digest else None

    def repeats(self, model: str) -> float | None:
        """Standard deviation of an answer about what the model had said to the same question; None: too few said."""
        found = self._repeats.get(model)
        if found is None or found.pairs < PAIRS_MIN:
            return None
        return math.sqrt(found.squares / found.pairs / 2)

    def answers(self, model: str) -> Mapping[int, Sequence[Answer]]:
        """By size class: a model's answers to questions that were asked once; to all, where those are too few.

        What is asked again and again is another kind of question, and its answer is known.
        """
        found = self._once.get(model)
        if found is None:
            by_size = self.by_model.get(model, {})
            found = {at: seen.answers for at, seen in by_size.items() if seen.answers}
            once = {at: [one for one in some if one.question not in self._again_asked] for at, some in found.items()}
            if sum(map(len, once.values())) >= ONCE_MIN:
                found = {at: some for at, some in once.items() if some}
            self._once[model] = found
        return found

    def every(self, model: str) -> Iterator[Answer]:
        """Those answers, whatever the size."""
        for some in self.answers(model).values():
            yield from some

    def measured(self, model: str) -> bool:
        """Enough answers are known to say something."""
        found = self._measured.get(model)
        if found is None:
            found = self._measured[model] = sum(map(len, self.answers(model).values())) >= SAMPLES_MIN
        return found

    def lengths(self, model: str, cap: int | None) -> Lengths | Guess | Silent:
        """Answers of a model that end by themselves or at ``cap``."""
        found = self._lengths.get((model, cap))
        if found is None:
            if cap is not None and cap >= self._longest() and self.measured(model):  # no answer is cut by it
                found = self.lengths(model, None)
            else:
                found = self._lengths_of(model, cap)
            if len(self._lengths) > _LENGTHS_MAX:
                self._lengths.clear()
            self._lengths[(model, cap)] = found
        return found

    def _lengths_of(self, model: str, cap: int | None) -> Lengths | Guess | Silent:
        given = self._given(model, cap)
        if _number(given) < SAMPLES_MIN:
            return Guess(cap)
        if not _says(given):
            return Silent(_number(given))
        return Lengths(given, self._shared(cap), self.crowd(model))

    def _longest(self) -> int:
        """Tokens of the longest answer that is looked at."""
        if self._most is None:
            every = [some for model in self.by_model for some in self.answers(model).values()]
            self._most = max([max([one.given for one in some]) for some in every], default=0)
        return self._most

    def _given(self, model: str, cap: int | None) -> Given:
        every = self.answers(model).items()
        if cap is None:
            return {at: list(map(float, [one.given for one in some])) for at, some in every}
        return {at: [float(one.given if one.given < cap else cap) for one in some] for at, some in every}

    def _shared(self, cap: int | None) -> Shared:
        """What answers of all models under a cap have in common."""
        found = self._profiles.get(cap)
        if found is None:
            every = [self._given(model, cap) for model in self.by_model]
            every = [one for one in every if _number(one) >= SAMPLES_MIN and _says(one)]
            found = shared_profile(every, self.crowd(""))
            if len(self._profiles) > _LENGTHS_MAX:
                self._profiles.clear()
            self._profiles[cap] = found
        return found

    def crowd(self, model: str) -> float:
        """How many of a model's answers are worth one that is alone in its conversation; no name: of all models."""
        like = self.likeness()
        if not like:
            return 1.0
        names = [model] if model else list(self.by_model)
        sizes = Counter([one.talk for name in names for one in self.every(name)])
        return 1 + like * (sum([size * size for size in sizes.values()]) / sizes.total() - 1)

    def freedom(self, model: str) -> float:
        """Degrees of freedom of the variance of a model's mean."""
        doubt = self.lengths(model, None).doubt
        like = self.likeness()
        if like:
            crowd = self.crowd(model)
            share = 1 - (1 - like) / crowd
            talks = len({(name, one.talk) for name in self.by_model for one in self.every(name)})
            doubt += share * share * 2 / max(1, talks - len(self.by_model))
        return 2 / doubt if doubt > 0 else 1e9

    def mean_skew(self, model: str) -> float:
        """Skewness of the error of a model's mean, of which conversations are the independent parts."""
        lengths = self.lengths(model, None)
        talks: dict[int, float] = {}
        for at, some in self.answers(model).items():
            mean = lengths.mean(at)
            for one in some if mean else ():
                talks[one.talk] = talks.get(one.talk, 0.0) + one.given / mean - 1
        square, cube = (sum([one**power for one in talks.values()]) for power in (2, 3))
        found = cube / square**1.5 if square > 0 else 0.0
        others = lengths.skew / math.sqrt(max(1, len(talks)))
        return lengths.own * found + (1 - lengths.own) * others

    def likeness(self) -> float:
        """The share of the variance of lengths that is between conversations, from 0 to 1; over all models."""
        if self._likeness is None:
            more = sum(map(self._more, self.by_model))
            self._likeness = 0.0 if more < 2 else likeness(self._apart().values())  # as there: too few say nothing
        return self._likeness

    def _more(self, model: str) -> int:
        """How many of a model's answers are not the first of their conversation."""
        every = self.answers(model).values()
        return sum(map(len, every)) - len({one.talk for some in every for one in some})

    def _apart(self) -> dict[tuple[str, int], list[float]]:
        """By model and conversation: how far answers are from the mean of their size."""
        groups: dict[tuple[str, int], list[float]] = {}
        for model in self.by_model:
            for some in self.answers(model).values():
                mean = sum([one.given for one in some]) / len(some)
                for one in some if mean else ():
                    groups.setdefault((model, one.talk), []).append(one.given / mean - 1)
        return groups

    def input_ratio(self, source: str, model: str, at: int) -> tuple[float, float]:
        """(ratio of tokens per byte, relative standard error); models of one tokenizer count alike."""
        if source and counts_alike(source, model):
            return 1.0, 0.0
        b, a = (self._about(one, at) for one in (model, source))
        if b is None or (source and a is None):
            return 1.0, 0.10
        if a is None:
            return 1.0, b[1]
        return b[0] / a[0], math.hypot(b[1], a[1])

    def input_of(self, model: str, at: int) -> tuple[float, float, int]:
        """(input tokens per byte, variance of one prompt about that, prompts known) of prompts of about this size."""
        seen = self._near(model, at)
        return (seen.per_byte, seen.input_variance, seen.count) if seen.sent else (_PER_BYTE, 0.0, 0)

    def _about(self, model: str, at: int) -> tuple[float, float] | None:
        """(input tokens per byte, relative standard error); None: too little is known."""
        seen = self._near(model, at)
        if seen.count < SAMPLES_MIN or not seen.taken:
            return None
        return seen.per_byte, math.sqrt(seen.input_variance * seen.count) / seen.taken

    def _near(self, model: str, at: int) -> Seen:
        """What is known of prompts of this size, and of the nearest ones until they are enough."""
        found = self._nearby.get((model, at))
        if found is None:
            found = Seen()
            by_size = self.by_model.get(model, {})
            for place in sorted(by_size, key=lambda one: (abs(one - at), one)):
                found.take(by_size[place])
                if found.count >= NEAR_MIN:
                    break
            self._nearby[(model, at)] = found
        return found


def counts_alike(one: str, other: str) -> bool:
    """Both models count a prompt by the same tokenizer, for all that is known."""
    return one == other or (exact_encoding(one) != "" and exact_encoding(one) == exact_encoding(other))


def shared_profile(every: Sequence[Given], crowd: float) -> Shared:
    """What the models have in common; each with answers enough. ``crowd``: see ``Lengths``."""
    profile = smoothed({at: At(1, 1.0) for one in every for at in one}, 1.0, 0.0)
    for _ in range(_ROUNDS):
        pooled: dict[int, list[float]] = {}
        for given in every:
            level = sum(map(sum, given.values())) / sum([len(some) * profile.at(at) for at, some in given.items()])
            for at, some in given.items():
                pooled.setdefault(at, []).extend([one / level for one in some])
        found, noise = at_classes(pooled), within(pooled)
        profile = smoothed(found, noise * crowd, wandering([(found, noise * crowd)]))
    scales, left = [], []
    for given in every:
        level = sum(map(sum, given.values())) / sum([len(some) * profile.at(at) for at, some in given.items()])
        over = _over(given, profile, level)
        scales.append((at_classes(over), within(over) * crowd))
        left += [one for some in over.values() for one in some]
    mean, sample = moments(left)
    fourth = sum([(one - mean) ** 4 for one in left]) / len(left) / max(sample.variance, 1e-12) ** 2
    worth = max(0.0, fourth - 1) / MODELS_DIFFER**2
    return Shared(profile, wandering(scales), sample.variance, sample.third, len(left) / crowd, worth)


def _says(given: Given) -> bool:
    """Some answer has a token."""
    return any(any(some) for some in given.values())


def at_classes(given: Given) -> dict[int, At]:
    """Means by size class."""
    return {at: At(len(some), sum(some) / len(some)) for at, some in given.items()}


def within(given: Given) -> float:
    """The variance of an answer about the mean of its size class."""
    count = _number(given)
    groups: Iterable[Sequence[float]] = given.values()
    if count - len(given) < SAMPLES_MIN:  # too few are of one size
        groups = [[one for some in given.values() for one in some]]
    left, number = 0.0, 0
    for some in groups:
        mean = sum(some) / len(some)
        left += sum([(one - mean) ** 2 for one in some])
        number += 1
    return left / (count - number)


def _over(given: Given, profile: Levels, level: float) -> Given:
    means = {at: profile.at(at) for at in given}
    return {at: [one / level / mean for one in given[at]] for at, mean in means.items()}


def _number(given: Given) -> int:
    return sum(map(len, given.values()))
