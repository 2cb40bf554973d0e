"""Which models of a pool are worth having: none that another one beats at both quality and cost."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from farthing.core.policy_routes import Route


class Member(NamedTuple):
    """A model of a pool and what is known of it."""

    model: str
    cost: int | None
    """Nano-USD of a typical call; None when unpriced."""
    quality: float | None = None
    """Mean quality on the route's labels, 0 to 1; None when not measured."""
    rank: int = 0
    """The policy's own order of strength, weakest 0; decides where quality is not measured."""
    provider: str = ""
    latency_ms: int | None = None


class Pruned(NamedTuple):
    """A model that was left out, and why."""

    model: str
    reason: str


def prune(
    members: Sequence[Member],
    *,
    quality_min: float | None = None,
    latency_ms_max: int | None = None,
    cost_max: int | None = None,
    providers: Sequence[str] = (),
) -> tuple[tuple[Member, ...], tuple[Pruned, ...]]:
    """(models worth keeping, cheapest first; models left out with the reason).

    A model is dominated when another one costs no more and is at least as good, and better in one of the two. Quality
    is compared only between models that were both measured; otherwise nothing is known and both stay. A model without
    a price is never kept: its saving cannot be judged. A bound on latency leaves out only models that were measured.
    """
    kept: list[Member] = []
    out: list[Pruned] = []
    for member in members:
        why = _outside(member, quality_min, latency_ms_max, cost_max, providers)
        if why:
            out.append(Pruned(member.model, why))
        else:
            kept.append(member)
    best: list[Member] = []
    for place, member in enumerate(kept):
        other = next(
            (one for spot, one in enumerate(kept) if spot != place and _beats(one, member, spot < place)), None
        )
        if other is None:
            best.append(member)
        else:
            out.append(Pruned(member.model, f"dominated by {other.model}: {_comparison(member, other)}"))
    best.sort(key=lambda member: (member.cost or 0, member.rank))
    return tuple(best), tuple(out)


def _outside(
    member: Member,
    quality_min: float | None,
    latency_ms_max: int | None,
    cost_max: int | None,
    providers: Sequence[str],
) -> str:
    if providers and member.provider not in providers:
        return f"provider '{member.provider}' is not allowed"
    if member.cost is None:
        return "its price is unknown"
    if cost_max is not None and member.cost > cost_max:
        return "a typical call costs more than the route allows"
    if quality_min is not None and member.quality is not None and member.quality < quality_min:
        return f"quality {member.quality:.3f} is below the floor of {quality_min:.3f}"
    if latency_ms_max is not None and member.latency_ms is not None and member.latency_ms > latency_ms_max:
        return f"takes {member.latency_ms} ms, the route allows {latency_ms_max} ms"
    return ""


def _beats(one: Member, other: Member, first: bool) -> bool:
    """``one`` dominates ``other``; of two equals the first in the pool stays."""
    if one.cost is None or other.cost is None or one.quality is None or other.quality is None:
        return False
    if one.cost > other.cost or one.quality < other.quality:
        return False
    return one.cost < other.cost or one.quality > other.quality or first


def _comparison(member: Member, other: Member) -> str:
    dearer = "costs as much" if member.cost == other.cost else f"costs {(member.cost or 1) / (other.cost or 1):.2f}×"
    return f"{dearer}, quality {member.quality:.3f} against {other.quality:.3f}"


def pruned_route(route: Route, left: Sequence[Pruned]) -> Route:
    """The route without the models left out: each tier goes to the next model above it that stays.

    A tier with none above goes to the highest one that stays; where nothing stays the route is as written, because
    an answer at the asked-for price is better than none.
    """
    gone = {one.model for one in left}
    kept = [place for place, (_, model) in enumerate(route.tiers) if model not in gone]
    if not gone or not kept:
        return route
    tiers = []
    for place, (tier, _) in enumerate(route.tiers):
        stands_in = next((spot for spot in kept if spot >= place), kept[-1])
        tiers.append((tier, route.tiers[stands_in][1]))
    return msgspec.structs.replace(route, tiers=tuple(tiers))
