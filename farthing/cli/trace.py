"""``farthing trace``: one run of an agent, call by call."""

from itertools import islice

import click

from farthing.cli.context import App, Failed, format_option, log_state, pass_app, show, since_option
from farthing.core.dimensions import exchange_value, scope_value
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.insight.moments import parse_moment
from farthing.insight.render import Format
from farthing.insight.reports import traces
from farthing.ports.books import Ledger


@click.command()
@click.argument("wanted", metavar="TRACE")
@since_option("7d")
@format_option()
@pass_app
def trace(app: App, wanted: str, since: int, form: Format) -> None:
    """The calls of one TRACE in the order in which they came, with agent, step, cost and time, refused ones included.

    A trace is named by the caller's traceparent header, or by the tag "trace"; the tags "agent" and "step" say who
    and what. 'farthing report --by trace' and '--by agent' sum them up.
    """
    if not wanted:
        raise click.BadParameter("is empty; calls without a trace are none", param_hint="TRACE")
    with app.ledger() as ledger:
        entries = _booked(ledger, wanted, since)
        booked = {one.request_id for one in entries}
        unbooked = [
            one
            for one in ledger.exchanges(since_ms=since)
            if exchange_value(one, traces.TRACE) == wanted and one.request_id not in booked
        ]
    if not entries and not unbooked:
        raise Failed(f'There is no call of trace "{wanted}" in that period; try an earlier --since.{log_state(app)}')
    show(traces.spans(entries, unbooked, title=f"Trace {wanted}"), form)


def _booked(ledger: Ledger, wanted: str, since: int) -> list[LedgerEntry]:
    """The trace's entries: sums say when it began and how many there are, so that no more is read than it takes."""
    query = LedgerQuery(group_by=("hour",), since_ms=since, where=((traces.TRACE, wanted),))
    rows = ledger.totals(query)
    if not rows:
        return []
    began = max(since, parse_moment(f"{min(row.group[0] for row in rows)}:00Z", now_ms=0))
    found = (one for one in ledger.entries(since_ms=began) if scope_value(one.scope, traces.TRACE) == wanted)
    return list(islice(found, sum(row.entries for row in rows)))
