"""``farthing estimate`` and ``farthing compare``: what prompts would cost a call and a month, as ranges."""

from collections.abc import Sequence
from pathlib import Path

import click

from farthing.cli.context import App, Failed, format_option, log_state, pass_app, show
from farthing.cli.models import server_of
from farthing.cli.optimize import price_of_app
from farthing.core.units import OUTPUT_UNITS
from farthing.insight.render import Format
from farthing.insight.table import Column, Row, Table
from farthing.lab.quote import ASSUMED, Lengths, Quote, lengths_of, quote

MONTH_MS = 30 * 86_400_000
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_CALLS = click.option(
    "--calls", type=click.IntRange(0), default=1_000, show_default=True, help="Calls a month, of each row."
)
_OUTPUT = click.option("--output", metavar="N|LOW-HIGH", help="Output tokens of an answer; default: as in the log.")


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE)
@click.option("--model", default="gpt-4o", show_default=True, help="The model that would answer.")
@_CALLS
@_OUTPUT
@format_option()
@pass_app
def estimate(app: App, files: tuple[Path, ...], model: str, calls: int, output: str | None, form: Format) -> None:
    """What the prompts in FILES would cost at one model: tokens, dollars a call and a month, each with its range."""
    answer = _answers(app, (model,), output)[model]
    rows = [_row(path.name, _quoted(app, path.read_bytes(), model, answer), calls) for path in files]
    show(_table(f"{model}, {calls:,} calls a month", "prompt", rows, (answer,), _learned(app, output)), form)


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--prompt", required=True, type=_FILE, help="The prompt, as text or as the JSON of a request.")
@_CALLS
@_OUTPUT
@format_option()
@pass_app
def compare(app: App, models: tuple[str, ...], prompt: Path, calls: int, output: str | None, form: Format) -> None:
    """What one prompt would cost at each of MODELS, cheapest first: tokens, dollars, whether it fits.

    Cost only: what the answers are worth is measured with farthing eval.
    """
    answers = _answers(app, models, output)
    data = prompt.read_bytes()
    quotes = [(model, _quoted(app, data, model, answers[model])) for model in dict.fromkeys(models)]
    quotes.sort(key=lambda one: (one[1][0].likely is None, one[1][0].likely or 0))
    rows = [_row(model, found, calls) for model, found in quotes]
    show(
        _table(
            f"{prompt.name}, {calls:,} calls a month", "model", rows, tuple(answers.values()), _learned(app, output)
        ),
        form,
    )


def _quoted(app: App, data: bytes, model: str, answer: Lengths) -> tuple[Quote, str]:
    """(the quote, how its tokens were counted)."""
    counted = app.stores.tokenizer(app.settings).count(data, model=model)
    by, price_of, now_ms = server_of(app, model), price_of_app(app), app.now_ms()
    window = app.stores.price_book(app.settings).context_window(by)
    found = quote(counted, answer, lambda usage: price_of(usage, by.provider, by.model, now_ms), window=window)
    error = "not measured" if counted.error is None else "exact" if counted.error == 0 else f"±{counted.error:.1%}"
    return found, f"{counted.method}, {error}"


def _answers(app: App, models: Sequence[str], said: str | None) -> dict[str, Lengths]:
    if said is not None:
        low, dash, high = said.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or (dash and int(high) < int(low)):
            raise click.BadParameter(f'"{said}" is neither a number nor LOW-HIGH', param_hint="--output")
        first, last = int(low), int(high or low)
        given = Lengths(low=first, likely=(first + last) // 2, high=last, source="given")
        return dict.fromkeys(models, given)
    seen: dict[str, list[int]] = {model: [] for model in models}
    if app.settings.store.kind == "sqlite" and not app.stores.ledger_path(app.settings).exists():
        return dict.fromkeys(models, ASSUMED)  # nothing was served here yet
    with app.ledger() as ledger:
        for exchange in ledger.exchanges(since_ms=app.now_ms() - MONTH_MS):
            lengths = seen.get(exchange.attempts[-1].model) if exchange.attempts else None
            if lengths is not None and exchange.usage is not None and exchange.outcome == "answered":
                lines = (line for part in exchange.usage.parts for line in part.lines)
                lengths.append(sum(many for unit, many in lines if unit in OUTPUT_UNITS))
    return {model: lengths_of(lengths, model) for model, lengths in seen.items()}


def _row(name: str, found: tuple[Quote, str], calls: int) -> Row:
    one, how = found
    fits = {None: "unknown", True: "yes", False: "no"}[one.fits]
    monthly = [None if amount is None else amount * calls for amount in (one.low, one.likely, one.high)]
    tokens = f"{one.input_low:,}-{one.input_high:,}"
    answer = f"{one.answer.low:,}-{one.answer.high:,}"
    return (name, one.input_tokens, tokens, how, answer, one.likely, *monthly, fits)


def _learned(app: App, said: str | None) -> str:
    """What to say after where the lengths of answers come from."""
    return log_state(app) if said is None else ""


def _table(title: str, first: str, rows: list[Row], answers: tuple[Lengths, ...], more: str) -> Table:
    if not rows:
        raise Failed("There is nothing to estimate.")
    sources = ", ".join(dict.fromkeys(one.source for one in answers))
    return Table(
        title=title,
        columns=(
            Column(name=first, title=first),
            Column(name="input_tokens", title="input tokens", kind="int"),
            Column(name="input_range", title="range"),
            Column(name="method", title="counted by"),
            Column(name="answer_range", title="answer"),
            Column(name="call", title="a call", kind="usd", unknown="unpriced"),
            Column(name="month_low", title="month, low", kind="usd", unknown="unpriced"),
            Column(name="month", title="month", kind="usd", unknown="unpriced"),
            Column(name="month_high", title="month, high", kind="usd", unknown="unpriced"),
            Column(name="fits", title="fits the window"),
        ),
        rows=tuple(rows),
        notes=(
            f"Lengths of answers: {sources}.{more}",
            "Ordinary prices of today; nothing is read from a prompt cache, nothing is discounted.",
        ),
    )
