"""What routes did with the logged traffic: who decided, what was asked and served, what cascades accepted."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

from farthing.core.types import Exchange

KINDS_MAX: Final = 2_000


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Calls of one kind."""

    reason: str
    asked: str
    served: str
    """What was chosen; a cascade may have asked another one after it."""
    requests: int
    nusd: int
    """Nano-USD booked for them, lever costs included."""
    unpriced: int
    latency_ms: int
    """Summed."""
    escalated: int
    """Cascades that asked the strong model after all."""


class _Sums(msgspec.Struct):
    requests: int = 0
    nusd: int = 0
    unpriced: int = 0
    latency_ms: int = 0
    escalated: int = 0


def used(exchanges: Iterable[Exchange]) -> tuple[Use, ...]:
    """Routed calls by who decided and where they went, the most calls first."""
    sums: defaultdict[tuple[str, str, str], _Sums] = defaultdict(_Sums)
    for exchange in exchanges:
        chosen = next((one for one in exchange.decisions if one.stage == "route" and one.action == "choose"), None)
        if chosen is None:
            continue
        said = dict(chosen.evidence)
        key = (chosen.reason, said.get("asked", ""), said.get("model", ""))
        if key not in sums and len(sums) >= KINDS_MAX:
            key = ("other", "(others)", "(others)")
        one = sums[key]
        one.requests += 1
        one.nusd += exchange.amount or 0
        one.unpriced += exchange.amount is None
        one.latency_ms += exchange.latency_ms
        one.escalated += any(each.stage == "cascade" and each.action == "escalate" for each in exchange.decisions)
    found = [
        Use(reason=key[0], asked=key[1], served=key[2], **msgspec.structs.asdict(one)) for key, one in sums.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.requests, one.reason, one.asked, one.served)))
