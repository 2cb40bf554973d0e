"""``farthing budget set``: one budget of ``farthing.toml`` made or changed, checked before it is written."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import click

from farthing.cli.context import App, Failed, assignments, pass_app
from farthing.config import parse
from farthing.config.editing import Toml, set_budget
from farthing.config.writing import replace_file
from farthing.core.policy import Period, Weekday
from farthing.core.types import LimitUnit

_PLAIN = ("per", "length", "timezone", "week_starts", "day_hour", "month_day", "year_month", "mode")


@click.command("set")
@click.argument("name")
@click.option("--per", type=click.Choice(get_args(Period)), help="The window; needed for a new budget.")
@click.option("--length", metavar="SPAN", help='How far back "rolling" counts: 5m, 24h, 30d.')
@click.option(
    "--limit", "limits", multiple=True, callback=assignments, metavar="UNIT=AMOUNT",
    help=f"usd=12.50, tokens=1000000 …; an empty amount takes a limit out. Units: {', '.join(get_args(LimitUnit))}.",
)  # fmt: skip
@click.option("--each", metavar="NAMES", help="Dimensions that split it, with commas: user,model.")
@click.option(
    "--match", multiple=True, callback=assignments, metavar="NAME=VALUE", help="Only calls with this value."
)
@click.option("--timezone", metavar="ZONE", help="Where days begin: Europe/Berlin.")
@click.option("--week-starts", type=click.Choice(get_args(Weekday)), help="The first day of weeks.")
@click.option("--day-hour", type=click.IntRange(0, 23), help="The hour at which days begin.")
@click.option("--month-day", type=click.IntRange(1, 31), help="The day on which months begin.")
@click.option("--year-month", type=click.IntRange(1, 12), help="The month in which the fiscal year begins.")
@click.option("--mode", type=click.Choice(["enforce", "shadow"]), help="Shadow counts and reports, refuses nothing.")
@click.option("--credit", callback=assignments, multiple=True, metavar="UNIT=AMOUNT", help="Add prepaid credit.")
@click.option("--raise", "raised", callback=assignments, multiple=True, metavar="UNIT=AMOUNT", help="Add a raise.")
@click.option("--from", "from_", metavar="DATE", help="When the credit or raise begins.")
@click.option("--until", metavar="DATE", help="When it ends; a raise needs one.")
@click.option("--remove-match", is_flag=True, help="Apply to all calls again.")
@click.option("--dry-run", is_flag=True, help="Show the change, write nothing.")
@pass_app
def set_(app: App, /, name: str, dry_run: bool, **said: object) -> None:
    """Make or change the budget NAME in farthing.toml; the rest of the file stays as it is.

    The new file is checked as a whole before it takes the old one's place. A running gateway reads it when restarted.
    """
    source = app.settings.source
    if not source:
        raise Failed("There is no configuration file yet; make an empty farthing.toml and name it with --config.")
    path = Path(source).resolve()
    old = path.read_text(encoding="utf-8-sig")
    present = next((one for one in _tables(old) if one.get("name") == name), {})
    new = set_budget(old, name, _changes(said, present), source=source)
    parse(new, env=os.environ, source=source)
    diff = "".join(
        line if line.endswith("\n") else f"{line}\n"
        for line in difflib.unified_diff(
            old.splitlines(keepends=True), new.splitlines(keepends=True), source, source, n=2
        )
    )
    click.echo(diff or "Nothing to change.", nl=not diff)
    if diff and not dry_run:
        replace_file(path, new)
        click.echo(f'Written to {source}; restart "farthing serve" to use it.')


def _tables(text: str) -> list[dict[str, Toml]]:
    found = tomllib.loads(text).get("budgets", [])
    return found if isinstance(found, list) else []


def _changes(said: Mapping[str, object], present: Mapping[str, Toml]) -> dict[str, Toml | None]:
    """What the options say, as settings of the file."""
    found: dict[str, Toml | None] = {}
    for key in _PLAIN:
        value = said[key]
        if isinstance(value, str | int):
            found[key] = value
    if "mode" in found and "hard" in present:
        found["hard"] = None
    for unit, amount in _pairs(said["limits"]):
        found[unit] = _amount(unit, amount) if amount else None
    if isinstance(said["each"], str):
        found["each"] = [part.strip() for part in said["each"].split(",") if part.strip()]
    match = {} if said["remove_match"] else _table(present.get("match"))
    if said["remove_match"] or said["match"]:
        found["match"] = {**match, **dict(_pairs(said["match"]))} or None
    for option, key in (("credit", "credits"), ("raised", "raises")):
        grants = [_grant(unit, amount, said) for unit, amount in _pairs(said[option])]
        if grants:
            before = present.get(key)
            found[key] = [*(_plain(before) if isinstance(before, list) else []), *grants]
    return found


def _grant(unit: str, amount: str, said: Mapping[str, object]) -> dict[str, Toml]:
    dates = {"from": said["from_"], "until": said["until"]}
    return {unit: _amount(unit, amount), **{key: value for key, value in dates.items() if isinstance(value, str)}}


def _amount(unit: str, amount: str) -> Toml:
    if unit == "usd":
        return amount
    try:
        return int(amount.replace("_", ""))
    except ValueError as error:
        raise click.BadParameter(f'"{amount}" is not a whole number of {unit}') from error


def _plain(value: list[Toml]) -> list[Toml]:
    """Grants of the file with TOML's own dates as text, which means the same."""
    return [
        {key: one if isinstance(one, str | int) else str(one) for key, one in grant.items()}
        for grant in value
        if isinstance(grant, dict)
    ]


def _table(value: object) -> dict[str, Toml]:
    return value if isinstance(value, dict) else {}


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    return value if isinstance(value, tuple) else ()
