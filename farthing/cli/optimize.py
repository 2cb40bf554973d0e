"""``farthing optimize`` and ``farthing undo``: what could cost less, the policy that tries it, and the way back."""

import difflib
import os
from pathlib import Path

import click
import msgspec

from farthing.cli.context import App, Failed, format_option, pass_app, show, since_option
from farthing.cli.doctor import RatesOf
from farthing.cli.optimize_tables import opportunities
from farthing.config import changes, parse
from farthing.config.editing import add_section
from farthing.core.types import Charge, Exchange, Target, Usage
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.lab.optimize import Examined, Opportunity, PriceOf, Watcher, examine
from farthing.lab.optimize_models import Deferrable, Models
from farthing.lab.optimize_repeats import Repeats, Storms
from farthing.lab.optimize_tokens import Answers, Histories, Instructions, Marks, UnusedTools
from farthing.lab.replay_log import in_order


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
        raise Failed(f"The traffic log has no request since {shown(since)} UTC.")
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
    path = Path(change.path)
    now = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    if now != change.after:
        raise Failed(f'{path} was changed since "{change.why}" was applied; take it back by hand. Its copy: {note}')
    click.echo(diff_of(change.after, change.before, change.path), nl=False)
    if not dry_run:
        changes.undo(note, change)
        click.echo(f'"{change.why}" is taken back; restart "farthing serve" to use it.')


def examined(app: App, since: int) -> Examined:
    """The traffic log since an instant, examined by every watcher."""
    rates, price_of = RatesOf(app), price_of_app(app)
    watchers: tuple[Watcher, ...] = (
        Marks(rates, rates.needs_marks),
        Repeats(),
        Storms(),
        Histories(),
        Answers(),
        Instructions(),
        UnusedTools(tools_of),
        Models(price_of),
        Deferrable(price_of),
    )
    with app.ledger() as ledger:
        return examine(in_order(ledger.exchanges(since_ms=since)), watchers, price_of, now_ms=app.now_ms())


def price_of_app(app: App) -> PriceOf:
    """What usage costs at a configured provider."""
    prices = app.stores.price_book(app.settings)
    known = {one.name: one for one in app.settings.providers}

    def price(usage: Usage, provider: str, model: str, at_ms: int) -> Charge:
        settings = known.get(provider)
        owner = (settings.price_as or settings.name) if settings is not None else provider
        named = dict(settings.price_models).get(model, "") if settings is not None else ""
        return prices.charge(
            usage, Target(provider=provider, price_as=owner, model=model, price_model=named), at_ms=at_ms
        )

    return price


class _Named(msgspec.Struct):
    name: str = ""


class _Tool(msgspec.Struct):
    name: str = ""
    function: _Named | None = None


class _Tools(msgspec.Struct):
    tools: list[msgspec.Raw] = []


def tools_of(exchange: Exchange) -> tuple[tuple[str, int], ...]:
    """(name, bytes) of the tools in a logged prompt; nothing where it cannot be read."""
    try:
        raws = msgspec.json.decode(exchange.prompt or b"{}", type=_Tools).tools
        read = [(msgspec.json.decode(raw, type=_Tool), len(bytes(raw))) for raw in raws]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    named = ((tool.function.name if tool.function else tool.name, size) for tool, size in read)
    return tuple((name, size) for name, size in named if name)


def _apply(app: App, one: Opportunity, *, dry_run: bool) -> None:
    if one.change is None:
        raise Failed(f"{one.name} is not a setting of the policy: {one.try_}.")
    source = app.settings.source
    if not source:
        raise Failed("There is no configuration file yet; make an empty farthing.toml and name it with --config.")
    path = Path(source).resolve()
    old = path.read_text(encoding="utf-8-sig")
    new = add_section(old, one.change.section, one.change.values, source=source)
    parse(new, env=os.environ, source=source)
    click.echo(diff_of(old, new, source), nl=False)
    if dry_run:
        return
    change = changes.Applied(path=str(path), why=one.name, before=old, after=new, at_ms=app.now_ms())
    changes.apply(Path(app.settings.home), change)
    click.echo(f'Written to {source}; restart "farthing serve" to use it, "farthing undo" to take it back.')


def diff_of(old: str, new: str, name: str) -> str:
    """What changes, as people read it."""
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), name, name, n=2)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
