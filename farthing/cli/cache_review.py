"""``farthing cache audit|label|export``: what the semantic cache promises, what it kept, and its wrong answers."""

import sys
from typing import Literal

import click
import msgspec

from farthing.cli.context import App, Failed, format_option, pass_app, show
from farthing.engine.semantic_families import Kept, kept
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.table import Column, Row, Table
from farthing.ports.semantic import Comparison, Overview

_FAMILIES = (
    Column(name="route", title="route"),
    Column(name="family", title="model, embedder"),
    Column(name="promise", title="promise"),
    Column(name="state", title="state"),
    Column(name="hits", title="hits", kind="int"),
    Column(name="near_misses", title="near misses", kind="int"),
    Column(name="compared", title="compared", kind="int"),
    Column(name="shadows", title="shadowed hits", kind="int"),
    Column(name="wrong", title="of them wrong", kind="int"),
    Column(name="rate", title="wrong of served", kind="percent", unknown="not measured"),
    Column(name="low", title="95 % from", kind="percent", unknown="-"),
    Column(name="high", title="to", kind="percent", unknown="-"),
    Column(name="judge_calls", title="judge calls", kind="int"),
    Column(name="overhead", title="spent on it", kind="usd"),
    Column(name="alarms", title="drift alarms", kind="int"),
)
_WRONG = (
    Column(name="at", title="at (UTC)"),
    Column(name="asked", title="asked"),
    Column(name="cached", title="its neighbour"),
    Column(name="similarity", title="cosine"),
    Column(name="risk", title="risk"),
    Column(name="served", title="served"),
    Column(name="label", title="label", unknown="unlabelled"),
    Column(name="id", title="id"),
)


@click.command()
@click.option("--limit", type=click.IntRange(0, 10_000), default=20, show_default=True, help="Wrong answers shown.")
@format_option()
@pass_app
def audit(app: App, limit: int, form: Format) -> None:
    """Promised and measured error of similar answers, and those found wrong, newest first."""
    records = app.stores.open_semantic_records(app.settings)
    rows = [row for row in map(_family_row, records.overview()) if row is not None]
    every = list(records.comparisons())
    show(Table(title="Similar answers", columns=_FAMILIES, rows=tuple(rows), notes=_notes(every)), form)
    wrong = [one for one in every if one.wrong][:limit]
    if wrong and form == "table":
        found = tuple(map(_wrong_row, wrong))
        show(Table(title="Answers that a comparison found wrong", columns=_WRONG, rows=found), form)


@click.command()
@click.argument("id")
@click.argument("label", type=click.Choice(["same", "different", "clear"]))
@pass_app
def label(app: App, id: str, label: Literal["same", "different", "clear"]) -> None:
    """Say whether the two answers of comparison ID were really the same."""
    records = app.stores.open_semantic_records(app.settings)
    if not records.label(id, "" if label == "clear" else label):
        raise Failed(f"There is no comparison {id}; 'farthing cache export' lists them.")
    click.echo(f"{id}: {label}")


@click.command()
@click.option("--wrong", "only_wrong", is_flag=True, help="Only those found wrong.")
@pass_app
def export(app: App, only_wrong: bool) -> None:
    """Write every kept comparison as JSON lines: questions, answers, similarity, risk, verdict, label."""
    records = app.stores.open_semantic_records(app.settings)
    for one in records.comparisons(only_wrong=only_wrong):
        sys.stdout.write(msgspec.json.encode(one).decode() + "\n")


def _family_row(one: Overview) -> Row | None:
    try:
        state = kept(one.state)
    except msgspec.DecodeError:
        return None
    tally = state.learned.tally
    low, high = tally.interval()
    rate = tally.rate
    _, _, rest = one.family.partition("|")
    return (
        state.route,
        rest.replace("|", ", "),
        f"cosine ≥ {state.threshold}" if state.threshold is not None else f"{100 * (state.delta or 0):g} %",
        _state(state),
        tally.hits,
        tally.misses,
        tally.compared + tally.shadows,
        tally.shadows,
        tally.wrong,
        None if rate is None else round(rate * 10_000),
        None if rate is None else round(low * 10_000),
        None if rate is None else round(high * 10_000),
        state.judge_calls,
        state.overhead,
        state.learned.alarms,
    )


def _state(state: Kept) -> str:
    if state.threshold is not None:
        return "fixed"
    if state.learned.limit <= 0:
        return "closed after drift" if state.learned.alarms else "learning, serves nothing yet"
    return f"serves up to risk {state.learned.limit:.3f}"


def _notes(every: list[Comparison]) -> tuple[str, ...]:
    labelled = [one for one in every if one.label]
    if not labelled:
        return ("No comparison is labelled by a person; the figures rest on the judge alone.",)
    mistaken = sum((one.label == "different") != one.wrong for one in labelled)
    return (f"People labelled {len(labelled)} comparisons; the judge was mistaken in {mistaken} of them.",)


def _wrong_row(one: Comparison) -> Row:
    return (
        shown(one.at_ms),
        one.asked[:60],
        one.cached[:60],
        f"{one.similarity:.3f}",
        f"{one.risk:.3f}",
        "yes" if one.served else "no",
        one.label or None,
        one.id,
    )
