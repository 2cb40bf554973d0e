"""Whose the cost is: owners with direct and shared parts, what nobody claims, and how versions of rules differ."""

from collections.abc import Sequence
from typing import Final

from farthing.core.allocation import UNALLOCATED, Owner
from farthing.core.types import Totals
from farthing.insight.honesty import known
from farthing.insight.render import percent, usd
from farthing.insight.table import Column, Row, Table, share

TITLE: Final = "Allocation"
_NOBODY: Final = "(unallocated)"
_POOLED: Final = "Requests and tokens are those of direct cost; shared pools have theirs, which nobody is charged by."


def build(owners: Sequence[Owner], *, title: str = TITLE, version: str = "", notes: tuple[str, ...] = ()) -> Table:
    """Largest owner first, the unallocated row last, always; the total is the ledger's."""
    whole = sum(owner.total for owner in owners)
    pools = sorted({pool for owner in owners for pool, _ in owner.shared})
    columns = (
        Column(name="owner", title="owner"),
        Column(name="direct", title="direct", kind="usd", unknown="unpriced"),
        *(Column(name=f"pool_{at}", title=f"of {pool}", kind="usd") for at, pool in enumerate(pools)),
        Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
        Column(name="share", title="share", kind="percent"),
        Column(name="requests", title="requests", kind="int"),
        Column(name="tokens", title="tokens", kind="int"),
        Column(name="unpriced", title="unpriced", kind="int"),
    )
    rows = tuple(_line(owner, pools, whole) for owner in owners)
    missing = sum(owner.unpriced for owner in owners)
    total: Row = (
        "total",
        known(sum(owner.direct for owner in owners), missing),
        *(sum(dict(owner.shared).get(pool, 0) for owner in owners) for pool in pools),
        known(whole, missing),
        share(whole, whole),
        sum(owner.requests for owner in owners),
        sum(owner.tokens for owner in owners),
        missing,
    )
    first = untagged(owners)
    said = [f"Rules {version}."] if version else []
    said += [_POOLED] if pools else []
    return Table(title=title, columns=columns, rows=rows, total=total, notes=(first, *said, *notes))


def untagged(owners: Sequence[Owner]) -> str:
    """The first thing to know of an allocation: how much of it has no owner."""
    whole = sum(owner.total for owner in owners)
    nobody = sum(owner.total for owner in owners if owner.owner == UNALLOCATED)
    part = share(nobody, whole)
    return f"Untagged: {'0.00' if part is None else percent(part)} % of cost ({usd(nobody)}) has no owner."


def beside(now: Sequence[Owner], then: Sequence[Owner], *, title: str, notes: tuple[str, ...] = ()) -> Table:
    """Two versions of the rules over the same past: who would bear more, who less."""
    old, new = ({owner.owner: owner.total for owner in owners} for owners in (now, then))
    names = sorted({*old, *new}, key=lambda name: (-abs(new.get(name, 0) - old.get(name, 0)), name))
    rows = tuple(
        (name or _NOBODY, old.get(name, 0), new.get(name, 0), new.get(name, 0) - old.get(name, 0)) for name in names
    )
    columns = (
        Column(name="owner", title="owner"),
        Column(name="now", title="by the rules now", kind="usd"),
        Column(name="preview", title="by these rules", kind="usd"),
        Column(name="change", title="change", kind="usd"),
    )
    total = ("total", sum(old.values()), sum(new.values()), sum(new.values()) - sum(old.values()))
    said = (f"Now: {untagged(now)}", f"Preview: {untagged(then)}", *notes)
    return Table(title=title, columns=columns, rows=rows, total=total, notes=said)


def queue(rows: Sequence[Totals], by: tuple[str, ...], whole: int, *, limit: int = 20) -> Table:
    """Cost without an owner by what is known of it: the tags to add first come first."""
    ordered = sorted(rows, key=lambda row: (-row.amount, row.group))
    nobody = sum(row.amount for row in rows)
    shown = ordered if limit <= 0 else ordered[:limit]
    lines: tuple[Row, ...] = tuple(
        (
            *(value or "(none)" for value in row.group), known(row.amount, row.unpriced), share(row.amount, whole),
            row.requests,
        )
        for row in shown
    )  # fmt: skip
    rest = ordered[len(shown) :]
    if rest:
        amount = sum(row.amount for row in rest)
        other = (f"(other: {len(rest)})", *([""] * (len(by) - 1))) if by else ()
        lines = (*lines, (*other, amount, share(amount, whole), sum(row.requests for row in rest)))
    columns = (
        *(Column(name=name, title=name) for name in by),
        Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
        Column(name="share", title="of all cost", kind="percent"),
        Column(name="requests", title="requests", kind="int"),
    )
    part = share(nobody, whole)
    notes = (
        f"Untagged: {'0.00' if part is None else percent(part)} % of cost ({usd(nobody)}) has no owner.",
        "Give the key a team (farthing key create --team …), send x-farthing-team, or add a rule to [allocation].",
    )
    label = ("total", *([""] * (len(by) - 1))) if by else ()
    total = (*label, known(nobody, sum(row.unpriced for row in rows)), part, sum(row.requests for row in rows))
    return Table(title="Cost without an owner", columns=columns, rows=lines, total=total, notes=notes)


def _line(owner: Owner, pools: Sequence[str], whole: int) -> Row:
    shared = dict(owner.shared)
    return (
        owner.owner or _NOBODY,
        known(owner.direct, owner.unpriced),
        *(shared.get(pool, 0) for pool in pools),
        known(owner.total, owner.unpriced),
        share(owner.total, whole),
        owner.requests,
        owner.tokens,
        owner.unpriced,
    )
