"""Whose cost it is: first-match rules over dimensions and tags, shared pools split to the last nano-dollar.

Allocation reads the ledger and never touches it: the same rules over the same entries give the same rows, and other
rules may be tried on the past as often as one likes. What no rule claims is its own row, always.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

import msgspec

UNALLOCATED: Final = ""
"""The owner of what no rule claims; shown as "unallocated"."""

Basis = Literal["even", "direct", "tokens", "requests", "fixed", "weighted"]
"""How a shared pool is split: the same for every owner; in proportion to their own direct cost, tokens or requests;
by fixed parts of 10,000 (the rest stays unallocated); by weights."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A virtual tag: cost that matches belongs to ``owner``. The first rule that matches decides."""

    owner: str
    """A name, or ``{dimension}`` to take the dimension's own value (``{team}``, ``{tag:cost-centre}``)."""
    match: tuple[tuple[str, str], ...] = ()
    """(dimension, pattern) pairs, all of which must hold; patterns know ``*`` and ``?``; "" means "not said"."""


class Pool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cost that many share: what matches is taken out before the rules and split among owners."""

    name: str
    match: tuple[tuple[str, str], ...]
    basis: Basis = "direct"
    shares: tuple[tuple[str, int], ...] = ()
    """(owner, parts): parts of 10,000 for ``fixed``, weights for ``weighted``; for the others a list of the owners
    that take part (parts ignored), empty: every owner of direct cost."""


class AllocationRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version of the rules."""

    version: str = ""
    """A name for people; rules are compared by content."""
    rules: tuple[Rule, ...] = ()
    pools: tuple[Pool, ...] = ()


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One group of ledger entries with equal dimensions."""

    values: Mapping[str, str]
    """Dimension values; a missing one counts as "not said"."""
    amount: int
    """Nano-USD over priced entries."""
    tokens: int = 0
    requests: int = 0
    unpriced: int = 0
    """Entries without a price: in no amount, but shown with their owner."""


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner bears."""

    owner: str
    direct: int
    """Nano-USD."""
    shared: tuple[tuple[str, int], ...]
    """(pool, nano-USD), every pool of which this owner bears a part."""
    tokens: int
    requests: int
    unpriced: int

    @property
    def total(self) -> int:
        """Nano-USD: direct and shared."""
        return self.direct + sum(amount for _, amount in self.shared)


def problems(rules: AllocationRules) -> list[str]:
    """Everything that is wrong with the rules, in words; empty when nothing is."""
    found = []
    for position, rule in enumerate(rules.rules, 1):
        if not rule.owner:
            found.append(f"rule {position} has no owner")
    names = [pool.name for pool in rules.pools]
    found += [f"pool {name!r} is defined twice" for name in sorted({one for one in names if names.count(one) > 1})]
    for pool in rules.pools:
        where = f"pool {pool.name!r}"
        found += [] if pool.name else ["a pool has no name"]
        found += [] if pool.match else [f"{where} matches everything; say what it holds"]
        found += [f"{where}: share of {owner!r} is negative" for owner, parts in pool.shares if parts < 0]
        owners = [owner for owner, _ in pool.shares]
        found += [f"{where} names {one!r} twice" for one in sorted({one for one in owners if owners.count(one) > 1})]
        found += [f"{where} has a share without an owner"] if "" in owners else []
        if pool.basis in ("fixed", "weighted") and not pool.shares:
            found.append(f"{where} is split by {pool.basis} shares but names none")
        if pool.basis == "fixed" and sum(parts for _, parts in pool.shares) > 10_000:
            found.append(f"{where} gives away more than 10,000 parts of 10,000")
    return found


def allocate(rules: AllocationRules, lines: Iterable[Line]) -> tuple[Owner, ...]:
    """Every line's amount, direct or shared, exactly once: the owners' totals sum to the lines' sum.

    Sorted by total, largest first; the unallocated row (``owner = ""``) is always the last one and always there.
    Raises ``ValueError`` for rules with :func:`problems`.
    """
    wrong = problems(rules)
    if wrong:
        raise ValueError("; ".join(wrong))
    books: dict[str, _Account] = {UNALLOCATED: _Account()}
    pools = {pool.name: 0 for pool in rules.pools}
    for line in lines:
        pool = next((one for one in rules.pools if matches(one.match, line.values)), None)
        if pool is not None:
            pools[pool.name] += line.amount
            books[UNALLOCATED].unpriced += line.unpriced
            continue
        books.setdefault(owner_of(rules, line.values), _Account()).add(line)
    basis = {name: account.copy() for name, account in books.items() if name != UNALLOCATED}
    for pool in rules.pools:
        for name, amount in _shares(pool, pools[pool.name], basis):
            books.setdefault(name, _Account()).shared[pool.name] = amount
    owners = [account.row(name) for name, account in books.items()]
    owners.sort(key=lambda row: (row.owner == UNALLOCATED, -row.total, row.owner))
    return tuple(owners)


