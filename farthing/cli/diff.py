"""``farthing diff``: what a change of prompts and policy costs a month."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from farthing.cli import ci_files
from farthing.cli.baseline import DEFAULT
from farthing.cli.context import App, Broken, pass_app, show
from farthing.insight.ci_cost import Diff
from farthing.insight.ci_cost import diff as compare
from farthing.insight.reports import ci as report

Command = TypeVar("Command", bound=Callable[..., Any])
FORMATS = ("table", "json", "csv", "md", "github")


class Compared(NamedTuple):
    """The change, and what the configuration changes."""

    diff: Diff
    policy: list[str]


def ci_options(command: Command) -> Command:
    """``--base``, ``--baseline``, ``--prompts``, ``--quality``."""
    for option in (
        click.option("--quality", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="CSV of model,score (0 to 1): finds models that another one dominates."),
        click.option("--prompts", "folder", default="prompts", show_default=True, help="The folder of prompts."),
        click.option("--baseline", "traffic", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT,
                     show_default=True, help="The committed traffic."),
        click.option("--base", default="origin/main", show_default=True, metavar="REF|DIR",
                     help="What to compare with: a git revision, or a folder laid out like this one."),
    ):  # fmt: skip
        command = option(command)
    return command


def compared(app: App, base: str, traffic: Path, folder: str, quality: Path | None) -> Compared:
    """Both sides read and priced. Raises ``Broken``."""
    config = os.path.relpath(app.config_path) if app.config_path else "farthing.toml"
    before, after = ci_files.at_base(base, folder, config), ci_files.working_tree(folder, config)
    found = compare(
        before.prompts,
        after.prompts,
        ci_files.load_baseline(traffic),
        ci_files.pricer(app),
        quality=_scores(quality),
    )
    return Compared(found, ci_files.policy_changes(before.config, after.config))


@click.command()
@ci_options
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print."
)
@pass_app
def diff(app: App, base: str, traffic: Path, folder: str, quality: Path | None, form: str) -> None:
    """What the prompts and the policy of this directory cost a month beside those at --base.

    Offline: tokens are counted here, prices come with the installation, traffic from the committed baseline. Calls,
    put-in values and output lengths stay as they were; only what the change touches moves.
    """
    found = compared(app, base, traffic, folder, quality)
    print_diff(found, form)


def print_diff(found: Compared, form: str, verdict: str = "") -> None:
    """The change in one of the formats."""
    if form == "md":
        click.echo(report.markdown(found.diff, policy=found.policy, verdict=verdict), nl=False)
    elif form == "github":
        click.echo(report.annotations(found.diff.findings))
    elif form in ("table", "json", "csv"):
        show(
            report.build(found.diff, policy=found.policy),
            "table" if form == "table" else "json" if form == "json" else "csv",
        )
        if verdict and form == "table":
            click.echo(verdict)


def _scores(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["model"]: float(row["score"]) for row in csv.DictReader(file)}
    except (KeyError, ValueError) as error:
        raise Broken(f"{path}: columns model,score are expected, scores as numbers ({error})") from error
