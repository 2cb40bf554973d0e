"""Allocation over a ledger: what to ask it, whose each answer is, and statements that sum to its own total."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from farthing.core.allocation import AllocationRules, Line, Owner, Rule, allocate, matches, owner_of
from farthing.core.types import LedgerQuery, Totals

DEFAULT: Final = AllocationRules(version="by team", rules=(Rule(owner="{team}"),))
"""Where nothing is configured: each team bears its own."""
DETAIL: Final = "model"
"""What the direct cost of a statement is split by."""


QUEUE: Final = ("key", "feature", "user")
"""What cost without an owner is told by: the tags to add first."""


class Charged(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a statement."""

    owner: str
    kind: str
    """``direct``, or ``shared: <pool>``."""
    what: str
    """The model of a direct line; "" for a part of a pool."""
    amount: int
    """Nano-USD."""
    tokens: int = 0
    unpriced: int = 0


def rules_of(configured: AllocationRules) -> AllocationRules:
    """The rules that apply: those of the configuration, or the default."""
    return configured if configured.rules or configured.pools else DEFAULT


def ref(rules: AllocationRules) -> str:
    """The version of the rules: 12 hex digits of their content, whatever name people gave it."""
    content = msgspec.json.encode(msgspec.structs.replace(rules, version=""), order="sorted")
    return hashlib.sha256(content).hexdigest()[:12]


def dimensions(rules: AllocationRules) -> tuple[str, ...]:
    """Every dimension that a rule or pool looks at."""
    matches_of = (*(rule.match for rule in rules.rules), *(pool.match for pool in rules.pools))
    names = [name for match in matches_of for name, _ in match]
    names += [rule.owner[1:-1] for rule in rules.rules if rule.owner.startswith("{") and rule.owner.endswith("}")]
    return tuple(dict.fromkeys(names))


def query(
    rules: Sequence[AllocationRules], *, since_ms: int, until_ms: int, also: tuple[str, ...] = ()
) -> LedgerQuery:
    """One question that answers for every version of the rules given."""
    names = dict.fromkeys(name for one in rules for name in dimensions(one))
    return LedgerQuery(group_by=tuple(dict.fromkeys((*names, *also))), since_ms=since_ms, until_ms=until_ms)


def questions(rules: AllocationRules) -> tuple[tuple[str, ...], ...]:
    """The dimensions of each question that allocation asks of a large ledger: sums of these are worth keeping."""
    own = dimensions(rules)
    return tuple(tuple(dict.fromkeys((*own, name))) for name in (DETAIL, *QUEUE))


def lines(rows: Iterable[Totals], groups: tuple[str, ...]) -> list[Line]:
    """The answer as lines to allocate."""
    return [
        Line(
            values=dict(zip(groups, row.group, strict=True)),
            amount=row.amount,
            tokens=row.input_tokens + row.output_tokens,
            requests=row.requests,
            unpriced=row.unpriced,
        )
        for row in rows
    ]


def statements(rules: AllocationRules, found: Sequence[Line]) -> dict[str, list[Charged]]:
    """By owner, in the order of :func:`allocate`; each statement sums to its owner's total."""
    owners = allocate(rules, found)
    direct: dict[str, dict[str, list[int]]] = {}
    for line in found:
        if is_pooled(rules, line.values):
            continue
        cells = direct.setdefault(owner_of(rules, line.values), {}).setdefault(line.values.get(DETAIL, ""), [0, 0, 0])
        for at, value in enumerate((line.amount, line.tokens, line.unpriced)):
            cells[at] += value
    return {owner.owner: _statement(owner, direct.get(owner.owner, {})) for owner in owners}


def is_pooled(rules: AllocationRules, values: Mapping[str, str]) -> bool:
    """Whether a shared pool takes these values out before any rule is asked."""
    return any(matches(pool.match, values) for pool in rules.pools)


def _statement(owner: Owner, direct: Mapping[str, Sequence[int]]) -> list[Charged]:
    ordered = sorted(direct.items(), key=lambda item: (-item[1][0], item[0]))
    found = [
        Charged(owner=owner.owner, kind="direct", what=what, amount=cells[0], tokens=cells[1], unpriced=cells[2])
        for what, cells in ordered
    ]
    found += [Charged(owner=owner.owner, kind=f"shared: {pool}", what="", amount=part) for pool, part in owner.shared]
    return found
