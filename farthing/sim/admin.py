"""``/sim/*``: the referee's own window. No key is asked for: the simulator listens on loopback only."""

from urllib.parse import parse_qs

import msgspec

from farthing.sim.account import Account
from farthing.sim.errors import invalid
from farthing.sim.faults import FaultOrder
from farthing.sim.http import JSON, Wire

_encode = msgspec.json.Encoder().encode


def _number(wire: Wire, name: str, default: int) -> int:
    text = parse_qs(wire.scope["query_string"].decode()).get(name, [str(default)])[0]
    if not text.lstrip("-").isdigit():
        raise invalid(f"{name} is a whole number of milliseconds, not {text!r}", param=name)
    return int(text)


async def invoice(account: Account, wire: Wire) -> None:
    """``GET /sim/invoice?since=MS&until=MS``: one JSON line per billed call, then one with the totals."""
    until = _number(wire, "until", -1)
    lines = list(account.invoice.between(_number(wire, "since", 0), until if until >= 0 else None))
    total = {"total": {"lines": len(lines), "amount_nusd": sum(line.amount_nusd for line in lines)}}
    payload = b"".join(_encode(line) + b"\n" for line in lines) + _encode(total) + b"\n"
    await wire.reply(200, payload, [(b"content-type", b"application/jsonl")])


async def state(account: Account, wire: Wire) -> None:
    """``GET /sim/state``: clock, counters, cache sizes and the standing faults."""
    payload = {
        "now_ms": account.settings.now_ms(),
        "requests": account.requests,
        "refused": account.refused,
        "billed": len(account.invoice.lines),
        "amount_nusd": account.invoice.total_nusd,
        "prompt_cache": {"openai": len(account.openai_cache), "anthropic": len(account.anthropic_cache)},
        "faults": account.faults.order,
        "speed": account.settings.speed,
        "seed": account.settings.seed,
        "prices_checked_on": account.catalog.checked_on,
        "models": [card.id for card in account.catalog.cards],
    }
    await wire.reply(200, _encode(payload), [JSON])


async def reset(account: Account, wire: Wire) -> None:
    """``POST /sim/reset``: an empty invoice, cold caches, no faults."""
    account.reset()
    await wire.reply(200, b'{"reset":true}', [JSON])


async def faults(account: Account, wire: Wire) -> None:
    """``POST /sim/faults``: replace the standing faults; an empty object removes them."""
    raw = await wire.body()
    try:
        order = msgspec.json.decode(raw or b"{}", type=FaultOrder)
    except msgspec.DecodeError as error:
        raise invalid(f"fault order: {error}") from error
    account.faults.install(order)
    await wire.reply(200, _encode(order), [JSON])
