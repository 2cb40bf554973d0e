"""Allocation: whose the cost of a month is, what has no owner, and statements to download."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from farthing.core.allocation import UNALLOCATED, AllocationRules, Owner, Rule, allocate, owner_of
from farthing.core.dimensions import is_dimension
from farthing.core.errors import BadRequest
from farthing.core.types import LedgerQuery, Totals
from farthing.insight import ownership
from farthing.insight.honesty import known
from farthing.insight.moments import parse_moment
from farthing.insight.reports import allocation, chargeback
from farthing.insight.table import Column, Table, share
from farthing.server.pages import figures
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Link, Page, TableBlock, Tile, Tiles
from farthing.server.pages.bounds import READ_MAX, SUMMED_MAX
from farthing.server.pages.money import dollars

MONTHS = 6
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


def build(ask: Ask) -> Page:
    """The month of ``?month=``, this one without it."""
    month = ask.state.rest.get("month", "") or f"{datetime.fromtimestamp(ask.now_ms / 1000, UTC):%Y-%m}"
    if not _MONTH.fullmatch(month):
        raise BadRequest(f"month: '{month[:20]}' is no month such as 2026-10")
    since, until = parse_moment(month, now_ms=0), parse_moment(_after(month), now_ms=0)
    rules = ownership.rules_of(ask.sources.settings().allocation)
    preview = _preview(ask, rules)
    versions = (rules, preview) if preview is not None else (rules,)
    query, loose = _asked(ask, versions, since, until)
    rows = ask.ledger.totals(query)
    lines = ownership.lines(rows, query.group_by)
    owners = allocate(rules, lines)
    whole = sum(owner.total for owner in owners)
    nobody = sum(owner.total for owner in owners if owner.owner == UNALLOCATED)
    part = share(nobody, whole) or 0
    version = f"{rules.version} {ownership.ref(rules)}".strip()
    table = allocation.build(owners, title=f"Owners in {month}", version=version)
    statements = chargeback.build(
        ownership.statements(rules, lines), title=f"{chargeback.TITLE} {month}", notes=(f"Rules {version}.",)
    )
    blocks: list[Block] = [
        _months(ask, month),
        Tiles(
            tiles=(
                Tile(name="cost", label=f"Cost of {month}", value=_cost(owners), exact=_known(owners)),
                Tile(
                    name="untagged",
                    label="Without an owner",
                    value=f"{part / 100:.1f} %",
                    exact=part,
                    unit="percent_hundredths",
                    note=dollars(nobody),
                    tone="bad" if part > 500 else "warn" if part else "good",
                ),
            )
        ),
        TableBlock(
            id="owners",
            table=table,
            figure=figures.ranked(table, "owner", "cost") if whole else None,
            describes="What each owner bears.",
        ),
    ]
    if not rows:
        blocks[-1] = TableBlock(
            id="owners",
            table=msgspec.structs.replace(table, rows=(), total=None),
            empty="Nothing was booked in this month.",
            command=f"farthing chargeback --month {month}",
        )
    if preview is not None:
        blocks.append(
            TableBlock(
                id="preview",
                table=allocation.beside(owners, allocate(preview, lines), title=f"Preview on {month}"),
            )
        )
    blocks += [
        TableBlock(id="chargeback", table=statements, folded=True),
        *(_untagged(rules, ask.ledger.totals(one), one.group_by, names, whole) for names, one in loose),
        _rules(rules),
        _form(month),
    ]
    lead = "Rules read the ledger and never change it. What no rule claims is a row of its own."
    return Page(title="Allocation", lead=lead, blocks=tuple(blocks))


def _known(owners: Sequence[Owner]) -> int | None:
    return known(sum(owner.total for owner in owners), sum(owner.unpriced for owner in owners))


def _cost(owners: Sequence[Owner]) -> str:
    found = _known(owners)
    return "unpriced" if found is None else dollars(found)


def _asked(
    ask: Ask, versions: tuple[AllocationRules, ...], since: int, until: int
) -> tuple[LedgerQuery, tuple[tuple[tuple[str, ...], LedgerQuery], ...]]:
    """What to ask for owners, and for cost without one: by all dimensions together where that can be read, else one
    by one, for which sums are ready."""

    def query(*also: str) -> LedgerQuery:
        return ownership.query(versions, since_ms=since, until_ms=until, also=also)

    together = query(*ownership.QUEUE)
    (count,) = ask.ledger.totals(msgspec.structs.replace(together, group_by=()))
    if count.entries <= (SUMMED_MAX if ask.ledger.quick(together) else READ_MAX):
        return query(ownership.DETAIL), ((ownership.QUEUE, together),)
    return query(ownership.DETAIL), tuple(((name,), query(name)) for name in ownership.QUEUE)


def _after(month: str) -> str:
    year, number = int(month[:4]), int(month[5:])
    return f"{year + number // 12:04}-{number % 12 + 1:02}"


def _months(ask: Ask, current: str) -> tuple[Link, ...]:
    now = datetime.fromtimestamp(ask.now_ms / 1000, UTC)
    names = []
    for back in range(MONTHS):
        at = now.year * 12 + now.month - 1 - back
        names.append(f"{at // 12:04}-{at % 12 + 1:02}")
    return tuple(
        Link(text=name, href=ask.state.href("/allocation", month=name), current=name == current) for name in names
    )


def _preview(ask: Ask, rules: AllocationRules) -> AllocationRules | None:
    """The rules with one more in front, as the form says."""
    rest = ask.state.rest
    owner, dimension, pattern = rest.get("owner", ""), rest.get("dimension", ""), rest.get("pattern", "")
    if not owner or not dimension:
        return None
    if not is_dimension(dimension):
        raise BadRequest(f"'{dimension[:40]}' is no dimension.", hint="team, feature, model, key, tag:<name> …")
    first = Rule(owner=owner[:128], match=((dimension, pattern),))
    return AllocationRules(version="preview", rules=(first, *rules.rules), pools=rules.pools)


def _untagged(
    rules: AllocationRules, rows: tuple[Totals, ...], groups: tuple[str, ...], names: tuple[str, ...], whole: int
) -> TableBlock:
    sums: dict[tuple[str, ...], list[int]] = {}
    for row, line in zip(rows, ownership.lines(rows, groups), strict=True):
        if ownership.is_pooled(rules, line.values) or owner_of(rules, line.values) != UNALLOCATED:
            continue
        cells = sums.setdefault(tuple(line.values[name] for name in names), [0, 0])
        cells[0] += row.amount
        cells[1] += row.requests
    kept = [Totals(group=group, amount=cells[0], requests=cells[1]) for group, cells in sums.items()]
    return TableBlock(
        id="untagged" if names == ownership.QUEUE else f"untagged_{names[0]}",
        table=allocation.queue(kept, names, whole),
        empty="Every cost of this month has an owner.",
    )


def _rules(rules: AllocationRules) -> TableBlock:
    lines = [(rule.owner, _match(rule.match), "first match decides") for rule in rules.rules]
    lines += [(f"pool {pool.name}", _match(pool.match), f"shared: {pool.basis}") for pool in rules.pools]
    columns = tuple(Column(name=name, title=name) for name in ("owner", "match", "how"))
    return TableBlock(id="rules", table=Table(title="Rules", columns=columns, rows=tuple(lines)), folded=True)


def _match(pairs: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={pattern or '(none)'}" for name, pattern in pairs) or "everything"


def _form(month: str) -> Form:
    return Form(
        id="try",
        title="Try a rule on the past",
        action="/allocation",
        submit="Preview",
        folded=True,
        fields=(
            Field(name="month", label="", kind="hidden", value=month),
            Field(name="owner", label="Owner", hint="Search, or {feature} for its own value"),
            Field(name="dimension", label="of calls whose", value="feature"),
            Field(name="pattern", label="is like", hint="notebook*; * and ? match"),
        ),
    )


VIEW = View(name="allocation", title="Allocation", group="Allocate", build=build, roles=OFFICE)
