"""Results of a batch into the books: each answer once, whoever reads them and how often."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from farthing.core.errors import Conflict
from farthing.core.money import Nusd
from farthing.core.types import Charge, LedgerEntry, UsagePart
from farthing.engine.batch_entries import Origin, entry_of, is_billed
from farthing.engine.batch_holds import booking_of
from farthing.engine.ceiling import unpriced_amount
from farthing.engine.record import tokens_of
from farthing.engine.services import Services
from farthing.ports.batches import Batch, Manifest, Share
from farthing.ports.books import Settlement
from farthing.wire.usage import reader
from farthing.wire.usage.batches import BatchLine, BatchReader

_LOG: Final = logging.getLogger("farthing.batches")
_AT_ONCE: Final = 200
"""Settlements that wait for the store together, so that it commits them as one group."""


async def book_results(
    services: Services, batch: Batch, manifest: Manifest, lines: Iterable[bytes], *, booked_ms: int
) -> set[str]:
    """Books every answer that was billed; their custom ids. Raises ``StoreUnavailable``: then it is done again.

    ``booked_ms`` is the provider's own time of the batch's end, so that whoever books an answer books the same.
    """
    read = reader(f"{batch.dialect}.batch")
    assert isinstance(read, BatchReader)
    done: set[str] = set()
    waiting: list[Settlement] = []
    for raw in lines:
        if not raw.strip():
            continue
        line = read.line(raw)
        share = manifest.shares.get(line.custom_id)
        if share is None:
            _LOG.error("a result of batch %s belongs to no request of it", batch.upstream_id)
            continue
        if line.custom_id in done or not (is_billed(line) or line.usage.source == "missing"):
            continue
        done.add(line.custom_id)
        waiting.append(_settlement(services, batch, manifest, line, share, booked_ms))
        if len(waiting) >= _AT_ONCE:
            await _book(services, waiting)
            waiting = []
    await _book(services, waiting)
    return done


def _settlement(
    services: Services, batch: Batch, manifest: Manifest, line: BatchLine, share: Share, booked_ms: int
) -> Settlement:
    group = manifest.groups[share.group]
    origin = Origin(
        batch=batch.upstream_id,
        dialect=batch.dialect,
        endpoint=manifest.endpoint,
        target=group.target,
        model_requested=group.model,
        scope=group.scope,
        at_ms=group.at_ms,
        booked_ms=booked_ms,
        policy_ref=manifest.policy_ref,
        ceiling=Nusd(share.usd),
    )
    entry = entry_of(line, origin, services.prices)
    if not is_billed(line):
        entry = _at_ceiling(entry, share)
    tokens = tokens_of(entry.usage)
    usd: int | None = entry.charge.total
    if usd is None and services.policy.unpriced.action != "allow":
        usd = unpriced_amount(services, input_tokens=tokens[0], output_tokens=tokens[1])
    return booking_of(entry, group, share, usd=usd or 0, tokens=tokens)


def _at_ceiling(entry: LedgerEntry, share: Share) -> LedgerEntry:
    """An answer that says nothing of its usage: the most that it can have cost."""
    lines = tuple(line for line in (("input", share.input_tokens), ("output", share.output_tokens)) if line[1])
    usage = msgspec.structs.replace(entry.usage, source="estimated", parts=(UsagePart(lines=lines),))
    charge = Charge(total=Nusd(share.usd), state="priced", reason="ceiling", price_ref=entry.charge.price_ref)
    return msgspec.structs.replace(
        entry, usage=usage, charge=charge, baseline=Nusd(share.usd), fidelity="unknown", error="no_usage"
    )


async def _book(services: Services, settlements: list[Settlement]) -> None:
    await asyncio.gather(*(_book_one(services, one) for one in settlements))


async def _book_one(services: Services, settlement: Settlement) -> None:
    try:
        await services.books.settle(settlement, now_ms=services.hold_ms())
    except Conflict as error:  # under other prices, or by hand from a file: the first booking stays
        _LOG.warning("an answer is booked already: %s", error)
        return
    for entry in settlement.entries:
        services.telemetry.spent(entry)
