"""Requests, newest first and page by page, and one request opened: its tries and the receipt of its price."""

from urllib.parse import quote

import msgspec

from farthing.core.budget import Budgets
from farthing.core.errors import BadRequest, NotFound
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery
from farthing.core.units import is_input, is_output
from farthing.insight import receipt
from farthing.insight.moments import shown
from farthing.insight.reports import budget_explain, requests
from farthing.insight.table import Column, Table
from farthing.server.pages.ask import EVERYBODY, OFFICE, Ask, View, links
from farthing.server.pages.blocks import Block, Link, Note, Page, TableBlock, Text, Tile, Tiles
from farthing.server.pages.bounds import is_nothing
from farthing.server.pages.money import dollars
from farthing.server.pages.views.explore import controls

PAGE = 50
FILE = 10_000
"""Booked tries of one CSV file, unless ``limit`` says otherwise, and the most that may be asked for at once."""
UNBOOKED = 200
"""Refused and failed calls shown between the booked tries of one page, at most; of longer ones, four a try."""
ENTRY_ONLY = ("provider", "service_tier", "source", "state", "reason", "kind", "price_book")
"""Filters that only booked tries can meet."""
SHOWS = (("all", "all calls"), ("booked", "booked tries"), ("refused", "refused and failed"))


def build(ask: Ask) -> Page:
    """One page of the list."""
    state = ask.state
    show = state.rest.get("show", "all")
    if show not in dict(SHOWS):
        raise BadRequest(f'show: "{show[:40]}" is none of {", ".join(name for name, _ in SHOWS)}')
    chosen = "" if show == "all" else show
    limit = _limit(ask)
    found, unbooked, onward, cut = _page(ask, show, limit)
    table = requests.build(((entry, *_tokens(entry)) for entry in found), unbooked)
    if cut:
        note = "The rest of the refused and failed calls of this stretch of time is on the next page."
        table = msgspec.structs.replace(table, notes=(note, *table.notes))
    where = dict(state.where)
    opened = links(table.rows, lambda row: f"/requests/{quote(str(row[1]), safe='')}")
    block = TableBlock(
        id="requests",
        compact=True,
        table=table,
        hide=("entry", *(name for name in ("team", "feature", "user", "session", "model") if name in where)),
        links={
            "request": opened,
            "session": links(
                table.rows, lambda row: state.filtered("/requests", "session", str(row[9])) if row[9] else ""
            ),
            "error": tuple(href if row[4] else "" for href, row in zip(opened, table.rows, strict=True)),
        },
        empty="No call of this period matches." if not onward else "None among these; older ones may match.",
        command="farthing requests --since 30d" if not onward else "",
    )
    shows = tuple(
        Link(text=text, href=state.href("/requests", show="" if name == "all" else name), current=name == show)
        for name, text in SHOWS
    )
    blocks: list[Block] = [*controls(state, "/requests", grouped=False, show=chosen), shows, block]
    moves = [Link(text="Newest", href=state.href("/requests", show=chosen))] if "before" in state.rest else []
    onward = {"show": chosen, **onward} if onward else {}
    moves += [Link(text="Older →", href=state.href("/requests", **onward))] if onward else []
    if moves:
        blocks.append(tuple(moves))
    lead = "Every try and every refusal, newest first; a request leads to its receipt, or to why it was refused."
    more = {**onward, "limit": state.rest.get("limit", "")}
    rest = state.href("", **more).removeprefix(state.path) if onward else ""
    return Page(
        title="Requests", lead=lead, blocks=tuple(blocks), live="before" not in state.rest, onward=rest
    )  # fmt: skip


def _limit(ask: Ask) -> int:
    said = ask.state.rest.get("limit", "")
    if not said:
        return FILE if ask.form == "csv" else PAGE
    if not (said.isascii() and said.isdigit() and len(said) < 6 and 1 <= int(said) <= FILE):
        raise BadRequest(f'limit: "{said[:40]}" is no number from 1 to {FILE:,}')
    return int(said)


