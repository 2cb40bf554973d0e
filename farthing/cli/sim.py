"""``farthing sim``: run the simulated provider in the foreground."""

import ipaddress

import click

from farthing.sim.server import run
from farthing.sim.settings import SimSettings


def _loopback(host: str) -> str:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise click.BadParameter(
            f"{host} is not a loopback address; the simulator's admin window asks for no key. Use 127.0.0.1 or ::1.",
            param_hint="--host",
        )
    return host


@click.command("sim")
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--port", default=8485, show_default=True, type=click.IntRange(0, 65_535), help="Port; 0: a free one.")
@click.option(
    "--speed", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0: no waiting; 1: lifelike."
)
@click.option("--seed", default=0, show_default=True, type=int, help="Changes every answer and drawn fault.")
@click.option(
    "--invoice", default="", type=click.Path(dir_okay=False), help="Append every invoice line to this file."
)
@click.option("--key", "keys", multiple=True, help="An accepted API key (repeatable); none: accept any.")
@click.option("--admin-key", "admin_keys", multiple=True, help="A key for the report endpoints (repeatable).")
def sim(
    host: str, port: int, speed: float, seed: int, invoice: str, keys: tuple[str, ...], admin_keys: tuple[str, ...]
) -> None:
    """Run a simulated OpenAI and Anthropic provider that keeps its own invoice."""
    defaults = SimSettings()
    settings = SimSettings(
        speed=speed,
        seed=seed,
        invoice_file=invoice,
        keys=keys,
        admin_keys=admin_keys or defaults.admin_keys,
    )
    try:
        run(settings, host=_loopback(host), port=port, listening=_announce)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error


def _announce(address: str) -> None:
    click.echo(f"OpenAI dialect     {address}/v1")
    click.echo(f"Anthropic dialect  {address}")
    click.echo(f"Invoice            {address}/sim/invoice")
