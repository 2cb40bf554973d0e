"""The ledger entry of one answer of a batch: the same whenever, and by whomever, its result is read."""

from hashlib import blake2b

import msgspec

from farthing.core.money import Nusd
from farthing.core.types import Decision, Dialect, Endpoint, LedgerEntry, Scope, Target
from farthing.ports.prices import Prices
from farthing.wire.usage.batches import BATCH_TIER, BatchLine


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer comes from and whose it is."""

    batch: str
    """The batch's id at the provider."""
    dialect: Dialect
    endpoint: Endpoint
    target: Target
    """Whom it was asked of."""
    model_requested: str = ""
    scope: Scope
    at_ms: int
    """Decides the prices and the window."""
    booked_ms: int
    policy_ref: str = ""
    ceiling: Nusd | None = None


def entry_id(provider: str, batch: str, custom_id: str) -> str:
    """The name of an answer's entry: the same whenever and in whatever file it comes."""
    named = "\x00".join((provider, batch, custom_id)).encode("utf-8", "replace")
    return f"batch-{blake2b(named, digest_size=12).hexdigest()}"


def entry_of(line: BatchLine, origin: Origin, prices: Prices) -> LedgerEntry:
    """The answer at batch prices; its baseline is the same usage at ordinary ones."""
    target = origin.target
    model = line.usage.model or target.model
    usage = msgspec.structs.replace(line.usage, service_tier=BATCH_TIER)
    ordinary = msgspec.structs.replace(usage, service_tier="", stated_pusd=None)
    evidence = (("batch", origin.batch[:64]), ("custom_id", line.custom_id[:64]))
    name = entry_id(target.provider, origin.batch, line.custom_id)
    return LedgerEntry(
        id=name,
        request_id=name,
        attempt=1,
        received_at_ms=origin.at_ms,
        booked_at_ms=origin.booked_ms,
        scope=origin.scope,
        dialect=origin.dialect,
        endpoint=origin.endpoint,
        provider=target.provider,
        price_as=target.price_as,
        model_requested=origin.model_requested or model,
        model=model,
        usage=usage,
        charge=prices.charge(usage, target, at_ms=origin.at_ms),
        baseline=prices.charge(ordinary, target, at_ms=origin.at_ms).total,
        fidelity="exact" if usage.source == "reported" else "estimated",
        ceiling=origin.ceiling,
        policy_ref=origin.policy_ref,
        decisions=(Decision(stage="batch", action="book", reason="batch_price", evidence=evidence),),
    )


def is_billed(line: BatchLine) -> bool:
    """Something was consumed."""
    return any(part.lines for part in line.usage.parts)
