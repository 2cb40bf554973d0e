"""``farthing replay``: what the logged traffic would have cost under another policy."""

import sys
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from farthing.cli.context import App, Failed, format_option, moment, pass_app, until_option
from farthing.cli.replay_run import Found, Job, Kept, Period, differing, key_of, logged, mixed, partition, run, spread
from farthing.cli.replay_tables import bill_table, changed_table, facts_table, levers_table
from farthing.config import Settings
from farthing.core.savings import EXACT_LEVERS_MAX, in_order, shapley
from farthing.insight.moments import EXAMPLES, shown
from farthing.insight.render import Format, as_json, render

SHAPLEY_BY_ITSELF = 3
"""Sections up to which every set of them is replayed without being asked for."""


@click.command()
@click.option(
    "--policy",
    "policy_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The policy to try, as a configuration file.",
)
@click.option(
    "--against",
    "against_file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The policy to compare it with. Default: this installation's own.",
)
@click.option("--since", callback=moment, default="30d", show_default=True, help=f"From this instant: {EXAMPLES}.")
@until_option()
@click.option(
    "--prices",
    type=click.Choice(("then", "now")),
    default="then",
    show_default=True,
    help="Prices of the day of each call, or today's.",
)
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes to replay in.")
@click.option(
    "--state", type=click.Path(dir_okay=False, path_type=Path), help="Keep finished parts here; go on later."
)
@click.option("--shapley", "every_set", is_flag=True, help="Replay every set of changed sections, however many.")
@format_option()
@pass_app
def replay(
    app: App,
    policy_file: str,
    against_file: str | None,
    since: int,
    until: int,
    prices: str,
    jobs: int,
    state: Path | None,
    every_set: bool,
    form: Format,
) -> None:
    """Replay logged traffic under another policy, through the code that serves live traffic.

    Every amount says how sure it is: exact, repriced, estimated (with an interval) or unknown. Nothing is sent and
    nothing is booked.
    """
    if until <= since:
        raise click.BadParameter("ends before it begins", param_hint="--until")
    base = _settings(app, against_file)
    other = _settings(app, policy_file)
    period = Period(since_ms=since, until_ms=until, now_ms=app.now_ms() if prices == "now" else None)
    with app.ledger() as ledger:
        count = sum(1 for _ in logged(ledger, period))
    if not count:
        kept = base.policy.log.retention_days
        raise Failed(
            f"The traffic log has no request from {shown(since)} to {shown(until)} UTC. It is kept for {kept} days "
            "([log] retention_days); older traffic is in the ledger only, which 'farthing reprice' rates anew."
        )
    sections = differing(base, other)
    results = _Results(app, base, other, period, jobs, Kept(state), count)
    before = results.of(frozenset())
    after = results.of(frozenset(sections))
    tables = [
        bill_table(before.bill, after.bill, title=_title(since, until, prices), notes=_notes(other, sections)),
        facts_table(before.bill, after.bill),
    ]
    if sections:
        fair = None
        if len(sections) <= (EXACT_LEVERS_MAX if every_set else SHAPLEY_BY_ITSELF):
            fair = shapley(sections, results.cost)
        saved = before.bill.nusd - after.bill.nusd
        tables.append(levers_table(in_order(sections, results.cost), fair, saved))
    if after.changed:
        tables.append(changed_table(after.changed))
    if form == "json":
        document = [as_json(table) for table in tables]
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        click.echo("\n\n".join(render(table, form) for table in tables))


class _Results:
    """Replays that were asked for, each made once."""

    def __init__(
        self, app: App, base: Settings, other: Settings, period: Period, jobs: int, kept: Kept, count: int
    ) -> None:
        self._app = app
        self._base = base
        self._other = other
        self._period = period
        self._jobs = jobs
        self._kept = kept
        self._count = count

    def cost(self, on: frozenset[str]) -> int:
        """The bill with these sections switched on."""
        return self.of(on).bill.nusd

    def of(self, on: frozenset[str]) -> Found:
        """The replay with these sections switched on."""
        settings = mixed(self._base, self._other, on)
        key = key_of(settings, self._period, self._app.stores.price_book(settings).ref + f":{self._count}")
        found = self._kept.get(key)
        if found is None:
            found = self._made(settings, ", ".join(sorted(on)) or "as it is")
            self._kept.put(key, found)
        return found

    def _made(self, settings: Settings, label: str) -> Found:
        dimension = partition(settings.policy)
        job = Job(settings=settings, period=self._period, dimension=dimension)
        if self._jobs > 1 and dimension:
            return spread(job, self._jobs)
        if self._jobs > 1:
            self._jobs = 1
            click.echo("One process: calls share budgets or caches under these policies.", err=True)
        with _progress(self._count, label) as advance:
            return run(job, advance)


def _settings(app: App, file: str | None) -> Settings:
    """This installation with the policy of a file, and its providers where it names any."""
    if file is None:
        return app.settings
    found = app.stores.load_settings(file, app.home)
    named = "providers" in tomllib.loads(Path(file).read_text(encoding="utf-8"))
    providers = found.providers if named else app.settings.providers
    return msgspec.structs.replace(app.settings, policy=found.policy, providers=providers)


def _title(since: int, until: int, prices: str) -> str:
    return f"Replay of {shown(since)} to {shown(until)} UTC at prices of {prices}"


def _notes(other: Settings, sections: list[str]) -> list[str]:
    found = [] if sections else ["The two policies decide alike."]
    if "routes" in sections and other.policy.routes:
        found.append("Routes are not replayed: they read prompts. Use 'farthing route' to judge them.")
    if "levers" in sections and other.policy.levers:
        found.append("Levers that edit prompts need the prompts' text, and change nothing where the log has none.")
    if any(route.semantic.mode == "on" for route in other.policy.cache):
        found.append("Similar questions are not answered from the cache in a replay, only equal ones.")
    return found


def _progress(count: int, label: str) -> "AbstractContextManager[Callable[[int], None] | None]":
    if not sys.stderr.isatty():
        return nullcontext(None)
    return cast("AbstractContextManager[Callable[[int], None] | None]", _Bar(count, label))


class _Bar:
    """A bar on standard error."""

    def __init__(self, count: int, label: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(label, total=count)

    def __enter__(self) -> "Callable[[int], None]":
        self._progress.start()
        return lambda done: self._progress.update(self._task, completed=done)

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
