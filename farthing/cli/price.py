"""``farthing price``: look at prices, check them, add to them. Prices never change by themselves."""

from collections.abc import Callable
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Protocol, cast

import click
import msgspec
import yaml

from farthing.cli import price_tables
from farthing.cli.context import App, Command, Failed, assignments, format_option, moment, pass_app, show
from farthing.config import Settings
from farthing.config.values import did_you_mean
from farthing.core.price_book import PriceBook, Resolved
from farthing.core.pricing_rows import DAY_MS
from farthing.core.units import UNITS
from farthing.insight.render import Format
from farthing.insight.table import Column, Table
from farthing.library import FIRST_PARTIES, verify

OWN_FILE: Final = "own"
"""The file in ``FARTHING_HOME/prices`` to which ``set`` appends."""


class Priced(Protocol):
    """Prices over a book."""

    @property
    def book(self) -> PriceBook:
        """The book itself."""
        ...


class Loaded(Protocol):
    """A book and what was noticed while it was built."""

    @property
    def book(self) -> PriceBook:
        """The book itself."""
        ...

    @property
    def dust(self) -> tuple[str, ...]:
        """Rounded prices."""
        ...


class PriceStores(Protocol):
    """What these commands need of ``farthing.bootstrap``."""

    def price_book(self, settings: Settings) -> Priced: ...

    def load_prices(
        self, settings: Settings, files: tuple[Path, ...] | None = None, *, corrections: bool = True
    ) -> Loaded: ...

    def append_prices(self, settings: Settings, file: str, document: str) -> Path: ...

    def take_prices(self, settings: Settings, source: str, file: str) -> Path: ...


def stores(app: App) -> PriceStores:
    """The stores, as these commands see them."""
    return cast("PriceStores", app.stores)


def as_of_option() -> Callable[[Command], Command]:
    """``--as-of``."""
    return click.option(
        "--as-of", "at", callback=moment, default="now", show_default=True, help="Prices at this instant (UTC)."
    )


@click.group()
def price() -> None:
    """Look at the price book, check it, add to it."""


@price.command("show")
@click.argument("model")
@click.option("--provider", default="", help="Whose model; else MODEL may be provider/model, or the maker's.")
@as_of_option()
@format_option()
@pass_app
def show_(app: App, model: str, provider: str, at: int, form: Format) -> None:
    """Every price of MODEL: units, steps, conditions, dates and where each comes from."""
    book = stores(app).price_book(app.settings).book
    show(price_tables.model_table(book, find(book, model, provider), at), form)


@price.command()
@click.option("--provider", default="", help="Only this provider's.")
@as_of_option()
@format_option()
@pass_app
def ls(app: App, provider: str, at: int, form: Format) -> None:
    """All models with their ordinary prices."""
    book = stores(app).price_book(app.settings).book
    if provider and not book.models(provider):
        owners = {entry.provider for entry in book.models("")}
        raise Failed(f'The price book has no provider "{provider}"{did_you_mean(provider, owners)}.')
    show(price_tables.models_table(book, provider, at), form)


@price.command()
@click.argument("a")
@click.argument("b")
@format_option()
@pass_app
def diff(app: App, a: str, b: str, form: Format) -> None:
    """Where ordinary prices differ between A and B.

    Each is a time ("2026-08-01", "30d"; the installed book at that time), a price file, "base" (the imported list)
    or "shipped" (with Farthing's corrections).
    """
    show(price_tables.diff_table(side(app, a), side(app, b)), form)


@price.command()
@format_option()
@pass_app
def check(app: App, form: Format) -> None:
    """Findings: stale, dominated or redundant rows, rounded prices. A contradictory book does not load (exit 2)."""
    loaded = stores(app).load_prices(app.settings)
    today = datetime.fromtimestamp(app.now_ms() / 1000, UTC).date()
    found = tuple(price_tables.findings(loaded.book, loaded.dust, today))
    kinds = sorted({finding.kind for finding in found})
    counts = ", ".join(f"{sum(finding.kind == kind for finding in found)} {kind}" for kind in kinds)
    table = Table(
        title=f"{len(loaded.book.data.rows)} rows, {counts or 'nothing to report'}",
        columns=tuple(Column(name=name, title=name) for name in ("kind", "where", "what")),
        rows=tuple(found),
        notes=(f"price book {loaded.book.ref}",),
    )
    show(table, form)


