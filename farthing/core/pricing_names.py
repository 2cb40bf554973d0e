"""Model names to models: exact names first, then each model's own match clauses, most specific first.

Nothing is guessed from a common prefix. A name that no model claims is unknown, and so is its price.
"""

import re
from collections.abc import Iterator, Sequence

from farthing.core.pricing_rows import BASE_LAYER, Match, ModelEntry, ProviderEntry

NAME_CHARS_MAX = 256
"""Longer names are nobody's; they would only fill caches."""

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=$|[-:@])")
_DATE = re.compile(r"(?<!\d)20\d{6}(?!\d)")
_ANY_DATE = re.compile(r"(?<!\d)20\d{2}(?:\d{4}|-\d{2}-\d{2})(?!\d)")
_VERSION_TAIL = re.compile(r"[-@:](?:20\d{2}-\d{2}-\d{2}|20\d{6}|\d{4}|latest|v\d+(?::\d+)?)$")
_TAIL_WORD = (
    r"(?:20\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])|20\d{6}|\d{2}-20\d{2}|\d{2}-\d{2}|\d{3,5}"
    r"|v\d+(?:\.\d+)*|\d+k|1m"
    r"|default|latest|stable|preview|exp|experimental|beta|nightly|thinking|instruct|chat|it|customtools)"
)
_MARKS = "-@:._"
_TAIL = re.compile(rf"(?:[{_MARKS[1:]}-]{_TAIL_WORD}|:\d{{1,2}}|\[1m\])*")
"""What providers add to a model's name without making it another one: dates, versions, stages, context sizes."""
_HEAD = re.compile(r"(?:[a-z0-9_-]+[./:])*")
"""What may stand before a model's name: paths, regions and makers, each closed by a mark."""
_REGEX_LITERAL = re.compile(r"^\^?((?:[A-Za-z0-9@_/ -]|\\[.\-/+])*)")


def matches(clause: Match, name: str, *, closed: bool = True) -> bool:
    """Whether a lower-case name meets a clause.

    ``closed``: what the clause leaves open may only be what providers are known to add (:data:`_TAIL`), because any
    other word names another model, or none.
    """
    match clause.kind:
        case "equals":
            return name == clause.text.lower()
        case "starts_with":
            found = name.startswith(clause.text.lower())
            return found and _fits(name, 0, len(clause.text), closed=closed)
        case "ends_with":
            found = name.endswith(clause.text.lower())
            return found and _fits(name, len(name) - len(clause.text), len(name), closed=closed)
        case "contains":
            start = name.find(clause.text.lower())
            return start >= 0 and _fits(name, start, start + len(clause.text), closed=closed)
        case "regex":
            hit = re.search(clause.text, name)
            return hit is not None and not (closed and _open_end(name, hit.end()))  # a look-ahead ends at 0
        case "or":
            return any(matches(part, name, closed=closed) for part in clause.clauses)
        case "and":
            return all(matches(part, name, closed=closed) for part in clause.clauses)


def _fits(name: str, start: int, end: int, *, closed: bool) -> bool:
    """Whether name[start:end] is whole words and, where that is asked, the rest is what providers add."""
    if not _whole(name, start, end):
        return False
    return not closed or (_HEAD.fullmatch(name, 0, start) is not None and not _open_end(name, end))


def _open_end(name: str, end: int) -> bool:
    """Whether what follows ``end`` is no known addition to a name; fine-tunes end as customers like."""
    if end in (0, len(name)) or name[:end].endswith(".ft-"):
        return False
    if name[end].isalnum():  # the clause stops behind a mark, or within a date: the whole word counts
        end = max(name.rfind(mark, 0, end) for mark in _MARKS)
    tail = name[max(end, 0) :]
    return _TAIL.fullmatch(tail.partition(":")[0] if name.startswith("ft:") else tail) is None


def _whole(name: str, start: int, end: int) -> bool:
    """Whether name[start:end] ends and begins between words, so that ``claude-opus-4-1`` is not ``…-4-10``.

    A clause may stop inside a date: ``claude-sonnet-4-2025`` is meant to be ``claude-sonnet-4-20250514``.
    """
    if 0 < start < len(name) and _same_word(name[start - 1], name[start]):
        return False
    if not 0 < end < len(name) or not _same_word(name[end - 1], name[end]):
        return True
    return any(date.start() < end < date.end() for date in _DATE.finditer(name))


