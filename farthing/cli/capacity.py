"""``farthing capacity``: what serving a model on GPUs of one's own costs beside an API."""

import tomllib
from pathlib import Path

import click
import msgspec

from farthing.cli.calc import rates_of
from farthing.cli.context import App, Failed, format_option, pass_app
from farthing.insight.render import Format, as_json, render
from farthing.lab.capacity import Outcome, plan
from farthing.lab.capacity_plan import Api, Demand, Plan, Serving, Spend, gpus, models, priced
from farthing.lab.formula import FormulaError
from farthing.server.tables.capacity import beside, figures


@click.command()
@click.argument("scenario", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help=f"One of {', '.join(models())}; others need a scenario file.")
@click.option("--gpu", help=f"One of {', '.join(gpus())}; others need a scenario file.")
@click.option("--gpus", "count", type=click.IntRange(1), default=1, show_default=True, help="GPUs of one replica.")
@click.option("--weights", type=click.Choice(("bf16", "fp8", "int8", "int4", "nvfp4")), default="bf16",
              show_default=True, help="Precision of the weights.")  # fmt: skip
@click.option("--input", "input_tokens", type=float, default=1000, show_default=True, help="Tokens in, a request.")
@click.option("--output", "output_tokens", type=float, default=300, show_default=True, help="Tokens out, a request.")
@click.option("--concurrency", type=click.IntRange(1), default=64, show_default=True, help="In flight, a replica.")
@click.option("--requests", "requests_per_day", type=float, help="Requests a day.")
@click.option("--usd-per-hour", type=float, help="Of one GPU. Default: a list price, with its source.")
@click.option("--requests-per-second", type=float, help="Measured on such a replica: nothing is estimated then.")
@click.option("--utilisation", type=float, default=0.7, show_default=True, help="The most at the peak.")
@click.option("--operations", type=float, default=0, show_default=True, help="USD a month for those who run it.")
@click.option("--instead-of", "api", help="The API's model: gpt-4o-mini, openai/gpt-4o.")
@format_option()
@pass_app
def capacity(
    app: App,
    scenario: Path | None,
    model: str | None,
    gpu: str | None,
    count: int,
    weights: str,
    input_tokens: float,
    output_tokens: float,
    concurrency: int,
    requests_per_day: float | None,
    usd_per_hour: float | None,
    requests_per_second: float | None,
    utilisation: float,
    operations: float,
    api: str | None,
    form: Format,
) -> None:
    """What serving a model on GPUs of your own costs beside an API: memory, rate, replicas, dollars, break-even.

    SCENARIO is a TOML file with the same and more; the guide "capacity" has one. Rates that you measured decide;
    without them the rate is estimated.
    """
    if scenario is not None:
        asked = read_plan(scenario)
    elif model and gpu and requests_per_day is not None and api:
        asked = Plan(
            model=model,
            gpu=gpu,
            serving=Serving(
                weights=weights,  # type: ignore[arg-type]  # click has checked it
                gpus=count,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                concurrency=concurrency,
                requests_per_second=requests_per_second,
            ),
            demand=Demand(requests_per_day=requests_per_day, utilisation=utilisation),
            spend=Spend(usd_per_gpu_hour=usd_per_hour, operations_usd_per_month=operations),
            api=Api(model=api),
        )
    else:
        raise click.UsageError("Give a scenario file, or --model, --gpu, --requests and --instead-of.")
    try:
        found = plan(priced(asked, lambda name: rates_of(app, name)))
    except (ValueError, FormulaError) as error:
        raise Failed(f"{error}.") from None
    click.echo(printed(asked, found, form))


def printed(asked: Plan, found: Outcome, form: Format) -> str:
    """Own GPUs beside the API, and every figure with its formula."""
    title = asked.name or f"{_said(asked.model)} on {asked.serving.gpus} x {_said(asked.gpu)}"
    tables = (beside(found, title=title), figures(found))
    if form == "json":
        return msgspec.json.format(msgspec.json.encode([as_json(table) for table in tables]), indent=2).decode()
    return "\n\n".join(render(table, form) for table in tables)


def read_plan(path: Path) -> Plan:
    """A scenario file. Raises ``Failed`` that says where it is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), type=Plan)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failed(f"{path} is no TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise Failed(f"{path}: {error}.") from None


def _said(value: object) -> str:
    return value if isinstance(value, str) else "own"
