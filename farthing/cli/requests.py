"""``farthing requests``: the last requests, refused ones included."""

import heapq

import click

from farthing.cli.context import App, format_option, log_state, pass_app, show, since_option
from farthing.core.types import Exchange
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.table import Column, Row, Table

COLUMNS = (
    Column(name="received", title="received (UTC)"),
    Column(name="request", title="request"),
    Column(name="outcome", title="outcome"),
    Column(name="status", title="status", kind="int"),
    Column(name="error", title="error"),
    Column(name="team", title="team"),
    Column(name="user", title="user"),
    Column(name="model", title="model"),
    Column(name="tries", title="tries", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="usage", title="usage"),
    Column(name="latency_ms", title="ms", kind="int"),
)


@click.command()
@since_option("24h")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="The last so many.")
@click.option("--outcome", type=click.Choice(["answered", "refused", "failed", "aborted"]), help="Only these.")
@format_option()
@pass_app
def requests(app: App, since: int, limit: int, outcome: str | None, form: Format) -> None:
    """The last requests, newest first, refused ones included."""
    with app.ledger() as ledger:
        wanted = (one for one in ledger.exchanges(since_ms=since) if outcome in (None, one.outcome))
        newest = heapq.nlargest(limit, wanted, key=lambda one: (one.received_at_ms, one.request_id))
    title = f"Requests since {shown(since)} UTC"
    off = log_state(app).strip()
    notes = (off,) if off else ()
    show(Table(title=title, columns=COLUMNS, rows=tuple(_row(one) for one in newest), notes=notes), form)


def _row(one: Exchange) -> Row:
    billed = any(attempt.entry_id for attempt in one.attempts)
    return (
        shown(one.received_at_ms),
        one.request_id,
        one.outcome,
        one.status,
        one.error or None,
        one.scope.team or None,
        one.scope.user or None,
        one.view.model,
        len(one.attempts),
        one.amount if billed else 0,
        one.usage.source if one.usage is not None else None,
        one.latency_ms,
    )
