"""``farthing replay``: what the logged traffic would have cost under another policy."""

import hashlib
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations, islice
from pathlib import Path
from typing import Final, cast

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from farthing.cli.context import App, Failed, format_option, log_state, moment, pass_app, until_option
from farthing.cli.replay_run import State, cores, opened, run, spread
from farthing.cli.replay_tables import (
    bill_table,
    changed_table,
    facts_table,
    levers_table,
    models_table,
    risk_table,
)
from farthing.cli.replay_told import Told
from farthing.config import Settings
from farthing.core.policy import Policy
from farthing.core.savings import EXACT_LEVERS_MAX, in_order, shapley
from farthing.core.types import Exchange
from farthing.insight.moments import EXAMPLES, shown
from farthing.insight.render import Format, as_json, render
from farthing.insight.table import Table
from farthing.lab.replay_apart import SAMPLE, Split, best, splits
from farthing.lab.replay_parts import (
    KEEP_EVERY,
    Found,
    Job,
    Period,
    Survey,
    differing,
    key_of,
    mixed,
    partition,
    survey,
    within,
)

STATE_FILE: Final = "replay-{}.state"
"""In the installation's folder while a long replay runs, one for each question."""
SPREAD_FROM: Final = 100_000
"""Requests from which several processes are worth their start."""
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
@click.option("--from", "source", default="", metavar="SOURCE", help="The log: ledger, parquet[:DIR], clickhouse.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    help="Processes to replay in. Default: one for each core from 100,000 requests on.",
)
@click.option("--resume", is_flag=True, help="Go on with the replay that was interrupted, over its period.")
@click.option(
    "--state", type=click.Path(dir_okay=False, path_type=Path), help="Keep results and how far it is here, for good."
)
@click.option("--shapley", "every_set", is_flag=True, help="Replay every set of changed sections, however many.")
@click.option(
    "--progress", "told", type=click.Path(dir_okay=False, path_type=Path), help="Say here how far it is, as JSON."
)
@format_option()
@pass_app
def replay(
    app: App,
    policy_file: str,
    against_file: str | None,
    since: int,
    until: int,
    prices: str,
    source: str,
    jobs: int | None,
    resume: bool,
    state: Path | None,
    every_set: bool,
    told: Path | None,
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
    question = repr((base.policy.ref, base.providers, other.policy.ref, other.providers, prices, source))
    name = hashlib.blake2b(question.encode(), digest_size=6).hexdigest()
    place = state or Path(app.settings.home) / STATE_FILE.format(name)
    kept = State(place, fresh=not resume and state is None)
    if resume:
        period = _interrupted(kept, place)
    with opened(app.settings, source) as log:
        found = survey(log, period)
        sample = list(islice(within(log, period), SAMPLE))
    if not found.requests:
        days = base.policy.log.retention_days
        raise Failed(
            f"The traffic log has no request from {shown(period.since_ms)} to {shown(period.until_ms)} UTC. It is "
            f"kept for {days} days ([log] retention_days); older traffic is in the ledger only, which "
            f"'farthing reprice' rates anew.{log_state(app)}"
        )
    if state is None and found.requests < KEEP_EVERY:
        kept = State(None, fresh=True)  # it is soon done again
    kept.begin(period)
    sections = differing(base, other)
    fairly = len(sections) <= (EXACT_LEVERS_MAX if every_set else SHAPLEY_BY_ITSELF)
    sets = _sets(sections, fairly=fairly)
    if jobs is None:
        jobs = cores() if told is None and found.requests >= SPREAD_FROM else 1
    split = _Splits(sample, jobs)
    results = _Results(app, base, other, period, kept, found, source, Told(told, found.requests, len(sets)), split)
    if jobs > 1:
        results.make(sets, jobs)
    before = results.of(frozenset())
    after = results.of(frozenset(sections))
    notes = _notes(other, sections, after)
    tables = [
        bill_table(before.bill, after.bill, title=_title(period), notes=notes),
        facts_table(before.bill, after.bill),
    ]
    if sections:
        fair = shapley(sections, results.cost) if fairly else None
        saved = before.bill.nusd - after.bill.nusd
        tables.append(levers_table(in_order(sections, results.cost), fair, saved))
    if after.changed:
        tables.append(changed_table(after.changed))
    tables += [models_table(before.bill, after.bill), risk_table(before.bill, after.bill)]
    if state is None:
        kept.forget()
    _show(tables, form)


def _show(tables: Sequence[Table], form: Format) -> None:
    if form == "json":
        document = [as_json(table) for table in tables]
        click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        click.echo("\n\n".join(render(table, form) for table in tables))


class _Results:
    """Replays that were asked for, each made once."""

    def __init__(
        self,
        app: App,
        base: Settings,
        other: Settings,
        period: Period,
        kept: State,
        found: Survey,
        source: str,
        told: Told,
        split: "_Splits",
    ) -> None:
        self._base = base
        self._other = other
        self._period = period
        self._kept = kept
        self._survey = found
        self._source = source
        self._told = told
        self._split = split
        self._prices = app.stores.price_book(base).ref

    def cost(self, on: frozenset[str]) -> int:
        """The bill with these sections switched on."""
        return self.of(on).bill.nusd

    def of(self, on: frozenset[str]) -> Found:
        """The replay with these sections switched on."""
        job = self._job(on)
        found = self._kept.get(job.key)
        if found is None:
            label = ", ".join(sorted(on)) or "as it is"
            with self._told.replay(label) or _progress(self._survey.requests, label) as advance:
                found = run(job, advance)
            self._kept.put(job.key, found)
        return found

    def make(self, sets: Sequence[frozenset[str]], workers: int) -> None:
        """Makes all of these replays at once, in several processes."""
        jobs = [job for job in (self._job(on) for on in sets) if self._kept.get(job.key) is None]
        if not jobs:
            return
        if len(jobs) < workers and not all(job.dimension for job in jobs):
            click.echo("Calls share caches under these policies: one process for each replay.", err=True)
        with _progress(0, "parts") as advance:
            for job, found in zip(jobs, spread(jobs, workers, advance), strict=True):
                self._kept.put(job.key, found)

    def _job(self, on: frozenset[str]) -> Job:
        settings = mixed(self._base, self._other, on)
        key = key_of(settings, self._period, f"{self._prices}:{self._source}:{self._survey.requests}")
        split = self._split.of(settings.policy)
        return Job(
            settings=settings,
            period=self._period,
            longest_ms=self._survey.longest_ms,
            source=self._source,
            dimension=split.dimension,
            shared=split.shared,
            state=self._kept.place(key),
            key=key,
        )


class _Splits:
    """How logs are split under policies, so that parts are about as large."""

    def __init__(self, sample: Sequence[Exchange], parts: int) -> None:
        self._sample = sample
        self._parts = parts
        self._begins = any(one.blocks for one in sample)
        """It is known how prompts begin: those that begin alike share the providers' caches, whoever sent them."""

    def of(self, policy: Policy) -> Split:
        """The split for a policy; without a dimension: there is none."""
        exact = partition(policy)
        if self._begins:
            able = [one for one in splits(policy) if one.dimension == "request"]
            return best(able, self._sample, self._parts) or Split("", ())
        if exact:
            return Split(exact, ())
        return best(splits(policy), self._sample, self._parts) or Split("", ())


def _sets(sections: list[str], *, fairly: bool) -> list[frozenset[str]]:
    """The sets of sections that are replayed: every one, or those in which they are switched on in order."""
    if not fairly:
        return [frozenset(sections[:count]) for count in range(len(sections) + 1)]
    return [frozenset(some) for count in range(len(sections) + 1) for some in combinations(sections, count)]


def _interrupted(kept: State, place: Path) -> Period:
    if kept.period is None:
        raise Failed(f"Nothing was interrupted: there is no {place}. Run the command without --resume.")
    return kept.period


def _settings(app: App, file: str | None) -> Settings:
    """This installation with the policy of a file, and its providers where it names any."""
    if file is None:
        return app.settings
    found = app.stores.load_settings(file, app.home)
    named = "providers" in tomllib.loads(Path(file).read_text(encoding="utf-8"))
    providers = found.providers if named else app.settings.providers
    return msgspec.structs.replace(app.settings, policy=found.policy, providers=providers)


def _title(period: Period) -> str:
    prices = "then" if period.now_ms is None else "now"
    return f"Replay of {shown(period.since_ms)} to {shown(period.until_ms)} UTC at prices of {prices}"


def _notes(other: Settings, sections: list[str], after: Found) -> list[str]:
    found = [] if sections else ["The two policies decide alike."]
    if after.why:
        found.append(f"Every call went through the whole pipeline, which takes longer: {after.why}.")
    if "levers" in sections and other.policy.levers:
        found.append("Levers that edit prompts need the prompts' text, and change nothing where the log has none.")
    return found


def _progress(count: int, label: str) -> "AbstractContextManager[Callable[[int], None] | None]":
    if not sys.stderr.isatty():
        return nullcontext(None)
    return cast("AbstractContextManager[Callable[[int], None] | None]", _Bar(count, label))


class _Bar:
    """A bar on standard error."""

    def __init__(self, count: int, label: str) -> None:
        """``count`` 0: nobody knows how many."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(label, total=count or None)

    def __enter__(self) -> "Callable[[int], None]":
        self._progress.start()
        return lambda done: self._progress.update(self._task, completed=done)

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
