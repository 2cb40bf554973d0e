"""Capacity: what serving a model on GPUs of one's own costs beside an API, from a form; the address is the plan."""

from collections.abc import Mapping
from typing import cast

import msgspec

from farthing.insight.table import Column, Row, Table
from farthing.lab.capacity import Outcome, plan
from farthing.lab.capacity_plan import BYTES, Api, Demand, Plan, Precision, Serving, Spend, gpus, models, priced
from farthing.server.pages import figures, rates
from farthing.server.pages.ask import EVERYBODY, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Note, Page, TableBlock, Text, Tile, Tiles
from farthing.server.pages.money import dollars
from farthing.server.tables import capacity as tables

NUMBERS: dict[str, tuple[str, str, str, str, str]] = {
    "gpus": ("GPUs of one replica", "1", "1", "64", ""),
    "usd": ("USD per GPU-hour", "", "0", "1000", "empty: a list price, see below"),
    "requests": ("Requests a day", "10000", "1", "100000000", ""),
    "input": ("Input tokens a request", "1000", "1", "2000000", ""),
    "output": ("Output tokens a request", "300", "1", "200000", ""),
    "concurrency": ("In flight at once, a replica", "64", "1", "4096", ""),
    "hit": ("Input in the prefix cache, %", "0", "0", "99", "on both sides: own replicas and the API"),
    "peak": ("Busiest hour over the mean", "1", "1", "100", ""),
    "busy": ("Busy at the peak, % at most", "70", "1", "100", ""),
    "replicas": ("Replicas at least", "1", "1", "1000", "2: one may fail"),
    "operations": ("Operations, USD a month", "0", "0", "10000000", "people, monitoring, upgrades"),
    "batch": ("Could go to the batch API, %", "0", "0", "100", "at its batch prices"),
    "measured": ("Measured requests a second", "", "0", "1000000", "on such a replica; empty: estimated"),
}
"""Name → label, default, least, most, hint."""
STEPS = (1, 2, 5)


def build(ask: Ask) -> Page:
    """The plan of the address, worked out. What is wrong with it is said beside the form."""
    rest, book = ask.state.rest, ask.sources.book()
    offered = rates.known(book)
    names = {
        "model": rest.get("model") or next(iter(models())),
        "gpu": rest.get("gpu") or "l4",
        "weights": rest.get("weights") or "fp8",
        "api": rest.get("api") or offered[min(1, len(offered) - 1)],
    }
    form = _form(names, rest, offered)
    lead = "Memory, rate and dollars of serving a model yourself, beside an API. The address is the plan."
    try:
        asked = priced(_plan(names, rest), lambda name: rates.rates_of(book, name, ask.now_ms))
        found = plan(asked)
    except ValueError as error:
        wrong = Note(title="This cannot be", text=f"{error}.", tone="warn")
        return Page(title="Capacity", lead=lead, blocks=(form, wrong))
    curve = _curve(asked, found)
    title = f"{names['model']} on {names['gpu']} beside {names['api']}"
    blocks: tuple[Block, ...] = (
        form,
        Tiles(tiles=_tiles(found)),
        TableBlock(id="beside", table=tables.beside(found, title=title)),
        TableBlock(
            id="volume",
            table=curve,
            figure=figures.lines(curve, "requests", ("own", "api")),
            describes="A month's cost on own GPUs and at the API as the volume grows.",
            folded=True,
        ),
        TableBlock(id="figures", table=tables.figures(found, shown=False), folded=True),
        Text(title="The formulas", text="\n".join(line.shown for line in found.lines)),
    )
    return Page(title="Capacity", lead=lead, blocks=blocks)


def _plan(names: Mapping[str, str], rest: Mapping[str, str]) -> Plan:
    numbers = _numbers(rest)
    if names["weights"] not in BYTES:
        raise ValueError(f"weights: one of {', '.join(BYTES)}")
    hit = (numbers["hit"] or 0) / 100
    return Plan(
        model=names["model"],
        gpu=names["gpu"],
        serving=Serving(
            weights=cast(Precision, names["weights"]),
            gpus=int(numbers["gpus"] or 1),
            input_tokens=numbers["input"] or 0,
            output_tokens=numbers["output"] or 0,
            concurrency=int(numbers["concurrency"] or 1),
            prefix_hit=hit,
            requests_per_second=numbers["measured"],
        ),
        demand=Demand(
            requests_per_day=numbers["requests"] or 0,
            peak=numbers["peak"] or 1,
            utilisation=(numbers["busy"] or 0) / 100,
            replicas_min=int(numbers["replicas"] or 1),
        ),
        spend=Spend(usd_per_gpu_hour=numbers["usd"], operations_usd_per_month=numbers["operations"] or 0),
        api=Api(model=names["api"], cached_share=hit, batch_share=(numbers["batch"] or 0) / 100),
    )


