"""Routing: routes with their pools, who decides, how far roll-outs are, what it saves and what it costs itself."""

from typing import Final

import msgspec

from farthing.core.types import LedgerQuery, Totals
from farthing.insight import route_tables
from farthing.insight.table import Table, share
from farthing.server.pages import figures
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Note, Page, TableBlock, Tile, Tiles
from farthing.server.pages.bounds import bounded
from farthing.server.pages.money import dollars
from farthing.server.pages.studies import AskRoutes
from farthing.server.pages.views.explore import controls
from farthing.server.pages.views.opportunities import scoped, until_ms
from farthing.server.tables import routing as tables
from farthing.server.tables.routing import RouteFacts

LEAD: Final = "Where calls go instead of where they were sent, who decides it, and whether quality holds."


def build(ask: Ask) -> Page:
    """Routes as configured, then what they did in the period."""
    state = ask.state
    facts = ask.sources.routes()
    groups = ("model_requested", "model", "reason")
    query = LedgerQuery(group_by=groups, since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    query, shortened = bounded(ask, query)
    rows = ask.ledger.totals(query)
    moved = tables.moved(rows)
    blocks: list[Block] = [*controls(state, "/routing", grouped=False), *shortened]
    if not facts:
        blocks.append(_none())
    blocks += [Tiles(tiles=_tiles(facts, rows)), *_configured(ask, facts)]
    blocks.append(
        TableBlock(
            id="moved",
            table=moved,
            figure=figures.ranked(_named(moved), "pair", "saved") if any(row[5] for row in moved.rows) else None,
            describes="What each pair of models saved.",
            empty="Every call of this period was served by the model that it asked for.",
        )
    )
    found = ask.sources.studies.routes(AskRoutes(since_ms=state.since_ms, until_ms=until_ms(ask), where=scoped(ask)))
    if found is None:
        blocks.append(
            Note(title="Decisions are being read from the traffic log", text="This page looks again by itself.")
        )
    else:
        blocks.append(
            TableBlock(
                id="decisions",
                table=tables.decisions(found[0]),
                empty="No route decided about a call of this period.",
            )
        )
    spent = tables.overhead(rows)
    blocks.append(
        TableBlock(id="overhead", table=spent, empty="Nothing: no classifier, shadow, judge or peer was asked.")
    )
    return Page(title="Routing", lead=LEAD, blocks=tuple(blocks), pending=found is None)


def _none() -> Note:
    return Note(
        title="No route is configured",
        text="Nothing is routed unless a route says so. A route begins in shadow, where nobody is served otherwise.",
        command='[[routes]]\nname = "support"\nmodels = ["gpt-4o"]\n'
        'tiers = { simple = "gpt-4o-mini", complex = "gpt-4o" }\nby = ["tag", "tools", "length"]\n'
        "rollout = { margin = 0.02 }",
    )


def _configured(ask: Ask, facts: tuple[RouteFacts, ...]) -> list[Block]:
    if not facts:
        return []
    states = ask.sources.rollouts()
    listed = []
    for one in facts:
        rules = one.route.rollout
        live = "as written" if rules is None else route_tables.standing(states.get(one.route.name), rules)
        by = ",".join(one.route.by) or "first tier"
        listed.append((one.route.name, ",".join(one.route.models), by, live, one.kept, one.left))
    return [
        TableBlock(id="routes", table=route_tables.listed(listed), command="farthing route ls"),
        TableBlock(
            id="rollouts",
            table=tables.rollouts(facts, states),
            empty="No route has a roll-out: they are live as written.",
            command="farthing route simulate LABELS --table TABLE --cheap MODEL --strong MODEL",
        ),
        TableBlock(
            id="verdicts",
            table=tables.verdicts(facts),
            empty="No route has a trained router, so the gate had nothing to judge.",
            command="farthing route train labels.jsonl --strong gpt-4o --out routes/support.json",
            folded=True,
        ),
    ]


def _tiles(facts: tuple[RouteFacts, ...], rows: tuple[Totals, ...]) -> tuple[Tile, ...]:
    served = [row for row in rows if not row.group[2].startswith("lever:")]
    elsewhere = [row for row in rows if tables.is_moved(row)]
    calls, moved = sum(row.requests for row in served), sum(row.requests for row in elsewhere)
    own = sum(row.amount for row in rows if row.group[2] in tables.LEVERS)
    saved = sum(row.baseline - row.amount for row in elsewhere if row.baseline)
    part = share(moved, calls) or 0
    net = saved - own
    return (
        Tile(name="routes", label="Routes", value=str(len(facts)), exact=len(facts), unit="count",
             note=f"{sum(len(one.left) for one in facts)} models left out of their pools"),
        Tile(name="moved", label="Served by another model", value=f"{part / 100:.1f} %", exact=part,
             unit="percent_hundredths", note=f"{moved:,} of {calls:,} requests"),
        Tile(name="overhead", label="Routing itself cost", value=dollars(own), exact=own,
             note="classifiers, shadows, judges, refused answers"),
        Tile(name="net", label="Net saving", value=dollars(net), exact=net,
             tone="good" if net > 0 else "bad" if net < 0 else "", note="at the prices of the models asked for"),
    )  # fmt: skip


def _named(table: Table) -> Table:
    """The same with both models in one column, for the figure."""
    columns = (msgspec.structs.replace(table.columns[0], name="pair", title="pair"), *table.columns[2:])
    rows = tuple((f"{row[0]} → {row[1]}", *row[2:]) for row in table.rows)
    return msgspec.structs.replace(table, columns=columns, rows=rows)


VIEW = View(name="routing", title="Routing", group="Improve", build=build, roles=OFFICE)
