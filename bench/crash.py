"""A gateway that is killed again and again under load, and what its books say afterwards.

    python bench/crash.py --rounds 50 --seed 1

Every round starts a gateway process on the same home, lets concurrent callers loose on it (streams and whole
answers, both dialects) and kills it with SIGKILL at a random moment. Every other round all callers share a budget
that covers only part of the load. In the end a new worker starts, and the books are compared with what the callers
saw and with the provider's own invoice. The last line is one JSON object:

* ``answers``: answers that a caller received whole (all bytes of a body, or the stream's own end);
* ``lost``: such answers that are not in the ledger as reported usage; ``doubled``: attempts or upstream calls booked
  more than once;
* ``open_after``: reservations that are still held after the last restart;
* ``overspend_nusd``: what the provider billed, or the ledger booked, beyond a round's limit;
* ``unbooked_nusd``: what the provider billed in a round beyond what was booked for it.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from farthing import bootstrap
from farthing.core.types import LedgerEntry
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayProcess, simulated_providers

CALLERS = 16
LIMIT_NUSD = 4_000_000
ASK = [{"role": "user", "content": "Which ships were in the harbour?"}]
BUDGET = f"""
[[budgets]]
name = "round"
per = "total"
usd = "{Decimal(LIMIT_NUSD).scaleb(-9):f}"
each = ["session"]
match = {{ team = "tight" }}
"""


class Round(NamedTuple):
    """One life of the gateway."""

    began_ms: int
    tight: bool


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Load:
    """Callers that go on until the gateway is dead."""

    def __init__(self, port: int, session: str, tight: bool, seed: int) -> None:
        self.answers: list[str] = []
        self._port = port
        self._session = session
        self._tight = tight
        self._random = random.Random(seed)

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    async def _caller(self) -> None:
        while True:
            try:
                await self._call()
            except (OSError, asyncio.IncompleteReadError):
                return

    def _request(self) -> tuple[bytes, bytes]:
        stream = self._random.random() < 0.5
        anthropic = self._random.random() < 0.3
        body = {"messages": ASK, "max_tokens": self._random.randint(5, 80), "stream": stream}
        path, end = "/v1/chat/completions", b"data: [DONE]\n\n"
        if anthropic:
            path, end = "/v1/messages", b"event: message_stop\n"
        body["model"] = "claude-haiku-4-5" if anthropic else self._random.choice(("gpt-4o-mini", "gpt-4.1-nano"))
        payload = json.dumps(body).encode()
        team = "x-farthing-team: tight\r\n" if self._tight else ""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: crash\r\nconnection: close\r\nanthropic-version: 2023-06-01\r\n"
            f"{team}x-farthing-session: {self._session}\r\ncontent-length: {len(payload)}\r\n\r\n"
        )
        return head.encode() + payload, end if stream else b""

    async def _call(self) -> None:
        data, end = self._request()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
            if head.split()[1] == b"429":
                await asyncio.sleep(0.01)
                return
            if end:
                await reader.readuntil(end)
            else:
                await reader.readexactly(int(fields[b"content-length"]))
            if head.split()[1] == b"200":
                self.answers.append(fields[b"x-farthing-request-id"].decode())
        finally:
            writer.close()


async def _loaded(gateway: GatewayProcess, load: Load, seconds: float) -> None:
    running = asyncio.ensure_future(load.run())
    await asyncio.sleep(seconds)
    await asyncio.to_thread(gateway.kill)
    await running


async def _held(gateway: GatewayProcess) -> int:
    """Open reservations as a new worker finds them."""
    async with bootstrap.build(gateway.settings, env={**os.environ, "SIM_KEY": "x"}).running() as installation:
        return len(installation.books.open_reservations())


def lost_and_doubled(answers: list[str], entries: list[LedgerEntry]) -> tuple[int, int]:
    """(answers that are not booked as reported, attempts and upstream calls booked more than once)."""
    reported = Counter(entry.request_id for entry in entries if entry.usage.source == "reported")
    attempts = Counter((entry.request_id, entry.attempt) for entry in entries)
    upstream = Counter(entry.usage.upstream_id for entry in entries if entry.usage.upstream_id)
    lost = sum(not reported[request_id] for request_id in answers)
    doubled = sum(count - 1 for counts in (reported, attempts, upstream) for count in counts.values())
    return lost, doubled


def overspent(rounds: list[Round], sim: SimServer, entries: list[LedgerEntry]) -> tuple[int, int]:
    """(nano-USD beyond the limits of tight rounds, nano-USD billed in some round but not booked)."""
    beyond = unbooked = 0
    ends = [one.began_ms for one in rounds[1:]] + [_now_ms() + 1]
    for number, (one, until) in enumerate(zip(rounds, ends, strict=True)):
        billed = sum(line.amount_nusd for line in sim.account.invoice.between(one.began_ms, until))
        booked = sum(entry.charge.total or 0 for entry in entries if entry.scope.session == f"round-{number}")
        unbooked += max(0, billed - booked)
        if one.tight:
            beyond += max(0, billed - LIMIT_NUSD, booked - LIMIT_NUSD)
    return beyond, unbooked


def run(rounds: int, seed: int, home: Path) -> dict[str, int]:
    chance = random.Random(seed)
    lives: list[Round] = []
    answers: list[str] = []
    with SimServer(SimSettings(speed=0.02)) as sim:
        gateway = GatewayProcess(home, BUDGET + simulated_providers(sim.url))
        for number in range(rounds):
            tight = bool(number % 2)
            gateway.start()
            lives.append(Round(_now_ms(), tight))
            load = Load(gateway.port, f"round-{number}", tight, chance.randrange(2**32))
            asyncio.run(_loaded(gateway, load, chance.uniform(0.05, 1.2)))
            answers += load.answers
            time.sleep(0.1)  # the provider writes its bill for the connections that broke
        open_after = asyncio.run(_held(gateway))
        entries = gateway.books.entries()
        lost, doubled = lost_and_doubled(answers, entries)
        beyond, unbooked = overspent(lives, sim, entries)
        return {
            "rounds": rounds,
            "answers": len(answers),
            "entries": len(entries),
            "in_flight_at_kill": sum(entry.error == "worker_lost" for entry in entries),
            "lost": lost,
            "doubled": doubled,
            "open_after": open_after,
            "overspend_nusd": beyond,
            "unbooked_nusd": unbooked,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(options.rounds, options.seed, Path(folder))))


if __name__ == "__main__":
    main()
