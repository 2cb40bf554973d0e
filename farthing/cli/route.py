"""``farthing route``: train routers, judge them, see what they would do, and where they stand."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import click
import msgspec

from farthing.cli.context import App, Failed, format_option, pass_app, show
from farthing.cli.practice import me
from farthing.config import Settings
from farthing.core.errors import PolicyError
from farthing.core.gate import Evidence
from farthing.core.policy_routes import Route
from farthing.core.rollout import begun_again
from farthing.core.route_clusters import ClusterModel
from farthing.core.route_decide import Facts, Learned, decide, model_of
from farthing.core.routing import Routes
from farthing.engine.route_pools import pool_of
from farthing.engine.route_steward import restart_of
from farthing.engine.routing import Trained
from farthing.insight import route_tables as pages
from farthing.insight.render import Format
from farthing.lab.extras import need
from farthing.ports.embed import Embedder
from farthing.ports.rollouts import Rollouts

if TYPE_CHECKING:
    from farthing.lab.route_train import LabelledSet


class RouteStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def trained_of(self, path: Path) -> Trained: ...

    def rollouts_of(self, settings: Settings) -> Rollouts: ...

    def open_embedder(self, settings: Settings) -> Embedder: ...

    def routes_of(self, settings: Settings) -> Routes: ...


_EMBED_AT_ONCE = 256
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def route() -> None:
    """Train routers, judge them, see what they would do, and where they stand."""


@route.command()
@click.argument("labels", type=_FILE)
@click.option("--strong", required=True, metavar="MODEL", help="The model that quality is measured against.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Where the router goes.")
@click.option("--margin", default=2.0, show_default=True, help="Largest loss of quality allowed, in points of 100.")
@click.option("--seed", default=0, show_default=True, help="Splits and folds; the same seed gives the same router.")
@click.option(
    "--kind",
    type=click.Choice(["words", "clusters"]),
    default="words",
    show_default=True,
    help="Weights of words and word pairs, or a look-up table by meaning (needs the embedder).",
)
@format_option()
@pass_app
def train(app: App, labels: Path, strong: str, out: Path, margin: float, seed: int, kind: str, form: Format) -> None:
    """Train a router on LABELS and let the gate set its thresholds.

    LABELS is CSV, JSON Lines or Parquet: prompt, correct:<model> for each model, and if known cost:<model> and tag.
    Half of it trains, the other half is the gate's: a cheaper model gets a threshold only where the loss is shown to
    be within the margin.
    """
    need("numpy", "lab")
    from farthing.lab.route_data import read_labels
    from farthing.lab.route_policy import make_artefact

    rows = read_labels(labels)
    vectors, embedder = _vectors(app, rows) if kind == "clusters" else ((), "")
    try:
        artefact, verdicts = make_artefact(
            rows, strong, margin=margin / 100, seed=seed, vectors=vectors, embedder=embedder
        )
    except ValueError as error:
        raise Failed(f"{labels}: {error}.") from None
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.encode(artefact, order="sorted"))
    found = [(one.model, one.threshold, one.share, _last_word(one.evidence)) for one in verdicts]
    model = model_of(artefact)
    show(pages.trained(found, str(out), model.ref, model.table.card), form)


@route.command(name="eval")
@click.argument("labels", type=_FILE)
@click.option("--table", "path", type=_FILE, help="A trained router; without it only the baselines are judged.")
@click.option("--cheap", required=True, metavar="MODEL")
@click.option("--strong", required=True, metavar="MODEL")
@format_option()
@pass_app
def evaluate(app: App, labels: Path, path: Path | None, cheap: str, strong: str, form: Format) -> None:
    """Judge routers on LABELS that they were not trained on: APGR, CPT and cost at 95 and 98 % of the quality."""
    need("numpy", "lab")
    from farthing.lab.route_data import read_labels
    from farthing.lab.route_eval import apgr, cost_at, cpt
    from farthing.lab.route_policy import baselines, gains, sweep

    rows = read_labels(labels)
    for model in (cheap, strong):
        if model not in rows.models:
            raise Failed(f"{labels}: '{model}' is not labelled; labelled are {', '.join(rows.models)}.")
    scores = baselines(rows)
    if path is not None:
        router = _stores(app).trained_of(path).model
        scores[path.name] = gains(router, rows, cheap, strong, _vectors_for(app, router, rows))
    found = []
    for name, gain in scores.items():
        line = sweep(rows, gain, cheap, strong)
        if line.strong == line.weak:
            raise Failed("Both models are equally good on these labels: there is no gap to recover.")
        found.append((name, apgr(line), cpt(line, 0.5), cpt(line, 0.8), cost_at(line, 0.95), cost_at(line, 0.98)))
    show(pages.judged(found, len(rows.rows)), form)


@route.command()
@click.argument("labels", type=_FILE)
@click.option("--table", "path", type=_FILE, required=True, help="A trained router.")
@click.option("--cheap", required=True, metavar="MODEL")
@click.option("--strong", required=True, metavar="MODEL")
@format_option()
@pass_app
def simulate(app: App, labels: Path, path: Path, cheap: str, strong: str, form: Format) -> None:
    """What thresholds would do on LABELS: traffic downgraded, quality, cost, and the gate's verdict on each."""
    need("numpy", "lab")
    from farthing.core.gate import judge
    from farthing.lab.route_data import read_labels
    from farthing.lab.route_policy import gains, sweep

    rows = read_labels(labels)
    model = _stores(app).trained_of(path).model
    gain = gains(model, rows, cheap, strong, _vectors_for(app, model, rows))
    low, high = rows.models.index(cheap), rows.models.index(strong)
    line = sweep(rows, gain, cheap, strong)
    ranked = sorted(range(len(gain)), key=lambda place: gain[place])
    found = []
    for percent in range(0, 101, 10):
        count = len(ranked) * percent // 100
        inside = [rows.rows[place].quality[high] - rows.rows[place].quality[low] for place in sorted(ranked[:count])]
        verdict = str(judge(inside, share=count / len(ranked))) if count else "nothing is downgraded"
        threshold = float(gain[ranked[count - 1]]) if count else float("nan")
        place = len(ranked) - count
        found.append((percent, threshold, float(line.quality[place]), float(line.cost[place]), verdict))
    show(pages.simulated(found, len(rows.rows)), form)


