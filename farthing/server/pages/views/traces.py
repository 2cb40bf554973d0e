"""Traces: runs of agents by what they cost, each agent's share, unit costs; and one trace, call by call."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import msgspec

from farthing.core.errors import NotFound
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery
from farthing.insight.reports import metrics, traces
from farthing.insight.reports.traces import AGENT, TRACE, Trace
from farthing.insight.scan import scan
from farthing.insight.table import Table
from farthing.server.pages import figures
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Link, Note, Page, TableBlock, Tile, Tiles
from farthing.server.pages.bounds import bounded
from farthing.server.pages.money import dollars
from farthing.server.pages.views.explore import controls

READ_MAX = 5_000
"""Entries that are read one by one for unit costs; a longer period shows those that sums can tell."""
LISTED = 50
SPANS = 500
PAGES = 6
DRAWN = 40


def build(ask: Ask) -> Page:
    """The dearest traces of the period, its agents, and unit costs by agent."""
    state = ask.state
    query = traces.query(since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    query, shortened = bounded(ask, query)
    state = msgspec.structs.replace(state, since_ms=query.since_ms or 0)
    ask = replace(ask, state=state)
    rows = ask.ledger.totals(query)
    found = traces.read(rows)
    table = traces.build(found, without=sum(row.entries for row in rows if not row.group[1]), limit=LISTED)
    agents = traces.agents(rows)
    listed = TableBlock(
        id="traces",
        compact=True,
        table=table,
        links={
            "trace": tuple(_address(one) for one in found[: len(table.rows)]),
            "session": tuple(
                state.filtered("/requests", "session", one.sessions[0]) if len(one.sessions) == 1 else ""
                for one in found[: len(table.rows)]
            ),
        },
        empty="No call of this period belongs to a trace.",
        command=traces.HOW,
    )
    by_agent = TableBlock(
        id="agents",
        table=agents,
        links={"agent": links(agents.rows, lambda row: _of_agent(ask, str(row[0])))},
        empty="No call of this period names an agent.",
        command=traces.HOW,
    )
    blocks: tuple[Block, ...] = (
        *controls(state, "/traces", grouped=False), *shortened, listed, by_agent, _units(ask),
    )  # fmt: skip
    lead = "What one run of an agent costs, and each agent: by trace, from traceparent or the tag of that name."
    return Page(title="Traces", lead=lead, blocks=blocks)


def one(ask: Ask) -> Page:
    """One trace, within the viewer's scope and the address's period."""
    trace = ask.path["id"]
    entries, unbooked, whole = _calls(ask, trace)
    if not entries and not unbooked:
        raise NotFound(
            f"There is no call of trace '{trace[:64]}' in this period that you may see.",
            hint="Open it from the list of traces, or say an earlier ?since=.",
        )
    table = traces.spans(entries, unbooked, title="Calls, in the order in which they came")
    cost = sum(entry.charge.total or 0 for entry in entries)
    calls = len({entry.request_id for entry in entries} | {one.request_id for one in unbooked})
    _, lasts = traces.span_of(entries, unbooked)
    agents = sorted({str(row[2]) for row in table.rows if row[2]})
    tiles = (
        Tile(name="cost", label="Cost", value=dollars(cost), exact=cost, note=f"{len(entries)} booked tries"),
        Tile(name="calls", label="Calls", value=str(calls), exact=calls, unit="count",
             note=f"{len(unbooked)} refused or failed" if unbooked else "all answered or billed"),
        Tile(name="lasted", label="From first to last", value=f"{lasts / 1000:,.1f} s", exact=lasts, unit="count"),
        Tile(name="agents", label="Agents", value=str(len(agents)), exact=len(agents), unit="count",
             note=", ".join(agents)[:80]),
    )  # fmt: skip
    blocks: list[Block] = [Tiles(tiles=tiles)]
    if not whole:
        blocks.append(Note(text=f"The newest {SPANS} of its calls: say a shorter period.", tone="warn"))
    blocks.append(
        TableBlock(
            id="spans",
            compact=True,
            table=table,
            figure=figures.waterfall(_drawn(table)),
            describes=f"When each call began and how long it took; the first {DRAWN}.",
            links={"request": links(table.rows, lambda row: f"/requests/{quote(str(row[1]), safe='')}")},
        )
    )
    onward = Link(text="As requests", href=ask.state.href("/requests", where=((TRACE, trace),)))
    blocks.append((onward, Link(text="Traces", href=ask.state.href("/traces", where=()))))
    return Page(title=f"Trace {trace[:64]}", lead="One run, call by call.", blocks=tuple(blocks))


def _calls(ask: Ask, trace: str) -> tuple[tuple[LedgerEntry, ...], tuple[Exchange, ...], bool]:
    """(booked tries, calls without any, all of them were found); the work is bounded."""
    state = ask.state
    query = LedgerQuery(since_ms=state.since_ms, until_ms=state.until_ms, where=((TRACE, trace), *state.where))
    entries: list[LedgerEntry] = []
    cursor = ""
    for _ in range(PAGES):
        page, cursor = ask.ledger.newest_entries(query, before=cursor, limit=SPANS)
        entries += page
        if not cursor or len(entries) >= SPANS:
            break
    unbooked, more = ask.ledger.newest_unbooked(query, before="", limit=SPANS)
    return tuple(entries[:SPANS]), unbooked, not cursor and not more


def _drawn(table: Table) -> list[tuple[str, int, int, bool]]:
    found = []
    for number, row in enumerate(table.rows[:DRAWN], 1):
        who = " ".join(str(part) for part in (row[2], row[3]) if part) or str(row[5])
        began, took = row[0], row[12]
        if isinstance(began, int) and isinstance(took, int):
            found.append((f"{number}. {who}"[:40], began, max(1, took), not row[11]))
    return found


def _address(one: Trace) -> str:
    """Within the hours that it lasted, so that opening it costs the same in any ledger."""
    ends = datetime.fromisoformat(f"{one.last}:00:00").replace(tzinfo=UTC) + timedelta(hours=2)
    return f"/traces/{quote(one.id, safe='')}?since={one.first}:00Z&until={ends:%Y-%m-%dT%H:%MZ}"


def _of_agent(ask: Ask, agent: str) -> str:
    return ask.state.filtered("/requests", AGENT, "" if agent == "(none)" else agent)


def _units(ask: Ask) -> TableBlock:
    state = ask.state
    by = (AGENT,)
    query = metrics.query(by, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    rows = ask.ledger.totals(query)
    details = None
    if sum(row.entries for row in rows) <= READ_MAX:
        entries = ask.ledger.entries(since_ms=state.since_ms)
        details = scan(entries, by, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    table = metrics.build(rows, by, details, title="Unit costs by agent", limit=50)
    shown = msgspec.structs.replace(
        table, columns=(msgspec.structs.replace(table.columns[0], title="agent"), *table.columns[1:])
    )
    return TableBlock(
        id="units", table=shown, empty="No call of this period matches.", command="farthing metrics --by agent"
    )


VIEW = View(name="traces", title="Traces", group="See", build=build, roles=EVERYBODY)
ONE = View(name="trace", title="Trace", group="", build=one, roles=EVERYBODY, path="/traces/{id}")
