"""Maturity: how far the practice is, from evidence, and what to do next."""

from contextlib import closing

from farthing.insight.practice_evidence import gather
from farthing.insight.reports.maturity import LEVELS, Step, build, level_of, steps
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Note, Page, TableBlock, Tile, Tiles

WHERE = {
    "instrument every call": "/requests",
    "know the price of what is used": "/explore?by=model,state",
    "name an owner of every cost": "/allocation",
    "cost per feature": "/explore?by=feature",
    "allocate shared cost by rules": "/allocation",
    "measure quality or outcomes": "/unit",
    "budgets that bind": "/budgets",
    "alerts before the caps": "/anomalies",
    "anomalies taken care of": "/anomalies",
    "answers cached where they repeat": "/savings",
}
"""The page that shows a step's evidence."""


def read(ask: Ask) -> Page:
    """The level, the next step, and every step with what shows it."""
    with closing(ask.sources.practice()) as practice:
        evidence = gather(ask.ledger, practice, ask.sources.settings(), now_ms=ask.now_ms)
    found = steps(evidence)
    table = build(evidence)
    todo = next((step for step in found if not step.met), None)
    blocks: list[Block] = [Tiles(tiles=_tiles(found))]
    if todo is not None:
        blocks.append(Note(title=f"Next: {todo.name}", text=f"Now: {todo.evidence}. {todo.next}", tone="warn"))
    else:
        blocks.append(
            Note(title="Every step is met", text="Keep the evidence: it is of the last 30 days.", tone="good")
        )
    blocks.append(
        TableBlock(
            id="steps",
            table=table,
            links={"step": tuple(WHERE.get(step.name, "") for step in found)},
        )
    )
    lead = "Computed from the ledger and the settings of the last 30 days; each step rests on those before it."
    return Page(title="Maturity", lead=lead, blocks=tuple(blocks))


def _tiles(found: tuple[Step, ...]) -> tuple[Tile, ...]:
    level, met = level_of(found), sum(step.met for step in found)
    names = {0: "not begun"} | dict(LEVELS)
    tiles = [
        Tile(name="level", label="Level", value=f"{level} of {len(LEVELS)}", exact=level, unit="count",
             note=names[level]),
        Tile(name="met", label="Steps met", value=f"{met} of {len(found)}", exact=met, unit="count",
             tone="good" if met == len(found) else ""),
    ]  # fmt: skip
    for number, name in LEVELS.items():
        own = [step for step in found if step.level == number]
        done = sum(step.met for step in own)
        tiles.append(
            Tile(name=f"level_{number}", label=f"{number} {name}", value=f"{done} of {len(own)}", exact=done,
                 unit="count", tone="good" if done == len(own) else "warn" if done else "")
        )  # fmt: skip
    return tuple(tiles)


VIEW = View(name="maturity", title="Maturity", group="Run", build=read, roles=OFFICE)
