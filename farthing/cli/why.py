"""``farthing why``: the change of spend, put down to causes and slices to the nano-dollar."""

import click

from farthing.cli.context import App, assignments, closed, format_option, pass_app, show, since_option, until_option
from farthing.cli.practice import list_price, stores_of
from farthing.cli.report import check_dimension, check_where, dimensions
from farthing.core.types import LedgerQuery
from farthing.insight.incident_details import read
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.reports import why as report

Where = tuple[tuple[str, str], ...]


@click.command()
@since_option("7d")
@until_option()
@click.option("--by", default="feature", show_default=True, help='Dimensions, comma-separated; "" for causes alone.')
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Only that many rows; 0: all.")
@click.option("--from", "source", default="", metavar="SOURCE", help="As of 'farthing report'.")
@format_option()
@pass_app
def why(app: App, since: int, until: int, by: str, where: Where, limit: int, source: str, form: Format) -> None:
    """Why spend changed against the equal period before.

    Causes are the log-mean Divisia parts of requests × mix × tries × tokens × list price × part of it paid, per
    slice, provider and model. They sum to the change exactly, by row and by column.
    """
    groups = dimensions(by)
    for name in groups:
        check_dimension(name, "--by", time=False)
    check_where(where)
    if since == 0 or until <= since:
        raise click.BadParameter("a comparison needs a period, such as --since 7d", param_hint="--since")
    earlier = since - (until - since)
    price = list_price(app)
    with closed(stores_of(app).open_reports(app.settings, source)) as ledger:
        before = read(ledger, groups, earlier, since, where, price)
        after = read(ledger, groups, since, until, where, price)
        totals = ledger.totals(LedgerQuery(since_ms=earlier, until_ms=until, where=where))
    title = f"{report.TITLE}: {shown(since)} to {shown(until)} UTC beside the {_span(until - since)} before"
    show(report.build(before, after, groups, totals, title=title, limit=limit), form)


def _span(ms: int) -> str:
    days = ms / 86_400_000
    return f"{days:g} days" if days >= 1 else f"{ms / 3_600_000:g} hours"
