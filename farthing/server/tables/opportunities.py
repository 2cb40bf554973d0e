"""Opportunities, as pages and ``farthing optimize`` show them."""

from farthing.insight.moments import shown
from farthing.insight.render import usd
from farthing.insight.table import Column, Table
from farthing.lab.optimize import Examined


def opportunities(found: Examined, since: int, top: int) -> Table:
    """Opportunities, dearest first, as amounts of 30 days like those that were looked at."""
    rows = tuple(
        (
            one.name,
            found.per_month(one.nusd),
            one.sure,
            one.requests,
            one.risk,
            one.effort,
            one.evidence,
            f"farthing optimize --apply {_quoted(one.name)}" if one.change else one.try_,
        )
        for one in found.opportunities[:top]
    )
    notes = [
        f"The bill: {usd(found.per_month(found.nusd))} a month, at the rate of the last {found.days:.1f} days.",
        "Amounts overlap and must not be added: two levers that save the same dollar save it once.",
        "Not looked for: retrieval of too much context, which needs answers to be judged (farthing eval).",
    ]
    if found.unpriced:
        notes.append(f"{found.unpriced} requests have no known cost; they are in no amount.")
    if len(found.opportunities) > top:
        notes.append(f"{len(found.opportunities) - top} smaller ones are left out; see --top.")
    if not rows:
        notes.append("Nothing was found that would cost less.")
    return Table(
        title=f"Opportunities since {shown(since)} UTC: {found.requests} requests",
        columns=(
            Column(name="opportunity", title="opportunity"),
            Column(name="usd_per_month", title="per month", kind="usd"),
            Column(name="fidelity", title="how sure"),
            Column(name="requests", title="requests", kind="int"),
            Column(name="risk", title="risk"),
            Column(name="effort", title="effort"),
            Column(name="evidence", title="evidence"),
            Column(name="try", title="try"),
        ),
        rows=rows,
        notes=tuple(notes),
    )


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