def owner_of(rules: AllocationRules, values: Mapping[str, str]) -> str:
    """The owner by the first rule that matches; "" when none does or the dimension it names is not said."""
    for rule in rules.rules:
        if matches(rule.match, values):
            if rule.owner.startswith("{") and rule.owner.endswith("}"):
                return values.get(rule.owner[1:-1], "")
            return rule.owner
    return UNALLOCATED


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Whole parts in proportion to non-negative weights that sum to ``total`` exactly (largest remainder).

    Ties go to the earlier part. With no weight at all the split is even; with no parts the list is empty.
    """
    if not weights:
        return []
    if any(weight < 0 for weight in weights):
        raise ValueError(f"weights must not be negative: {list(weights)}")
    whole = sum(weights)
    if whole == 0:
        weights, whole = [1] * len(weights), len(weights)
    sign, size = (-1, -total) if total < 0 else (1, total)
    parts = [size * weight // whole for weight in weights]
    rests = [size * weight % whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda at: (-rests[at], at))
    for at in order[: size - sum(parts)]:
        parts[at] += 1
    return [sign * part for part in parts]


def to_whole(amounts: Sequence[float], total: int) -> list[int]:
    """Floats rounded to whole numbers that sum to ``total``; what floats lost goes to the largest remainders.

    The floats must sum to about ``total``. An empty list stays empty (and needs a total of 0).
    """
    if not amounts:
        if total:
            raise ValueError(f"nothing to split {total} over")
        return []
    parts = [int(amount // 1) for amount in amounts]
    short = total - sum(parts)
    order = sorted(range(len(amounts)), key=lambda at: (-(amounts[at] - parts[at]), at))
    every, some = divmod(short, len(parts))
    for rank, at in enumerate(order):
        parts[at] += every + (1 if rank < some else 0)
    return parts


class _Account:
    """One owner's sums while lines are read."""

    __slots__ = ("direct", "requests", "shared", "tokens", "unpriced")

    def __init__(self) -> None:
        self.direct = self.tokens = self.requests = self.unpriced = 0
        self.shared: dict[str, int] = {}

    def add(self, line: Line) -> None:
        self.direct += line.amount
        self.tokens += line.tokens
        self.requests += line.requests
        self.unpriced += line.unpriced

    def copy(self) -> "_Account":
        twin = _Account()
        twin.direct, twin.tokens, twin.requests = self.direct, self.tokens, self.requests
        return twin

    def row(self, owner: str) -> Owner:
        return Owner(
            owner=owner,
            direct=self.direct,
            shared=tuple(sorted(self.shared.items())),
            tokens=self.tokens,
            requests=self.requests,
            unpriced=self.unpriced,
        )


def _shares(pool: Pool, amount: int, basis: Mapping[str, _Account]) -> list[tuple[str, int]]:
    """(owner, part) of one pool; with nobody to bear it, all of it stays unallocated."""
    if pool.basis == "fixed":
        given = sum(parts for _, parts in pool.shares)
        names = [*(owner for owner, _ in pool.shares), UNALLOCATED]
        parts = split(amount, [*(parts for _, parts in pool.shares), 10_000 - given])
        return [(name, part) for name, part in zip(names, parts, strict=True) if part or name]
    if pool.basis == "weighted":
        return list(zip([owner for owner, _ in pool.shares], split(amount, [w for _, w in pool.shares]), strict=True))
    names = [owner for owner, _ in pool.shares] or sorted(basis)
    if not names:
        return [(UNALLOCATED, amount)]
    weights = [_weight(pool.basis, basis.get(name)) for name in names]
    return list(zip(names, split(amount, weights), strict=True))


def _weight(basis: Basis, account: _Account | None) -> int:
    if basis == "even":
        return 1
    if account is None:
        return 0
    found = {"direct": account.direct, "tokens": account.tokens, "requests": account.requests}[basis]
    return max(0, found)


def matches(match: tuple[tuple[str, str], ...], values: Mapping[str, str]) -> bool:
    """Whether every pattern holds; a dimension that is not said counts as ""."""
    return all(fnmatchcase(values.get(name, ""), pattern) for name, pattern in match)
