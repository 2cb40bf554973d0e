"""Explore: spend by any dimension, over time, beside the period before, down to the requests."""

import msgspec

from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS, TIME_DIMENSIONS
from farthing.core.types import Totals
from farthing.insight.reports import comparison, spend, trend
from farthing.insight.series import days
from farthing.insight.table import Row, Table
from farthing.server.pages import figures
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Field, Form, Link, Page, TableBlock
from farthing.server.pages.state import GRAINS, PERIODS, State

LIMIT = 100
_CELLS = 3_000
_GRAIN_MS = {"hour": 3_600_000, "day": 86_400_000, "week": 604_800_000, "month": 2_592_000_000}
USUAL = ("team", "feature", "model", "provider", "user", "customer", "project", "key", "endpoint", "status")


def build(ask: Ask) -> Page:
    """One table and its chart."""
    state = ask.state
    by = state.by or ("feature",)
    limit = 0 if state.rest.get("limit") == "all" else LIMIT
    query = spend.query(by, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    rows = ask.ledger.totals(query)
    whole = ask.ledger.totals(msgspec.structs.replace(query, group_by=()))
    table = spend.build(rows, whole, by, title=f"Spend by {', '.join(by)}", limit=limit)
    if state.compare and state.since_ms:
        table = _compared(ask, by, limit)
    chart = _over_time(ask, by, rows)
    address = {by[0]: links(table.rows, lambda row: _drill(state, by, row))}
    blocks: list[Block] = [*controls(state, "/explore", comparable=True)]
    if rows:
        blocks.append(chart)
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


def _over_time(ask: Ask, by: tuple[str, ...], whole: tuple[Totals, ...]) -> TableBlock:
    """``whole``: the answer by ``by`` over the period."""
    state = ask.state
    groups = tuple(name for name in by if name not in TIME_DIMENSIONS)[:2]
    query = trend.query(state.grain, groups, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    slots: tuple[str, ...] = ()
    if state.grain == "day" and state.since_ms and state.until_ms - state.since_ms < 400 * 86_400_000:
        slots = tuple(days(state.since_ms, state.until_ms))
    if groups == by and _is_large(state, len(whole)) and ask.ledger.answers(query):
        found: list[Totals] = []
        for group in trend.largest(whole):
            one = msgspec.structs.replace(query, where=(*state.where, *zip(by, group, strict=True)))
            found += ask.ledger.totals(one)
        others = ask.ledger.totals(msgspec.structs.replace(query, group_by=(state.grain,))), len(whole)
        table = trend.build(tuple(found), state.grain, groups, slots=slots, others=others)
    else:
        table = trend.build(ask.ledger.totals(query), state.grain, groups, slots=slots)
    return TableBlock(
        id="trend", table=table, figure=figures.stacked(table), describes=f"{table.title}, stacked bars.", folded=True
    )


def _is_large(state: State, groups: int) -> bool:
    """Asking for the largest groups one by one is quicker than for all of them over time."""
    if groups <= 2 * trend.GROUPS_MAX:
        return False
    if not state.since_ms:
        return groups > trend.MANY
    return groups * ((state.until_ms - state.since_ms) // _GRAIN_MS.get(state.grain, 86_400_000) + 1) > _CELLS


def _compared(ask: Ask, by: tuple[str, ...], limit: int) -> Table:
    state = ask.state
    queries = comparison.queries(by, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    now, before = (ask.ledger.totals(query) for query in queries)
    first, second = (ask.ledger.totals(msgspec.structs.replace(query, group_by=())) for query in queries)
    return comparison.build(now, before, by, whole=(first, second), limit=limit)


def _drill(state: State, by: tuple[str, ...], row: Row) -> str:
    """The requests of a row; "" for the row of all others."""
    values = [str(value) for value in row[: len(by)]]
    if values and values[0].startswith("(other"):
        return state.href("/explore", limit="all")
    where = [pair for pair in state.where if pair[0] not in by]
    where += [(name, "" if value == "(none)" else value) for name, value in zip(by, values, strict=True)]
    return state.href("/requests", where=tuple(where), by=("feature",))


VIEW = View(name="explore", title="Explore", group="See", build=build, roles=EVERYBODY)
