"""Why spend changed: every dollar of the difference to the period before, put down to a cause and a slice."""

from collections.abc import Mapping
from typing import Final

from farthing.core.decomposition import CAUSES, Cause, Change, Slice, explain
from farthing.core.types import Totals
from farthing.insight.honesty import cost_notes
from farthing.insight.render import percent, usd
from farthing.insight.slices import Key, named, outer
from farthing.insight.table import Column, Row, Table, share

TITLE: Final = "Why spend changed"

_MEANS: Final[dict[Cause, str]] = {
    "volume": "more or fewer requests",
    "mix": "other models or slices among them",
    "retries": "tries per request",
    "tokens": "tokens per try",
    "price": "list price per token",
    "cache": "part of the list price paid (prompt cache, tiers, discounts)",
}


def build(
    before: Mapping[Key, Slice],
    after: Mapping[Key, Slice],
    by: tuple[str, ...],
    totals: tuple[Totals, ...] = (),
    *,
    title: str = TITLE,
    limit: int = 0,
) -> Table:
    """One row a slice, one column a cause; rows and columns sum to the change exactly.

    ``totals`` are the answers of both periods, for what their costs leave out.
    """
    width = len(by)
    change = explain(named(before, width), named(after, width))
    sums: dict[Key, dict[Cause, int]] = {}
    for effect in change.effects:
        row = sums.setdefault(outer(effect.slice, width), dict.fromkeys(CAUSES, 0))
        row[effect.cause] += effect.amount_nusd
    ordered = sorted(sums, key=lambda key: (-abs(sum(sums[key].values())), key))
    shown = ordered if limit <= 0 else ordered[:limit]
    rows = [(*(value or "(none)" for value in key), *_line(sums[key])) for key in shown]
    rest = ordered[len(shown) :]
    if rest:
        others = {cause: sum(sums[key][cause] for key in rest) for cause in CAUSES}
        rows.append((f"(other: {len(rest)})", *([""] * (width - 1)), *_line(others)))
    label = ("total", *([""] * (width - 1))) if by else ()
    whole = (*label, *_line(change.by_cause))
    columns = (
        *(Column(name=name, title=name) for name in by),
        *(Column(name=cause, title=cause, kind="usd") for cause in CAUSES),
        Column(name="change", title="change", kind="usd"),
    )
    return Table(
        title=title,
        columns=columns,
        rows=tuple(rows) if by else (whole,),
        total=whole if by and rows else None,
        notes=(*sentences(change, sums, by), *cost_notes(totals)),
    )


def sentences(change: Change, sums: Mapping[Key, Mapping[Cause, int]], by: tuple[str, ...]) -> tuple[str, ...]:
    """What a reader wants to know first."""
    difference = change.after_nusd - change.before_nusd
    relative = share(difference, change.before_nusd)
    part = "" if relative is None else f" ({'+' if relative >= 0 else ''}{percent(relative)} %)"
    notes = [f"From {usd(change.before_nusd)} to {usd(change.after_nusd)}: {_signed(difference)}{part}."]
    if change.effects:
        cause = max(CAUSES, key=lambda one: (abs(change.by_cause[one]), one))
        notes.append(f"Largest cause: {cause} ({_MEANS[cause]}), {_signed(change.by_cause[cause])}.")
    if by and sums:
        key = max(sums, key=lambda one: (abs(sum(sums[one].values())), one))
        amount = sum(sums[key].values())
        notes.append(f"Largest slice: {', '.join(value or '(none)' for value in key)}, {_signed(amount)}.")
    return tuple(notes)


def _signed(amount: int) -> str:
    return f"{'+' if amount > 0 else ''}{usd(amount)}"


def _line(causes: Mapping[Cause, int]) -> Row:
    return (*(causes[cause] for cause in CAUSES), sum(causes.values()))
