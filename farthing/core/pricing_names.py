"""Model names to models: exact names first, then each model's own match clauses, most specific first.

Nothing is guessed from a common prefix. A name that no model claims is unknown, and so is its price.
"""

import re
from collections.abc import Iterator, Sequence

from farthing.core.pricing_rows import Match, ModelEntry, ProviderEntry

NAME_CHARS_MAX = 256
"""Longer names are nobody's; they would only fill caches."""

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=$|[-:@])")
_DATE = re.compile(r"(?<!\d)20\d{6}(?!\d)")
_ANY_DATE = re.compile(r"(?<!\d)20\d{2}(?:\d{4}|-\d{2}-\d{2})(?!\d)")
_VERSION_TAIL = re.compile(r"[-@:](?:20\d{2}-\d{2}-\d{2}|20\d{6}|\d{4}|latest|v\d+(?::\d+)?)$")
_VARIANT = re.compile(
    r"[-_.:@](?:mini|nano|micro|lite|light|small|medium|large|pro|plus|max|ultra|super|flash|turbo|fast|instant|air"
    r"|audio|realtime|live|tts|transcribe|image|video|vision|search|embed|embedding|codex|code)(?![a-z0-9])"
)
"""Words that make another model of a name."""
_REGEX_LITERAL = re.compile(r"^\^?((?:[A-Za-z0-9@_/ -]|\\[.\-/+])*)")


def matches(clause: Match, name: str) -> bool:
    """Whether a lower-case name meets a clause."""
    match clause.kind:
        case "equals":
            return name == clause.text.lower()
        case "starts_with":
            return (
                name.startswith(clause.text.lower())
                and _whole(name, 0, len(clause.text))
                and (_VARIANT.search(name, len(clause.text)) is None)
            )
        case "ends_with":
            start = len(name) - len(clause.text)
            return name.endswith(clause.text.lower()) and _whole(name, start, len(name))
        case "contains":
            start = name.find(clause.text.lower())
            return start >= 0 and _whole(name, start, start + len(clause.text))
        case "regex":
            return re.search(clause.text, name) is not None
        case "or":
            return any(matches(part, name) for part in clause.clauses)
        case "and":
            return all(matches(part, name) for part in clause.clauses)


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
        patterns: list[tuple[int, int, int, Match, str]] = []
        for position, entry in enumerate(models):
            for name in entry.names:
                _claim(claimed, name, (entry.layer, 1, entry.id))
            for clause in flat(entry.match):
                if clause.kind == "equals":
                    _claim(claimed, clause.text, (entry.layer, 1, entry.id))
                else:
                    patterns.append((-entry.layer, -specificity(clause), position, clause, entry.id))
            _claim(claimed, entry.id, (entry.layer, 0, entry.id))
        patterns.sort(key=lambda item: item[:3])
        self._exact = {name: claim[2] for name, claim in claimed.items()}
        self._patterns = [(clause, model) for *_, clause, model in patterns]
        self._dates: dict[str, set[str]] = {}
        for entry in models:
            if entry.snapshots:
                self._dates.setdefault(entry.id, set()).update(entry.snapshots)

    def find(self, name: str) -> str | None:
        """The model that claims this lower-case name."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        found = next((model for clause, model in self._patterns if matches(clause, name)), None)
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
