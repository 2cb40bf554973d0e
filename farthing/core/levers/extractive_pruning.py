"""Keeps of retrieved context the sentences that have to do with the question, word for word, and leaves out the rest.

Context is what a human message itself marks as such: ``<context>``, ``<document>``, ``<passage>``, ``<source>`` and
``<search_results>`` elements, or the lines from ``Context:`` to ``Question:``. The question is the rest of the same
message, so a message has the same form in every later call and prompt caches stay warm. Instructions, tool calls and
their results, code, tables, headings and JSON are never touched. It changes what the model gets to read: whoever uses
it names the evaluation that showed it to be good enough.
"""

import math
import re
from collections import Counter
from typing import Final, NamedTuple

from farthing.core.json_spans import Edit, members, quoted, spliced, text
from farthing.core.lever import BYTES_PER_TOKEN, Facts, Lever, Prefix
from farthing.core.turn_spans import is_human, texts, turns

PREFIX: Final[Prefix] = "own_form"
GAP: Final = "[…]"
"""Stands where sentences were left out; a text that has one is left alone."""
_REGION: Final = re.compile(
    r"<(context|documents?|doc|passages?|sources?|search_results)(?:\s[^<>]*)?>(?P<tagged>.*?)</\1>"
    r"|^[ \t]*(?:#+ *)?context:[ \t]*$(?P<named>.*?)(?=^[ \t]*(?:#+ *)?question:)",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[^\n]*\n?", re.DOTALL | re.MULTILINE)
_KEPT_LINE: Final = re.compile(r"\s*([#|<{}\[\]>]|\d+[.)]\s*$)| {4}|\t|.*[:：]\s*$")
_SENTENCE: Final = re.compile(r".+?(?:[.!?。！？]+[\"')\]]*(?:\s+|$)|$)", re.DOTALL)
_WORD: Final = re.compile(r"[^\W_]+")
_K1: Final = 1.2
_B: Final = 0.75
_SHARED_MAX: Final = 0.5
"""A word that stands in more than this share of the sentences tells them apart too little."""


class ExtractivePruning(
    Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="extractive_pruning"
):
    """``kind = "extractive_pruning"``."""

    evaluated: str
    """What showed that answers stay good: the name of an evaluation or experiment. Stands in the policy."""
    above_tokens: int = 1_000
    """Context shorter than this stays as it is (tokens at four bytes)."""
    to_tokens: int = 500
    """About so much of it is kept."""


class _Piece(NamedTuple):
    text: str
    words: tuple[str, ...]
    """Empty: it stays whatever the question is."""


def apply(lever: ExtractivePruning, body: bytes, facts: Facts) -> bytes:
    """The body with its context pruned."""
    top = members(body)
    said = None if top is None else turns(body, top, facts.form)
    edits: list[Edit] = []
    for turn in said or ():
        if not is_human(body, turn):
            continue
        for start, end in texts(body, turn):
            if end - start <= lever.above_tokens * BYTES_PER_TOKEN:
                continue
            value = text(body, (start, end))
            pruned = None if value is None else _pruned(lever, value)
            made = b"" if pruned is None else quoted(pruned)
            if made and len(made) < end - start:
                edits.append((start, end, made))
    return spliced(body, edits)


def _pruned(lever: ExtractivePruning, value: str) -> str | None:
    """A message with its context pruned; None: there is nothing to prune, or nothing to prune it by."""
    found = [match for match in _REGION.finditer(value) if GAP not in match[0]]
    question = set(_words(_REGION.sub(" ", value)))
    if not found or not question:
        return None
    spans = [match.span("tagged" if match["tagged"] is not None else "named") for match in found]
    if sum(end - start for start, end in spans) <= lever.above_tokens * BYTES_PER_TOKEN:
        return None
    regions = [_pieces(value[start:end]) for start, end in spans]
    keep = _chosen([piece for pieces in regions for piece in pieces], question, lever.to_tokens * BYTES_PER_TOKEN)
    if keep is None:
        return None
    parts: list[str] = []
    at = place = 0
    for (start, end), pieces in zip(spans, regions, strict=True):
        parts += [value[at:start], _joined(pieces, keep[place : place + len(pieces)])]
        at, place = end, place + len(pieces)
    return "".join([*parts, value[at:]])


def _pieces(region: str) -> list[_Piece]:
    """Sentences, and what is kept as it is; together they are the region."""
    pieces: list[_Piece] = []
    at = 0
    for fence in _FENCE.finditer(region):
        pieces += _prose(region[at : fence.start()])
        pieces.append(_Piece(fence[0], ()))
        at = fence.end()
    return pieces + _prose(region[at:])


def _prose(part: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    for line in part.splitlines(keepends=True):
        if not line.strip() or _KEPT_LINE.match(line):
            pieces.append(_Piece(line, ()))
        else:
            pieces += [_Piece(one[0], tuple(_words(one[0]))) for one in _SENTENCE.finditer(line)]
    return pieces


def _chosen(pieces: list[_Piece], question: set[str], most: int) -> list[bool] | None:
    """Which pieces stay; None: no sentence has anything to do with the question."""
    scores = _scores(pieces, question)
    keep = [not piece.words for piece in pieces]
    size = sum(len(piece.text.encode("utf-8", "replace")) for piece in pieces if not piece.words)
    ranked = sorted((place for place, score in enumerate(scores) if score > 0), key=lambda one: (-scores[one], one))
    for place in ranked:
        size += len(pieces[place].text.encode("utf-8", "replace"))
        if size > most and any(keep[one] for one in ranked):
            break
        keep[place] = True
    return keep if ranked else None


def _scores(pieces: list[_Piece], question: set[str]) -> list[float]:
    """BM25 of every sentence against the question."""
    sentences = [piece.words for piece in pieces if piece.words]
    if not sentences:
        return [0.0] * len(pieces)
    mean = sum(map(len, sentences)) / len(sentences)
    holding = Counter(word for words in sentences for word in question & set(words))
    most = max(1.0, len(sentences) * _SHARED_MAX)
    weight = {
        word: math.log(1 + (len(sentences) - many + 0.5) / (many + 0.5))
        for word, many in holding.items()
        if many <= most
    }
    scores = []
    for piece in pieces:
        counts = Counter(word for word in piece.words if word in weight)
        norm = _K1 * (1 - _B + _B * len(piece.words) / mean)
        scores.append(sum(weight[word] * many * (_K1 + 1) / (many + norm) for word, many in counts.items()))
    return scores


def _joined(pieces: list[_Piece], keep: list[bool]) -> str:
    """The pieces that stay, with a mark where others were."""
    parts: list[str] = []
    gap = False
    for piece, kept in zip(pieces, keep, strict=True):
        if not kept:
            gap = True
            continue
        if gap and piece.text.strip():
            gap = False
            parts.append(f"{GAP} " if piece.words else _alone(parts))
        parts.append(piece.text)
    if gap:
        parts.append(_alone(parts))
    return "".join(parts)


def _alone(parts: list[str]) -> str:
    """The mark on a line of its own: what follows may be a table or code."""
    return f"{GAP}\n" if not parts or parts[-1].endswith("\n") else f"\n{GAP}\n"


def _words(value: str) -> list[str]:
    return [word for word in _WORD.findall(value.casefold()) if len(word) > 1 or not word.isascii()]
