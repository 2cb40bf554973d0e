"""``farthing audit``: who changed policy, prices and keys."""

from typing import Protocol, cast

import click

from farthing.cli.context import App, closed, format_option, pass_app, show, since_option
from farthing.cli.practice import stores_of
from farthing.config import Settings
from farthing.insight.render import Format
from farthing.insight.reports.audit import build


class AuditStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def note_state(self, settings: Settings, *, at_ms: int, by: str = "") -> None: ...


@click.command()
@since_option("all")
@click.option("--subject", default="", help="Only policy, prices, key, allocation…")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many, newest first."
)
@format_option()
@pass_app
def audit(app: App, since: int, subject: str, limit: int, form: Format) -> None:
    """Every change of policy, prices, keys and allocation rules, newest first. The log only grows.

    Changes of files are noticed by the next start of a gateway, or by this command: they carry that time.
    """
    cast("AuditStores", app.stores).note_state(app.settings, at_ms=app.now_ms())
    with closed(stores_of(app).open_practice(app.settings)) as practice:
        found = practice.changes(limit=limit, subject=subject, since_ms=since)
    show(build(found), form)
