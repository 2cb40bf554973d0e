"""Tables of a replay: bills by fidelity, what each lever saved, and the requests that changed most."""

from collections.abc import Mapping, Sequence

from farthing.insight.table import Column, Row, Table, share
from farthing.lab.compare import FIDELITIES, Bill, Changed
from farthing.lab.estimate import Interval

_MEANING = {
    "exact": "as logged: same model, same prompt, same price",
    "repriced": "as logged, at other prices",
    "estimated": "another model or answer than the log's",
    "unknown": "the log itself does not know",
}


def bill_table(before: Bill, after: Bill, *, title: str, notes: Sequence[str] = ()) -> Table:
    """Two bills by fidelity. Amounts of different fidelity stand in rows of their own."""
    rows: list[Row] = []
    for name in FIDELITIES:
        a, b = before.parts[name], after.parts[name]
        if a.requests or b.requests:
            rows.append((name, a.requests, a.nusd, b.requests, b.nusd, _MEANING[name]))
    interval = after.interval
    total: Row = ("all of these", before.requests, before.nusd, after.requests, after.nusd, _margin(interval))
    more = []
    if interval.half:
        low, high = max(0, after.nusd - interval.below), after.nusd + interval.above
        more.append(
            f"95 % of such predictions hold the truth between ${low / 1e9:.6f} and ${high / 1e9:.6f}, if the traffic "
            "stays as it was."
        )
    if interval.priors:
        more.append(f"Nothing is known of these, so a guess stands in: {', '.join(interval.priors)}.")
    unknown = after.parts["unknown"].requests
    if unknown:
        more.append(f"{unknown} requests are unknown: the log does not say what the policy would make of them.")
    unpriced = sum(part.unpriced for part in after.parts.values())
    if unpriced:
        more.append(f"{unpriced} requests have no known price; their cost is in no sum.")
    if after.rerouted:
        more.append(f"{after.rerouted} requests go to another model than the log's; its quality is unknown.")
    return Table(
        title=title,
        columns=(
            Column(name="fidelity", title="fidelity"),
            Column(name="requests_before", title="requests", kind="int"),
            Column(name="before", title="before", kind="usd"),
            Column(name="requests_after", title="requests", kind="int"),
            Column(name="after", title="after", kind="usd"),
            Column(name="meaning", title="meaning"),
        ),
        rows=tuple(rows),
        total=total,
        notes=(*notes, *more),
    )


def facts_table(before: Bill, after: Bill) -> Table:
    """What happened to the requests."""
    rows: list[Row] = [
        ("answered", before.answered, after.answered),
        ("answered from a cache", before.cached, after.cached),
        ("refused", before.refused, after.refused),
        ("failed", before.failed, after.failed),
        ("latency p50, ms", before.latency_ms(0.5), after.latency_ms(0.5)),
        ("latency p95, ms", before.latency_ms(0.95), after.latency_ms(0.95)),
    ]
    for reason in sorted({*before.refusals, *after.refusals}):
        rows.append((f"refused: {reason}", before.refusals.get(reason, 0), after.refusals.get(reason, 0)))
    columns = (
        Column(name="what", title="what"),
        Column(name="before", title="before", kind="int"),
        Column(name="after", title="after", kind="int"),
    )
    return Table(title="Requests", columns=columns, rows=tuple(rows))


def models_table(before: Bill, after: Bill) -> Table:
    """The bills by the model that served."""
    rows: list[Row] = [
        (name, before.by_model.get(name, 0), after.by_model.get(name, 0))
        for name in sorted({*before.by_model, *after.by_model})
    ]
    columns = (
        Column(name="model", title="model"),
        Column(name="before", title="before", kind="usd"),
        Column(name="after", title="after", kind="usd"),
    )
    return Table(title="By model", columns=columns, rows=tuple(rows))


def risk_table(before: Bill, after: Bill) -> Table:
    """Answers that may be worse or better than those of the log; nothing here is measured."""
    rows: list[Row] = [
        ("from another model than the log's", before.rerouted, after.rerouted),
        ("cheap ones that a cascade accepts", before.accepted, after.accepted),
        ("to a similar question", before.similar, after.similar),
    ]
    columns = (
        Column(name="risk", title="answers"),
        Column(name="before", title="before", kind="int"),
        Column(name="after", title="after", kind="int"),
    )
    answered = after.answered
    touched = share(after.rerouted + after.accepted + after.similar, answered)
    notes = (
        f"At most {(touched or 0) / 100:.1f} % of the answers are touched. How good they are is not predicted: "
        "'farthing route simulate' and 'farthing eval' judge it, an experiment measures it.",
    )
    return Table(title="Quality risk", columns=columns, rows=tuple(rows), notes=notes)


def levers_table(ordered: Mapping[str, int], fair: Mapping[str, int] | None, saved: int) -> Table:
    """What each section of the policy saves; each column sums to the difference of the bills."""
    rows: tuple[Row, ...] = tuple(
        (name, amount, None if fair is None else fair[name], share(amount, saved)) for name, amount in ordered.items()
    )
    whole = None if fair is None else sum(fair.values())
    notes = ["In order: what each adds when they are switched on one after the other, as calls meet them."]
    notes.append(
        "Shapley: the mean over every order."
        if fair is not None
        else "Shapley's shares need a replay for every set of sections; use --shapley."
    )
    return Table(
        title="What each section of the policy saves",
        columns=(
            Column(name="section", title="section"),
            Column(name="ordered", title="in order", kind="usd"),
            Column(name="shapley", title="Shapley", kind="usd"),
            Column(name="share", title="share", kind="percent"),
        ),
        rows=rows,
        total=("all", sum(ordered.values()), whole, share(saved, saved)),
        notes=tuple(notes),
    )


def changed_table(changed: Sequence[Changed]) -> Table:
    """The requests whose cost differs most from what was booked."""
    columns = (
        Column(name="request", title="request"),
        Column(name="before", title="was"),
        Column(name="before", title="booked", kind="usd"),
        Column(name="after", title="would be"),
        Column(name="after", title="cost", kind="usd"),
        Column(name="fidelity", title="fidelity"),
    )
    rows: tuple[Row, ...] = tuple(
        (one.request_id, one.before, one.before_nusd, one.after, one.after_nusd, one.fidelity) for one in changed
    )
    return Table(title="Requests that change most", columns=columns, rows=rows)


def _margin(interval: Interval) -> str:
    if not interval.half:
        return ""
    return f"+ ${interval.above / 1e9:.6f} / − ${interval.below / 1e9:.6f}"