@price.command("set")
@click.argument("model")
@click.argument("prices", nargs=-1, required=True, metavar="UNIT=PRICE...")
@click.option("--from", "start", required=True, help="From this date or UTC instant on.")
@click.option("--when", multiple=True, callback=assignments, help="Only for processing=batch, say; repeatable.")
@click.option(
    "--source", type=click.Choice(("contract", "manual", "self_hosted")), default="contract", show_default=True
)
@click.option("--source-url", default="", help="Where the price is written down.")
@click.option("--note", default="")
@click.option("--backdate", is_flag=True, help="Allow a start in the past: calls already booked keep their price.")
@pass_app
def set_(
    app: App,
    model: str,
    prices: tuple[str, ...],
    start: str,
    when: tuple[tuple[str, str], ...],
    source: str,
    source_url: str,
    note: str,
    backdate: bool,
) -> None:
    """Append dated prices for provider/MODEL, such as input=2.50 output=10.

    Dollars per million tokens, per thousand calls, per hour. Nothing is overwritten: the price before ends where
    this one begins.
    """
    provider, slash, name = model.partition("/")
    if not slash or not name:
        raise click.BadParameter("is provider/model, such as openai/gpt-4o", param_hint="MODEL")
    begins = moment(click.get_current_context(), None, start)
    now = app.now_ms()
    if begins < now - now % DAY_MS and not backdate:
        raise Failed(
            f"{start} is in the past. Add --backdate if that is meant; calls already booked keep their price."
        )
    row: dict[str, Any] = {"from": start}
    if when:
        row["when"] = dict(when)
    for pair in assignments(click.get_current_context(), None, prices):
        if pair[0] not in UNITS:
            raise click.BadParameter(f'"{pair[0]}" is not a unit; units: {", ".join(sorted(UNITS))}')
        row[pair[0]] = pair[1]
    if note:
        row["note"] = note
    today = datetime.fromtimestamp(now / 1000, UTC).date().isoformat()
    document: dict[str, Any] = {"provider": provider, "source": source, "checked_on": today}
    if source_url:
        document["source_url"] = source_url
    document["models"] = [{"id": known_id(app, provider, name), "prices": [row]}]
    path = stores(app).append_prices(app.settings, OWN_FILE, yaml.safe_dump(document, sort_keys=False))
    click.echo(f"Added to {path}. Running gateways use it from their next start or reload.")
    for finding in price_tables.far_off(stores(app).load_prices(app.settings).book):
        click.echo(f"Note: {finding.where}: {finding.what}", err=True)


@price.command()
@click.option("--from", "source", required=True, metavar="FILE|URL", help="A price file, or its https address.")
@click.option("--name", default="", help="What to call it in FARTHING_HOME/prices; its own name if left out.")
@pass_app
def update(app: App, source: str, name: str) -> None:
    """Take a price file into this installation. Happens only when asked, and never removes a row."""
    file = name or Path(source.rpartition("/")[2]).stem
    if not file or file.startswith("."):
        raise click.BadParameter("gives no file name; add --name", param_hint="--from")
    path = stores(app).take_prices(app.settings, source, file)
    click.echo(f"Installed {path}.")


@price.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@format_option()
@pass_app
def verify_(app: App, file: Path, form: Format) -> None:
    """Price the worked usages in FILE and compare to the nano-dollar. Exit 1 on any difference."""
    try:
        vectors = msgspec.json.decode(file.read_bytes(), type=list[dict[str, Any]])
        results = verify(stores(app).price_book(app.settings).book, vectors)
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise Failed(f"{file}: {error}") from error
    show(price_tables.verified_table(results), form)
    if not all(result.ok for result in results):
        raise SystemExit(1)


def find(book: PriceBook, model: str, provider: str) -> Resolved:
    """The model meant by the user. Raises ``Failed`` with similar names."""
    head, slash, tail = model.partition("/")
    tries = [(provider, model)] if provider else [(name, model) for name in FIRST_PARTIES]
    if slash and not provider and book.models(head):
        tries.insert(0, (head, tail))
    for owner, name in tries:
        resolved = book.resolve(owner, name)
        if resolved is not None:
            return resolved
    known = book.models(provider)
    near = [f"{entry.provider}/{entry.id}" for entry in known if model.lower() in entry.id.lower()]
    if not near:
        makers = reversed(FIRST_PARTIES)  # where several sell a model, the first is named
        sought = {entry.id: f"{owner}/{entry.id}" for owner in makers for entry in known if entry.provider == owner}
        near = [sought[name] for name in get_close_matches(tail or model, sought, n=3, cutoff=0.75)]
    hint = f" Names like it: {', '.join(near[:8])}." if near else " farthing price ls shows all."
    raise Failed(f'No model of the price book is called "{model}".{hint}')


def known_id(app: App, provider: str, name: str) -> str:
    """The book's own id for a name, so that new rows join the model's others; the name itself if it is new."""
    resolved = stores(app).price_book(app.settings).book.resolve(provider, name)
    return resolved.model if resolved and resolved.owner == provider else name


def side(app: App, text: str) -> tuple[str, PriceBook, int]:
    """One side of a diff: its name, a book, an instant."""
    now = app.now_ms()
    if text == "base":
        return text, stores(app).load_prices(app.settings, (), corrections=False).book, now
    if text == "shipped":
        return text, stores(app).load_prices(app.settings, ()).book, now
    if Path(text).is_file():
        return text, stores(app).load_prices(app.settings, (Path(text),)).book, now
    at = moment(click.get_current_context(), None, text)
    return text, stores(app).price_book(app.settings).book, at
