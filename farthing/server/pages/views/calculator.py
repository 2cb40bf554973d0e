"""The calculator: what a workload costs and what levers would save, from sliders; the address is the scenario."""

from collections.abc import Mapping

import msgspec

from farthing.core.errors import BadRequest
from farthing.insight.table import Column, Table, share
from farthing.lab.scenario import (
    AnswerCache,
    Batch,
    Lever,
    Outcome,
    PromptCache,
    Route,
    Scenario,
    Shorten,
    Work,
    Workload,
)
from farthing.server.pages import figures, rates
from farthing.server.pages.ask import EVERYBODY, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Page, TableBlock, Text, Tile, Tiles
from farthing.server.pages.money import dollars

SLIDERS: dict[str, tuple[str, int, int, int, int, str]] = {
    "requests": ("Requests a day", 10_000, 100, 500_000, 100, ""),
    "input": ("Input tokens a request", 3_000, 50, 100_000, 50, "the repeated prefix included"),
    "output": ("Output tokens a request", 400, 10, 16_000, 10, ""),
    "prefix": ("Repeated prefix, tokens", 0, 0, 60_000, 100, "0: the prompt cache is not used"),
    "hit": ("Answered by a cache, %", 0, 0, 90, 1, "exact or similar questions"),
    "routed": ("Routed to the cheaper model, %", 0, 0, 95, 1, ""),
    "escalated": ("of those asked again, %", 5, 0, 60, 1, ""),
    "batched": ("Can wait for the batch API, %", 0, 0, 100, 1, ""),
    "shorter": ("Prompts shortened by, %", 0, 0, 60, 1, "outside the prefix"),
}
"""Name → label, default, least, most, step, hint."""
CHOICES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "ttl": ("Life of a cache entry", ("5m", "1h"), "after the last request that read it"),
    "arrival": ("Requests come", ("poisson", "even", "always_warm"), "at random, evenly spaced, always in time"),
}
"""Name → label, values of which the first is the default, hint: what decides whether the prompt cache pays."""


def build(ask: Ask) -> Page:
    """The scenario of the address, worked out. Raises ``BadRequest``."""
    rest = ask.state.rest
    book = ask.sources.book()
    known = rates.known(book)
    model, cheaper = rest.get("model") or known[0], rest.get("to") or known[min(1, len(known) - 1)]
    numbers, chosen = _numbers(rest), _chosen(rest)
    try:
        scenario = _scenario(numbers, chosen, model, cheaper)
        outcome = Work(scenario, lambda name: rates.rates_of(book, name, ask.now_ms)).outcome()
    except ValueError as error:
        raise BadRequest(f"{error}.") from error
    table = _table(outcome)
    saved = outcome.baseline.nusd - outcome.final.nusd
    part = share(saved, outcome.baseline.nusd)
    tiles = (
        Tile(name="baseline", label="A month without levers", value=dollars(outcome.baseline.nusd),
             exact=outcome.baseline.nusd),
        Tile(name="final", label="With them", value=dollars(outcome.final.nusd), exact=outcome.final.nusd),
        Tile(name="saved", label="Saved", value=dollars(saved), exact=saved, tone="good" if saved > 0 else
             "bad" if saved < 0 else "", note="" if part is None else f"{part / 100:.1f} % of the bill"),
    )  # fmt: skip
    formulas = "\n".join(outcome.final.lines)
    blocks: tuple[Block, ...] = (
        _form(numbers, chosen, model, cheaper, (*dict.fromkeys((model, cheaper, *known)),)),
        Tiles(tiles=tiles),
        TableBlock(
            id="levers",
            table=table,
            figure=figures.steps(table, "lever", "saves", saving=True) if outcome.averaged else None,
            describes="What each lever saves, averaged over every order.",
        ),
        Text(title="The formulas", text=formulas),
    )
    lead = "Thirty days at list prices. Move the sliders; the address is the scenario, so it can be shared."
    return Page(title="Calculator", lead=lead, blocks=blocks)


def _numbers(said: Mapping[str, str]) -> dict[str, int]:
    found, problems = {}, []
    for name, (label, default, low, high, _, _) in SLIDERS.items():
        text = said.get(name, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 10):
            problems.append(f"{name} ({label}): a whole number is expected")
            continue
        found[name] = int(text) if text else default
        if not low <= found[name] <= high:
            problems.append(f"{name} ({label}): {low:,} to {high:,}")
    if problems:
        raise BadRequest("; ".join(problems))
    return found


def _chosen(said: Mapping[str, str]) -> dict[str, str]:
    found = {name: said.get(name) or values[0] for name, (_, values, _) in CHOICES.items()}
    problems = [
        f"{name} ({label}): one of {', '.join(values)}"
        for name, (label, values, _) in CHOICES.items()
        if found[name] not in values
    ]
    if problems:
        raise BadRequest("; ".join(problems))
    return found


def _scenario(numbers: dict[str, int], chosen: dict[str, str], model: str, cheaper: str) -> Scenario:
    part = {name: value / 100 for name, value in numbers.items()}
    levers: dict[str, Lever] = {}
    if numbers["hit"]:
        levers["answer cache"] = AnswerCache(hit=part["hit"])
    if numbers["shorter"]:
        levers["shorter prompts"] = Shorten(input=part["shorter"])
    if numbers["routed"]:
        levers["routing"] = Route(share=part["routed"], to=cheaper, escalated=part["escalated"])
    if numbers["prefix"]:
        levers["prompt cache"] = msgspec.convert(
            {"type": "prompt_cache", "prefix_tokens": min(numbers["prefix"], numbers["input"]), **chosen}, PromptCache
        )
    if numbers["batched"]:
        levers["batch"] = Batch(share=part["batched"])
    load = Workload(
        model=model, requests_per_day=numbers["requests"], input_tokens=numbers["input"],
        output_tokens=numbers["output"],
    )  # fmt: skip
    return Scenario(workload=load, levers=levers)


def _table(outcome: Outcome) -> Table:
    return Table(
        title="What each lever saves",
        columns=(
            Column(name="lever", title="lever"),
            Column(name="in_order", title="in this order", kind="usd"),
            Column(name="saves", title="averaged over orders", kind="usd"),
        ),
        rows=tuple((name, outcome.ordered[name], amount) for name, amount in outcome.averaged.items()),
        total=("together", *[outcome.baseline.nusd - outcome.final.nusd] * 2) if outcome.averaged else None,
        notes=(*outcome.notes, "Modelled from the numbers given, not measured."),
    )


def _form(numbers: dict[str, int], chosen: dict[str, str], model: str, cheaper: str, known: tuple[str, ...]) -> Form:
    sliders = tuple(
        Field(name=name, label=label, kind="range", value=str(numbers[name]), low=str(low), high=str(high),
              step=str(step), hint=hint)
        for name, (label, _, low, high, step, hint) in SLIDERS.items()
    )  # fmt: skip
    models = (
        Field(name="model", label="Model", kind="select", options=known, value=model),
        Field(name="to", label="Cheaper model", kind="select", options=known, value=cheaper),
    )
    choices = tuple(
        Field(name=name, label=label, kind="select", options=values, value=chosen[name], hint=hint)
        for name, (label, values, hint) in CHOICES.items()
    )
    return Form(
        id="scenario",
        title="Scenario",
        action="/calculator",
        submit="Work out",
        live=True,
        fields=(*models, *sliders, *choices),
    )


VIEW = View(name="calculator", title="Calculator", group="Improve", build=build, roles=EVERYBODY)
