"""Budgets: what is used, held and left of each, when it begins anew; and a form that makes one."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import msgspec

from farthing.config.editing import Toml, set_budget
from farthing.config.writing import replace_file
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.errors import BadRequest, ConfigError
from farthing.core.policy import Budget, Period
from farthing.insight.budget_counters import BudgetCounter, counters, frames_of, queries, wanted
from farthing.insight.reports import budget_forecast, budget_list, budget_status, forecast
from farthing.insight.table import Table
from farthing.ports.audit import Changed
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Note, Page, TableBlock, Tile, Tiles

PERIODS = tuple(one for one in get_args(Period) if one != "rolling")
UNITS = ("usd", "tokens", "requests")


def build(ask: Ask) -> Page:
    """Every counter, fullest first."""
    settings = ask.sources.settings()
    chosen = settings.policy.budgets
    found: list[BudgetCounter] = []
    ahead: list[budget_forecast.Series] = []
    for one in chosen:
        frames = frames_of(one, ask.now_ms)
        if frames:
            answers = [row for query in queries(one, frames[0][0]) for row in ask.ledger.totals(query)]
            found += counters(one, frames, answers)
            days = ask.ledger.totals(budget_forecast.query(one, ask.now_ms))
            ahead += budget_forecast.series(one, frames, days, ask.now_ms)
    held = dict.fromkeys((*wanted(found), *wanted(series.counter for series in ahead)))
    balances = ask.sources.counters().balances(tuple(held))
    status = budget_status.build(found, balances, chosen, now_ms=ask.now_ms)
    reached = budget_forecast.build(ahead, balances, ask.now_ms)
    blocks: list[Block] = []
    waiting = _waiting(ask)
    if waiting:
        blocks.append(
            Note(
                title="The file has changed",
                text=f"{', '.join(waiting)}: in {Path(settings.source).name}, not yet in this gateway. Restart it.",
                tone="warn",
                command="farthing serve",
            )
        )
    blocks.append(
        TableBlock(
            id="status",
            compact=True,
            table=status,
            empty="No budgets are configured: nothing limits spending.",
            command="farthing budget set company-month --per month --limit usd=500",
        )
    )
    if chosen:
        blocks.insert(0, Tiles(tiles=_tiles(status, reached)))
        blocks.append(
            TableBlock(
                id="reached", compact=True, table=reached, hide=("counter",), empty="No counter has been used yet."
            )
        )
        monthly = _monthly(ask, chosen)
        if monthly is not None:
            blocks.append(monthly)
    configured = msgspec.structs.replace(budget_list.build(chosen, ask.now_ms), title="As configured")
    if chosen:
        blocks.append(TableBlock(id="budgets", table=configured, folded=True))
    if ask.person.role == "admin":
        blocks.append(_form())
    lead = (
        "Used, held for calls in flight, left, and when a limit is reached. A hard budget refuses what would pass it."
    )
    return Page(title="Budgets", lead=lead, blocks=tuple(blocks))


def _monthly(ask: Ask, chosen: tuple[Budget, ...]) -> TableBlock | None:
    """Where budgets of a month in dollars will end, by the same forecast as the Overview's."""
    limits = [
        (one.name, dict(one.limits)["usd"], ask.ledger.totals(forecast.query((), ask.now_ms, where=one.match)))
        for one in chosen
        if forecast.is_monthly(one)
    ]
    if not limits:
        return None
    return TableBlock(id="month", compact=True, table=forecast.against(limits, ask.now_ms))


def _tiles(status: Table, reached: Table) -> tuple[Tile, ...]:
    """How many limits are passed or will be, and which comes first."""
    states = [str(row[_at(status, "state")]) for row in status.rows]
    passed = sum(state.startswith(("used up", "passed")) for state in states)
    outlooks = [str(row[_at(reached, "outlook")]) for row in reached.rows]
    ahead = sum(outlook in ("will be reached", "may be reached") for outlook in outlooks)
    first = next((row for row, outlook in zip(reached.rows, outlooks, strict=True) if outlook != "holds"), None)
    return (
        Tile(name="passed", label="Used up or passed", value=str(passed), exact=passed, unit="count",
             note=f"of {len(states)} limits", tone="bad" if passed else "good"),
        Tile(name="ahead", label="Will or may be reached", value=str(ahead), exact=ahead, unit="count",
             note="before they start anew", tone="warn" if ahead else "good"),
        Tile(name="first", label="Reached first", unit="count", value="none" if first is None else str(first[0]),
             note="at the rate of the last days" if first is None
             else f"{first[_at(reached, 'outlook')]}: {first[_at(reached, 'reached')] or 'not at this rate'} UTC"),
    )  # fmt: skip


