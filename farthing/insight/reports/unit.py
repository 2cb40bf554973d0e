"""Unit economics: cost per outcome, user, customer or session, with intervals; margin where values are known."""

from collections.abc import Mapping
from typing import Final

from farthing.core.unit_cost import Ratio
from farthing.insight.render import usd
from farthing.insight.table import Column, Row, Table, share
from farthing.insight.unit_economics import Key, Unit

TITLE: Final = "Unit economics"

_OUTCOMES: Final = (
    Column(name="cost", title="cost", kind="usd"),
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


def build(units: Mapping[Key, Unit], by: Key, *, title: str = TITLE, lost: int = 0, limit: int = 0) -> Table:
    """Most cost first."""
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
        notes.append(f"{lost:,} outcomes are of sessions or requests without cost in this period: counted nowhere.")
    if len(shown) < len(ordered):
        notes.append(f"{len(ordered) - len(shown):,} more slices are not listed.")
    return Table(
        title=title,
        columns=(*(Column(name=name, title=name) for name in by), *_OUTCOMES),
        rows=tuple((*(value or "(none)" for value in key), *_line(units[key])) for key in shown),
        notes=tuple(notes),
    )


def per_head(found: Mapping[Key, Ratio], by: Key, per: str, *, title: str = TITLE, limit: int = 0) -> Table:
    """Cost per user, customer or session."""
    ordered = sorted(found, key=lambda key: (-found[key].cost, key))
    shown = ordered if limit <= 0 else ordered[:limit]
    columns = (
        *(Column(name=name, title=name) for name in by),
        Column(name="cost", title="cost", kind="usd"),
        Column(name="count", title=f"{per}s", kind="int"),
        Column(name="each", title=f"cost per {per}", kind="usd", unknown=f"no {per} named"),
        Column(name="low", title="95 %: from", kind="usd", unknown="too few"),
        Column(name="high", title="to", kind="usd", unknown="too few"),
    )
    rows = tuple(
        (*(value or "(none)" for value in key), one.cost, one.outcomes, one.each, one.low, one.high)
        for key, one in ((key, found[key]) for key in shown)
    )
    notes = (f"Cost that names no {per} is spread over those that are named.",)
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def _line(unit: Unit) -> Row:
    one = unit.ratio
    return (
        one.cost,
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
