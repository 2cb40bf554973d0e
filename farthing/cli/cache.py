"""``farthing cache``: what the caches hold, why they answered or did not, and forgetting."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, cast

import click

from farthing.cli.cache_review import audit, export, label
from farthing.cli.context import App, Failed, format_option, moment, pass_app, show
from farthing.cli.doctor import doctor
from farthing.config import Settings
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.reports import savings
from farthing.insight.table import Column, Row, Table
from farthing.ports.cache import Selector, SharedCache, StoredAnswer

_Result = TypeVar("_Result")
SHORT = 16
"""Characters of a key that people see; any beginning that is unique will do."""


class CacheStores(Protocol):
    """What these commands need of ``farthing.bootstrap`` beyond the common stores."""

    def open_answers(self, settings: Settings) -> SharedCache: ...


@click.group()
def cache() -> None:
    """Look into the caches of answers, and make them forget."""


for _command in (audit, label, export, doctor):
    cache.add_command(_command)


def with_store(app: App, work: Callable[[SharedCache], Awaitable[_Result]]) -> _Result:
    """The result of ``work`` on the store of this installation's gateways."""

    async def run() -> _Result:
        store = cast("CacheStores", app.stores).open_answers(app.settings)
        await store.start()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


@cache.command()
@format_option()
@pass_app
def status(app: App, form: Format) -> None:
    """How full the cache is, and what it saved."""
    routes = app.settings.policy.cache
    if not routes:
        raise Failed("No [[cache]] route is configured, so nothing is cached.")
    state = with_store(app, lambda store: store.state())
    with app.ledger() as ledger:
        rows = ledger.totals(LedgerQuery(group_by=("reason",)))
    sums = savings.build(rows, ()).rows
    facts: list[Row] = [
        ("store", state.kind),
        ("answers", f"{state.entries:,}"),
        ("bytes", f"{state.bytes:,}"),
        ("stored / evicted / expired / forgotten",
         f"{state.stores:,} / {state.evictions:,} / {state.expired:,} / {state.forgotten:,}"),
    ]  # fmt: skip
    for route in routes:
        similar = "" if route.semantic.mode == "off" else f", similar questions: {route.semantic.mode}"
        text = f"{route.ttl_ms // 1000:,} s{similar}" if route.use else "never cached"
        facts.append((f"route {route.name}", text))
    columns = (Column(name="fact", title="fact"), Column(name="value", title="value"))
    if sums:
        names = ("requests", "hits")
        facts.extend((name, f"{value:,}") for name, value in zip(names, sums[0][:2], strict=True))
        notes: tuple[str, ...] = ("In money: farthing report --savings.",)
    else:
        notes = ()
    show(Table(title="Cache", columns=columns, rows=tuple(facts), notes=notes), form)


_SELECT = (
    click.option("--tag", default="", help="Answers that a route marked so."),
    click.option("--route", default="", help="Answers of this route."),
    click.option("--model", default="", help="Answers of models of this pattern."),
    click.option("--key", "prefix", default="", help="Answers whose key begins so; a whole key is one answer."),
    click.option("--before", callback=lambda ctx, param, value: moment(ctx, param, value) if value else None,
                 help='Answers older than this instant: "2h", "2027-01-31".'),
)  # fmt: skip


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """The options that make a ``Selector``."""
    for option in reversed(_SELECT):
        command = option(command)
    return command


def selector(tag: str, route: str, model: str, prefix: str, before: int | None) -> Selector:
    """What the options select."""
    return Selector(tag=tag, route=route, model=model, prefix=prefix.lower(), before_ms=before)


@cache.command("ls")
@selecting
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="The last so many.")
@format_option()
@pass_app
def list_(
    app: App, tag: str, route: str, model: str, prefix: str, before: int | None, limit: int, form: Format
) -> None:
    """The answers that are kept, newest first."""
    wanted, now_ms = selector(tag, route, model, prefix, before), app.now_ms()
    found = with_store(app, lambda store: store.answers(wanted, limit=limit, now_ms=now_ms))
    columns = (
        Column(name="key", title="key"),
        Column(name="created", title="answered (UTC)"),
        Column(name="expires", title="until (UTC)"),
        Column(name="route", title="route"),
        Column(name="model", title="model"),
        Column(name="endpoint", title="endpoint"),
        Column(name="team", title="team"),
        Column(name="bytes", title="bytes", kind="int"),
        Column(name="cost", title="cost then", kind="usd", unknown="unpriced"),
    )
    show(Table(title="Cached answers", columns=columns, rows=tuple(_row(one, form) for one in found)), form)


def _row(one: StoredAnswer, form: Format) -> Row:
    key = one.key if form != "table" else one.key[:SHORT]
    return (
        key,
        shown(one.created_at_ms),
        shown(one.expires_at_ms),
        one.route,
        one.target.model,
        one.endpoint,
        one.scope.team or None,
        len(one.body),
        one.charge,
    )


@cache.command()
@selecting
@click.option("--all", "everything", is_flag=True, help="Every answer.")
@pass_app
def forget(app: App, tag: str, route: str, model: str, prefix: str, before: int | None, everything: bool) -> None:
    """Forget answers; gateways learn of it within a second. All conditions given must hold."""
    wanted, now_ms = selector(tag, route, model, prefix, before), app.now_ms()
    if (wanted == Selector()) != everything:
        raise click.UsageError("say which answers: --tag, --route, --model, --key, --before; or --all by itself")
    count = with_store(app, lambda store: store.forget(wanted, now_ms=now_ms))
    click.echo(f"{count:,} {'answer' if count == 1 else 'answers'} forgotten.")


@cache.command()
@click.argument("request_id")
@format_option()
@pass_app
def explain(app: App, request_id: str, form: Format) -> None:
    """Why the request REQUEST_ID was answered by a cache, or was not."""
    with app.ledger() as ledger:
        found = list(ledger.entries(request_id=request_id)) if request_id else []
        source = next((_said(entry).get("source", "") for entry in found if _said(entry).get("source")), "")
        origin = list(ledger.entries(request_id=source.rpartition("-")[0])) if source else []
    if not found:
        raise Failed(f'The ledger has no entry of a request "{request_id}".')
    rows: list[Row] = []
    for entry in found:
        for decision in entry.decisions:
            if decision.stage == "cache":
                rows.append(("decision", f"{decision.action}: {decision.reason}"))
                rows.extend((name, value) for name, value in decision.evidence)
    if not rows:
        raise Failed(f'No cache looked at the request "{request_id}": no [[cache]] route matched it.')
    rows.extend(("answered first", shown(entry.booked_at_ms)) for entry in origin if entry.id == source)
    columns = (Column(name="fact", title="fact"), Column(name="value", title="value"))
    show(Table(title=f"Cache, request {request_id}", columns=columns, rows=tuple(rows)), form)


def _said(entry: LedgerEntry) -> dict[str, str]:
    return next((dict(one.evidence) for one in entry.decisions if one.stage == "cache"), {})
