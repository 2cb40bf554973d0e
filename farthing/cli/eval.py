"""``farthing eval``: an eval set across models, as the accuracy–cost table that a tiering decision rests on."""

import os
from pathlib import Path
from typing import Any

import click
import msgspec

import farthing
from farthing.cli.context import App, Failed, format_option, pass_app, show
from farthing.insight.render import Format
from farthing.insight.table import Column, Table
from farthing.lab.evals import Case, Reply, Runner, Variant, read_cases
from farthing.lab.evals_plot import page, png
from farthing.lab.evals_table import Line, lines

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW = click.Path(dir_okay=False, path_type=Path)


@click.command(name="eval")
@click.argument("cases", type=_FILE)
@click.option("--model", "models", multiple=True, required=True, help="A model to ask; repeatable. First: reference.")
@click.option("--url", default="", help="Where to ask [default: this installation's gateway].")
@click.option("--key-env", default="FARTHING_KEY", show_default=True, help="Variable that holds the key.")
@click.option("--variant", "files", multiple=True, type=_FILE, help="A prompt variant (TOML); repeatable.")
@click.option("--judge", default="", metavar="MODEL", help="The model that marks cases with a judge prompt.")
@click.option("--margin", default=2.0, show_default=True, help="Largest loss of quality allowed, in points of 100.")
@click.option("--output-max", default=1024, show_default=True, help="Most output tokens of an answer.")
@click.option("--out", type=_NEW, help="Labels as JSON Lines, for 'farthing route train'.")
@click.option("--html", "html_file", type=_NEW, help="Table and plot as one page.")
@click.option("--png", "png_file", type=_NEW, help="The plot alone.")
@format_option()
@pass_app
def eval_(
    app: App,
    cases: Path,
    models: tuple[str, ...],
    url: str,
    key_env: str,
    files: tuple[Path, ...],
    judge: str,
    margin: float,
    output_max: int,
    out: Path | None,
    html_file: Path | None,
    png_file: Path | None,
    form: Format,
) -> None:
    """Run an eval set across models: accuracy beside cost, with intervals and the gate's verdict.

    CASES is JSON Lines: prompt or messages, and reference, pattern, schema or judge. A variant is a TOML file with
    name, system and template ("{context} {prompt}"), such as one with retrieved context and one without.
    """
    if len(set(models)) < len(models):
        raise click.BadParameter("names a model twice", param_hint="--model")
    server = app.settings.server
    where = url or f"http://{server.host}:{server.port}/v1"
    questions = read_cases(cases)
    if any(case.judge for case in questions) and not judge:
        raise click.UsageError("Some cases are marked by a judge; name its model with --judge.")
    variants = tuple(_variant(path) for path in files) or (Variant(),)
    with Runner(where, key=os.environ.get(key_env, ""), judge=judge, output_max=output_max) as runner:
        replies = tuple(runner.run(questions, models, variants, price=_price))
    if all(reply.error for reply in replies):
        raise Failed(f"No call was answered. The first error: {replies[0].error}")
    found = lines(replies, reference=models[0], margin=margin / 100)
    if out is not None:
        _write_labels(out, questions, models, replies, variants[0].name)
    if html_file is not None:
        html_file.write_text(page(found, f"Accuracy and cost: {cases.name}"), encoding="utf-8")
    if png_file is not None:
        png_file.write_bytes(png(found))
    show(_table(found, replies), form)


def _variant(path: Path) -> Variant:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Variant)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Failed(f"{path}: {error}") from None


def _price(model: str, usage: dict[str, Any]) -> int | None:
    """List price of a usage where the server states no cost."""
    return farthing.cost(usage, model, api_flavor="chat").total if usage else None


def _write_labels(
    out: Path, cases: tuple[Case, ...], models: tuple[str, ...], replies: tuple[Reply, ...], variant: str
) -> None:
    known = {(reply.case, reply.model): reply for reply in replies if reply.variant == variant}
    with out.open("wb") as file:
        for case in cases:
            text = case.prompt or next(
                (str(m.get("content", "")) for m in case.messages if m.get("role") == "user"), ""
            )
            row: dict[str, object] = {"id": case.id, "prompt": text, "tag": case.tag}
            for model in models:
                reply = known[(case.id, model)]
                row[f"correct:{model}"] = reply.quality
                row[f"cost:{model}"] = "" if reply.cost is None else f"{reply.cost / 1e9:.9f}"
            file.write(msgspec.json.encode(row) + b"\n")


def _table(found: tuple[Line, ...], replies: tuple[Reply, ...]) -> Table:
    base = next((line for line in found if line.verdict is None), None)
    notes = ["Intervals hold 95 % each. Failed calls count as wrong. The verdict is one-sided at 5 %."]
    judged = sum(line.judge_cost for line in found)
    if judged:
        notes.append(f"The judge cost ${judged / 1e9:.6f}, in no row.")
    first = next((reply.error for reply in replies if reply.error), "")
    if first:
        notes.append(f"The first failed call: {first}")
    return Table(
        title="Accuracy and cost",
        columns=(
            Column(name="model", title="model"),
            Column(name="cases", title="cases", kind="int"),
            Column(name="accuracy", title="accuracy", kind="percent"),
            Column(name="range", title="95 %"),
            Column(name="cost", title="per request", kind="usd", unknown="unpriced"),
            Column(name="saving", title="cheaper by", kind="percent"),
            Column(name="cost_per_success", title="per good answer", kind="usd", unknown="unpriced"),
            Column(name="cost_per_success_range", title="95 %"),
            Column(name="latency_ms", title="ms (median)", kind="int"),
            Column(name="pareto", title="Pareto"),
            Column(name="verdict", title="against the reference"),
        ),
        rows=tuple(_row(line, base) for line in found),
        notes=tuple(notes),
    )


def _row(line: Line, base: Line | None) -> tuple[str | int | None, ...]:
    saving = None
    if base is not None and base.cost and line.cost is not None and line is not base:
        saving = round(10_000 * (1 - line.cost / base.cost))
    span = line.per_success_range
    return (
        line.name,
        line.cases,
        round(10_000 * line.accuracy),
        f"{100 * line.accuracy_range[0]:.1f}–{100 * line.accuracy_range[1]:.1f} %",
        None if line.cost is None else round(line.cost),
        saving,
        None if line.per_success is None else round(line.per_success),
        "" if span is None else f"${span[0] / 1e9:.6f}–{span[1] / 1e9:.6f}",
        round(line.latency_ms),
        "yes" if line.pareto else "",
        "reference" if line.verdict is None else str(line.verdict),
    )
