"""A stampede on one budget: how many concurrent callers get in, and whether anybody was refused without need.

    python bench/storm.py --clients 1000

All callers ask at once for the same answer, against a budget that covers a hundred such calls; then one caller goes
on alone until it is refused. The last line is one JSON object.

A refusal is *phantom* when it was certainly needless: even if every call that began before the refusal ended had
been in flight at its full ceiling (or, when it had ended before the refused one began, at its real cost), this call
would have fitted: ``sum + ceiling <= limit``. The intervals are the callers' own, so the bound is sound whatever the
gateway says of itself. For the lone caller at the end nothing is in flight and the test is exact.
"""

import argparse
import asyncio
import json
import re
import resource
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import httpx

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers

COVERS = 100
TOKENS = 60
BODY = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "A stampede of ships enters the harbour. " * 4}],
    "max_tokens": TOKENS,
}
_NEED = re.compile(r"this call can need \$([0-9.]+)")


class Call(NamedTuple):
    """One call as its caller saw it."""

    began: float
    ended: float
    status: int
    request_id: str
    need: int
    """Nano-USD that the refusal says it needed; 0 when admitted."""


async def call(port: int, stream: bool) -> Call:
    """One call over a connection of its own; a plain socket, so that the client is not what is measured."""
    body = json.dumps({**BODY, "stream": stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: storm\r\nconnection: close\r\nx-sim-tokens: {TOKENS}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    answer = await reader.read(-1)
    ended = time.monotonic()
    writer.close()
    await writer.wait_closed()
    need = 0
    top, _, rest = answer.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in top.lower().split(b"\r\n")[1:])
    status = int(top.split()[1])
    if status == 429:
        found = _NEED.search(json.loads(rest)["error"]["message"])
        assert found, rest
        need = int(Decimal(found[1]) * 10**9)
    return Call(began, ended, status, fields[b"x-farthing-request-id"].decode(), need)


async def stampede(port: int, clients: int) -> tuple[list[Call], list[Call]]:
    crowd = await asyncio.gather(*(call(port, bool(number % 2)) for number in range(clients)))
    alone: list[Call] = []
    while not alone or alone[-1].status == 200:
        alone.append(await call(port, False))
    return list(crowd), alone


def phantoms(calls: list[Call], costs: dict[str, tuple[int, int]], limit: int) -> int:
    """Refusals that were certainly needless; ``costs`` has (real cost, ceiling) of every admitted request."""
    admitted = [one for one in calls if one.status == 200]
    count = 0
    for refused in calls:
        if refused.status != 429:
            continue
        most = sum(
            costs[one.request_id][0 if one.ended < refused.began else 1]
            for one in admitted
            if one.began <= refused.ended
        )
        count += most + refused.need <= limit
    return count


def price_of_one(sim: SimServer, home: Path) -> int:
    """Nano-USD of one such call."""
    with GatewayServer(home, simulated_providers(sim.url)) as gateway, httpx.Client() as client:
        client.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers={"x-sim-tokens": str(TOKENS)})
        amount = gateway.books.entries()[0].charge.total
        assert amount
        return amount


def run(clients: int, home: Path) -> dict[str, float]:
    with SimServer(SimSettings(speed=0.05)) as sim:
        limit = COVERS * price_of_one(sim, home / "one")
        sim.account.reset()
        budget = f'[[budgets]]\nname = "storm"\nper = "total"\nusd = "{Decimal(limit).scaleb(-9):f}"\n'
        with GatewayServer(home / "storm", budget + simulated_providers(sim.url)) as gateway:
            began = time.monotonic()
            crowd, alone = asyncio.run(stampede(gateway.port, clients))
            seconds = time.monotonic() - began
            gateway.quiet()
            held = len(gateway.open_reservations())
            entries = gateway.books.entries()
        costs = {one.request_id: (one.charge.total or 0, one.ceiling or 0) for one in entries}
        booked = sum(cost for cost, _ in costs.values())
        calls = crowd + alone
        return {
            "calls": len(calls),
            "admitted": sum(one.status == 200 for one in calls),
            "refused": sum(one.status == 429 for one in calls),
            "other": sum(one.status not in (200, 429) for one in calls),
            "booked_nusd": booked,
            "invoice_nusd": sim.account.invoice.total_nusd,
            "limit_nusd": limit,
            "overspend_nusd": max(0, booked - limit),
            "phantom_refusals": phantoms(calls, costs, limit),
            "open_reservations": held,
            "seconds": round(seconds, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8 * options.clients + 1024
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(options.clients, Path(folder))))


if __name__ == "__main__":
    main()
