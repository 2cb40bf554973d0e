"""Tables of the capacity planner."""

from fractions import Fraction
from typing import Final

from farthing.insight.table import Column, Row, Table, share
from farthing.lab.capacity import Outcome
from farthing.lab.formula import plain

NUSD: Final = 10**9
_BESIDE: Final = (
    ("a month of 730 hours", "self_usd_per_month", "api_usd_per_month"),
    ("a million tokens, in and out", "self_usd_per_mtok", "api_usd_per_mtok"),
    ("one request", "self_usd_per_request", "api_usd_per_request"),
)


def nusd(value: Fraction) -> int:
    """USD as nano-USD."""
    return round(value * NUSD)


def beside(found: Outcome, *, title: str) -> Table:
    """Own GPUs and API side by side."""
    rows: list[Row] = []
    for label, own, api in _BESIDE:
        a, b = nusd(found[own]), nusd(found[api])
        rows.append((label, a, b, a - b, share(a, b)))
    return Table(
        title=title,
        columns=(
            Column(name="what", title="what"),
            Column(name="own", title="own GPUs", kind="usd"),
            Column(name="api", title="API", kind="usd"),
            Column(name="difference", title="own - API", kind="usd"),
            Column(name="share", title="own of API", kind="percent"),
        ),
        rows=tuple(rows),
        notes=(verdict(found), *found.notes),
    )


def figures(found: Outcome, *, shown: bool = True) -> Table:
    """Every figure; ``shown``: with its formula and the numbers in it."""
    return Table(
        title="Every figure",
        columns=(
            Column(name="figure", title="figure"),
            Column(name="value", title="value"),
            Column(name="unit", title="unit"),
            Column(name="meaning", title="what it is"),
        ),
        rows=tuple((one.name, short(one.value), one.unit, one.meaning) for one in found.lines),
        notes=tuple(one.shown for one in found.lines) if shown else (),
    )


def verdict(found: Outcome) -> str:
    """Which of both is cheaper at this demand, and where it turns."""
    own, api = found["self_usd_per_month"], found["api_usd_per_month"]
    times = short(max(own, api) / min(own, api), 3) if min(own, api) else "many"
    first = "Own GPUs are cheaper" if found.cheaper else "The API is cheaper"
    turn = short(found["breakeven_tokens_per_day"])
    busy = found["breakeven_utilisation"]
    if busy > 1:
        return (
            f"{first}, {times} times; {short(busy, 3)} times what these GPUs can serve would be needed to break even."
        )
    return (
        f"{first}, {times} times, at this demand; these GPUs break even at {turn} tokens a day, "
        f"{short(busy * 100, 3)} % of what they can serve."
    )


def short(value: Fraction, digits: int = 4) -> str:
    """A figure for people: few digits, thousands apart."""
    if abs(value) >= 10_000:
        rounded = Fraction(f"{float(value):.{digits}g}")
        return f"{int(rounded):,}"
    return plain(value, digits)
