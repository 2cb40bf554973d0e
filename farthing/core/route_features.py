"""What the learned router reads in a prompt: hashed words and word pairs, and a few counts.

The hash is CRC-32 of the UTF-8 bytes, so that a table trained on one machine means the same on every other. Only the
head and the tail of a long prompt are read, which bounds the time of a decision.
"""

import re
from collections.abc import Sequence
from math import log1p, sqrt
from typing import NamedTuple
from zlib import crc32

FEATURES_VERSION = "ngram-crc32-1"
"""Changes whenever the same text would give other features; a table of another version is refused."""

TABLE_BITS = 16
TABLE_SIZE = 1 << TABLE_BITS
SEEN_BITS = 18
SEEN_SIZE = 1 << SEEN_BITS
HEAD_CHARS = 1_200
TAIL_CHARS = 800

_MASK = TABLE_SIZE - 1
_SEEN_MASK = SEEN_SIZE - 1
_WORDS = re.compile(
    rb"[a-z0-9\xc2-\xdf\x80-\xbf]+"  # words of alphabets of one or two bytes a letter
    rb"|[\xe0-\xef][\x80-\xbf]{2}"  # scripts without spaces: one sign is one word
    rb"|\S"
)

_PLAIN = bytes(sign for sign in range(128) if chr(sign).isalnum() or chr(sign) in " \t\n\r\f\v")
_APART = tuple((bytes([sign]), b" %c " % sign) for sign in range(128))

NUMBERS = (
    "words", "chars", "word_chars", "digits", "lines", "questions", "commas", "brackets", "operators", "code_fences",
)  # fmt: skip
"""Names of the counts, in the order of :attr:`Features.numbers`."""


class Features(NamedTuple):
    """One prompt as the router sees it."""

    ids: set[int]
    """Table places of its distinct words and word pairs."""
    scale: float
    """One over the square root of their number: long prompts do not shout."""
    words: list[int]
    """Hashes of its words, in order; what coverage is judged by."""
    numbers: tuple[float, ...]


def read(text: str) -> Features:
    """Features of a prompt: some 15 µs of CPU for forty words."""
    seen = text if len(text) <= HEAD_CHARS + TAIL_CHARS else f"{text[:HEAD_CHARS]} {text[-TAIL_CHARS:]}"
    raw = seen.lower().encode("utf-8", "replace")
    words = words_of(raw)
    hashes = list(map(crc32, words))
    pairs = list(map(crc32, words[1:], hashes))  # the CRC of both words joined: the second starts from the first's
    ids = {value & _MASK for value in hashes + pairs}
    return Features(ids, 1.0 / sqrt(len(ids)) if ids else 0.0, hashes, _numbers(raw, len(hashes), len(text)))


def words_of(raw: bytes) -> list[bytes]:
    """The words and signs of a lower-case text, in order.

    Plain ASCII is split at its spaces once its signs stand apart: the pattern finds the same in three times the time.
    """
    if not raw.isascii():
        return _WORDS.findall(raw)
    for sign in set(raw.translate(None, _PLAIN)):
        raw = raw.replace(*_APART[sign])
    return raw.split()


def coverage(words: Sequence[int], seen: bytes) -> float:
    """Share of the words, repetitions included, that the training prompts held; 0 for an empty prompt."""
    if not words:
        return 0.0
    return sum([seen[word & _SEEN_MASK] for word in words]) / len(words)


def seen_place(word: int) -> int:
    """Where a word's hash stands in the table of words seen in training."""
    return word & _SEEN_MASK


def tag_place(tag: str) -> int:
    """Table place of the caller's route tag; no word of a prompt can spell it."""
    return crc32(b"\x00tag:" + tag.encode()) & _MASK


def _numbers(raw: bytes, words: int, chars: int) -> tuple[float, ...]:
    count, without, whole = raw.count, raw.translate, len(raw)
    digits = len(without(None, b"0123456789"))
    brackets = whole - len(without(None, b"([{"))
    operators = whole - len(without(None, b"=+*^<"))
    size = whole or 1
    return (
        log1p(words),
        log1p(chars),
        log1p(size / (words or 1)),
        1.0 - digits / size,
        log1p(count(b"\n")),
        log1p(count(b"?")),
        count(b",") / (words or 1),
        log1p(brackets),
        log1p(operators),
        log1p(count(b"```")),
    )