def _same_word(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum()


def specificity(clause: Match) -> int:
    """How many literal characters a clause pins down; more is more specific."""
    match clause.kind:
        case "or":
            return min((specificity(part) for part in clause.clauses), default=0)
        case "and":
            return max((specificity(part) for part in clause.clauses), default=0) + 1
        case "regex":
            literal = _REGEX_LITERAL.match(clause.text)
            return len(literal.group(1).replace("\\", "")) if literal else 0
        case _:
            return len(clause.text)


def flat(clause: Match | None) -> Iterator[Match]:
    """The alternatives of a clause, nested ``or`` unfolded."""
    if clause is None:
        return
    if clause.kind == "or":
        for part in clause.clauses:
            yield from flat(part)
    else:
        yield clause


class NameIndex:
    """The names of one provider's models."""

    __slots__ = ("_dates", "_exact", "_patterns")

    def __init__(self, models: Sequence[ModelEntry]) -> None:
        claimed: dict[str, tuple[int, int, str]] = {}
        patterns: list[tuple[int, int, int, Match, str, bool]] = []
        for position, entry in enumerate(models):
            for name in entry.names:
                _claim(claimed, name, (entry.layer, 1, entry.id))
            for clause in flat(entry.match):
                if clause.kind == "equals":
                    _claim(claimed, clause.text, (entry.layer, 1, entry.id))
                else:
                    closed = entry.layer == BASE_LAYER  # whoever adds a clause of their own means what it says
                    patterns.append((-entry.layer, -specificity(clause), position, clause, entry.id, closed))
            _claim(claimed, entry.id, (entry.layer, 0, entry.id))
        patterns.sort(key=lambda item: item[:3])
        self._exact = {name: claim[2] for name, claim in claimed.items()}
        self._patterns = [(clause, model, closed) for *_, clause, model, closed in patterns]
        self._dates: dict[str, set[str]] = {}
        for entry in models:
            if entry.snapshots:
                self._dates.setdefault(entry.id, set()).update(entry.snapshots)

    def find(self, name: str) -> str | None:
        """The model that claims this lower-case name."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        found = next(
            (model for clause, model, closed in self._patterns if matches(clause, name, closed=closed)), None
        )
        dates = self._dates.get(found) if found is not None else None
        if dates and any(one.group().replace("-", "") not in dates for one in _ANY_DATE.finditer(name)):
            return None
        return found


def _claim(claimed: dict[str, tuple[int, int, str]], name: str, claim: tuple[int, int, str]) -> None:
    """A stated name beats a mere id, a higher layer a lower one; among equals the first keeps the name."""
    name = name.lower()
    held = claimed.get(name)
    if held is None or claim[:2] > held[:2]:
        claimed[name] = claim


def spellings(name: str, provider: ProviderEntry) -> Iterator[tuple[str, str]]:
    """(spelling, region it implies): the name as it is, then the documented ways to write the same model."""
    name = name.strip().lower()
    if not name or len(name) > NAME_CHARS_MAX:
        return
    seen = set()
    for spelling, region in _spellings(name, provider):
        if spelling and spelling not in seen:
            seen.add(spelling)
            yield spelling, region
            dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", spelling.replace("@", "-"))
            if dashed not in seen:
                seen.add(dashed)
                yield dashed, region


def _spellings(name: str, provider: ProviderEntry) -> Iterator[tuple[str, str]]:
    yield name, _prefix_region(name, provider)
    if name.startswith("arn:"):
        name = name.rpartition("/")[2]
        yield name, _prefix_region(name, provider)
    if name.startswith(provider.id + "/"):
        name = name[len(provider.id) + 1 :]
        yield name, _prefix_region(name, provider)
    if name.startswith(("models/", "publishers/", "projects/")):
        name = name.rpartition("/")[2]
        yield name, ""
    for prefix, region in provider.name_prefixes:
        if name.startswith(prefix):
            yield name[len(prefix) :], region


def _prefix_region(name: str, provider: ProviderEntry) -> str:
    return next((region for prefix, region in provider.name_prefixes if name.startswith(prefix)), "")


def is_snapshot_of(served: str, asked: str) -> bool:
    """Whether the served name is the asked one plus a date or version, and nothing else."""
    served, asked = served.lower(), asked.lower()
    if served == asked:
        return True
    return bool(asked) and served.startswith(asked) and _VERSION_TAIL.fullmatch(served[len(asked) :]) is not None
