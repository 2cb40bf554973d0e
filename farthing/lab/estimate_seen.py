"""What the answers of a log say about each model: lengths by size of prompt, and how alike a conversation's are.

A length is kept with its conversation, because answers of one conversation are alike: forty answers of four
conversations say little more than four. Where there are too many to keep, whole conversations are left out.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from zlib import crc32

import msgspec

SAMPLES_KEPT: Final = 2_000
"""Lengths of answers kept of each model and size, about; drawn evenly by conversation."""
_SPREAD: Final = 0x9E3779B1
_WHOLE: Final = 2**32


class Answer(msgspec.Struct, frozen=True):
    """The length of one answer that ended by itself."""

    given: int
    """Output tokens."""
    talk: int
    """Names its conversation; an answer that belongs to none is its own."""
    question: int = 0
    """Names what was asked; 0: not known."""


class Seen:
    """What the answers of one model to prompts of one size say."""

    def __init__(self) -> None:
        self.count = 0
        self.sent = self.taken = self.sent2 = self.taken2 = self.both = 0
        """Sums of prompt bytes, of input tokens, of their squares and of their product."""
        self.answers: list[Answer] = []
        self._below = _WHOLE

    def add(self, sent: int, taken: int, answer: Answer, *, cut: bool) -> None:
        """One answer; ``cut``: its cap ended it, so its length says little."""
        self.count += 1
        self.sent += sent
        self.taken += taken
        self.sent2 += sent * sent
        self.taken2 += taken * taken
        self.both += sent * taken
        if cut or answer.talk * _SPREAD % _WHOLE >= self._below:
            return
        self.answers.append(answer)
        if len(self.answers) > 2 * SAMPLES_KEPT:
            self._below //= 2
            self.answers = [one for one in self.answers if one.talk * _SPREAD % _WHOLE < self._below]

    def take(self, other: "Seen") -> None:
        """What another one knows of prompts too."""
        for name in ("count", "sent", "taken", "sent2", "taken2", "both"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def per_byte(self) -> float:
        """Input tokens per byte of body."""
        return self.taken / self.sent if self.sent else 0.0

    @property
    def input_variance(self) -> float:
        """Of one request's input tokens about their estimate from its bytes."""
        rate = self.per_byte
        left = self.taken2 - 2 * rate * self.both + rate * rate * self.sent2
        return max(0.0, left / self.count) if self.count else 0.0


def talk_of(session: str, alone: str) -> int:
    """Names a conversation; ``alone`` names a call that belongs to none."""
    return crc32(f"s {session}".encode("utf-8", "replace") if session else f"q {alone}".encode("utf-8", "replace"))


def size_class(size: int) -> int:
    """About a quarter of an octave of bytes."""
    bits = size.bit_length()
    return 4 * bits + (size >> (bits - 3) & 3 if bits > 2 else 0)


def likeness(groups: Iterable[Sequence[float]]) -> float:
    """The share of the variance that is between conversations, of deviations given by conversation (ANOVA)."""
    count, number, pairs, squares, inner, total = 0, 0, 0, 0.0, 0.0, 0.0
    for group in groups:
        size = len(group)
        number += 1
        if size == 1:  # most conversations of many logs: nothing within it differs
            mean = group[0]
            count += 1
            pairs += 1
            total += mean
            squares += mean * mean
            continue
        mean = sum(group) / size
        count, pairs = count + size, pairs + size * size
        total += size * mean
        squares += size * mean * mean
        inner += sum([(one - mean) ** 2 for one in group])
    if number < 2 or count - number < 2:
        return 0.0
    within = inner / (count - number)
    between = (squares - total * total / count) / (number - 1)
    average = (count - pairs / count) / (number - 1)
    shared = max(0.0, (between - within) / average)
    return shared / (shared + within) if shared + within > 0 else 0.0