@route.command()
@click.argument("prompt")
@click.option("--model", "asked", default="auto", show_default=True, help="The model that is asked for.")
@click.option("--tag", default="", help="The caller's route tag.")
@click.option("--tools", default=0, help="Tools in the request.")
@format_option()
@pass_app
def explain(app: App, prompt: str, asked: str, tag: str, tools: int, form: Format) -> None:
    """Which model PROMPT would go to, and everything that decides it."""
    from fnmatch import fnmatchcase

    routes = [one for one in app.settings.policy.routes if any(fnmatchcase(asked, name) for name in one.models)]
    if not routes:
        raise Failed(f"No route serves '{asked}'; 'farthing route ls' lists the routes.")
    found = []
    for one in routes:
        trained = _trained(app, one)
        tokens = -(-len(prompt.encode()) // 4)
        vector = None
        if trained is not None and isinstance(trained.model, ClusterModel):
            vector = embedded(app, trained.model, [prompt])[0]
        facts = Facts(model=asked, text=prompt, tokens=tokens, tools=tools, tag=tag, vector=vector)
        choice = decide(
            one, facts, learned=trained.model if trained else None, artefact=trained.artefact if trained else None
        )
        found.append((one.name, choice.model, choice.tier, choice.reason, choice.evidence))
    show(pages.explained(found), form)


@route.command(name="ls")
@format_option()
@pass_app
def list_(app: App, form: Format) -> None:
    """The routes, their models with prices, what is left out of the pool and why, and how far each is live."""
    settings = app.settings
    with contextlib.closing(_stores(app).rollouts_of(settings)) as rollouts:
        states = rollouts.read()
    prices = app.stores.price_book(settings)
    models = _stores(app).routes_of(settings)
    found = []
    for one in settings.policy.routes:
        trained = _trained(app, one)
        state = states.get(one.name)
        live = "as written"
        if one.rollout is not None:
            live = pages.standing(state, one.rollout)
        kept, left = pool_of(one, prices, models, trained.artefact if trained else None, app.now_ms())
        found.append((one.name, ",".join(one.models), ",".join(one.by) or "first tier", live, kept, left))
    show(pages.listed(found), form)


@route.command()
@click.argument("name")
@pass_app
def restart(app: App, name: str) -> None:
    """Begin the roll-out of the route NAME again in shadow, without the evidence so far.

    For a route that was rolled back and whose cause is gone. Goes on the audit log; gateways know within seconds.
    """
    if not any(one.name == name and one.rollout is not None for one in app.settings.policy.routes):
        raise Failed(f"No route '{name}' with a roll-out; 'farthing route ls' lists the routes.")

    by, now_ms = me(), app.now_ms()
    with contextlib.closing(_stores(app).rollouts_of(app.settings)) as rollouts:
        rollouts.change(
            name,
            lambda state: begun_again(state, state.candidate, "by_hand"),
            lambda state: restart_of(state, by=by, at_ms=now_ms),
        )
    click.echo(f"The route '{name}' begins in shadow again.")


def _vectors(app: App, rows: "LabelledSet") -> tuple[list[bytes], str]:
    """(a vector for each prompt, the embedder's identity)."""
    return asyncio.run(_all_embedded(_stores(app).open_embedder(app.settings), [row.prompt for row in rows.rows]))


def _vectors_for(app: App, model: Learned, rows: "LabelledSet") -> list[bytes]:
    if not isinstance(model, ClusterModel):
        return []
    return embedded(app, model, [row.prompt for row in rows.rows])


def embedded(app: App, model: ClusterModel, texts: list[str]) -> list[bytes]:
    """A vector for each text, by the embedder that the table was made with. Raises ``Failed``, ``ConfigError``."""
    vectors, identity = asyncio.run(_all_embedded(_stores(app).open_embedder(app.settings), texts))
    if identity != model.embedder:
        raise Failed(f"The table was made with the embedder {model.embedder}, here is {identity}: train it again.")
    return vectors


async def _all_embedded(embedder: Embedder, texts: list[str]) -> tuple[list[bytes], str]:
    found: list[bytes] = []
    try:
        for start in range(0, len(texts), _EMBED_AT_ONCE):
            found += (await embedder.embed(texts[start : start + _EMBED_AT_ONCE])).vectors
    finally:
        await embedder.close()
    return found, embedder.identity


def _last_word(evidence: Sequence[Evidence]) -> str:
    """The verdict on the threshold that was chosen, or why there is none."""
    held = [one for one in evidence if one.verdict == "holds"]
    return str(held[-1]) if held else str(evidence[0]) if evidence else "no labels in reach"


def _trained(app: App, one: Route) -> Trained | None:
    if not one.table:
        return None
    try:
        return _stores(app).trained_of(Path(app.settings.home) / one.table)
    except PolicyError as error:
        raise Failed(f"The route '{one.name}': {error}") from error


def _stores(app: App) -> RouteStores:
    return cast(RouteStores, app.stores)
