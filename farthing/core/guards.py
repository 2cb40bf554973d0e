"""Lexical guards: differences between two questions that no similarity of vectors may outweigh.

An embedding calls "enable 2FA" and "disable 2FA" alike, "from A to B" and "from B to A" nearly equal. A guard names
what differs; the cache then does not serve. Guards only refuse: two questions without a difference may still be
about something else. Pure functions of text, a few ten microseconds a pair.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from difflib import SequenceMatcher
from typing import Final

import msgspec

from farthing.core.guard_words import (
    ANTONYMS,
    CONTRACTIONS,
    DATES,
    ENDINGS,
    FILLER,
    FUNCTION,
    IS_BEFORE_S,
    NEGATORS,
    NUMBER_WORDS,
    SYNONYMS,
    UNITS,
)
from farthing.core.policy_cache import GUARDS, GuardName

_NUMBER: Final = re.compile(r"\d+(?:[.,:/]\d+)*")
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,:/]\d+)*|[$€£¥₹%]", re.UNICODE)
_CODE: Final = re.compile(
    r"`[^`]+`|https?://\S+|[\w.+-]+@[\w-]+\.\w+|(?<!\w)--[a-z][\w-]*|\b\w+(?:_\w+)+\b|\b[a-z]+(?:[A-Z][a-z0-9]+)+\b"
    r"|\b\w+::\w+|\b\w+(?:\.\w+)*\(|(?<!\w)(?:/[\w.-]+){2,}|\b(?=\w*\d)(?=\w*[a-fA-F])[0-9a-fA-F]{7,}\b"
    r"|\b[\w-]+\.(?:py|js|ts|json|ya?ml|toml|md|txt|csv|sql|go|rs|java|cpp|html|css|sh)\b"
)
"""Quoted code, addresses, flags, snake_case, camelCase, calls, paths, hashes, file names."""
_SIGNS: Final = re.compile(
    r"\b[a-z]\+\+|\b[a-z]#|(?<!\w)\.net\b|(?:(?<=\s)|^)(?:[=!<>]{1,3}|&&|\|\||[*/+^])(?=\s|[?.,]?$)", re.IGNORECASE
)
"""Languages that differ in a sign (C, C++, C#), and operators that stand alone."""
_ROMAN: Final = re.compile(r"\b(?:(?=[IVX]{2,}\b)X{0,3}(?:IX|IV|V?I{0,3})|ii|iii|vii|viii|xii|xiii)(?!\w)")
"""A lone I is more often a pronoun; small letters only where they are no word or abbreviation."""
_ROMAN_DIGITS: Final = {"I": 1, "V": 5, "X": 10}
_NEGATIVE: Final = re.compile(r"(?<![\w.,)\]-])[-−](?=\d)")
_FREE: Final = re.compile(r"\w-free\b", re.IGNORECASE)
"""As in "sugar-free"."""
_SHORT: Final = (
    (re.compile(r"\bw/o\b", re.IGNORECASE), "without"),
    (re.compile(r"\bw/(?=\s|\w)", re.IGNORECASE), "with "),
)
_NAME: Final = re.compile(r"(?<=[\w,;:'’)] )([A-Z][\w’'-]+|[A-Z]{2,}\w*)")
_SYNONYM: Final = {word: line.split()[0] for line in SYNONYMS for word in line.split()}
_TYPO_LETTERS_MIN: Final = 4
_EDIT_WORDS_MAX: Final = 2
_EDIT_PLACES_MAX: Final = 2
_FRAME_WORDS_MAX: Final = 3
"""Function words that may differ between what is still the same sentence."""
_PERIODS: Final = frozenset({"week", "month", "year", "quarter", "weekend"})
"""After these ``this`` says when."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the guards see in one text."""

    words: tuple[str, ...]
    """Lower case, contractions written out, filler left out."""
    numbers: tuple[str, ...]
    units: frozenset[str]
    dates: frozenset[str]
    names: frozenset[str]
    code: frozenset[str]
    negations: int


def read(text: str) -> Reading:
    """The facts of a text that guards compare."""
    text = _ROMAN.sub(_arabic, text.replace("’", "'"))
    for pattern, full in _SHORT:
        text = pattern.sub(full, text)
    words = tuple(_words(text))
    signs = ["-"] * len(_NEGATIVE.findall(text))
    return Reading(
        words=tuple(NUMBER_WORDS.get(word, word) for word in words if word not in FILLER),
        numbers=tuple(sorted([*filter(None, map(_number, words)), *signs])),
        units=frozenset(UNITS[word] for word in words if word in UNITS),
        dates=frozenset(_dates(words)),
        names=_names(text),
        code=frozenset(found.strip("`") for found in _CODE.findall(text))
        | frozenset(found.lower() for found in _SIGNS.findall(text)),
        negations=sum(word in NEGATORS for word in words) + len(_FREE.findall(text)),
    )


def differences(a: Reading, b: Reading, guards: Collection[GuardName] = GUARDS) -> tuple[GuardName, ...]:
    """The guards that keep an answer to ``b`` from being served for ``a``, in the order of ``GUARDS``."""
    if a == b:
        return ()
    found: set[GuardName] = set()
    if a.numbers != b.numbers:
        found.add("number")
    if _conflict(a.units, b.units):
        found.add("unit")
    if _conflict(a.dates, b.dates):
        found.add("date")
    if _conflict(a.names, b.names):
        found.add("name")
    if a.code != b.code:
        found.add("code")
    if a.negations % 2 != b.negations % 2:
        found.add("negation")
    if _opposed(a.words, b.words):
        found.add("antonym")
    if a.words != b.words:
        if sorted(a.words) == sorted(b.words):
            found.add("order")
        elif not found and _another_thing(a.words, b.words):
            found.add("name")
    return tuple(guard for guard in GUARDS if guard in found and guard in guards)


def _arabic(found: re.Match[str]) -> str:
    """A Roman number in digits."""
    values = [_ROMAN_DIGITS[letter] for letter in found[0].upper()]
    pairs = zip(values, [*values[1:], 0], strict=True)
    return str(sum(-value if value < following else value for value, following in pairs))


def _words(text: str) -> list[str]:
    words: list[str] = []
    for word in _WORD.findall(text.lower()):
        words.extend((_plain(word) if _NUMBER.fullmatch(word) else _expanded(word)).split())
    return words


def _dates(words: tuple[str, ...]) -> Iterator[str]:
    for word, following in zip(words, (*words[1:], ""), strict=False):
        if word in DATES or (word == "this" and following in _PERIODS):
            yield word


def _expanded(word: str) -> str:
    """Contractions as the words that they stand for."""
    known = CONTRACTIONS.get(word)
    if known is not None:
        return known
    if "'" not in word:
        return word
    for ending, full in ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + full
    if word.endswith("'s"):
        stem = word.removesuffix("'s")
        return f"{stem} is" if stem in IS_BEFORE_S else stem
    return word


def _number(word: str) -> str:
    return word if _NUMBER.fullmatch(word) else NUMBER_WORDS.get(word, "")


def _plain(number: str) -> str:
    return re.sub(r",(?=\d{3})", "", number).lstrip("0") or "0"


def _names(text: str) -> frozenset[str]:
    """Capitalised words inside sentences; a text that shouts has none."""
    if text.isupper() or text.istitle():
        return frozenset()
    names = (name.lower().removesuffix("'s") for name in _NAME.findall(text))
    return frozenset(name for name in names if name not in FUNCTION and name.split("'")[0] not in FUNCTION)


def _conflict(a: frozenset[str], b: frozenset[str]) -> bool:
    """Each says something that the other does not."""
    return bool(a - b) and bool(b - a)


def _opposed(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """A word here has its opposite there, and neither text has both."""
    ours, theirs = set(a), set(b)
    for word in ours - theirs:
        for other in ANTONYMS.get(word, ()):
            if other in theirs and other not in ours and not (word in FUNCTION and other in FUNCTION):
                return True
    return False


def _another_thing(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """The same sentence about something else: one word or two replaced, and not by a synonym or a typo."""
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    replaced = frame = 0
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            continue
        left = [word for word in a[i:j] if word not in FUNCTION]
        right = [word for word in b[k:m] if word not in FUNCTION]
        if len(left) > _EDIT_WORDS_MAX or len(right) > _EDIT_WORDS_MAX:
            return False
        frame += j - i + m - k - len(left) - len(right)
        if not left and not right:
            continue
        if not left or not right:
            return False  # something was added or left out: for the score to judge
        if not _alike(left, right):
            replaced += 1
    return 0 < replaced <= _EDIT_PLACES_MAX and frame <= _FRAME_WORDS_MAX


def _alike(left: list[str], right: list[str]) -> bool:
    counts = Counter(map(_root, left))
    counts.subtract(map(_root, right))
    if not any(counts.values()):
        return True
    return len(left) == len(right) and all(same_word(a, b) for a, b in zip(left, right, strict=True))


def _root(word: str) -> str:
    word = _SYNONYM.get(word, word)
    for ending in ("ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending).rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def same_word(a: str, b: str) -> bool:
    """Equal but for inflection, synonym or one slip of a finger."""
    if a == b or _root(a) == _root(b):
        return True
    if min(len(a), len(b)) < _TYPO_LETTERS_MIN or a in ANTONYMS.get(b, ()):
        return False
    if len(a) == len(b):
        wrong = [place for place in range(len(a)) if a[place] != b[place]]
        if len(wrong) == 2 and wrong[1] == wrong[0] + 1:
            return a[wrong[0]] == b[wrong[1]] and a[wrong[1]] == b[wrong[0]]
        return len(wrong) == 1 and len(a) >= 6
    short, long = sorted((a, b), key=len)
    if len(long) - len(short) != 1 or len(short) < 5:
        return False
    place = next((place for place, letter in enumerate(short) if letter != long[place]), len(short))
    return short[place:] == long[place + 1 :]


_OVERLAP_MIN: Final = 0.1


def overlap(a: Reading, b: Reading) -> bool:
    """Two questions have words in common, as real paraphrases nearly always do.

    Texts made to collide as vectors share few: a long suffix of noise drowns what they share. Not switchable.
    """
    ours = {_root(word) for word in a.words if word not in FUNCTION}
    theirs = {_root(word) for word in b.words if word not in FUNCTION}
    if not ours or not theirs:
        return True
    return len(ours & theirs) >= _OVERLAP_MIN * max(len(ours), len(theirs)) and bool(ours & theirs)
