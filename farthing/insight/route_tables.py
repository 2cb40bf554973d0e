"""Tables about routes: what was trained, how it is judged, what it would do, where it stands."""

from collections.abc import Mapping, Sequence

from farthing.core.rollout import RolloutRules, RolloutState, stage_name
from farthing.core.route_pool import Member, Pruned
from farthing.insight.table import Column, Table


def trained(
    rows: Sequence[tuple[str, float | None, float, str]], out: str, ref: str, card: Mapping[str, str]
) -> Table:
    """What ``farthing route train`` made."""
    return Table(
        title=f"Router {ref}",
        columns=(
            Column(name="model", title="cheaper model"),
            Column(name="threshold", title="threshold", unknown="not live"),
            Column(name="share", title="of traffic", kind="percent"),
            Column(name="verdict", title="the gate's last verdict"),
        ),
        rows=tuple(
            (model, None if limit is None else f"{limit:.4f}", _percent(share), verdict)
            for model, limit, share, verdict in rows
        ),
        notes=(f"Written to {out}.", *(f"{name}: {value}" for name, value in card.items())),
    )


def judged(rows: Sequence[tuple[str, float, float, float, float, float]], count: int) -> Table:
    """Routers side by side."""
    names = ("APGR", "CPT(50 %)", "CPT(80 %)", "cost at 95 %", "cost at 98 %")
    return Table(
        title=f"Routers on {count} labelled prompts",
        columns=(Column(name="router", title="router"), *(_figure(name) for name in names)),
        rows=tuple((name, f"{first:.3f}", *(f"{100 * one:.1f} %" for one in rest)) for name, first, *rest in rows),
        notes=(
            "APGR: a coin has 0.5. CPT: share of calls to the strong model until so much of the gap is recovered. "
            "Cost: in % of always asking the strong model.",
            "Valid only where these prompts were not used in training.",
        ),
    )


def simulated(rows: Sequence[tuple[int, float, float, float, str]], count: int) -> Table:
    """What thresholds would do."""
    return Table(
        title=f"Thresholds on {count} labelled prompts",
        columns=(
            Column(name="downgraded", title="downgraded", kind="percent"),
            Column(name="threshold", title="threshold"),
            Column(name="quality", title="quality", kind="percent"),
            Column(name="cost", title="cost of strong", kind="percent"),
            Column(name="verdict", title="by itself, the gate says"),
        ),
        rows=tuple(
            (100 * percent, "-" if limit != limit else f"{limit:.4f}", _percent(quality), _percent(cost), verdict)
            for percent, limit, quality, cost, verdict in rows
        ),
        notes=(
            "Each row is judged alone; only a sequence fixed beforehand ('farthing route train') may choose one.",
        ),
    )


def explained(rows: Sequence[tuple[str, str, str, str, Sequence[tuple[str, str]]]]) -> Table:
    """Choices with their evidence."""
    return Table(
        title="Where it would go",
        columns=tuple(Column(name=name, title=name) for name in ("route", "model", "tier", "reason", "evidence")),
        rows=tuple((*head, "; ".join(f"{key}={value}" for key, value in seen)) for *head, seen in rows),
        notes=("A conversation keeps its model; roll-outs and sessions are not looked at here.",),
    )


def listed(rows: Sequence[tuple[str, str, str, str, Sequence[Member], Sequence[Pruned]]]) -> Table:
    """All routes with their pools."""
    found: list[tuple[str | int | None, ...]] = []
    for name, models, by, live, kept, left in rows:
        found.extend((name, models, by, live, one.model, one.cost, "in the pool") for one in kept)
        found.extend((name, models, by, live, one.model, None, f"left out: {one.reason}") for one in left)
    return Table(
        title="Routes",
        columns=(
            *(Column(name=one, title=one) for one in ("route", "models", "by", "live", "model")),
            Column(name="cost", title="typical call", kind="usd", unknown="-"),
            Column(name="pool", title="pool"),
        ),
        rows=tuple(found),
        notes=("A typical call has 1,000 tokens in and 250 out.",),
    )


def standing(state: RolloutState | None, rules: RolloutRules) -> str:
    """Where a roll-out stands, and what it still needs."""
    if state is None:
        return "shadow"
    parts = [stage_name(state)]
    if state.frozen:
        parts.append(f"frozen: {state.frozen}")
    if state.stage == "rolled_back":
        parts.append(state.reason)
    elif state.stage != "live":
        parts.append(f"{state.pairs} pairs of at least {rules.pairs_min}")
    if state.all_pairs:
        parts.append(f"loss {100 * state.all_total / state.all_pairs:.1f} points over {state.all_pairs} pairs")
    if state.psi is not None:
        parts.append(f"drift {state.psi:.3f}")
    return ", ".join(parts)


def _figure(name: str) -> Column:
    return Column(name=name.split("(")[0].lower().replace(" ", "_") + "".join(filter(str.isdigit, name)), title=name)


def _percent(share: float) -> int:
    return round(share * 10_000)
