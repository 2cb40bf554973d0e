"""Sessions: conversations and agents' runs by what they cost."""

from farthing.insight.reports import sessions
from farthing.server.pages.ask import EVERYBODY, Ask, View, links
from farthing.server.pages.blocks import Page, TableBlock
from farthing.server.pages.bounds import bounded
from farthing.server.pages.views.explore import controls


def build(ask: Ask) -> Page:
    """The dearest sessions of the period."""
    state = ask.state
    query = sessions.query(since_ms=state.since_ms, until_ms=state.until_ms, where=state.where)
    query, shortened = bounded(ask, query)
    table = sessions.build(ask.ledger.totals(query))
    block = TableBlock(
        id="sessions",
        table=table,
        links={"session": links(table.rows, lambda row: state.filtered("/requests", "session", str(row[0])))},
        empty="No call of this period names a session.",
        command="x-farthing-session: <id of the conversation>",
    )
    lead = "Conversations and agents' runs, dearest first."
    return Page(title="Sessions", lead=lead, blocks=(*controls(state, "/sessions", grouped=False), *shortened, block))


VIEW = View(name="sessions", title="Sessions", group="See", build=build, roles=EVERYBODY)
