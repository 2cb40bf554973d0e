"""``farthing export``: the ledger for other tools."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import click

from farthing.cli.context import App, assignments, moment, pass_app, until_option
from farthing.cli.reprice import configured
from farthing.config import Settings
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.repricing import target_of
from farthing.core.routing import Routes
from farthing.core.types import Charge, LedgerEntry, LedgerQuery
from farthing.insight.focus_lines import Counts, Grain, lines
from farthing.insight.invoices import Where, booked
from farthing.insight.moments import EXAMPLES
from farthing.insight.render import usd
from farthing.insight.reports.focus import Cell, Sums, Version, check_total, columns, kind_of, rows
from farthing.ports.prices import Prices

FILTERS: Final = (*SCOPE_DIMENSIONS, "provider", "model", "model_requested", "endpoint", "dialect")
"""Dimensions that a charge and its corrections share."""


class ExportStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def prices_of(self, settings: Settings, files: tuple[Path, ...]) -> Prices: ...

    def routes_of(self, settings: Settings) -> Routes: ...

    def write_focus(
        self, path: Path, columns: Sequence[tuple[str, str]], rows: Iterable[Mapping[str, Cell]]
    ) -> None: ...


@click.group()
def export() -> None:
    """Write the ledger in a format of other tools."""


@export.command()
@click.option("--since", callback=moment, required=True, help=f"From this instant: {EXAMPLES}.")
@until_option()
@click.option(
    "--version", type=click.Choice(["1.2", "1.3", "1.4"]), default="1.2", show_default=True, help="Of FOCUS."
)
@click.option("--grain", type=click.Choice(["day", "entry"]), default="day", show_default=True,
              help="One row a day, scope and price; or one a charge line.")  # fmt: skip
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A .csv or .parquet file."
)
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--account", "accounts", multiple=True, callback=assignments, metavar="PROVIDER=ID",
              help="The provider's id of your billing account; repeatable.")  # fmt: skip
@click.option("--include-unpriced", is_flag=True, help="Usage without a known price too, at cost 0 and x_Unpriced.")
@pass_app
def focus(
    app: App,
    since: int,
    until: int,
    version: Version,
    grain: Grain,
    out: Path,
    where: Where,
    accounts: Where,
    include_unpriced: bool,
) -> None:
    """Cost and usage in the FOCUS format, checked against the ledger to the nano-dollar before it is written.

    Usage without a known price is left out and counted on standard error: FOCUS has no unknown cost, and unknown is
    not zero.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise click.BadParameter("ends in .csv or .parquet", param_hint="--out")
    for name, _ in where:
        if name not in FILTERS and not name.startswith("tag:"):
            raise click.BadParameter(f'"{name}" does not filter here; use {", ".join(FILTERS)}', param_hint="--where")
    if until <= since:
        raise click.BadParameter("ends before it begins", param_hint="--until")
    stores = cast("ExportStores", app.stores)
    counts, sums = Counts(), Sums()
    with app.ledger() as ledger:

        def checked() -> Iterator[dict[str, Cell]]:
            found = booked(ledger, since_ms=since, until_ms=until, where=where)
            made = lines(found, grain, list_prices(app), counts, include_unpriced=include_unpriced)
            yield from rows(made, version, dict(accounts), sums)
            query = LedgerQuery(since_ms=since, until_ms=until, where=where)
            check_total(sums, sum(total.amount for total in ledger.totals(query)))

        stores.write_focus(out, [(name, kind_of(name)) for name in columns(version)], checked())
    click.echo(f"Wrote {sums.rows:,} rows, {usd(sums.billed)} in all, to {out}.")
    if counts.unpriced:
        what = "are in the file with x_Unpriced" if include_unpriced else "are not in the file"
        click.echo(f"{counts.unpriced:,} of {counts.entries:,} entries have no known price and {what}.", err=True)
    if sums.above_list:
        click.echo(f"{sums.above_list:,} rows are contracted above the list price.", err=True)


def list_prices(app: App) -> Callable[[LedgerEntry], Charge]:
    """What an entry costs at published prices, without this installation's own."""
    stores = cast("ExportStores", app.stores)
    prices, routes = stores.prices_of(app.settings, ()), stores.routes_of(app.settings)

    def charge(entry: LedgerEntry) -> Charge:
        target = target_of(entry, configured(entry, routes))
        return prices.charge(entry.usage, target, at_ms=entry.received_at_ms)

    return charge
