"""``farthing budget forecast``: when limits will be reached at the rate of now."""

import click

from farthing.cli.context import App, closed, format_option, pass_app, show
from farthing.insight import budget_counters
from farthing.insight.render import Format
from farthing.insight.reports import budget_forecast


@click.command()
@click.option("--name", help="Only this budget.")
@format_option()
@pass_app
def forecast(app: App, name: str | None, form: Format) -> None:
    """When each limit will be reached at the rate of the last days, with an 80 % interval."""
    now_ms = app.now_ms()
    chosen = [one for one in app.settings.policy.budgets if name in (None, one.name)]
    if name is not None and not chosen:
        raise click.BadParameter(f'no budget "{name}"', param_hint="--name")
    found: list[budget_forecast.Series] = []
    with app.ledger() as ledger:
        for one in chosen:
            frames = budget_counters.frames_of(one, now_ms)
            if frames:
                answers = ledger.totals(budget_forecast.query(one, now_ms))
                found += budget_forecast.series(one, frames, answers, now_ms)
    with closed(app.stores.open_balances(app.settings)) as books:
        balances = books.balances(budget_counters.wanted(one.counter for one in found))
    show(budget_forecast.build(found, balances, now_ms), form)
