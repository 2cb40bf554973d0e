"""``farthing reprice``: rate the past again, with another price book or the current one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import click

from farthing.cli.context import App, assignments, closed, format_option, moment, pass_app, show, until_option
from farthing.cli.report import check_dimension
from farthing.config import Settings
from farthing.core import repricing
from farthing.core.errors import UnknownModel
from farthing.core.repricing import Rerated
from farthing.core.routing import Routes
from farthing.core.types import LedgerEntry, Target
from farthing.insight.invoices import Where, booked
from farthing.insight.moments import EXAMPLES, shown
from farthing.insight.render import Format
from farthing.insight.reports.reprice import TITLE, Repricing
from farthing.ports.books import Ledger
from farthing.ports.prices import Prices


class RepriceStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def prices_of(self, settings: Settings, files: tuple[Path, ...]) -> Prices: ...

    def routes_of(self, settings: Settings) -> Routes: ...


@click.command()
@click.option("--since", callback=moment, required=True, help=f"From this instant: {EXAMPLES}.")
@until_option()
@click.option(
    "--book",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A price file in place of the installation's own; repeatable. Default: the current price book.",
)
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--apply", "apply_", is_flag=True, help="Book the difference as adjustments; else it is only shown.")
@format_option()
@pass_app
def reprice(
    app: App, since: int, until: int, files: tuple[Path, ...], where: Where, apply_: bool, form: Format
) -> None:
    """Rate the past again from its stored usage, and show what changes.

    Nothing is overwritten: --apply books one adjustment for each entry whose amount changes, and running it again
    changes nothing. Costs that the provider stated itself stay. Counters of budgets are not touched: limits hold
    what was booked when the calls were made.
    """
    for name, _ in where:
        check_dimension(name, "--where", time=False)
    if until <= since:
        raise click.BadParameter("ends before it begins", param_hint="--until")
    stores = cast("RepriceStores", app.stores)
    prices = stores.prices_of(app.settings, files) if files else app.stores.price_book(app.settings)
    routes = stores.routes_of(app.settings)
    found = Repricing()
    with app.ledger() as ledger:
        rows = rerate(ledger, prices, routes, since, until, where)
        if not apply_:
            for one in rows:
                found.add(one)
            applied, already = None, 0
        else:
            with closed(app.stores.open_importer(app.settings)) as importer:
                applied, already = importer.import_batch(adjustments(rows, found, app.now_ms()), [])
    title = f"{TITLE}, {shown(since)} to {shown(until)} UTC"
    show(found.table(title=title, book=prices.ref, applied=applied, already=already), form)


def rerate(ledger: Ledger, prices: Prices, routes: Routes, since: int, until: int, where: Where) -> Iterator[Rerated]:
    """Every charge of the period beside what these prices make of it."""
    for one in booked(ledger, since_ms=since, until_ms=until, where=where):
        entry = one.entry
        charge = entry.charge
        if not repricing.kept_reason(entry, one.corrections):
            target = repricing.target_of(entry, configured(entry, routes))
            charge = prices.charge(entry.usage, target, at_ms=entry.received_at_ms)
        yield repricing.rerated(entry, one.corrections, charge)


def configured(entry: LedgerEntry, routes: Routes) -> tuple[Target, ...]:
    """Where today's configuration sends such a call; nowhere, when nobody serves that model any more."""
    if entry.dialect not in ("openai", "anthropic"):
        return ()
    try:
        return routes.targets(entry.model_requested, "anthropic" if entry.dialect == "anthropic" else "openai")
    except UnknownModel:
        return ()


def adjustments(rows: Iterator[Rerated], found: Repricing, now_ms: int) -> Iterator[LedgerEntry]:
    """The adjustments to book; counts every row on the way."""
    for one in rows:
        found.add(one)
        entry = repricing.adjustment(one, now_ms=now_ms)
        if entry is not None:
            yield entry