def _at(table: Table, name: str) -> int:
    return [column.name for column in table.columns].index(name)


def create(ask: Ask, said: Mapping[str, str]) -> str:
    """Writes a budget into farthing.toml, checked as a whole first. Raises ``BadRequest``, ``ConfigError``."""
    settings = ask.sources.settings()
    if not settings.source or not Path(settings.source).is_file():
        raise BadRequest(
            "This gateway runs without a configuration file, so there is nowhere to write a budget.",
            hint="Start it with --config farthing.toml.",
        )
    name, path = said.get("name", "").strip(), Path(settings.source).resolve()
    changes = _changes(said)
    old = path.read_text(encoding="utf-8-sig")
    if not name:
        raise BadRequest("A budget needs a name.")
    if any(one.get("name") == name for one in tomllib.loads(old).get("budgets", [])):
        raise BadRequest(f"There is a budget '{name}' already.", hint=f"Change it: farthing budget set '{name}' …")
    new = set_budget(old, name, changes, source=settings.source)
    checked = ask.sources.check(new, settings.source)
    try:
        replace_file(path, new)
    except OSError as error:
        raise ConfigError([f"{path.name} cannot be written: {error.strerror}"], source=settings.source) from error
    practice = ask.sources.practice()
    try:
        practice.note(
            Changed(
                at_ms=ask.now_ms,
                subject="policy",
                after=checked.policy.ref,
                by=ask.person.name,
                detail=f"budget {name} made in the dashboard",
            )
        )
    finally:
        practice.close()
    return "/budgets"


def _changes(said: Mapping[str, str]) -> dict[str, Toml | None]:
    unit, amount = said.get("unit", "usd"), said.get("amount", "").replace(",", "").strip()
    problems = []
    if said.get("per") not in PERIODS:
        problems.append(f"per: choose one of {', '.join(PERIODS)}")
    if unit not in UNITS:
        problems.append(f"unit: choose one of {', '.join(UNITS)}")
    if unit != "usd" and not amount.isdigit():
        problems.append(f"amount: {unit} are whole numbers")
    if problems:
        raise BadRequest("; ".join(problems))
    found: dict[str, Toml | None] = {"per": said["per"], unit: amount if unit == "usd" else int(amount)}
    dimension, value = said.get("dimension", ""), said.get("value", "").strip()
    if dimension and value:
        found["match"] = {dimension: value}
    if said.get("each"):
        found["each"] = [said["each"]]
    if said.get("mode") == "shadow":
        found["mode"] = "shadow"
    return found


def _waiting(ask: Ask) -> tuple[str, ...]:
    """Budgets that the file has and this gateway does not."""
    settings = ask.sources.settings()
    running = {one.name for one in settings.policy.budgets}
    try:
        text = Path(settings.source).read_text(encoding="utf-8-sig")
        names = [str(one.get("name", "")) for one in tomllib.loads(text).get("budgets", [])]
    except (OSError, ValueError):
        return ()
    return tuple(name for name in names if name not in running)


def _form() -> Form:
    who = ("", *(name for name in SCOPE_DIMENSIONS if name != "session"), "model")
    return Form(
        id="new-budget",
        title="New budget",
        method="post",
        action="/budgets/create",
        submit="Write to farthing.toml",
        folded=True,
        fields=(
            Field(name="name", label="Name", required=True, hint="search-day"),
            Field(name="per", label="Per", kind="select", options=PERIODS, value="day"),
            Field(name="amount", label="Limit", required=True, hint="12.50"),
            Field(name="unit", label="of", kind="select", options=UNITS, value="usd"),
            Field(name="dimension", label="Only calls whose", kind="select", options=who),
            Field(name="value", label="is"),
            Field(name="each", label="One counter for each", kind="select", options=who),
            Field(name="mode", label="Mode", kind="select", options=("enforce", "shadow"), value="enforce",
                  hint="shadow counts and refuses nothing"),
        ),
    )  # fmt: skip


VIEW = View(name="budgets", title="Budgets", group="Control", build=build, roles=OFFICE)
