"""``farthing export``: the ledger for other tools."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import click

from farthing.cli.context import App, Failed, assignments, closed, moment, pass_app, until_option
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


class Sent(Protocol):
    """How much is there."""

    @property
    def entries(self) -> int: ...

    @property
    def exchanges(self) -> int: ...


class Exported(Sent, Protocol):
    """What an export wrote."""

    @property
    def days(self) -> int: ...


class Shipper(Protocol):
    """Sends the books elsewhere, a batch at a time."""

    @property
    def state(self) -> Sent: ...

    @property
    def sends(self) -> bool: ...

    def step(self, *, now_ms: int) -> int: ...

    def close(self) -> None: ...


class ExportStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def prices_of(self, settings: Settings, files: tuple[Path, ...]) -> Prices: ...

    def routes_of(self, settings: Settings) -> Routes: ...

    def export_parquet(
        self, settings: Settings, folder: Path | None, *, since_ms: int, rebuild: bool
    ) -> tuple[Path, Exported]: ...

    def open_shipper(self, settings: Settings) -> Shipper: ...

    def open_spans(self, settings: Settings) -> Shipper: ...

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


@export.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="The folder [default: analytics.parquet]."
)
@click.option("--since", callback=moment, default="all", show_default=True, help=f"From this day: {EXAMPLES}.")
@click.option("--rebuild", is_flag=True, help="Write everything anew; else only the days that changed.")
@pass_app
def parquet(app: App, out: Path | None, since: int, rebuild: bool) -> None:
    """Ledger and traffic log as Parquet files, one folder a UTC day, for reports over years and for other tools.

    A second run writes only the days that changed since the first. Prompt and answer text is in the traffic log only
    where the policy keeps it.
    """
    stores = cast("ExportStores", app.stores)
    folder, done = stores.export_parquet(app.settings, out, since_ms=since, rebuild=rebuild)
    click.echo(f"Wrote {done.days:,} days, {done.entries:,} entries and {done.exchanges:,} exchanges to {folder}.")


@export.command()
@pass_app
def clickhouse(app: App) -> None:
    """Send to ClickHouse what it does not have yet; a running gateway does so by itself."""
    state = _sent(app, cast("ExportStores", app.stores).open_shipper(app.settings))
    click.echo(f"ClickHouse has {state.entries:,} entries and {state.exchanges:,} exchanges.")


@export.command()
@pass_app
def otlp(app: App) -> None:
    """Send to an OpenTelemetry collector the spans that it does not have yet; a running gateway does so by itself."""
    state = _sent(app, cast("ExportStores", app.stores).open_spans(app.settings))
    click.echo(f"The collector took spans of {state.entries:,} entries and {state.exchanges:,} exchanges.")


def _sent(app: App, shipper: Shipper) -> Sent:
    with closed(shipper):
        while shipper.step(now_ms=app.now_ms()):
            pass
        if not shipper.sends:
            raise Failed("Another process of this installation is sending already.")
        return shipper.state


def list_prices(app: App) -> Callable[[LedgerEntry], Charge]:
    """What an entry costs at published prices, without this installation's own."""
    stores = cast("ExportStores", app.stores)
    prices, routes = stores.prices_of(app.settings, ()), stores.routes_of(app.settings)

    def charge(entry: LedgerEntry) -> Charge:
        target = target_of(entry, configured(entry, routes))
        return prices.charge(entry.usage, target, at_ms=entry.received_at_ms)

    return charge
