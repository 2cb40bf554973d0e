"""``farthing emf``: a gateway's figures as CloudWatch metrics, one line of JSON for each, on standard output."""

import time

import click
import httpx
from prometheus_client.parser import text_string_to_metric_families

from farthing.cli.context import App, Broken, pass_app
from farthing.server.emf import Emf


@click.command()
@click.option("--url", help="The gateway's metrics [default: this installation's /metrics].")
@click.option("--every", type=click.IntRange(1, 3_600), default=60, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look once, print all that was counted so far, and end.")
@pass_app
def emf(app: App, url: str | None, every: int, once: bool) -> None:
    """Print what a gateway counted since the last look, in CloudWatch's embedded metric format.

    Beside a gateway in a container, the log driver takes the lines to CloudWatch Logs, which makes metrics of them:
    LLMCost, InputTokens, OutputTokens, CachedTokens and Requests by Model, Refusals by Code.
    """
    server = app.settings.server
    address = url or f"http://{server.host}:{server.port}/metrics"
    counted = Emf()
    while True:
        try:
            answer = httpx.get(address, timeout=10)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise Broken(f"{address} does not answer: {error}") from error
        for line in counted.lines(text_string_to_metric_families(answer.text), at_ms=app.now_ms()):
            click.echo(line.decode())
        if once:
            return
        time.sleep(every)
