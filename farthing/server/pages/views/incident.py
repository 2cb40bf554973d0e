"""One incident opened: what it cost so far, where it is heading, what it is put down to, which requests show it."""

from urllib.parse import quote

import msgspec

from farthing.core.errors import NotFound
from farthing.insight.anomalies import AHEAD_DAYS, RULES, Incident
from farthing.insight.incident_alerts import slice_name
from farthing.insight.incident_details import both_periods, example_requests, grew_most
from farthing.insight.incident_list import DIMENSIONS
from farthing.insight.moments import shown
from farthing.insight.reports import month, why
from farthing.insight.table import Column, Table
from farthing.server.pages import figures
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Link, Note, Page, TableBlock, Tile, Tiles
from farthing.server.pages.money import dollars
from farthing.server.pages.views.anomaly_rule import requests_of
from farthing.server.pages.views.changes import causes
from farthing.server.pages.views.incidents import found_in

INSIDE = ("user",)


def build(ask: Ask) -> Page:
    """The incident of the address."""
    rows = {name: ask.ledger.totals(month.query((name,), ask.now_ms)) for name in DIMENSIONS}
    found = found_in(ask, rows)
    wanted = ask.path["id"]
    one = next((one for one in found.found if one.id == wanted), None)
    if one is None:
        raise NotFound(
            f"There is no incident '{wanted[:64]}' in the last 30 days.",
            hint="It may be explained by a larger one, or expected; see Anomalies.",
        )
    mark = found.marks.get(one.id)
    blocks: list[Block] = [Tiles(tiles=_tiles(one))]
    if mark is not None:
        blocks.append(
            Note(text=f"{mark.by} takes care of it since {shown(mark.at_ms)} UTC. {mark.note}", tone="good")
        )
    else:
        blocks.append(_acknowledging(one))
    blocks += [_causes(ask, one), _examples(ask, one)]
    onward = (
        Link(text="All its requests", href=requests_of(ask, one)),
        Link(text="Anomalies", href="/anomalies"),
    )
    lead = f"{one.kind.capitalize()} in {slice_name(one)}, {shown(one.began_ms)} to {shown(one.until_ms)} UTC."
    return Page(title=f"Incident {one.id}", lead=lead, blocks=(*blocks, onward))


def _tiles(one: Incident) -> tuple[Tile, ...]:
    return (
        Tile(name="so_far", label="Above expected so far", value=dollars(one.so_far_nusd), exact=one.so_far_nusd,
             tone="bad" if one.open else "warn", note=f"expected {dollars(one.expected_nusd)} in these days"),
        Tile(name="projected", label=f"{AHEAD_DAYS} more days of it", value=dollars(one.projected_nusd),
             exact=one.projected_nusd, note="it goes on" if one.open else "it is over"),
    )  # fmt: skip


def _acknowledging(one: Incident) -> Form:
    return Form(
        id="acknowledge",
        title="",
        method="post",
        action="/anomalies/acknowledge",
        submit="Acknowledge",
        fields=(Field(name="id", label="", kind="hidden", value=one.id),),
    )


def _causes(ask: Ask, one: Incident) -> Block:
    before, during = both_periods(ask.ledger, one, RULES["day"].season, INSIDE, ask.sources.list_price)
    table = why.build(before, during, INSIDE, title="What it is put down to, beside the same days before", limit=10)
    grew = grew_most(ask.ledger, one, RULES["day"].season)
    if grew:
        table = msgspec.structs.replace(table, notes=(f"Grew most: {grew}.", *table.notes))
    return TableBlock(
        id="why",
        table=table,
        figure=figures.steps(causes(table.total or (), len(INSIDE)), "cause", "change"),
        describes="The change of cost, cause by cause.",
        folded=True,
    )


def _examples(ask: Ask, one: Incident) -> TableBlock:
    names = example_requests(ask.ledger, one)
    rows = tuple(
        (name, sum(entry.charge.total or 0 for entry in ask.ledger.entries(request_id=name))) for name in names
    )
    columns = (Column(name="request", title="request"), Column(name="cost", title="cost", kind="usd"))
    return TableBlock(
        id="examples",
        table=Table(title="Its dearest requests", columns=columns, rows=rows),
        links={"request": tuple(f"/requests/{quote(name, safe='')}" for name in names)},
        empty="None among the first of its calls.",
    )


VIEW = View(name="incident", title="Incident", group="", build=build, roles=OFFICE, path="/anomalies/{id}")
