"""``farthing ci check``: the gate of a pull request."""

import os
import re
from pathlib import Path

import click

from farthing.cli.context import App, pass_app
from farthing.cli.diff import FORMATS, ci_options, compared, print_diff
from farthing.core.money import parse_usd
from farthing.insight.render import percent, usd
from farthing.insight.reports.ci import markdown
from farthing.insight.table import share

_PERCENT = re.compile(r"(\d{1,6})(?:\.(\d{1,2}))?\s*%")


def increase(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    """``10%`` of all prompts of the baseline, or dollars a month; a callback."""
    found = _PERCENT.fullmatch(value.strip())
    if found:
        return "percent", int(found[1]) * 100 + int((found[2] or "0").ljust(2, "0"))
    try:
        return "usd", int(parse_usd(value.strip().removeprefix("$")))
    except ValueError as error:
        raise click.BadParameter(
            f'"{value}" is neither a percentage such as 10% nor dollars a month', ctx=ctx, param=param
        ) from error


@click.group()
def ci() -> None:
    """What a pull request costs."""


@ci.command()
@ci_options
@click.option("--max-increase", callback=increase, default="10%", show_default=True, metavar="10%|USD",
              help="The most that the change may add a month: of all prompts, or dollars.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Warnings (cache-prefix breaks, dominated models) fail too.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print."
)
@click.option("--summary", is_flag=True, help="Also append Markdown to the file in GITHUB_STEP_SUMMARY.")
@pass_app
def check(
    app: App, /, base: str, traffic: Path, folder: str, quality: Path | None, max_increase: tuple[str, int],
    strict: bool, form: str, summary: bool,
) -> None:  # fmt: skip
    """Price the change against --base and fail when it costs too much.

    Exit codes: 0 fine, 1 too dear, a model without a price, or (with --strict) a warning; 2 something cannot be read.
    """
    found = compared(app, base, traffic, folder, quality)
    kind, most = max_increase
    part = share(found.diff.change, found.diff.whole_month)
    # Without any priced traffic before, every increase is beyond every percentage.
    grown = (
        (part if part is not None else (10**9 if found.diff.change > 0 else 0))
        if kind == "percent"
        else found.diff.change
    )
    allowed = f"{percent(most)} %" if kind == "percent" else usd(most)
    errors = [one for one in found.diff.findings if one.level == "error" or strict]
    reasons = [f"the increase is above {allowed}"] if grown > most else []
    reasons += [f"{len(errors)} finding{'s' if len(errors) > 1 else ''}"] if errors else []
    verdict = f"❌ Needs action: {' and '.join(reasons)}." if reasons else f"✅ Within {allowed}."
    print_diff(found, form, verdict)
    target = os.environ.get("GITHUB_STEP_SUMMARY", "")
    if summary and target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(markdown(found.diff, policy=found.policy, verdict=verdict))
    if reasons:
        raise click.exceptions.Exit(1)
