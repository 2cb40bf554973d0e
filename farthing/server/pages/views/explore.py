"""Explore: spend by any dimension, over time, beside the period before, down to the requests."""

import msgspec

from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS, TIME_DIMENSIONS
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.reports import comparison, spend, trend
from farthing.insight.reports.comparison import Amounts
from farthing.insight.series import days
from farthing.insight.table import Row, Table
from farthing.server.pages import figures
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Field, Form, Link, Page, TableBlock
from farthing.server.pages.bounds import at_once
from farthing.server.pages.state import GRAINS, PERIODS, State

LIMIT = 100
MORE = 1_000
"""Rows of a page that is asked for all; files have every one."""
_CELLS = 3_000
_WIDE = 8_000
"""Sums behind an answer from which on only groups with a row of their own are asked for in full."""
_GRAIN_MS = {"hour": 3_600_000, "day": 86_400_000, "week": 604_800_000, "month": 2_592_000_000}
USUAL = ("team", "feature", "model", "provider", "user", "customer", "project", "key", "endpoint", "status")


def build(ask: Ask) -> Page:
    """One table and its chart."""
    state = ask.state
    by = state.by or ("feature",)
    limit = LIMIT if state.rest.get("limit") != "all" else MORE if ask.form == "html" else 0
    compared = state.compare and bool(state.since_ms)
    query = spend.query(by, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    query, shortened = at_once(ask, query, times=2 if compared else 1, chart=_chart(ask, query))
    rows, groups = _rows(ask, query, limit, full=not compared)
    whole = ask.ledger.totals(msgspec.structs.replace(query, group_by=()))
    if compared:
        table = _compared(ask, query, limit, groups)
    else:
        table = spend.build(rows, whole, by, title=f"Spend by {', '.join(by)}", limit=limit, groups=groups)
    address = {by[0]: links(table.rows, lambda row: _drill(state, by, row))}
    blocks: list[Block] = [*controls(state, "/explore", comparable=True), *shortened]
    if rows:
        unpriced = any(one.unpriced for one in whole)
        blocks.append(_over_time(ask, query, rows, groups or len(rows), unpriced=unpriced))
    blocks.append(
        TableBlock(
            id="spend",
            table=table,
            links=address,
            empty="No call of this period matches.",
            command="farthing report --by team,model --since 90d",
        )
    )
    return Page(title="Explore", lead="Spend by any dimension; a row leads to its requests.", blocks=tuple(blocks))


def _rows(ask: Ask, query: LedgerQuery, limit: int, *, full: bool) -> tuple[tuple[Totals, ...], int]:
    """(the groups, 0); or where very many sums stand behind them: (those with a row of their own, how many).
    ``full``: False where amounts will do."""
    if not limit or not _is_wide(ask, query):
        return ask.ledger.totals(query), 0
    amounts = ask.ledger.amounts(query)
    if len(amounts) <= limit:
        return ask.ledger.totals(query), 0
    first = spend.first(amounts, query.group_by, limit)
    rows = ask.ledger.some(query, first) if full else _plain({group: amounts[group] for group in first})
    return rows, len(amounts)


def _is_wide(ask: Ask, query: LedgerQuery) -> bool:
    return (ask.ledger.cells(query) or 0) > _WIDE and ask.ledger.answers(query)


def controls(
    state: State, path: str, *, comparable: bool = False, grouped: bool = True, **kept: str
) -> tuple[Block, ...]:
    """Period, grouping and filter: links for the usual, a form for everything. ``kept``: stays in the address."""
    periods = tuple(
        Link(text=text, href=state.href(path, since=since, until="now", **kept), current=state.since == since)
        for since, text in PERIODS
    )
    hidden = [Field(name="where", label="", kind="hidden", value=f"{name}={value}") for name, value in state.where]
    hidden += [Field(name=name, label="", kind="hidden", value=value) for name, value in kept.items() if value]
    fields = [
        Field(name="since", label="From", value=state.since, hint="30d, 2026-11, 2026-11-21"),
        Field(name="until", label="Until", value=state.until),
        *hidden,
        Field(name="where", label="Only", hint="name=value, such as team=search"),
    ]
    if grouped:
        named = ", ".join((*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS, *TIME_DIMENSIONS, "tag:<name>"))
        fields.insert(2, Field(name="by", label="Group by", value=",".join(state.by), hint=f"up to four of: {named}"))
        fields.insert(3, Field(name="grain", label="Time", kind="select", value=state.grain, options=GRAINS))
    form = Form(id="controls", title="Period, groups and filters", fields=tuple(fields), action=path, folded=True)
    if not grouped:
        return periods, form
    by = tuple(
        Link(text=name.replace("_", " "), href=state.href(path, by=(name,)), current=state.by == (name,))
        for name in (
            "team",
            "feature",
            "model",
            "provider",
            "user",
            "customer",
            "project",
            "key",
            "endpoint",
            "status",
        )
    )
    compared = (
        (Link(text="beside the period before", href=state.href(path, compare=not state.compare),
              current=state.compare),)
        if comparable else ()
    )  # fmt: skip
    return periods, (*by, *compared), form


def _over_time(ask: Ask, query: LedgerQuery, rows: tuple[Totals, ...], count: int, *, unpriced: bool) -> TableBlock:
    """``rows``: the groups of the query, the largest of them at least; ``count``: how many there are. ``unpriced``:
    some entries are, and what has only such ones must not be drawn as costing nothing."""
    state, by = ask.state, query.group_by
    since_ms, until_ms = query.since_ms or 0, state.until_ms
    over_time = _chart(ask, query)
    groups = over_time.group_by[1:]
    slots: tuple[str, ...] = ()
    if state.grain == "day" and since_ms and until_ms - since_ms < 400 * 86_400_000:
        slots = tuple(days(since_ms, until_ms))
    if groups != by and groups and _is_wide(ask, over_time):
        known = ask.ledger.amounts(msgspec.structs.replace(query, group_by=groups))
        rows, count = _plain({group: known[group] for group in spend.first(known, groups, LIMIT)}), len(known)
    elif groups != by:
        count = 0
    if _is_large(state, since_ms, count) and ask.ledger.answers(over_time):
        found: list[Totals] = []
        for group in trend.largest(rows):
            one = msgspec.structs.replace(over_time, where=(*state.where, *zip(groups, group, strict=True)))
            found += _amounts(ask, one, unpriced=unpriced)
        by_time = msgspec.structs.replace(over_time, group_by=(state.grain,))
        others = _amounts(ask, by_time, unpriced=unpriced), count
        table = trend.build(tuple(found), state.grain, groups, slots=slots, others=others)
    else:
        table = trend.build(_amounts(ask, over_time, unpriced=unpriced), state.grain, groups, slots=slots)
    return TableBlock(
        id="trend", table=table, figure=figures.stacked(table), describes=f"{table.title}, stacked bars.", folded=True
    )


def _chart(ask: Ask, query: LedgerQuery) -> LedgerQuery:
    """Time, and the first two groups that are none."""
    groups = tuple(name for name in query.group_by if name not in TIME_DIMENSIONS)[:2]
    until_ms = ask.state.until_ms
    return trend.query(ask.state.grain, groups, since_ms=query.since_ms or 0, until_ms=until_ms, where=query.where)


def _amounts(ask: Ask, query: LedgerQuery, *, unpriced: bool) -> tuple[Totals, ...]:
    """The answer with amounts only: all that a chart needs, but for groups that may have no known price."""
    found = ask.ledger.amounts(query)
    free = [group for group, (amount, _) in found.items() if not amount] if unpriced else []
    known = {row.group: row for row in ask.ledger.some(query, free)} if free else {}
    return tuple(known.get(row.group, row) for row in _plain(found))


def _plain(found: Amounts) -> tuple[Totals, ...]:
    return tuple(Totals(group=group, amount=found[group][0], entries=found[group][1]) for group in sorted(found))


def _is_large(state: State, since_ms: int, groups: int) -> bool:
    """Asking for the largest groups one by one is quicker than for all of them over time."""
    if groups <= 2 * trend.GROUPS_MAX:
        return False
    if not since_ms:
        return groups > trend.MANY
    return groups * ((state.until_ms - since_ms) // _GRAIN_MS.get(state.grain, 86_400_000) + 1) > _CELLS


def _compared(ask: Ask, query: LedgerQuery, limit: int, groups: int) -> Table:
    by, until_ms = query.group_by, ask.state.until_ms
    queries = comparison.queries(by, since_ms=query.since_ms or 0, until_ms=until_ms, where=query.where)
    wholes = [ask.ledger.totals(msgspec.structs.replace(one, group_by=())) for one in queries]
    whole = (wholes[0], wholes[1])
    if not groups:
        now, before = (ask.ledger.totals(one) for one in queries)
        return comparison.build(now, before, by, whole=whole, limit=limit)
    amounts = [ask.ledger.amounts(one) for one in queries]
    first = comparison.first(amounts[0], amounts[1], limit)
    now, before = (ask.ledger.some(one, first) for one in queries)
    count = len(amounts[0].keys() | amounts[1].keys())
    return comparison.build(now, before, by, whole=whole, limit=limit, count=count)


def _drill(state: State, by: tuple[str, ...], row: Row) -> str:
    """The requests of a row; "" for the row of all others."""
    values = [str(value) for value in row[: len(by)]]
    if values and values[0].startswith("(other"):
        return state.href("/explore", limit="all") if state.rest.get("limit") != "all" else ""
    where = [pair for pair in state.where if pair[0] not in by]
    where += [(name, "" if value == "(none)" else value) for name, value in zip(by, values, strict=True)]
    return state.href("/requests", where=tuple(where), by=("feature",))


VIEW = View(name="explore", title="Explore", group="See", build=build, roles=EVERYBODY)
