"""Getting an answer to the client, or failing to as told: time, faults, and the bill that goes with each ending."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from farthing.sim.account import Account
from farthing.sim.admission import Ticket
from farthing.sim.billing import Call
from farthing.sim.http import EVENT_STREAM, JSON, Headers, Wire

MALFORMED_EVENT = 2
"""Index of the stream event that a ``malformed`` fault spoils."""


class Event(NamedTuple):
    """One stream event and the raw tokens generated up to its end."""

    data: bytes
    raw: int


async def _pause(milliseconds: float) -> None:
    if milliseconds > 0:
        await asyncio.sleep(milliseconds / 1000)


async def _lost(account: Account, wire: Wire, ticket: Ticket, call: Call) -> bool:
    """Faults that answer nothing: True when the exchange is over. The work was done, so it is billed in full."""
    if ticket.fault_is("reset"):
        await _pause(ticket.fault.value if ticket.fault else 0)
        call.bill(delivered=False)
        await wire.reset()
        return True
    if ticket.fault_is("hang"):
        call.bill(delivered=False)
        await wire.left(account.settings.hang_limit_ms / 1000)
        if not wire.gone:
            await wire.close()
        return True
    return False


async def deliver(account: Account, wire: Wire, ticket: Ticket, call: Call, payload: bytes, headers: Headers) -> None:
    """A whole JSON answer."""
    if await _lost(account, wire, ticket, call):
        return
    fault, card, speed = ticket.fault, ticket.card, account.settings.speed
    headers = [JSON, *headers]
    try:
        if speed:
            await _pause(speed * (card.ttft_ms + card.token_ms * call.raw))
        if fault is None:
            call.bill(delivered=not wire.gone)
            await wire.reply(200, payload, headers)
            return
        if fault.kind == "slow":
            await _pause(fault.value)
        if fault.kind == "malformed":
            payload = payload[: len(payload) // 2]
        if fault.kind in ("slow-first-byte", "cut"):
            await wire.start(200, [*headers, (b"content-length", str(len(payload)).encode())])
        if fault.kind == "cut":
            call.bill(delivered=False)
            await wire.write(payload[: min(fault.value, len(payload) - 1)])
            await wire.close()
            return
        if fault.kind == "slow-first-byte":
            await _pause(fault.value)
            call.bill(delivered=not wire.gone)
            await wire.finish(payload)
            return
        call.bill(delivered=not wire.gone)
        await wire.reply(200, payload, headers)
    finally:
        call.bill(delivered=False)


async def deliver_stream(
    account: Account,
    wire: Wire,
    ticket: Ticket,
    call: Call,
    events: Iterator[Event],
    headers: Headers,
    *,
    content_type: tuple[bytes, bytes] = EVENT_STREAM,
) -> None:
    """Server-sent events, or frames of another kind.

    Generation stops within one event of the client's leaving; that much is billed.
    """
    if await _lost(account, wire, ticket, call):
        return
    fault, speed = ticket.fault, account.settings.speed
    # A call that the caller abandons before its first event is billed in full: the provider was already at work.
    generated = call.raw
    try:
        await _pause(fault.value if fault and fault.kind == "slow" else speed * ticket.card.ttft_ms)
        await wire.start(200, [content_type, *headers])
        if fault and fault.kind == "slow-first-byte":
            await _pause(fault.value)
        if not wire.gone:
            generated = 0
            generated = await _send_events(account, wire, ticket, call, events)
    finally:
        call.bill(generated, delivered=False)


async def _send_events(account: Account, wire: Wire, ticket: Ticket, call: Call, events: Iterator[Event]) -> int:
    """Send every event; the tokens generated when it stopped."""
    fault, per_token = ticket.fault, account.settings.speed * ticket.card.token_ms
    cut_at = fault.value if fault and fault.kind == "cut" else -1
    generated, index = 0, 0
    following = next(events, None)
    while following is not None:
        event, following = following, next(events, None)
        if wire.gone:
            return generated
        if index == cut_at:
            call.bill(generated, delivered=False)
            await wire.close()
            return generated
        data = event.data
        if index == MALFORMED_EVENT and ticket.fault_is("malformed"):
            data = data[: len(data) // 2].rstrip(b"\n") + b"\n\n"
        await asyncio.sleep(per_token * (event.raw - generated) / 1000)
        if following is None:
            call.bill(delivered=not wire.gone)
            await wire.finish(data)
        else:
            await wire.write(data)
        generated = event.raw
        index += 1
    return generated
