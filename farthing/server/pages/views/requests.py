"""Requests, newest first and page by page, and one request opened: its tries and the receipt of its price."""

from urllib.parse import quote

from farthing.core.errors import NotFound
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.core.units import is_input, is_output
from farthing.insight import receipt
from farthing.insight.moments import shown
from farthing.insight.reports import requests
from farthing.insight.table import Column, Table
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Link, Note, Page, TableBlock, Text, Tile, Tiles
from farthing.server.pages.money import dollars
from farthing.server.pages.views.explore import controls

PAGE = 50


def build(ask: Ask) -> Page:
    """One page of the list."""
    state = ask.state
    query = LedgerQuery(since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    before = state.rest.get("before", "")
    found, cursor = ask.ledger.newest_entries(query, before=before, limit=PAGE)
    table = requests.build((entry, *_tokens(entry)) for entry in found)
    where = dict(state.where)
    block = TableBlock(
        id="requests",
        table=table,
        hide=("entry", *(name for name in ("team", "feature", "user", "session", "model") if name in where)),
        links={
            "request": links(table.rows, lambda row: f"/requests/{quote(str(row[1]), safe='')}"),
            "session": links(table.rows, lambda row: state.filtered("/requests", "session", str(row[7] or ""))),
        },
        empty="No call of this period matches." if not cursor else "None among these; older ones may match.",
        command="farthing requests --since 30d" if not cursor else "",
    )
    blocks: list[Block] = [*controls(state, "/requests", grouped=False), block]
    onward = []
    if before:
        onward.append(Link(text="Newest", href=state.href("/requests")))
    if cursor:
        onward.append(Link(text="Older →", href=state.href("/requests", before=cursor)))
    if onward:
        blocks.append(tuple(onward))
    lead = "Every booked try, newest first; the request leads to its receipt. Refused calls: farthing requests."
    return Page(title="Requests", lead=lead, blocks=tuple(blocks))


def one(ask: Ask) -> Page:
    """One request with its receipt, within the viewer's scope."""
    request_id = ask.path["id"]
    entries = tuple(ask.ledger.entries(request_id=request_id))
    exchange = ask.ledger.exchange(request_id)
    if not entries and exchange is None:
        raise NotFound(
            f"There is no request '{request_id[:100]}' that you may see.",
            hint="Look under Requests; 'farthing receipt ID' finds entries too.",
        )
    total = sum(entry.charge.total or 0 for entry in entries)
    unpriced = sum(entry.charge.total is None for entry in entries)
    first = entries[0] if entries else None
    tiles = (
        Tile(name="cost", label="Cost", value=dollars(total), exact=total,
             note=f"{unpriced} tries without a price" if unpriced else "exact", tone="warn" if unpriced else ""),
        Tile(name="tries", label="Booked tries", value=str(len(entries)), exact=len(entries), unit="count"),
        Tile(name="model", label="Model", value=first.model if first else exchange.view.model if exchange else "",
             unit="count"),
    )  # fmt: skip
    blocks: list[Block] = [Tiles(tiles=tiles), TableBlock(id="lines", table=_lines(entries), empty="Nothing billed.")]
    if exchange is not None and exchange.attempts:
        blocks.append(TableBlock(id="attempts", table=_attempts(ask, request_id)))
    blocks.append(Text(title="Receipt", text=receipt.as_text(entries, exchange)))
    if first is not None and first.scope.session:
        href = ask.state.href("/requests", since="90d", where=(("session", first.scope.session),))
        blocks.append(
            Note(text="This request is one of a session.", links=(Link(text=first.scope.session, href=href),))
        )
    when = shown(first.received_at_ms) if first else shown(exchange.received_at_ms) if exchange else ""
    return Page(title=f"Request {request_id}", lead=f"{when} UTC", blocks=tuple(blocks))


def _lines(entries: tuple[LedgerEntry, ...]) -> Table:
    rows = []
    for entry in entries:
        for line in entry.charge.lines:
            price = None if line.price is None else receipt.price_text(line.price, line.unit)
            why = ", ".join(f"× {basis / 10_000:g} {reason}" for reason, basis in line.multipliers)
            rows.append((entry.id, line.model or entry.model, line.unit, line.quantity, price, why, line.amount))
    return Table(
        title="Price, line by line",
        columns=(
            Column(name="entry", title="entry"),
            Column(name="model", title="model"),
            Column(name="unit", title="unit"),
            Column(name="quantity", title="quantity", kind="int"),
            Column(name="price", title="price", unknown="unknown"),
            Column(name="multipliers", title="times"),
            Column(name="amount", title="amount", kind="usd", unknown="unknown"),
        ),
        rows=tuple(rows),
        total=("together", "", "", None, "", "", sum(entry.charge.total or 0 for entry in entries)) if rows else None,
    )


def _attempts(ask: Ask, request_id: str) -> Table:
    exchange = ask.ledger.exchange(request_id)
    facts = exchange.attempts if exchange is not None else ()
    start = exchange.received_at_ms if exchange is not None else 0
    return Table(
        title="Tries at providers",
        columns=(
            Column(name="attempt", title="try", kind="int"),
            Column(name="provider", title="provider"),
            Column(name="model", title="model"),
            Column(name="status", title="status", kind="int"),
            Column(name="error", title="error"),
            Column(name="after_ms", title="began after ms", kind="int"),
            Column(name="latency_ms", title="took ms", kind="int"),
            Column(name="entry", title="billed as", unknown="not billed"),
        ),
        rows=tuple(
            (fact.attempt, fact.provider, fact.model, fact.status, fact.error, fact.started_at_ms - start,
             fact.latency_ms, fact.entry_id or None)
            for fact in facts
        ),
    )  # fmt: skip


def _tokens(entry: LedgerEntry) -> tuple[int, int]:
    lines = [line for part in entry.usage.parts for line in part.lines]
    return (
        sum(quantity for unit, quantity in lines if is_input(unit)),
        sum(quantity for unit, quantity in lines if is_output(unit)),
    )


VIEW = View(name="requests", title="Requests", group="See", build=build, roles=EVERYBODY)
ONE = View(name="request", title="Request", group="", build=one, roles=EVERYBODY, path="/requests/{id}")
