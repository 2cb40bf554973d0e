"""Tables about what routes did and where their roll-outs stand."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from farthing.core.policy_routes import Route
from farthing.core.rollout import STEPS, RolloutState, stage_name
from farthing.core.route_pool import Member, Pruned
from farthing.core.types import Totals
from farthing.insight.honesty import cost_notes
from farthing.insight.moments import shown
from farthing.insight.table import Column, Row, Table, share
from farthing.lab.route_use import Use


class RouteFacts(NamedTuple):
    """One route at this moment's prices."""

    route: Route
    kept: tuple[Member, ...]
    left: tuple[Pruned, ...]
    """Models that are left out, and why."""
    ref: str = ""
    """The trained router's; "" where there is none."""
    verdicts: tuple[str, ...] = ()
    """The gate's, in words."""
    thresholds: tuple[tuple[str, float], ...] = ()
    """(cheaper model, estimated loss up to which it is chosen)."""
    problem: str = ""
    """Why the trained router cannot be used."""


LEVERS = ("lever:route", "lever:cascade")


def rollouts(facts: Sequence[RouteFacts], states: Mapping[str, RolloutState]) -> Table:
    """Where each roll-out stands, and the evidence so far."""
    rows: list[Row] = []
    for one in facts:
        rules = one.route.rollout
        if rules is None:
            continue
        state = states.get(one.route.name) or RolloutState(route=one.route.name)
        reach = STEPS[state.step] if state.stage in ("canary", "live") else 0
        loss = None if not state.all_pairs else round(10_000 * state.all_total / state.all_pairs)
        rows.append(
            (
                one.route.name,
                stage_name(state) + (f", frozen: {state.frozen}" if state.frozen else ""),
                round(10_000 * reach),
                state.pairs,
                rules.pairs_min,
                loss,
                round(10_000 * rules.margin),
                _drift(state),
                state.reason or None,
                shown(state.since_ms)[:16] if state.since_ms else None,
                state.shadow_nusd,
            )
        )
    return Table(
        title="Roll-outs",
        columns=(
            Column(name="route", title="route"),
            Column(name="stage", title="stage"),
            Column(name="reach", title="serves", kind="percent"),
            Column(name="pairs", title="pairs in this step", kind="int"),
            Column(name="pairs_min", title="needed at least", kind="int"),
            Column(name="loss", title="loss of quality", kind="percent"),
            Column(name="margin", title="allowed", kind="percent"),
            Column(name="drift", title="drift (PSI)"),
            Column(name="reason", title="why"),
            Column(name="since", title="since (UTC)"),
            Column(name="shadow_cost", title="shadows, last day", kind="usd"),
        ),
        rows=tuple(rows),
        notes=(
            "Loss: strong minus cheap over all pairs, in points of 100; a test that holds however often it is read.",
        ),
    )


def _drift(state: RolloutState) -> str | None:
    return None if state.psi is None else f"{state.psi:.3f}"


def verdicts(facts: Sequence[RouteFacts]) -> Table:
    """What the gate said when each trained router was made."""
    rows: list[Row] = []
    for one in facts:
        if one.problem:
            rows.append((one.route.name, one.route.table, None, None, f"cannot be used: {one.problem}"))
        limits = dict(one.thresholds)
        for model, limit in limits.items():
            rows.append((one.route.name, one.ref, model, f"{limit:.4f}", "live below this estimated loss"))
        rows += [(one.route.name, one.ref, None, None, said) for said in one.verdicts]
    return Table(
        title="Verdicts of the gate",
        columns=(
            Column(name="route", title="route"),
            Column(name="router", title="router"),
            Column(name="model", title="cheaper model"),
            Column(name="threshold", title="threshold"),
            Column(name="verdict", title="verdict"),
        ),
        rows=tuple(rows),
    )


def decisions(found: Sequence[Use]) -> Table:
    """Who decided, what was asked and chosen."""
    whole = sum(one.requests for one in found)
    return Table(
        title="Decisions",
        columns=(
            Column(name="reason", title="decided by"),
            Column(name="asked", title="asked for"),
            Column(name="served", title="chosen"),
            Column(name="requests", title="requests", kind="int"),
            Column(name="share", title="of routed", kind="percent"),
            Column(name="escalated", title="escalated", kind="int"),
            Column(name="cost", title="cost", kind="usd"),
            Column(name="latency", title="mean latency, ms", kind="int"),
        ),
        rows=tuple(
            (
                one.reason,
                one.asked,
                one.served,
                one.requests,
                share(one.requests, whole),
                one.escalated,
                one.nusd,
                round(one.latency_ms / one.requests),
            )
            for one in found
        ),
        notes=tuple(
            f"{count:,} of them have no known cost." for count in [sum(one.unpriced for one in found)] if count
        ),
    )


def moved(rows: Sequence[Totals]) -> Table:
    """Calls that another model answered than was asked for. ``rows`` by model asked, model served and reason."""
    found = [row for row in rows if is_moved(row)]
    found.sort(key=lambda row: row.amount - row.baseline)
    return Table(
        title="Asked for and served",
        columns=(
            Column(name="asked", title="asked for"),
            Column(name="served", title="served by"),
            Column(name="requests", title="requests", kind="int"),
            Column(name="cost", title="cost", kind="usd"),
            Column(name="baseline", title="as asked for", kind="usd"),
            Column(name="saved", title="saved", kind="usd"),
            Column(name="latency", title="mean latency, ms", kind="int"),
        ),
        rows=tuple(
            (
                row.group[0],
                row.group[1],
                row.requests,
                row.amount,
                row.baseline or None,
                row.baseline - row.amount if row.baseline else None,
                round(row.latency_ms / row.entries) if row.entries else None,
            )
            for row in found
        ),
        notes=tuple(cost_notes(tuple(found))),
    )


def is_moved(row: Totals) -> bool:
    """Another model served, for the caller and not for a lever's own sake."""
    asked, served, reason = row.group
    return asked != served and not served.startswith(f"{asked}-") and not reason.startswith(("lever:", "cache_hit"))


def overhead(rows: Sequence[Totals]) -> Table:
    """What routing itself costs: classifiers, shadows, judges, peers, refused answers. Rows as for ``moved``."""
    found = sorted((row for row in rows if row.group[2] in LEVERS), key=lambda row: -row.amount)
    return Table(
        title="What routing itself costs",
        columns=(
            Column(name="lever", title="for"),
            Column(name="model", title="model"),
            Column(name="calls", title="calls", kind="int"),
            Column(name="cost", title="cost", kind="usd"),
            Column(name="latency", title="mean latency, ms", kind="int"),
        ),
        rows=tuple(
            (
                row.group[2].removeprefix("lever:"),
                row.group[1],
                row.entries,
                row.amount,
                round(row.latency_ms / row.entries) if row.entries else None,
            )
            for row in found
        ),
        total=("together", "", sum(row.entries for row in found), sum(row.amount for row in found), None)
        if found
        else None,
        notes=("Rules, tags and trained routers decide inside the gateway and cost no call.",),
    )
