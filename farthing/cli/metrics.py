"""``farthing metrics``: unit costs, hit rates, waste and latency, and the six metrics with their targets."""

import click

from farthing.cli.context import (
    LOG_OFF,
    App,
    assignments,
    closed,
    format_option,
    pass_app,
    show,
    since_option,
    until_option,
)
from farthing.cli.practice import list_price, stores_of
from farthing.cli.report import check_where, dimensions
from farthing.core.money import parse_usd
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.moments import shown
from farthing.insight.render import Format, usd
from farthing.insight.reports import metrics as report
from farthing.insight.reports import prompts as prompt_report
from farthing.insight.scan import ENTRIES_MAX, scan
from farthing.ports.books import Ledger

Where = tuple[tuple[str, str], ...]


def _dollars(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(parse_usd(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from error


@click.command()
@since_option("30d")
@until_option()
@click.option("--by", default="model", show_default=True, help='Dimensions, comma-separated; "" for one row.')
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--six", is_flag=True, help="The six metrics with their targets.")
@click.option("--prompts", is_flag=True, help="The prompts that cost most.")
@click.option("--target", callback=_dollars, metavar="USD", help="With --six: the most that a request may cost.")
@click.option("--cheap", callback=_dollars, default="2", show_default=True, metavar="USD",
              help="With --six: list price per million tokens up to which a model is cheap.")  # fmt: skip
@click.option("--gpu-seconds", type=click.IntRange(1), help="With --six: GPU time paid.")
@click.option("--gpu-busy-seconds", type=click.IntRange(0), help="With --six: GPU time at work.")
@click.option("--gpu-provider", default="", metavar="NAME", help="With --six: whose tokens those GPUs made.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Only that many rows; 0: all.")
@format_option()
@pass_app
def metrics(
    app: App, /, since: int, until: int, by: str, where: Where, six: bool, prompts: bool,
    target: int | None, cheap: int,
    gpu_seconds: int | None, gpu_busy_seconds: int | None, gpu_provider: str, limit: int, form: Format,
) -> None:  # fmt: skip
    """Cost per request, token, success and session; hit rates; retries, failures and aborts in dollars; latency."""
    groups = dimensions(by)
    check_where(where)
    if until <= since:
        raise click.BadParameter("ends before it begins", param_hint="--until")
    with closed(stores_of(app).open_reports(app.settings, "")) as ledger:
        if prompts:
            if not app.settings.policy.log.enabled:
                click.echo(LOG_OFF, err=True)
            show(
                prompt_report.build(ledger.exchanges(since_ms=since), since_ms=since, until_ms=until, limit=limit),
                form,
            )
            return
        if six:
            found = report.Six(
                now=_whole(ledger, since, until, where),
                before=_whole(ledger, since - (until - since), since, where),
                cheap_requests=_cheap(app, ledger, since, until, where, cheap),
                cost_per_request_max=target,
                gpu_seconds=gpu_seconds,
                gpu_busy_seconds=gpu_busy_seconds,
                gpu_tokens=_tokens(ledger, since, until, gpu_provider),
            )
            show(report.six(found, cheap=usd(cheap)), form)
            return
        rows = ledger.totals(report.query(groups, since_ms=since, until_ms=until, where=where))
        (read,) = ledger.totals(LedgerQuery(since_ms=since))
        few = read.entries <= ENTRIES_MAX  # known from sums, before half a million are read in vain
        entries = ledger.entries(since_ms=since) if few else ()
        details = scan(entries, groups, since_ms=since, until_ms=until, where=where) if few else None
    title = f"{report.TITLE}, {shown(since)} to {shown(until)} UTC"
    show(report.build(rows, groups, details, title=title, limit=limit), form)


def _whole(ledger: Ledger, since: int, until: int, where: Where) -> Totals:
    (row,) = ledger.totals(LedgerQuery(since_ms=since, until_ms=until, where=where))
    return row


def _cheap(app: App, ledger: Ledger, since: int, until: int, where: Where, most: int) -> int:
    """Requests served by a model whose blended list price is at most ``most`` per million tokens."""
    price = list_price(app)
    groups = ("provider", "model")
    count = 0
    for row in ledger.totals(LedgerQuery(group_by=groups, since_ms=since, until_ms=until, where=where)):
        listed = price(row.group[0], row.group[1], (500_000, 200_000), (since + until) // 2)
        if listed is not None and listed <= most * 7 // 10:
            count += row.requests
    return count


def _tokens(ledger: Ledger, since: int, until: int, provider: str) -> int:
    if not provider:
        return 0
    row = _whole(ledger, since, until, (("provider", provider),))
    return row.input_tokens + row.output_tokens
