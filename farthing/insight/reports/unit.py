"""Unit economics: cost per outcome, user, customer or session, with intervals; margin where values are known."""

from collections.abc import Mapping
from typing import Final

from farthing.core.types import Totals
from farthing.core.unit_cost import Ratio
from farthing.insight.honesty import cost_notes, known
from farthing.insight.render import usd
from farthing.insight.table import Column, Row, Table, share
from farthing.insight.unit_economics import Key, Unit

TITLE: Final = "Unit economics"

_OUTCOMES: Final = (
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="outcomes", title="successful", kind="int"),
    Column(name="reported", title="reported", kind="int"),
    Column(name="each", title="cost per outcome", kind="usd", unknown="no outcome"),
    Column(name="low", title="95 %: from", kind="usd", unknown="too few sessions"),
    Column(name="high", title="to", kind="usd", unknown="too few sessions"),
    Column(name="value", title="value", kind="usd", unknown="not said"),
    Column(name="margin", title="margin", kind="usd", unknown="not known"),
    Column(name="margin_share", title="margin %", kind="percent", unknown="not known"),
    Column(name="linked", title="cost with an outcome", kind="percent"),
)


def build(
    units: Mapping[Key, Unit],
    by: Key,
    *,
    unpriced: Mapping[Key, int],
    title: str = TITLE,
    lost: int = 0,
    limit: int = 0,
) -> Table:
    """Most cost first. ``unpriced``: entries without a price, by slice."""
    ordered = sorted(units, key=lambda key: (-units[key].ratio.cost, key))
    shown = ordered if limit <= 0 else ordered[:limit]
    loose = sum(unit.loose_cost for unit in units.values())
    notes = [
        "Cost is all cost of the slice, whether something came of it or not; the interval is of the ratio over "
        "sessions (linearised, Student)."
    ]
    if loose:
        notes.append(f"{usd(loose)} belongs to calls that name no session: in the cost, not in the interval.")
    if lost:
        notes.append(
            f"{lost:,} outcomes are of sessions or requests without known cost in this period: counted nowhere."
        )
    if len(shown) < len(ordered):
        notes.append(f"{len(ordered) - len(shown):,} more slices are not listed.")
    return Table(
        title=title,
        columns=(*(Column(name=name, title=name) for name in by), *_OUTCOMES),
        rows=tuple(
            (*(value or "(none)" for value in key), *_line(units[key], unpriced.get(key, 0))) for key in shown
        ),
        notes=(*notes, *_unpriced(unpriced)),
    )


def per_head(
    found: Mapping[Key, Ratio],
    by: Key,
    per: str,
    *,
    unpriced: Mapping[Key, int],
    title: str = TITLE,
    limit: int = 0,
) -> Table:
    """Cost per user, customer or session. ``unpriced``: entries without a price, by slice."""
    ordered = sorted(found, key=lambda key: (-found[key].cost, key))
    shown = ordered if limit <= 0 else ordered[:limit]
    columns = (
        *(Column(name=name, title=name) for name in by),
        Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
        Column(name="count", title=f"{per}s", kind="int"),
        Column(name="each", title=f"cost per {per}", kind="usd", unknown=f"no {per} known"),
        Column(name="low", title="95 %: from", kind="usd", unknown="too few"),
        Column(name="high", title="to", kind="usd", unknown="too few"),
    )
    rows = tuple(
        (
            *(value or "(none)" for value in key),
            known(one.cost, unpriced.get(key, 0)),
            one.outcomes,
            one.each,
            one.low,
            one.high,
        )
        for key, one in ((key, found[key]) for key in shown)
    )
    notes = (f"Cost that names no {per} is spread over those that are named.", *_unpriced(unpriced))
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def _unpriced(entries: Mapping[Key, int]) -> tuple[str, ...]:
    return cost_notes((Totals(unpriced=sum(entries.values())),))


def _line(unit: Unit, unpriced: int) -> Row:
    one = unit.ratio
    return (
        known(one.cost, unpriced),
        one.outcomes,
        unit.reported,
        one.each,
        one.low,
        one.high,
        unit.value,
        unit.margin,
        None if unit.margin is None or unit.value is None else share(unit.margin, unit.value),
        share(unit.linked_cost, one.cost),
    )