def _numbers(said: Mapping[str, str]) -> dict[str, float | None]:
    """Raises ``ValueError`` that names everything wrong."""
    found: dict[str, float | None] = {}
    problems = []
    for name, (label, default, low, high, _) in NUMBERS.items():
        text = said.get(name, "").replace(",", "").strip() or default
        try:
            value = float(text) if text else None
        except ValueError:
            problems.append(f"{name} ({label}): a number is expected")
            continue
        if value is not None and not float(low) <= value <= float(high):
            problems.append(f"{name} ({label}): {float(low):,g} to {float(high):,g}")
        found[name] = value
    if problems:
        raise ValueError("; ".join(problems))
    return found


def _tiles(found: Outcome) -> tuple[Tile, ...]:
    own, api = tables.nusd(found["self_usd_per_month"]), tables.nusd(found["api_usd_per_month"])
    busy = round(found["utilisation"] * 10_000)
    turn = round(found["breakeven_requests_per_day"])
    possible = found["breakeven_utilisation"] <= 1
    return (
        Tile(name="own", label="A month on own GPUs", value=dollars(own), exact=own,
             tone="good" if found.cheaper else "bad", note=f"{dollars(tables.nusd(found['self_usd_per_mtok']))} a "
             "million tokens"),
        Tile(name="api", label="A month at the API", value=dollars(api), exact=api,
             note=f"{dollars(tables.nusd(found['api_usd_per_mtok']))} a million tokens"),
        Tile(name="breakeven", label="Break-even, requests a day", value=f"{turn:,}" if possible else "never",
             exact=turn, unit="count", note="" if possible else "more than these GPUs can serve"),
        Tile(name="replicas", label="Replicas", value=f"{int(found['replicas']):,}", exact=int(found["replicas"]),
             unit="count", note=f"{busy / 100:.1f} % of them used"),
        Tile(name="rate", label="Tokens a second, a replica", value=tables.short(found["tokens_per_second"]),
             exact=round(found["tokens_per_second"]), unit="count",
             note="measured" if found.measured else "estimated"),
        Tile(name="memory", label="Left for the KV cache", value=f"{float(found['kv_gb']):.1f} GB",
             exact=round(found["kv_tokens"]), unit="count", note=f"{tables.short(found['kv_tokens'])} tokens"),
    )  # fmt: skip


def _curve(asked: Plan, found: Outcome) -> Table:
    """A month's cost at volumes around the plan's and the break-even."""
    marks = [float(found["breakeven_requests_per_day"]), asked.demand.requests_per_day]
    low, high = min(marks) / 3, max(marks) * 3
    volumes = {max(1, round(asked.demand.requests_per_day))}
    scale = 1
    while scale <= high:
        volumes |= {scale * step for step in STEPS if low <= scale * step <= high}
        scale *= 10
    rows: list[Row] = []
    for volume in sorted(volumes):
        demand = msgspec.structs.replace(asked.demand, requests_per_day=float(volume))
        one = plan(msgspec.structs.replace(asked, demand=demand))
        own, api = tables.nusd(one["self_usd_per_month"]), tables.nusd(one["api_usd_per_month"])
        rows.append((volume, own, api, int(one["replicas"]), "own GPUs" if one.cheaper else "API"))
    return Table(
        title="A month by volume",
        columns=(
            Column(name="requests", title="requests a day", kind="int"),
            Column(name="own", title="own GPUs", kind="usd"),
            Column(name="api", title="API", kind="usd"),
            Column(name="replicas", title="replicas", kind="int"),
            Column(name="cheaper", title="cheaper"),
        ),
        rows=tuple(rows),
    )


def _form(names: Mapping[str, str], rest: Mapping[str, str], offered: tuple[str, ...]) -> Form:
    choices = (
        Field(name="model", label="Model", kind="select", options=_with(models(), names["model"]),
              value=names["model"]),
        Field(name="gpu", label="GPU", kind="select", options=_with(gpus(), names["gpu"]), value=names["gpu"]),
        Field(name="weights", label="Precision of the weights", kind="select",
              options=_with(BYTES, names["weights"]), value=names["weights"]),
        Field(name="api", label="Instead of", kind="select", options=_with(offered, names["api"]),
              value=names["api"]),
    )  # fmt: skip
    numbers = tuple(
        Field(name=name, label=label, kind="number", value=rest.get(name, default), low=low, high=high, step="any",
              hint=hint)
        for name, (label, default, low, high, hint) in NUMBERS.items()
    )  # fmt: skip
    return Form(
        id="plan", title="Plan", action="/capacity", submit="Work out", live=True, fields=(*choices, *numbers)
    )


def _with(known: Mapping[str, object] | tuple[str, ...], chosen: str) -> tuple[str, ...]:
    """The choices, and what the address says although it is none of them."""
    return tuple(dict.fromkeys((*known, chosen)))


VIEW = View(name="capacity", title="Capacity", group="Improve", build=build, roles=EVERYBODY)
