"""``farthing demo``: a day of a company's traffic on this machine, without keys or network."""

import asyncio
import datetime
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from farthing.cli.context import App, Failed, pass_app
from farthing.demo.run import Options, paste_lines, play, prepared

_PLAIN_STEPS = 10


class TerminalProgress(AbstractContextManager[Callable[[], None]]):
    """A bar that shows the demo's time of day."""

    def __init__(self, total: int, clock: Callable[[], int], console: Console) -> None:
        self._clock = clock
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Callable[[], None]:
        self._bar.start()
        return self._step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _step(self) -> None:
        self._bar.update(self._task, advance=1, description=f"calls, until {_time(self._clock())}")


class PlainProgress(AbstractContextManager[Callable[[], None]]):
    """A line for every tenth of the calls, for pipes and logs."""

    def __init__(self, total: int, clock: Callable[[], int]) -> None:
        self._total = total
        self._clock = clock
        self._done = 0

    def __enter__(self) -> Callable[[], None]:
        return self._step

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def _step(self) -> None:
        before = self._done * _PLAIN_STEPS // self._total
        self._done += 1
        if self._done * _PLAIN_STEPS // self._total > before:
            click.echo(f"{self._done:,} of {self._total:,} calls, until {_time(self._clock())}")


class Terminal:
    """Speaks through click and rich; implements ``farthing.demo.run.Screen``."""

    def __init__(self) -> None:
        self._console = Console()

    def say(self, text: str = "") -> None:
        """One line or block."""
        click.echo(text)

    def progress(self, total: int, clock: Callable[[], int]) -> AbstractContextManager[Callable[[], None]]:
        """A bar on a terminal, plain lines elsewhere."""
        if self._console.is_terminal:
            return TerminalProgress(total, clock, self._console)
        return PlainProgress(total, clock)


def _time(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms // 1000, datetime.UTC).strftime("%d %b %H:%M UTC")


@click.command()
@click.option(
    "--requests", default=2_000, show_default=True, type=click.IntRange(100, 50_000), help="Calls in the day, about."
)
@click.option("--seed", default=1, show_default=True, type=int, help="Another seed, another day.")
@click.option(
    "--speed",
    default=0.0,
    type=click.FloatRange(min=0, max=50_000),
    help="How many times faster than life the day passes; 0 suits the number of calls (2,000: about 30 seconds).",
)
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="Port of the gateway; 0: a free one.")
@click.option("--home", default="", metavar="DIR", help="An empty folder to keep; none: a temporary one.")
@click.option("--once", is_flag=True, help="End after the report: exit code 0 if the referee passes it, else 1.")
@pass_app
def demo(app: App, requests: int, seed: int, speed: float, port: int, home: str, once: bool) -> None:
    """Run a complete example, without keys or network.

    Starts the gateway and a simulated provider on this machine, sends a day of a company's traffic through them,
    prints the reports, and lets a referee compare the ledger with the provider's own invoice. Then it goes on
    serving, so that you can try it with a client of your own.
    """
    options = Options(requests=requests, seed=seed, speed=speed, port=port, home=home or app.home or "")
    terminal = Terminal()
    try:
        with prepared(options, terminal) as (site, plan):
            verdict = asyncio.run(play(site, plan, terminal))
            if not once:
                _serve(paste_lines(site), site.url, site.home)
    except KeyboardInterrupt:
        raise Stopped from None
    if not verdict.passed:
        raise Failed("the ledger and the provider's invoice do not agree; the lines marked MISMATCH say where")


class Stopped(click.ClickException):
    """Ctrl-C before the verdict."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("stopped before the verdict")


def _serve(lines: tuple[str, ...], url: str, home: object) -> None:
    click.echo("\nThe gateway goes on serving. Point a client at it; nothing else changes:\n")
    for line in lines:
        click.echo(f"    {line}")
    click.echo(f"\nThe dashboard: {url}/")
    click.echo(f"\nIn another terminal: farthing --home {home} report --by team,model    Ctrl-C ends the demo.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("\nStopped.")
