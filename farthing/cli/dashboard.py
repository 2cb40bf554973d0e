"""``farthing dashboard``: the people of the dashboard."""

import click

from farthing.cli.context import Failed
from farthing.config.editing import toml
from farthing.config.people import ROLES

PASSWORD_MIN = 10


@click.group()
def dashboard() -> None:
    """Who may sign in to the dashboard."""


@dashboard.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="analyst", show_default=True, help="What NAME may do.")
@click.option("--team", default="", help="The one team that NAME sees, with --role team.")
@click.option("--password", help="Asked for where this is left out, which keeps it out of the shell's history.")
def password(name: str, role: str, team: str, password: str | None) -> None:
    """Print the lines of farthing.toml that let NAME sign in. The password itself is kept nowhere."""
    if (role == "team") != bool(team):
        raise click.UsageError("--role team and --team go together.")
    said = password or click.prompt("Password", hide_input=True, confirmation_prompt=True)
    if len(said) < PASSWORD_MIN:
        raise Failed(f"A password needs at least {PASSWORD_MIN} characters.")
    from argon2 import PasswordHasher  # takes a while to import

    lines = {"name": name, "role": role, **({"team": team} if team else {})}
    click.echo("[[dashboard.users]]")
    for key, value in {**lines, "password_hash": PasswordHasher().hash(said)}.items():
        click.echo(f"{key} = {toml(value)}")
