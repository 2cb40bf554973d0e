"""What a reader must be told beside a cost: what it leaves out and what it rests on."""

from farthing.core.money import round_half_even
from farthing.core.types import Totals
from farthing.insight.render import usd


def cost(totals: Totals) -> int | None:
    """The known cost in nano-USD; None when no entry of the group has a known price."""
    return None if totals.unpriced and totals.unpriced == totals.entries else totals.amount


def per_request(totals: Totals) -> int | None:
    """Nano-USD of a request with a known price; None where there is none.

    Requests without a price are not divided by. Entries say how many those are: as many of them lack a price as of
    the requests, which is exact where requests have one entry each.
    """
    priced = totals.entries - totals.unpriced
    if totals.requests <= 0 or priced <= 0:
        return None
    return round_half_even(totals.amount * totals.entries, totals.requests * priced)


def known(amount: int, unpriced: int) -> int | None:
    """The same of a sum that knows its entries no more: None where it is nothing and some entries have no price."""
    return None if unpriced and not amount else amount


def cost_notes(rows: tuple[Totals, ...]) -> tuple[str, ...]:
    """Sentences on unpriced and estimated entries; nothing when every cost is exact."""
    unpriced = sum(row.unpriced for row in rows)
    estimated = sum(row.estimated for row in rows)
    notes = []
    if unpriced:
        notes.append(
            f"Not in any cost: {unpriced:,} {_entries(unpriced)} without a known price, "
            "nor do costs per request divide by them (see: farthing report --by model,state)."
        )
    if estimated:
        amount = usd(sum(row.estimated_amount for row in rows))
        notes.append(
            f"Estimated: {amount} of the cost rests on {estimated:,} {_entries(estimated)} whose quantities "
            "are not the provider's final report (see: farthing report --by source)."
        )
    return tuple(notes)


def _entries(count: int) -> str:
    return "entry" if count == 1 else "entries"
