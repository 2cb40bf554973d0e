"""``farthing check``: the configuration, all its problems at once, and what would run."""

import os
from typing import Protocol, cast

import click

from farthing.cli import ci
from farthing.cli.context import App, pass_app
from farthing.config import ProviderSettings, Settings, notes
from farthing.core.errors import ConfigError
from farthing.core.policy import Budget
from farthing.insight.render import usd


@click.command()
@click.option("--max-increase", metavar="10%|USD", help="Check a pull request instead, as 'farthing ci check' does.")
@click.option("--base", default="origin/main", show_default=True, help="With --max-increase: what to compare with.")
@click.pass_context
@pass_app
def check(app: App, ctx: click.Context, /, max_increase: str | None, base: str) -> None:
    """Check the configuration and say what will run.

    Exit code 1 when anything is wrong; every problem is printed with its place in the file.
    """
    if max_increase is not None:
        arguments = ["--max-increase", max_increase, "--base", base]
        raise click.exceptions.Exit(ci.check.main(arguments, parent=ctx, obj=app, standalone_mode=False) or 0)
    try:
        settings = app.settings
    except ConfigError as error:
        click.echo(str(error))
        raise click.exceptions.Exit(1) from error
    for line in summary(settings, env=dict(os.environ)):
        click.echo(line)
    if settings.store.kind != "sqlite":
        _check_store(app, settings)


class CheckedStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` where the store is a server."""

    def check_store(self, settings: Settings) -> tuple[list[str], list[str]]: ...


def _check_store(app: App, settings: Settings) -> None:
    try:
        fine, wrong = cast(CheckedStores, app.stores).check_store(settings)
    except ConfigError as error:
        fine, wrong = [], [str(error)]
    for line in (*(f"store      {one}" for one in fine), *(f"PROBLEM    {one}" for one in wrong)):
        click.echo(line)
    if wrong:
        raise click.exceptions.Exit(1)


def summary(settings: Settings, *, env: dict[str, str]) -> list[str]:
    """What will run, for people; keys are shown as present or missing, never themselves."""
    server, policy = settings.server, settings.policy
    lines = [
        f"{settings.source or 'defaults (no configuration file)'}: no problems",
        "",
        f"gateway    http://{server.host}:{server.port}, {server.workers} worker"
        f"{'s' if server.workers != 1 else ''}, {server.durability} durability",
        f"home       {settings.home}",
        f"policy     {policy.ref}",
    ]
    lines += [f"provider   {_provider(provider, env)}" for provider in settings.providers]
    lines += [f"budget     {_budget(budget)}" for budget in policy.budgets]
    lines += [f"fallback   {one.model} → {', '.join(one.to)} on {', '.join(one.on)}" for one in policy.fallbacks]
    remarks = notes(settings)
    if remarks:
        lines += ["", *[f"note       {remark}" for remark in remarks]]
    return lines


def _provider(provider: ProviderSettings, env: dict[str, str]) -> str:
    models = ", ".join(provider.models) or "all other models"
    if provider.api_key_file:
        key = f"key from file {provider.api_key_file}"
    elif provider.api_key_env:
        key = f"key from {provider.api_key_env} ({'set' if env.get(provider.api_key_env) else 'NOT SET'})"
    else:
        key = "no key"
    return f"{provider.name}: {provider.base_url}, {key}; serves {models}"


def _budget(budget: Budget) -> str:
    limits = ", ".join(usd(limit) if unit == "usd" else f"{limit:,} {unit}" for unit, limit in budget.limits)
    each = f" for each {', '.join(budget.each)}" if budget.each else ""
    match = f" where {', '.join(f'{name}={value}' for name, value in budget.match)}" if budget.match else ""
    zone = f", {budget.timezone}" if budget.timezone != "UTC" else ""
    return f"{budget.name}: {limits} per {budget.per}{each}{match}{zone}, {'hard' if budget.hard else 'soft'}"
