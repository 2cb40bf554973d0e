"""Prices: the catalogue, and one model with every row, its dates and where it was read."""

import msgspec

from farthing.core.price_book import PriceBook, Resolved
from farthing.core.types import LedgerQuery
from farthing.insight.price_tables import model_table, models_table, used_table
from farthing.insight.table import Row
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Block, Field, Form, Link, Page, TableBlock

LIMIT = 200
DAYS = 30
DAY_MS = 86_400_000


def build(ask: Ask) -> Page:
    """All models of ``provider``, those whose name holds ``q``; ``model``: one of them."""
    rest = ask.state.rest
    provider, sought, model = rest.get("provider", ""), rest.get("q", "").lower(), rest.get("model", "")
    book = ask.sources.book()
    state = ask.state
    names = tuple(dict.fromkeys(entry.provider for entry in book.models()))
    form = Form(
        id="find",
        title="",
        action="/prices",
        submit="Find",
        fields=(
            Field(name="q", label="Model holds", value=rest.get("q", "")),
            Field(name="provider", label="Provider", kind="select", options=("", *names), value=provider),
        ),
    )
    blocks: list[Block] = [form]
    if model and provider:
        entry = next((one for one in book.models(provider) if one.id == model), None)
        window = entry.context_window if entry is not None else None
        table = model_table(book, Resolved(provider, provider, model, "", window), ask.now_ms)
        blocks.append(
            TableBlock(
                id="model", table=table, empty="The book has no rows for this model.", command="farthing price ls"
            )
        )
    if not (model or provider or sought):
        blocks.append(_used(ask, book))
    table = models_table(book, provider, ask.now_ms)
    rows = tuple(row for row in table.rows if sought in str(row[1]).lower())
    note = (f"The first {LIMIT} of {len(rows):,}; search, or choose a provider.",) if len(rows) > LIMIT else ()
    table = msgspec.structs.replace(table, rows=rows[:LIMIT], notes=(*note, *table.notes))

    def address(row: Row) -> str:
        return state.href("/prices", provider=row[0], model=row[1], q=rest.get("q", ""))

    blocks.append(
        TableBlock(
            id="models",
            table=table,
            links={"model": links(table.rows, address)},
            empty="No model of the book is called that.",
            command="farthing price set PROVIDER MODEL input=2.50",
        )
    )
    if model or provider or sought:
        blocks.append((Link(text="All models", href="/prices"),))
    lead = "List prices of today. Every row says since when it holds and where it was read."
    return Page(title="Prices", lead=lead, blocks=tuple(blocks))


def _used(ask: Ask, book: PriceBook) -> TableBlock:
    """The models that the viewer's calls use, with the age of their prices."""
    since = ask.now_ms - ask.now_ms % DAY_MS - (DAYS - 1) * DAY_MS
    rows = ask.ledger.totals(LedgerQuery(group_by=("provider", "model"), since_ms=since))
    billed = {one.name: one.price_as or one.name for one in ask.sources.settings().providers}
    table = used_table(book, rows, billed, ask.now_ms, title=f"In use, last {DAYS} days")
    return TableBlock(
        id="used",
        table=table,
        links={
            "model": links(
                table.rows,
                lambda row: ask.state.href("/prices", provider=billed.get(str(row[0]), row[0]), model=row[1]),
            )
        },
        empty="No call of the last days: the catalogue below is what could be used.",
    )


VIEW = View(name="prices", title="Prices", group="Run", build=build, roles=EVERYBODY)
