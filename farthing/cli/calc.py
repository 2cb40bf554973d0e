"""``farthing calc``: scenarios, single questions, and the field's own figures recomputed."""

import tomllib
from pathlib import Path

import click
import msgspec

from farthing.cli import calc_tables
from farthing.cli.context import App, Failed, assignments, format_option, pass_app, show
from farthing.cli.price import find, stores
from farthing.insight.render import Format
from farthing.lab.formula import FormulaError
from farthing.lab.relations import ask, claims, recompute, relations
from farthing.lab.scenario import Scenario, Work
from farthing.lab.tariff import Rates, rates_in_book


@click.command()
@click.argument("scenario", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--ask", "question", metavar="RELATION", help="Answer one question; give its numbers with --with.")
@click.option(
    "--with", "numbers", multiple=True, callback=assignments, metavar="NAME=NUMBER", help="A number; repeatable."
)
@click.option("--questions", is_flag=True, help="List the questions and the numbers that they need.")
@click.option("--claims", "all_claims", is_flag=True, help="Recompute the figures that sources of the field print.")
@click.option("--claim", "claim_id", metavar="ID", help="Recompute one of them, line by line.")
@format_option()
@pass_app
def calc(
    app: App,
    scenario: Path | None,
    question: str | None,
    numbers: tuple[tuple[str, str], ...],
    questions: bool,
    all_claims: bool,
    claim_id: str | None,
    form: Format,
) -> None:
    """What traffic would cost, and what levers would save: every figure with its formula.

    SCENARIO is a TOML file: a workload and levers with their real conditions (time to live, arrival, write premium,
    router, escalation, embeddings). The guide "calculator" has examples.
    """
    chosen = [bool(scenario), bool(question), questions, all_claims, bool(claim_id)]
    if sum(chosen) != 1:
        raise click.UsageError("Give a scenario file, or one of --ask, --questions, --claims and --claim.")
    try:
        if questions:
            show(calc_tables.questions(relations()), form)
        elif question:
            show(calc_tables.answer(relations()[question].asks, ask(question, dict(numbers))), form)
        elif all_claims:
            show(calc_tables.verdicts([recompute(one) for one in claims()]), form)
        elif claim_id:
            show(calc_tables.verdict(recompute(claim_id)), form)
        elif scenario:
            show(_scenario(app, scenario), form)
    except KeyError:
        raise Failed(f'No question is called "{question}"; farthing calc --questions lists them.') from None
    except FormulaError as error:
        raise Failed(f"{error}.") from None


def _scenario(app: App, path: Path) -> calc_tables.Table:
    read = read_scenario(path)
    try:
        outcome = Work(read, lambda model: rates_of(app, model)).outcome()
    except ValueError as error:
        raise Failed(f"{path}: {error}.") from None
    return calc_tables.outcome(read.name or path.stem, read.workload.days, outcome)


def read_scenario(path: Path) -> Scenario:
    """A scenario file. Raises ``Failed`` that says where it is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), type=Scenario)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failed(f"{path} is no TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise Failed(f"{path}: {error}.") from None


def rates_of(app: App, model: str) -> Rates:
    """Today's ordinary rates of the price book. Raises ``Failed`` for models without them."""
    book = stores(app).price_book(app.settings).book
    found = rates_in_book(book, find(book, model, ""), app.now_ms())
    if found is None:
        raise Failed(f'"{model}" has no price for text in and out; give [rates."{model}"] in the scenario.')
    return found
