"""``farthing receipt``: one request or entry opened up."""

import click

from farthing.cli.context import App, Failed, format_option, pass_app
from farthing.core.types import Exchange, LedgerEntry
from farthing.insight import receipt as receipts
from farthing.insight.render import Format
from farthing.ports.books import Ledger


@click.command()
@click.argument("wanted", metavar="ID")
@format_option("table", "json")
@pass_app
def receipt(app: App, wanted: str, form: Format) -> None:
    """Open one request or entry: raw usage, every line of its price, and why.

    ID is a request's (the x-farthing-request-id header, "farthing requests") or an entry's.
    """
    with app.ledger() as ledger:
        entries = find_entries(ledger, wanted)
        exchange = find_exchange(ledger, entries, wanted)
    if not entries and exchange is None:
        raise Failed(f'There is no request or entry "{wanted}"; "farthing requests" lists the last ones.')
    if form == "json":
        click.echo(receipts.as_json(entries, exchange))
    else:
        click.echo(receipts.as_text(entries, exchange))


def find_entries(ledger: Ledger, wanted: str) -> tuple[LedgerEntry, ...]:
    """All entries of the request, or the one entry of that id with its corrections."""
    if not wanted:
        return ()  # to the ledger no id means every entry
    entries = tuple(ledger.entries(request_id=wanted))
    if entries:
        return entries
    request_id = wanted.partition(":")[0].rpartition("-")[0]  # entries are <request>-<attempt>[:<correction>]
    near = ledger.entries(request_id=request_id) if request_id else iter(())
    one = next((entry for entry in near if entry.id == wanted), None)
    one = one or next((entry for entry in ledger.entries() if entry.id == wanted), None)
    if one is None:
        return ()
    ids = {one.id}
    for other in ledger.entries(request_id=one.request_id, since_ms=one.received_at_ms):
        if other.corrects in ids:
            ids.add(other.id)
    return tuple(other for other in ledger.entries(request_id=one.request_id) if other.id in ids)


def find_exchange(ledger: Ledger, entries: tuple[LedgerEntry, ...], wanted: str) -> Exchange | None:
    """The request itself, when the traffic log still has it."""
    request_id = entries[0].request_id if entries else wanted
    since_ms = entries[0].received_at_ms if entries else 0
    return next((one for one in ledger.exchanges(since_ms=since_ms) if one.request_id == request_id), None)
