"""``farthing batch``: what a batch can cost before it is sent, and its results into the ledger."""

from pathlib import Path
from typing import Literal

import click
import msgspec

from farthing.cli.context import App, Failed, closed, format_option, moment, pass_app, scope_of, scope_options, show
from farthing.config.checks import dialect_of
from farthing.config.settings import ProviderSettings
from farthing.core.types import Scope
from farthing.insight.moments import shown
from farthing.insight.render import Format, usd
from farthing.insight.table import Column, Row, Table
from farthing.lab.batches import Batch, Booked, ceiling_of, read_results
from farthing.lab.batches import book as book_results
from farthing.ports.batches import Batch as Running
from farthing.ports.batches import Manifest
from farthing.wire.usage import reader
from farthing.wire.usage.batches import BatchReader

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PROVIDER = click.option("--provider", "provider_name", required=True, help="The provider that the batch is with.")
_LISTED = 10
_MANIFEST = msgspec.json.Decoder(Manifest)
_COLUMNS = (
    Column(name="created", title="created (UTC)"),
    Column(name="batch", title="batch"),
    Column(name="provider", title="provider"),
    Column(name="kind", title="of"),
    Column(name="state", title="state"),
    Column(name="key", title="key"),
    Column(name="requests", title="requests", kind="int"),
    Column(name="most", title="at most", kind="usd"),
)


@click.group()
def batch() -> None:
    """Batches of the providers' own batch APIs, at half the price: estimate one, book its results."""


@batch.command()
@click.argument("file", type=_FILE)
@_PROVIDER
@click.option("--model", default="", help="The model of requests that name none.")
@click.option("--output", type=click.IntRange(1), help="Output tokens of requests that set no cap.")
@pass_app
def ceiling(app: App, file: Path, provider_name: str, model: str, output: int | None) -> None:
    """The most that the requests in FILE (JSON Lines, as they are uploaded) can cost at batch prices."""
    about = _batch(app, provider_name, "", model, Scope(), app.now_ms())
    prices = app.stores.price_book(app.settings)
    try:
        with file.open("rb") as lines:
            found = ceiling_of(lines, about, prices, output_assumed=output)
    except ValueError as error:
        raise Failed(f"{file}: {error}.") from None
    if found.nusd is None:
        why = [f"{found.uncapped} set no cap on their answers (see --output)"] if found.uncapped else []
        why += [f"{found.unpriced} have no known batch price"] if found.unpriced else []
        raise Failed(f"No ceiling for {found.requests} requests: {', '.join(why)}.")
    click.echo(f"{found.requests} requests cost at most {usd(found.nusd)}.")


@batch.command()
@click.argument("file", type=_FILE)
@_PROVIDER
@click.option("--id", "batch_id", required=True, help="The batch's id at the provider.")
@click.option("--model", default="", help="The model of answers that name none.")
@click.option("--at", callback=moment, default="now", show_default=True, help="When it was done; decides prices.")
@scope_options
@click.option("--dry-run", is_flag=True, help="Read and price everything, book nothing.")
@pass_app
def book(
    app: App,
    /,
    file: Path,
    provider_name: str,
    batch_id: str,
    model: str,
    at: int,
    tags: tuple[tuple[str, str], ...],
    dry_run: bool,
    **said: str,
) -> None:
    """Book the results in FILE (an output or error file, JSON Lines), each answer once.

    The same file again, or a longer one of the same batch, books only what is new. Counters of budgets are not
    touched: a batch is history when its results are there.
    """
    about = _batch(app, provider_name, batch_id, model, scope_of(said, tags), at)
    found_reader = reader(f"{about.dialect}.batch")
    assert isinstance(found_reader, BatchReader)
    with file.open("rb") as lines:
        found = read_results(lines, about, found_reader.line, app.stores.price_book(app.settings))
    if not dry_run:
        with closed(app.stores.open_importer(app.settings)) as importer:
            found = book_results(found, importer)
    _say(found, dry_run=dry_run)


@batch.command("ls")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The last so many.")
@format_option()
@pass_app
def list_batches(app: App, limit: int, form: Format) -> None:
    """The batches that went through the gateway, newest first, with what they may cost at most."""
    with closed(app.stores.open_batches(app.settings)) as shelf:
        rows = tuple(_row(one, _MANIFEST.decode(shelf.manifest(one.id))) for one in shelf.latest(limit))
    show(Table(title="Batches", columns=_COLUMNS, rows=rows), form)


def _row(one: Running, manifest: Manifest) -> Row:
    most = sum(share.usd for share in manifest.shares.values())
    name = one.upstream_id or None
    return (
        shown(one.created_ms),
        name,
        one.provider,
        one.kind,
        one.state,
        one.owner or None,
        len(manifest.shares),
        most,
    )


def _batch(app: App, provider: str, batch_id: str, model: str, scope: Scope, at_ms: int) -> Batch:
    settings = next((one for one in app.settings.providers if one.name == provider), None)
    if settings is None:
        names = ", ".join(one.name for one in app.settings.providers)
        raise Failed(f'No provider is called "{provider}"; configured: {names}.')
    return Batch(
        id=batch_id,
        provider=provider,
        price_as=settings.price_as or settings.name,
        dialect=_dialect(settings),
        model=model,
        scope=scope,
        at_ms=at_ms,
        now_ms=app.now_ms(),
        price_models=dict(settings.price_models),
    )


def _dialect(settings: ProviderSettings) -> Literal["openai", "anthropic"]:
    found = dialect_of(settings)
    if found not in ("openai", "anthropic"):
        raise Failed(
            f'Batches of "{settings.name}" ({settings.kind}) cannot be read; of openai and anthropic they can.'
        )
    return "anthropic" if found == "anthropic" else "openai"


def _say(found: Booked, *, dry_run: bool) -> None:
    done = "would be booked" if dry_run else f"{found.new} booked, {found.already_there} already there"
    click.echo(f"{len(found.entries)} answers of {found.lines} lines, {usd(found.nusd)}: {done}.")
    if found.free:
        click.echo(f"{found.free} lines failed or expired and cost nothing.")
    if found.again:
        click.echo(f"{found.again} lines repeat an id of the file; the first counts.")
    if found.unpriced:
        click.echo(f"{found.unpriced} answers have no known batch price; they are booked as unpriced.")
    if found.bad:
        listed = ", ".join(f"line {number}: {why}" for number, why in found.bad[:_LISTED])
        raise Failed(f"{len(found.bad)} lines cannot be booked ({listed}).")
