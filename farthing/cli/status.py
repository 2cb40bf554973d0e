"""``farthing status`` and ``farthing version``."""

from importlib import metadata
from typing import Protocol, cast

import click

from farthing.cli.context import App, closed, format_option, pass_app, show
from farthing.config import Settings
from farthing.core.types import LedgerQuery
from farthing.insight.honesty import cost, cost_notes
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.table import Column, Money, Row, Table

_DAY_MS = 86_400_000


class Sent(Protocol):
    """How far ClickHouse has come."""

    @property
    def entries(self) -> int: ...

    @property
    def shipped_at_ms(self) -> int: ...

    @property
    def failed_since_ms(self) -> int | None: ...

    @property
    def error(self) -> str: ...


class AnalyticsStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` where ClickHouse is configured."""

    def clickhouse_state(self, settings: Settings) -> Sent | None: ...

    def spans_state(self, settings: Settings) -> Sent | None: ...


class ServedStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` where the store is a server."""

    def store_status(self, settings: Settings) -> list[tuple[str, str]]: ...


def _sent(state: Sent) -> str:
    if state.failed_since_ms is not None:
        return f"takes nothing since {shown(state.failed_since_ms)} UTC: {state.error}"
    return f"{state.entries} entries sent, last at {shown(state.shipped_at_ms)} UTC"


@click.command()
@format_option()
@pass_app
def status(app: App, form: Format) -> None:
    """Show what this installation holds."""
    settings, now_ms = app.settings, app.now_ms()
    with closed(app.stores.open_keys(settings)) as keys:
        records = keys.all()
    with app.ledger() as ledger:
        everything = ledger.totals(LedgerQuery())
        today = ledger.totals(LedgerQuery(since_ms=now_ms - now_ms % _DAY_MS))
    live = sum(
        one.revoked_at_ms is None and (one.expires_at_ms is None or one.expires_at_ms > now_ms) for one in records
    )
    rows: list[Row] = [
        ("home", settings.home),
        ("configuration", settings.source or "defaults"),
        ("policy", settings.policy.ref),
        ("price book", app.stores.price_book(settings).ref),
        ("keys", f"{live} live, {len(records) - live} ended"),
        ("providers", ", ".join(provider.name for provider in settings.providers)),
        ("budgets", str(len(settings.policy.budgets))),
    ]
    for label, totals in (("today", today), ("ever", everything)):
        first = totals[0] if totals else None
        known = cost(first) if first else 0
        rows += [
            (f"requests {label}", first.requests if first else 0),
            (f"cost {label}", None if known is None else Money(known)),
        ]
    if settings.analytics.clickhouse_url:
        state = cast("AnalyticsStores", app.stores).clickhouse_state(settings)
        rows.append(("ClickHouse", _sent(state) if state is not None else "nothing sent yet"))
    if settings.analytics.otlp_url:
        spans = cast("AnalyticsStores", app.stores).spans_state(settings)
        rows.append(("OpenTelemetry", _sent(spans) if spans is not None else "nothing sent yet"))
    if settings.store.kind != "sqlite":
        rows += cast(ServedStores, app.stores).store_status(settings)
    columns = (Column(name="what", title="what"), Column(name="value", title="value", unknown="unpriced"))
    show(Table(title=f"Farthing {_version()}", columns=columns, rows=tuple(rows), notes=cost_notes(everything)), form)


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"farthing {_version()}")


def _version() -> str:
    return metadata.version("farthing")
