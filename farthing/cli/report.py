"""``farthing report``: spend by any dimensions, by itself or beside the period before."""

from typing import Protocol, cast

import click
import msgspec

from farthing.cli.context import App, assignments, closed, format_option, pass_app, show, since_option, until_option
from farthing.config import Settings
from farthing.config.values import did_you_mean
from farthing.core.dimensions import (
    ENTRY_DIMENSIONS,
    SCOPE_DIMENSIONS,
    SHORT_NAMES,
    TIME_DIMENSIONS,
    full_name,
    is_dimension,
)
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.reports import comparison, spend
from farthing.insight.reports import savings as saved
from farthing.insight.table import Table
from farthing.ports.books import Ledger

Where = tuple[tuple[str, str], ...]


class ReportStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def open_reports(self, settings: Settings, source: str) -> Ledger: ...


def dimensions(text: str) -> tuple[str, ...]:
    """``team,model`` to names, each known and once. Raises ``BadParameter``."""
    names = tuple(dict.fromkeys(full_name(name.strip()) for name in text.split(",") if name.strip()))
    for name in names:
        check_dimension(name, "--by")
    return names


def check_dimension(name: str, option: str, *, time: bool = True) -> None:
    """Raises ``BadParameter`` for a name that is no dimension."""
    if is_dimension(name) and (time or name not in TIME_DIMENSIONS):
        return
    times = TIME_DIMENSIONS if time else ()
    allowed = (*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS, *times, *SHORT_NAMES, "tag:<name>")
    raise click.BadParameter(
        f'"{name}" is no dimension{did_you_mean(name, allowed)}; allowed: {", ".join(allowed)}', param_hint=option
    )


def check_where(where: Where) -> None:
    """Raises ``BadParameter`` for names that are no dimension, and for two values of one: no call has both."""
    said: dict[str, str] = {}
    for name, value in where:
        check_dimension(name, "--where")
        if said.setdefault(name, value) != value:
            raise click.BadParameter(
                f'no call has both {name}="{said[name]}" and "{value}"; ask for one, or use --by {name}',
                param_hint="--where",
            )


@click.command()
@click.option("--by", default="team,model", show_default=True, help='Dimensions, comma-separated; "" for one total.')
@since_option("all")
@until_option()
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--savings", is_flag=True, help="What caches saved, less what saving cost.")
@click.option("--compare", is_flag=True, help="Beside the equal period before.")
@click.option("--limit", type=click.IntRange(0), default=0, help="Only that many rows; 0: all.")
@click.option("--from", "source", default="", metavar="SOURCE",
              help="ledger, parquet, parquet:DIR or clickhouse [default: analytics.reports].")  # fmt: skip
@format_option()
@pass_app
def report(
    app: App,
    /,
    by: str,
    since: int,
    until: int,
    where: Where,
    savings: bool,
    compare: bool,
    limit: int,
    source: str,
    form: Format,
) -> None:
    """Spend by any dimensions.

    Costs are sums of exact charges. What has no known price is counted apart and in no cost; what rests on
    estimated quantities is shown apart as well.
    """
    groups = dimensions(by)
    check_where(where)
    if until <= since:
        raise click.BadParameter("ends before it begins", param_hint="--until")
    if compare and since == 0:
        raise click.BadParameter("a comparison needs a period, such as --since 30d", param_hint="--compare")
    if compare and savings:
        raise click.BadParameter("is a report of its own", param_hint="--savings")
    stores = cast("ReportStores", app.stores)
    with closed(stores.open_reports(app.settings, source)) as ledger:
        make = _saved if savings else _compared if compare else _plain
        show(make(ledger, groups, since, until, where, limit), form)


def _period(since: int, until: int) -> str:
    if since == 0:
        return f"everything until {shown(until)} UTC"
    return f"{shown(since)} to {shown(until)} UTC"


def _plain(ledger: Ledger, by: tuple[str, ...], since: int, until: int, where: Where, limit: int) -> Table:
    query = spend.query(by, since_ms=since, until_ms=until, where=where)
    whole = ledger.totals(msgspec.structs.replace(query, group_by=()))
    title = f"{spend.TITLE}, {_period(since, until)}"
    return spend.build(ledger.totals(query), whole, by, title=title, limit=limit)


def _saved(ledger: Ledger, by: tuple[str, ...], since: int, until: int, where: Where, limit: int) -> Table:
    query = saved.query(by, since_ms=since, until_ms=until, where=where)
    title = f"{saved.TITLE}, {_period(since, until)}"
    return saved.build(ledger.totals(query), by, title=title, limit=limit)


def _compared(ledger: Ledger, by: tuple[str, ...], since: int, until: int, where: Where, limit: int) -> Table:
    queries = comparison.queries(by, since_ms=since, until_ms=until, where=where)
    now, before = (ledger.totals(query) for query in queries)
    wholes = [ledger.totals(msgspec.structs.replace(query, group_by=())) for query in queries]
    title = f"{comparison.TITLE}, {_period(since, until)}"
    return comparison.build(now, before, by, whole=(wholes[0], wholes[1]), title=title, limit=limit)
