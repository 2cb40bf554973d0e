"""``farthing top``: spend as it happens."""

import time
from contextlib import suppress

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from farthing.cli.context import App, Finite, format_option, moment, pass_app, show
from farthing.cli.report import dimensions
from farthing.insight.moments import EXAMPLES, shown
from farthing.insight.render import Format, render
from farthing.insight.reports import spend
from farthing.insight.table import Table


@click.command()
@click.option("--by", default="team,model", show_default=True, help="Dimensions, comma-separated.")
@click.option("--since", default="today", show_default=True, help=f"From this instant: {EXAMPLES}.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Rows.")
@click.option("--every", type=Finite(0.2, 86_400), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="One look, then end.")
@format_option()
@pass_app
def top(app: App, by: str, since: str, limit: int, every: float, once: bool, form: Format) -> None:
    """Spend as it happens; Ctrl-C ends it. Without a terminal it looks once."""
    groups = dimensions(by)
    moment(click.get_current_context(), None, since)
    console = Console()
    if once or form != "table" or not console.is_terminal:
        show(_look(app, groups, since, limit), form)
        return
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            text = render(_look(app, groups, since, limit), "table")
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            time.sleep(every)


def _look(app: App, by: tuple[str, ...], since: str, limit: int) -> Table:
    now_ms = app.now_ms()
    since_ms = moment(click.get_current_context(), None, since)
    query = spend.query(by, since_ms=since_ms)
    with app.ledger() as ledger:
        rows = ledger.totals(query)
        whole = ledger.totals(msgspec.structs.replace(query, group_by=()))
    title = f"{spend.TITLE} since {shown(since_ms)} UTC, at {shown(now_ms - now_ms % 1000)}"
    return spend.build(rows, whole, by, title=title, limit=limit)
