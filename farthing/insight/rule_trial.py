"""A rule for anomalies tried on the past: what it would have said beside the rule that applies, and how often it
would cry wolf while nothing happens. Seeded; no clock."""

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

import msgspec

from farthing.core.incidents import HOT_Z
from farthing.core.series import Detector, detect
from farthing.core.types import Totals
from farthing.insight import anomalies
from farthing.insight.anomalies import Incident
from farthing.insight.daily import NUSD, Grain, series
from farthing.insight.moments import shown
from farthing.insight.table import Column, Row, Table, share
from farthing.ports.audit import Changed
from farthing.ports.incidents import ExpectedDays

CALM_DAYS: Final = 90
RUNS: Final = 8
SLICES: Final = 8
"""The dearest slices are simulated; smaller ones rarely pass the floor in dollars."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Both rules over the same days."""

    tried: tuple[Incident, ...]
    applies: tuple[Incident, ...]
    false_alerts: float | None
    """Expected number of false alerts in ``CALM_DAYS`` days, over all slices; None: too little past."""
    simulated: int
    """Slices that the estimate rests on."""

    @property
    def new(self) -> tuple[Incident, ...]:
        """What only the tried rule says."""
        known = {one.id for one in self.applies}
        return tuple(one for one in self.tried if one.id not in known)

    @property
    def gone(self) -> tuple[Incident, ...]:
        """What only the rule that applies says."""
        known = {one.id for one in self.tried}
        return tuple(one for one in self.applies if one.id not in known)


def trial(
    rows: Iterable[Totals], by: tuple[str, ...], applies: Detector, tried: Detector, *, since_ms: int, until_ms: int,
    expected: Sequence[ExpectedDays] = (), grain: Grain = "day",
) -> Trial:  # fmt: skip
    """From the answer to ``anomalies.query``."""
    rows = tuple(rows)
    said = [
        anomalies.find(rows, by, grain, rule, since_ms=since_ms, until_ms=until_ms, expected=expected)
        for rule in (applies, tried)
    ]
    found = series(rows, grain, until_ms=until_ms, whole=True)
    dearest = sorted(found.by_slice.items(), key=lambda pair: (-sum(pair[1]), pair[0]))[:SLICES]
    if grain != "day":
        dearest = []  # thousands of hours, simulated many times, are worth nobody's waiting
    rates = [
        rate
        for seed, (_, values) in enumerate(dearest)
        if (rate := false_alerts([value / NUSD for value in values], tried, seed=seed)) is not None
    ]
    return Trial(
        applies=said[0], tried=said[1], false_alerts=sum(rates) if rates else None, simulated=len(rates)
    )  # fmt: skip


def false_alerts(
    values: Sequence[float], rule: Detector, *, days: int = CALM_DAYS, runs: int = RUNS, seed: int = 0
) -> float | None:
    """How often the rule speaks, on average, in ``days`` slots on which nothing happens to a series like this one.

    Slots are made of the series' own level by weekday (or hour of the week) times residuals drawn from its own calm
    slots. Those residuals are errors of prediction, a little wider than the noise itself: the estimate is on the high
    side. None while too few slots were judged.
    """
    points = detect(values, rule)
    # No residual of a slot that the rule calls hot: what happened is not what nothing looks like.
    pool = [
        math.log(point.value / point.expected)
        for point in points
        if point.expected and point.value > 0 and point.kind is None and abs(point.z) < max(HOT_Z, rule.z)
    ]
    if len(pool) < 2 * rule.season:
        return None
    middle = median(pool)
    recent = values[-5 * rule.season :]
    offset = (len(values) - len(recent)) % rule.season
    level = [
        median([value for at, value in enumerate(recent) if (at + offset) % rule.season == slot])
        for slot in range(rule.season)
    ]
    warm = (rule.learning + rule.memory) * rule.season
    chance = random.Random(seed)
    said = 0
    for _ in range(runs):
        made = [level[at % rule.season] * math.exp(chance.choice(pool) - middle) for at in range(warm + days)]
        said += sum(point.kind is not None for point in detect(made, rule)[warm:])
    return said / runs


def build(found: Trial, *, title: str) -> Table:
    """What the tried rule says, and what only the rule that applies says, dearest first within each."""
    known = {one.id for one in found.applies}
    rows: list[Row] = [_row(one, "both rules" if one.id in known else "only the tried one") for one in found.tried]
    rows += [_row(one, "only the one that applies") for one in found.gone]
    columns = (
        Column(name="slice", title="slice"),
        Column(name="kind", title="kind"),
        Column(name="began", title="began (UTC)"),
        Column(name="until", title="until"),
        Column(name="so_far", title="above expected", kind="usd"),
        Column(name="over", title="over expected", kind="percent"),
        Column(name="said", title="first said"),
        Column(name="by", title="said by"),
    )
    return Table(title=title, columns=columns, rows=tuple(rows), notes=(sentence(found), estimate(found)))


def sentence(found: Trial) -> str:
    """How the rules differ."""
    return (
        f"The rule that applies says {len(found.applies)}, the tried one {len(found.tried)}: "
        f"{len(found.new)} new, {len(found.gone)} fewer."
    )


def estimate(found: Trial) -> str:
    """How often it would cry wolf."""
    if found.false_alerts is None:
        return "Too few days are known to say how often this rule would be wrong on calm days."
    return (
        f"On {CALM_DAYS} calm days it would raise {about(found.false_alerts)} false alerts: simulated from the calm "
        f"days of the {found.simulated} dearest slices."
    )


def about(rate: float) -> str:
    """``about 0.4``; ``fewer than 0.1``."""
    return f"about {rate:.1f}" if rate >= 0.05 else "fewer than 0.1"


def changes(before: Detector, after: Detector) -> str:
    """``z 3.6 to 4; impact_min 1 to 5``, for the audit log."""
    fields = [(name, getattr(before, name), getattr(after, name)) for name in Detector.__struct_fields__]
    return "; ".join(f"{name} {was} to {now}" for name, was, now in fields if was != now) or "unchanged"


def changed(grain: Grain, before: Detector, after: Detector, *, by: str, at_ms: int) -> Changed:
    """What the audit log is told of a saved rule."""
    digest = hashlib.sha256(msgspec.json.encode(after)).hexdigest()[:12]
    return Changed(
        at_ms=at_ms, subject="anomaly_rule", name=grain, after=digest, by=by, detail=changes(before, after)
    )  # fmt: skip


def _row(one: Incident, by: str) -> Row:
    return (
        one.name, one.kind, shown(one.began_ms), shown(one.until_ms), one.so_far_nusd,
        share(one.so_far_nusd, one.expected_nusd), one.said, by,
    )  # fmt: skip
