"""Savings: what caches saved, less what saving cost."""

from farthing.core.types import Totals
from farthing.insight.reports import savings
from farthing.server.pages import figures
from farthing.server.pages.ask import EVERYBODY, OFFICE, Ask, View
from farthing.server.pages.blocks import Link, Note, Page, TableBlock
from farthing.server.pages.views.explore import controls


def build(ask: Ask) -> Page:
    """By the grouping of the address, and day by day."""
    state = ask.state
    by = state.by or ("feature",)

    def asked(groups: tuple[str, ...]) -> tuple[Totals, ...]:
        query = savings.query(groups, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
        return ask.ledger.totals(query)

    table = savings.build(
        asked(by),
        by,
        title=f"Savings by {', '.join(by)}",
        limit=100,
    )
    days = savings.build(asked(("day",)), ("day",))
    hits = table.total is not None and bool(table.total[len(by) + 1])
    daily = TableBlock(
        id="days",
        table=days,
        figure=figures.bars(days, "day", "net") if hits else None,
        describes="Net saving, day by day.",
        folded=True,
    )
    note = Note(
        title="Nothing is cached yet",
        text="Repeated questions can be answered without a provider. Say which calls may be.",
        command='[[cache]]\nname = "all"',
    )
    more = [Link(text="Proof: measured, exact and modelled", href=state.href("/proof"))]
    if ask.person.role in OFFICE:
        more.append(Link(text="Experiments", href=state.href("/experiments")))
    blocks = (
        *controls(state, "/savings"),
        tuple(more),
        *(() if hits else (note,)),
        daily,
        TableBlock(id="savings", table=table),
    )
    lead = "What caches avoided: the answered calls at the prices of their time, less embeddings, judges and checks."
    return Page(title="Savings", lead=lead, blocks=blocks)


VIEW = View(name="savings", title="Savings", group="Improve", build=build, roles=EVERYBODY)
