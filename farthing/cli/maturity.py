"""``farthing maturity``: how far the practice is, and what to do next."""

import click

from farthing.cli.context import App, closed, format_option, pass_app, show
from farthing.cli.practice import stores_of
from farthing.core.policy import Limits
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.render import Format
from farthing.insight.reports.maturity import Evidence, build
from farthing.ports.books import Ledger

DAYS_MS = 30 * 86_400_000


@click.command()
@format_option()
@pass_app
def maturity(app: App, form: Format) -> None:
    """The level of the practice from evidence of the last 30 days, each step with what shows it, and the next one."""
    show(build(evidence(app)), form)


def evidence(app: App) -> Evidence:
    """What ledger, settings and records show."""
    now_ms = app.now_ms()
    since = now_ms - DAYS_MS
    settings = app.settings
    policy = settings.policy
    with closed(stores_of(app).open_practice(settings)) as practice:
        outcomes, marks = len(practice.all(since_ms=since)), len(practice.marks())
    with app.ledger() as ledger:
        return Evidence(
            whole=_where(ledger, since, now_ms),
            no_team=_where(ledger, since, now_ms, ("team", "")).amount,
            no_feature=_where(ledger, since, now_ms, ("feature", "")).amount,
            batch=_where(ledger, since, now_ms, ("service_tier", "batch")).amount,
            cache_hits=_where(ledger, since, now_ms, ("reason", "cache_hit")).requests,
            outcomes=outcomes,
            budgets=len(policy.budgets),
            hard_budgets=sum(one.hard for one in policy.budgets),
            sinks=len(settings.alerts.sinks),
            routes=len(policy.routes),
            gated_routes=sum(bool(one.table) or one.rollout is not None for one in policy.routes),
            caches=len(policy.cache),
            own_cap=policy.limits.output_tokens_max != Limits().output_tokens_max,
            acknowledged=marks,
            allocation=bool(settings.allocation.rules or settings.allocation.pools),
        )


def _where(ledger: Ledger, since: int, until: int, *where: tuple[str, str]) -> Totals:
    (row,) = ledger.totals(LedgerQuery(since_ms=since, until_ms=until, where=where))
    return row
