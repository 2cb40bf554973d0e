"""How far the practice is, from evidence: four levels, eight steps in order, and what to do next."""

from typing import Final, Literal

import msgspec

from farthing.core.types import Totals
from farthing.insight.render import percent
from farthing.insight.table import Column, Row, Table, share

TITLE: Final = "Maturity"
Level = Literal[1, 2, 3, 4]
LEVELS: Final[dict[Level, str]] = {1: "visibility", 2: "measurement", 3: "automation", 4: "optimisation"}
PRICED_MIN: Final = 9_900
"""Share of entries with a price, in hundredths of a percent."""
UNTAGGED_MAX: Final = 1_000
HIT_MIN: Final = 5_000

COLUMNS: Final = (
    Column(name="level", title="level"),
    Column(name="step", title="step"),
    Column(name="met", title="met"),
    Column(name="evidence", title="evidence"),
    Column(name="next", title="next step", unknown=""),
)


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the last 30 days of the ledger and the settings show."""

    whole: Totals
    no_team: int
    """Nano-USD of entries that name no team."""
    no_feature: int
    batch: int
    """Nano-USD of entries at the batch tier."""
    cache_hits: int
    """Requests that Farthing's own caches answered."""
    outcomes: int
    budgets: int
    hard_budgets: int
    sinks: int
    routes: int
    gated_routes: int
    """Routes with a trained table or a roll-out: judged before they decide."""
    caches: int
    own_cap: bool
    """The cap on output tokens was set."""
    acknowledged: int
    """Incidents that somebody took care of."""
    allocation: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a practice does, or not yet."""

    level: Level
    name: str
    met: bool
    evidence: str
    next: str


def steps(found: Evidence) -> tuple[Step, ...]:
    """Every step in the order in which it pays: each rests on those before it."""
    whole = found.whole
    priced = share(whole.entries - whole.unpriced, whole.entries)
    no_team, no_feature = share(found.no_team, whole.amount), share(found.no_feature, whole.amount)
    hit = share(whole.cache_read_tokens, whole.input_tokens)
    made = (
        (1, "instrument every call", whole.entries > 0, f"{whole.requests:,} requests in 30 days",
         "Point a client at the gateway: farthing serve."),
        (1, "know the price of what is used", priced is not None and priced >= PRICED_MIN, f"{_of(priced)} priced",
         "farthing report --by model,state names the models; farthing price set adds them."),
        (1, "name an owner of every cost", no_team is not None and no_team <= UNTAGGED_MAX,
         f"{_of(no_team)} of cost without a team", "farthing allocate untagged lists what to tag first."),
        (2, "cost per feature", no_feature is not None and no_feature <= UNTAGGED_MAX,
         f"{_of(no_feature)} of cost without a feature", "Send x-farthing-feature with every call."),
        (2, "allocate shared cost by rules", found.allocation, "rules set" if found.allocation else "no [allocation]",
         "Write [allocation] and try it: farthing allocate preview."),
        (2, "measure quality or outcomes", found.outcomes > 0, f"{found.outcomes:,} outcomes in 30 days",
         "Report outcomes (POST /api/v1/outcomes), or run farthing eval."),
        (3, "budgets that bind", found.hard_budgets > 0, f"{found.hard_budgets} hard of {found.budgets} budgets",
         "farthing budget set NAME --per month --limit usd=AMOUNT --mode enforce."),
        (3, "alerts before the caps", found.sinks > 0 and found.budgets > 0, f"{found.sinks} ways to people",
         "Add [[alert_sinks]] and try it: farthing alert test."),
        (3, "prompt caching that works", hit is not None and hit > HIT_MIN, f"token hit rate {_of(hit)} (goal 50 %)",
         "farthing report --by feature shows who reads no cache; put what never changes first."),
        (3, "answers cached where they repeat", found.caches > 0 and found.cache_hits > 0,
         f"{found.caches} cache routes, {found.cache_hits:,} answers served", "Write a [[cache]] route."),
        (3, "routing behind a quality gate", found.gated_routes > 0, f"{found.gated_routes} of {found.routes} routes",
         "Train and judge one: farthing route train, farthing route eval; then roll it out."),
        (3, "answers capped", found.own_cap, "a cap is set" if found.own_cap else "no own cap",
         "Set [limits] output_tokens_max from farthing metrics."),
        (4, "anomalies taken care of", found.acknowledged > 0, f"{found.acknowledged} acknowledged",
         "farthing anomalies ls --open, then ack."),
        (4, "batch where nobody waits", found.batch > 0, "in use" if found.batch else "no batch cost in 30 days",
         "Send night work through the provider's batch API: half the price."),
    )  # fmt: skip
    return tuple(
        Step(level=level, name=name, met=met, evidence=evidence, next="" if met else action)  # type: ignore[arg-type]
        for level, name, met, evidence, action in made
    )


def level_of(found: tuple[Step, ...]) -> int:
    """The highest level whose steps, and those of all levels below it, are met; 0 when the first is not."""
    level = 0
    for candidate in LEVELS:
        if not all(step.met for step in found if step.level == candidate):
            break
        level = candidate
    return level


def build(evidence: Evidence) -> Table:
    """Steps in their order; the note names the level and the next step."""
    found = steps(evidence)
    rows: list[Row] = [
        (
            f"{step.level} {LEVELS[step.level]}",
            step.name,
            "yes" if step.met else "no",
            step.evidence,
            step.next or None,
        )
        for step in found
    ]
    level = level_of(found)
    name = LEVELS.get(level, "not begun")  # type: ignore[call-overload]
    todo = next((step for step in found if not step.met), None)
    notes = [f"Level {level} of 4: {name}. {sum(step.met for step in found)} of {len(found)} steps are met."]
    if todo is not None:
        notes.append(f"Next: {todo.name}. {todo.next}")
    return Table(title=TITLE, columns=COLUMNS, rows=tuple(rows), notes=tuple(notes))


def _of(value: int | None) -> str:
    return "nothing" if value is None else f"{percent(value)} %"
