"""``farthing cache doctor``: why prompts were not read from the provider's cache, in dollars a month."""

from collections.abc import Iterator
from pathlib import Path

import click

from farthing.cli.calc import rates_of
from farthing.cli.context import App, Failed, format_option, log_state, pass_app, show, since_option
from farthing.cli.price import stores
from farthing.core.prefix_cache import OPENAI_AUTO
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.table import Column, Row, Table, share
from farthing.lab.checkup import checkup
from farthing.lab.doctor_trace import Diagnosis, Reading, diagnose, read_trace
from farthing.lab.rates import BookRates
from farthing.server.tables.checkup import causes

_PUSD_PER_NUSD = 1_000


@click.command()
@since_option("30d")
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON Lines trace with hash_ids instead of this installation's traffic log.",
)
@click.option("--model", "models", multiple=True, help="With --trace: price it as this model; repeatable.")
@format_option()
@pass_app
def doctor(app: App, since: int, trace: Path | None, models: tuple[str, ...], form: Format) -> None:
    """What the provider's prompt cache could have saved, and why it did not.

    Reads salted hashes of the traffic log, never text. --trace examines a public trace of prefix blocks at the prices
    of the models given (default: one of Anthropic's and one of OpenAI's).
    """
    if trace is not None:
        try:
            diagnosis = diagnose(read_trace(trace))
        except ValueError as error:
            raise Failed(f"{error}.") from None
        show(_trace_table(app, trace, diagnosis, models or ("claude-sonnet-4-5", "gpt-4o")), form)
        return
    with app.ledger() as ledger:
        found = checkup(ledger.exchanges(since_ms=since), book_rates(app), now_ms=app.now_ms())
    if not found.report.requests:
        raise Failed(
            f"The traffic log has no answered request with a prompt since {shown(since)} UTC.{log_state(app)}"
        )
    show(causes(found, since), form)


def book_rates(app: App) -> BookRates:
    """Rates and cache rules of this installation's models."""
    return BookRates(stores(app).price_book(app.settings).book, app.settings.providers, app.now_ms())


def _trace_table(app: App, path: Path, found: Diagnosis, models: tuple[str, ...]) -> Table:
    rows: list[Row] = []
    for model in models:
        rate = rates_of(app, model)
        claude = rate.cache_write_1h is not None
        readings = [one for one in found.readings if (one.rule is not OPENAI_AUTO) == claude]
        rows.append((model, "none", None, None, _cost(found.tokens * 10_000, rate.input), 0, None))
        best = min(readings, key=lambda one: one.cost_bp)
        for one in readings:
            rows.append(_reading_row(model, one, rate.input, rate.cache_read, best))
    return Table(
        title=f"{path.name}: {found.prompts} prompts, {found.tokens:,} input tokens",
        columns=(
            Column(name="model", title="priced as"),
            Column(name="ttl", title="cache"),
            Column(name="read", title="read", kind="percent"),
            Column(name="written", title="written", kind="percent"),
            Column(name="input_cost", title="input cost", kind="usd"),
            Column(name="saved", title="saves", kind="usd"),
            Column(name="saved_share", title="of input", kind="percent"),
        ),
        rows=tuple(rows),
        notes=(
            f"{found.cacheable / found.tokens:.1%} of all input repeats a prefix that an earlier prompt had, "
            "however long ago: no cache can read more.",
            "A negative saving is a cache that costs more than it saves: do not mark prompts for it.",
            f"Cheapest of all rules at their own prices: {', '.join(_best(found, models, app))}.",
        ),
    )  # fmt: skip


def _reading_row(
    model: str, one: Reading, input_rate: float, read_rate: float | None, best: Reading
) -> tuple[str, str, int | None, int | None, int, int, int | None]:
    read_bp = one.rule.read_bp if read_rate is None else round(read_rate / input_rate * 10_000)
    cost = (one.tokens - one.read - one.written) * 10_000 + one.read * read_bp + one.written * one.rule.write_bp
    name = one.rule.name + (" (best)" if one is best and cost < one.plain_bp else "")
    saved = one.plain_bp - cost
    return (
        model,
        name,
        share(one.read, one.tokens),
        share(one.written, one.tokens),
        _cost(cost, input_rate),
        _cost(saved, input_rate),
        share(saved, one.plain_bp),
    )


def _best(found: Diagnosis, models: tuple[str, ...], app: App) -> Iterator[str]:
    for model in models:
        claude = rates_of(app, model).cache_write_1h is not None
        readings = [one for one in found.readings if (one.rule is not OPENAI_AUTO) == claude]
        best = min(readings, key=lambda one: one.cost_bp)
        yield f"{model}: {best.rule.name if best.saved_bp > 0 else 'none'}"


def _cost(basis_points: int, usd_per_million: float) -> int:
    """Nano-USD of so many basis points of an input token's price."""
    pusd = round(usd_per_million * 1_000_000)
    return basis_points * pusd // 10_000 // _PUSD_PER_NUSD
