"""The rule that anomalies are judged by: tried on the past in the address, saved when its back-test convinces."""

from collections.abc import Mapping

import msgspec

from farthing.core.errors import BadRequest
from farthing.core.series import Detector
from farthing.insight import anomalies, rule_trial
from farthing.insight.anomalies import DAY_MS, RULES, Incident
from farthing.insight.daily import Grain, slot_name
from farthing.insight.rule_trial import CALM_DAYS
from farthing.ports.incidents import ExpectedDays
from farthing.server.pages.ask import ADMIN, OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Link, Note, Page, TableBlock, Tile, Tiles

DAYS = ("30", "60", "90", "180")
BY = "feature"
GRAIN: Grain = "day"


def build(ask: Ask) -> Page:
    """The rule of the address over the days of the address, beside the rule that applies."""
    applies, expected = _records(ask)
    rest = ask.state.rest
    tried = rule_of(rest, applies)
    days = rest.get("days", "90")
    if days not in DAYS:
        raise BadRequest(f'days: "{days[:40]}" is none of {", ".join(DAYS)}')
    since = ask.now_ms - int(days) * DAY_MS
    query = anomalies.query((BY,), "day", since_ms=since - since % DAY_MS, until_ms=ask.now_ms)
    rows = ask.ledger.totals(msgspec.structs.replace(query, until_ms=None))
    found = rule_trial.trial(
        rows, (BY,), applies, tried, since_ms=since, until_ms=ask.now_ms, expected=expected
    )  # fmt: skip
    table = rule_trial.build(found, title=f"What it would have said in the last {days} days, by {BY}")
    incidents = (*found.tried, *found.gone)
    blocks: list[Block] = [_form(tried, days), Tiles(tiles=_tiles(found, days))]
    blocks.append(
        TableBlock(
            id="said",
            table=table,
            links={"slice": tuple(requests_of(ask, one) for one in incidents)},
            empty="Neither rule would have said anything.",
            command=f"farthing anomalies backtest --since {days}d --z {tried.z:g} --min-usd {tried.impact_min:g}",
        )
    )
    blocks.append(_saving(ask, applies, tried))
    lead = "Try a rule on the past before it is saved: by z-score and CUSUM against the same weekdays before."
    return Page(title="Anomaly rule", lead=lead, blocks=(*blocks, (Link(text="Anomalies", href="/anomalies"),)))


def save(ask: Ask, said: Mapping[str, str]) -> str:
    """From now on this is the rule. Raises ``BadRequest``."""
    practice = ask.sources.practice()
    try:
        applies = practice.rule(GRAIN) or RULES["day"]
        tried = rule_of(said, applies)
        practice.save_rule(GRAIN, tried)
        practice.note(rule_trial.changed(GRAIN, applies, tried, by=ask.person.name, at_ms=ask.now_ms))
    finally:
        practice.close()
    return "/anomalies/rule"


def rule_of(said: Mapping[str, str], applies: Detector) -> Detector:
    """The rule with what was said changed. Raises ``BadRequest`` naming everything wrong."""
    problems: list[str] = []

    def number(name: str, usual: float, low: float, high: float) -> float:
        text = said.get(name, "").strip()
        try:
            value = float(text) if text else usual
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            problems.append(f'{name}: "{text[:40]}" is no number from {low:g} to {high:g}')
        return value

    z = number("z", applies.z, 1, 20)
    least = number("min_usd", applies.impact_min, 0.000001, 1e9)
    cusum = number("cusum", applies.cusum_limit, 1, 100)
    drops = said.get("drops", "yes" if applies.drops else "no")
    if drops not in ("yes", "no"):
        problems.append("drops: yes or no")
    if problems:
        raise BadRequest("; ".join(problems), hint="Go back and correct the form.")
    return msgspec.structs.replace(applies, z=z, impact_min=least, cusum_limit=cusum, drops=drops == "yes")


def requests_of(ask: Ask, one: Incident) -> str:
    """The requests of an incident's days, of its slice."""
    since, ends = slot_name(one.began_ms, "day"), slot_name(one.until_ms, "day")
    return ask.state.href("/requests", since=since, until=ends, where=one.slice)


def _records(ask: Ask) -> tuple[Detector, tuple[ExpectedDays, ...]]:
    practice = ask.sources.practice()
    try:
        return practice.rule(GRAIN) or RULES["day"], practice.expected()
    finally:
        practice.close()


def _form(tried: Detector, days: str) -> Form:
    return Form(
        id="rule",
        title="Try a rule",
        action="/anomalies/rule",
        submit="Back-test",
        fields=(
            Field(name="z", label="Score of one day", kind="number", value=f"{tried.z:g}", low="1", high="20",
                  step="0.1", hint="standard deviations; lower says more"),
            Field(name="min_usd", label="At least, in USD", kind="number", value=f"{tried.impact_min:g}",
                  low="0.000001", step="any", hint="above the expectation"),
            Field(name="cusum", label="Sum of small excesses", kind="number", value=f"{tried.cusum_limit:g}", low="1",
                  high="100", step="0.5", hint="for steps and leaks; lower says them sooner"),
            Field(name="drops", label="Falls too", kind="select", options=("no", "yes"),
                  value="yes" if tried.drops else "no"),
            Field(name="days", label="Over the last days", kind="select", options=DAYS, value=days),
        ),
    )  # fmt: skip


def _tiles(found: rule_trial.Trial, days: str) -> tuple[Tile, ...]:
    wrong = found.false_alerts
    return (
        Tile(name="tried", label="This rule says", value=str(len(found.tried)), exact=len(found.tried), unit="count",
             note=f"in {days} days"),
        Tile(name="applies", label="The rule that applies", value=str(len(found.applies)), exact=len(found.applies),
             unit="count", note=f"{len(found.new)} new, {len(found.gone)} fewer with this one"),
        Tile(name="false", label="False alerts on calm days", unit="count", exact=None,
             value="not known" if wrong is None else rule_trial.about(wrong), note=f"in {CALM_DAYS} days, simulated",
             tone="" if wrong is None else "good" if wrong < 1 else "warn" if wrong < 5 else "bad"),
    )  # fmt: skip


def _saving(ask: Ask, applies: Detector, tried: Detector) -> Block:
    if tried == applies:
        return Note(text="This is the rule that applies. Change a number and back-test it.")
    if ask.person.role not in ADMIN:
        return Note(text="An admin can make this the rule.", command="farthing anomalies backtest --save")
    values = (("z", f"{tried.z!r}"), ("min_usd", f"{tried.impact_min!r}"), ("cusum", f"{tried.cusum_limit!r}"),
              ("drops", "yes" if tried.drops else "no"))  # fmt: skip
    return Form(
        id="save-rule",
        title=f"Change the rule: {rule_trial.changes(applies, tried)}",
        method="post",
        action="/anomalies/rule/save",
        submit="Save as the rule",
        fields=tuple(Field(name=name, label="", kind="hidden", value=value) for name, value in values),
    )


VIEW = View(name="anomaly-rule", title="Anomaly rule", group="", build=build, roles=OFFICE, path="/anomalies/rule")