def _page(
    ask: Ask, show: str, limit: int
) -> tuple[tuple[LedgerEntry, ...], tuple[Exchange, ...], dict[str, str], bool]:
    """(booked tries, calls without any, what the address of the next page says, some of the second are there).

    Between booked tries stand the calls of the same stretch of time: ``edge`` is where the page before ended.
    """
    state, before = ask.state, ask.state.rest.get("before", "")
    query = LedgerQuery(since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    if show == "refused":
        unbooked, cursor = ask.ledger.newest_unbooked(query, before=before, limit=limit)
        return (), unbooked, {"before": cursor} if cursor else {}, False
    found, cursor = ask.ledger.newest_entries(query, before=before, limit=limit)
    if cursor and not found and is_nothing(ask, query):
        cursor = ""
    onward = {"before": cursor} if cursor else {}
    if show == "booked" or any(name in ENTRY_ONLY for name, _ in state.where):
        return found, (), onward, False
    upper, start = _edge(state.rest.get("edge", ""), state.until_ms)
    lower = min([upper, *(entry.received_at_ms for entry in found)]) if cursor else state.since_ms
    if cursor and not found:  # only the booked tries were looked through: what lies between them is still to come
        return found, (), {**onward, "edge": start or str(upper)}, False
    if cursor:
        onward["edge"] = str(lower)
    between = msgspec.structs.replace(query, since_ms=lower, until_ms=upper)
    unbooked, rest = ask.ledger.newest_unbooked(between, before=start, limit=max(UNBOOKED, 4 * limit))
    if rest:  # there was no time or no room for all: the next page goes on with them
        onward = {**onward, "edge": rest} if cursor else {"show": "refused", "before": rest}
    return found, unbooked, onward, bool(rest)


def _edge(said: str, until_ms: int) -> tuple[int, str]:
    """(instant before which calls without a try are listed, the cursor of the one that was listed last)."""
    moment, _, number = said.partition(".")
    if not (said.isascii() and moment.isdigit() and len(moment) < 16):
        return until_ms, ""
    return (int(moment) + 1, said) if number else (int(moment), "")


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
        Tile(name="cost", label="Cost", value=dollars(total), exact=total, tone="warn" if unpriced else "",
             note=f"{unpriced} tries without a price" if unpriced else "exact" if entries else "nothing was booked"),
        Tile(name="tries", label="Booked tries", value=str(len(entries)), exact=len(entries), unit="count"),
        Tile(name="model", label="Model", value=first.model if first else exchange.view.model if exchange else "",
             unit="count"),
    )  # fmt: skip
    blocks: list[Block] = [Tiles(tiles=tiles)]
    if exchange is not None and exchange.outcome != "answered":
        blocks.append(_why(exchange))
    blocks.append(TableBlock(id="lines", table=_lines(entries), empty="Nothing billed."))
    if ask.person.role in OFFICE:
        blocks.append(_budgets(ask, entries, exchange))
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


def _why(exchange: Exchange) -> Note:
    """What became of a call that was not answered, in the words of the stage that decided it."""
    said = [
        f"{one.reason} ({one.action})" + "".join(f"; {name}: {value}" for name, value in one.evidence)
        for one in exchange.decisions
        if one.action == "refuse" or one.stage == "budget"
    ]
    return Note(
        title=f"{exchange.outcome.capitalize()}: status {exchange.status}, {exchange.error or 'no error code'}",
        text=". ".join(said) or "The log has no more than this code; docs/reference/errors.md says what it means.",
        tone="bad" if exchange.outcome != "aborted" else "warn",
        command=f"farthing budget explain {exchange.request_id}" if exchange.outcome == "refused" else "",
    )


def _budgets(ask: Ask, entries: tuple[LedgerEntry, ...], exchange: Exchange | None) -> TableBlock:
    """What ``farthing budget explain`` says of it. Counters may be those of many teams: for the office only."""
    asked = budget_explain.asked_of(entries, exchange)
    found = budget_explain.applying(Budgets(ask.sources.settings().policy.budgets), asked)
    table = budget_explain.build(asked, found, ask.sources.counters().balances(budget_explain.wanted(found)))
    return TableBlock(
        id="budgets",
        table=msgspec.structs.replace(table, title="Budgets that bound it"),
        empty="No budget applies to such a call.",
        folded=bool(entries),
    )


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
