"""``farthing trace``: one run of an agent, call by call."""

import click

from farthing.cli.context import App, Failed, format_option, pass_app, show, since_option
from farthing.core.dimensions import exchange_value, scope_value
from farthing.insight.render import Format
from farthing.insight.reports import traces


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
    with app.ledger() as ledger:
        entries = [one for one in ledger.entries(since_ms=since) if scope_value(one.scope, traces.TRACE) == wanted]
        booked = {one.request_id for one in entries}
        unbooked = [
            one
            for one in ledger.exchanges(since_ms=since)
            if exchange_value(one, traces.TRACE) == wanted and one.request_id not in booked
        ]
    if not entries and not unbooked:
        raise Failed(f'There is no call of trace "{wanted}" in that period; try an earlier --since.')
    show(traces.spans(entries, unbooked, title=f"Trace {wanted}"), form)
