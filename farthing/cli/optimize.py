"""``farthing optimize`` and ``farthing undo``: what could cost less, the policy that tries it, and the way back."""

import os
from pathlib import Path

import click

from farthing.cli.context import App, Failed, format_option, log_state, pass_app, show, since_option
from farthing.cli.doctor import book_rates
from farthing.config import changes, parse
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.lab.optimize import Examined, Opportunity, PriceOf
from farthing.lab.optimize_all import examined as examined_by_all
from farthing.lab.rates import price_of
from farthing.server.tables.opportunities import opportunities


@click.command()
@since_option("30d")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="How many to show.")
@click.option("--apply", "chosen", metavar="NAME", help="Write the policy of one of them into farthing.toml.")
@click.option("--dry-run", is_flag=True, help="With --apply: show the change, write nothing.")
@format_option()
@pass_app
def optimize(app: App, since: int, top: int, chosen: str | None, dry_run: bool, form: Format) -> None:
    """What this installation's own traffic could have cost less, dearest first.

    Reads the traffic log: hashes and counts, and text only where the policy keeps it. --apply NAME writes the change
    that is shown for NAME, checked as a whole; farthing undo takes it back.
    """
    if dry_run and chosen is None:
        raise click.UsageError("--dry-run goes with --apply.")
    found = examined(app, since)
    if not found.requests:
        raise Failed(f"The traffic log has no request since {shown(since)} UTC.{log_state(app)}")
    if chosen is None:
        show(opportunities(found, since, top), form)
        return
    one = next((one for one in found.opportunities if one.name == chosen), None)
    if one is None:
        names = ", ".join(one.name for one in found.opportunities if one.change) or "none"
        raise Failed(f'No opportunity is called "{chosen}"; those that can be applied: {names}.')
    _apply(app, one, dry_run=dry_run)


@click.command()
@click.option("--dry-run", is_flag=True, help="Show the change, write nothing.")
@pass_app
def undo(app: App, dry_run: bool) -> None:
    """Take back the last change that farthing optimize made to farthing.toml.

    Only when the file is still as that change left it: later edits by hand are never lost.
    """
    kept = changes.last(Path(app.settings.home))
    if kept is None:
        raise Failed("There is no change to take back.")
    note, change = kept
    if not changes.is_current(change):
        raise Failed(
            f'{change.path} was changed since "{change.why}" was applied; take it back by hand. Its copy: {note}'
        )
    click.echo(changes.diff(change.after, change.before, change.path), nl=False)
    if not dry_run:
        changes.undo(note, change)
        click.echo(f'"{change.why}" is taken back; restart "farthing serve" to use it.')


def examined(app: App, since: int) -> Examined:
    """The traffic log since an instant, examined by every watcher."""
    with app.ledger() as ledger:
        found = ledger.exchanges(since_ms=since)
        return examined_by_all(found, book_rates(app), price_of_app(app), now_ms=app.now_ms())


def price_of_app(app: App) -> PriceOf:
    """What usage costs at a configured provider."""
    return price_of(app.stores.price_book(app.settings), app.settings.providers)


def _apply(app: App, one: Opportunity, *, dry_run: bool) -> None:
    if one.change is None:
        raise Failed(f"{one.name} is not a setting of the policy: {one.try_}.")
    source = app.settings.source
    if not source:
        raise Failed("There is no configuration file yet; make an empty farthing.toml and name it with --config.")
    old, new = changes.with_section(source, one.change.section, one.change.values)
    parse(new, env=os.environ, source=source)
    click.echo(changes.diff(old, new, source), nl=False)
    if dry_run:
        return
    change = changes.Applied(
        path=str(Path(source).resolve()), why=one.name, before=old, after=new, at_ms=app.now_ms()
    )
    changes.apply(Path(app.settings.home), change)
    click.echo(f'Written to {source}; restart "farthing serve" to use it, "farthing undo" to take it back.')
