"""A stampede over three nested budgets: nobody overspends, nobody is refused without need.

    python bench/race.py --clients 4000 --workers 4 --store sqlite

4,000 callers (1,000 a worker process) are connected at once and ask again and again, streams and whole answers, on
both sides of a price step, and some hang up in the middle. Each call counts on the organisation, on
its team and on its user, and all three run out. When the crowd is through, single callers go on alone until they are
refused. Before the last line there is one row a store; the last line is one JSON object:

* ``overspend_nusd``: the most that any counter has beyond its limit, by the ledger and by the provider's own invoice;
* ``phantom_refusals``: refusals that were certainly needless, see below;
* ``open_holds``: reservations left when all is done;
* ``invoice_minus_booked_nusd``: what the provider billed beyond what the ledger has (0: to the nano-dollar).

A refusal is needless when posted + open holds + its own ceiling was within the limit of the counter that it names, at
every moment between its question and its answer. The referee does not believe the gateway: from the callers' own
clocks it takes for each admitted call the most that it can have counted in that time: nothing when it began after the
refusal came; its real cost when its caller had the whole answer before the refused one asked (an answer's end waits
for the books); its full ceiling otherwise, and for callers that hung up until the crowd is through. When even that
sum and the ceiling asked for fit, the refusal is a phantom. The bound is sound, so one phantom is a defect; with
nothing in flight, as in the second part, it is exact.
"""

import argparse
import asyncio
import json
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from cluster import MODEL, Cluster, allow_files, body_of, fields_of, request_of, stepped
from stores import Store, store_names, store_of

from farthing.core.types import LedgerEntry
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import simulated_providers

TEAMS, USERS = 4, 24
ROUNDS = 3
MEAN_NUSD = 110_000
"""About what a call costs."""
SHORT, LONG = "Which ships were in the harbour? " * 12, "Which ships were in the harbour? " * 60
_REFUSED = re.compile(r"[Bb]udget '(\w+)'.*?this call can need \$([0-9.]+)", re.DOTALL)


@dataclass(slots=True)
class Call:
    """One call as its caller saw it; times are the callers' common clock."""

    id: str
    team: str
    user: str
    began: float
    ended: float = float("inf")
    """When its caller had all of the answer; infinite when it hung up or the connection broke."""
    status: int = 0
    budget: str = ""
    """The budget that refused it."""
    need: int = 0
    """Nano-USD that the refusal says it needed."""

    def counter(self, budget: str) -> str:
        """The counter of a budget that this call counts on."""
        return {"org": "org", "team": self.team, "user": self.user}[budget]


@dataclass(slots=True)
class Crowd:
    """The callers and all that they saw."""

    port: int
    seed: int
    calls: list[Call] = field(default_factory=list)

    async def run(self, clients: int) -> None:
        """All at once, each on a connection of its own."""
        await asyncio.gather(*(self._client(number) for number in range(clients)))

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self.seed}/{number}")
        for turn in range(ROUNDS):
            user = min(int(chance.paretovariate(0.7)), USERS)
            await self.call(chance, f"c{number}-{turn}", f"team-{user % TEAMS}", f"user-{user}", hang_up=0.1)

    async def call(self, chance: random.Random, id: str, team: str, user: str, *, hang_up: float) -> Call:
        """One call; it hangs up at some moment with that probability."""
        stream = chance.random() < 0.5
        body: dict[str, object] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": chance.choice((SHORT, SHORT, LONG))}],
            "max_tokens": chance.randint(20, 90),
            "stream": stream,
        }
        headers = {
            "connection": "close",
            "x-farthing-org": "acme",
            "x-farthing-team": team,
            "x-farthing-user": user,
            "x-farthing-session": id,
            "x-sim-request": id,
        }
        call = Call(id, team, user, time.monotonic())
        self.calls.append(call)
        patience = chance.expovariate(4) if chance.random() < hang_up else None
        try:
            async with asyncio.timeout(patience):
                await self._ask(call, request_of(body, headers))
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        return call

    async def _ask(self, call: Call, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            answer = await body_of(reader, fields_of(head))
            call.ended = time.monotonic()
            call.status = int(head.split()[1])
            if call.status == 429:
                found = _REFUSED.search(json.loads(answer)["error"]["message"])
                assert found, answer
                call.budget, call.need = found[1], int(Decimal(found[2]) * 10**9)
        finally:
            writer.close()


def toml(store_toml: str, url: str, limits: dict[str, int]) -> str:
    """The gateway's settings: three budgets, one within the other."""
    usd = {name: f"{Decimal(limit).scaleb(-9):f}" for name, limit in limits.items()}
    return (
        f'{store_toml}\n[[budgets]]\nname = "org"\nper = "total"\nusd = "{usd["org"]}"\n'
        f'[[budgets]]\nname = "team"\nper = "total"\nusd = "{usd["team"]}"\neach = ["team"]\n'
        f'[[budgets]]\nname = "user"\nper = "total"\nusd = "{usd["user"]}"\neach = ["user"]\n'
        + simulated_providers(url)
    )


class Referee:
    """What the ledger and the provider say, beside what the callers saw."""

    def __init__(self, limits: dict[str, int], entries: Iterable[LedgerEntry]) -> None:
        self.limits = limits
        self.cost: Counter[str] = Counter()
        self.ceiling: Counter[str] = Counter()
        for entry in entries:
            self.cost[entry.scope.session] += entry.charge.total or 0
            self.ceiling[entry.scope.session] += max(entry.ceiling or 0, entry.charge.total or 0)

    def overspend(self, calls: list[Call], amounts: Counter[str]) -> int:
        """The most that any counter has beyond its limit; ``amounts`` by call."""
        sums: dict[tuple[str, str], int] = defaultdict(int)
        for call in calls:
            for budget in self.limits:
                sums[budget, call.counter(budget)] += amounts[call.id]
        return max(0, *(total - self.limits[budget] for (budget, _), total in sums.items()))

    def phantoms(self, calls: list[Call], quiet_at: float) -> int:
        """Refusals that were certainly needless. From ``quiet_at`` on nothing of the crowd is in flight."""
        by_counter: dict[tuple[str, str], list[tuple[float, float, int, int]]] = defaultdict(list)
        for call in calls:
            if call.id not in self.cost:
                continue
            ended = call.ended if call.ended != float("inf") or call.began > quiet_at else quiet_at
            for budget in self.limits:
                facts = (call.began, ended, self.cost[call.id], self.ceiling[call.id])
                by_counter[budget, call.counter(budget)].append(facts)
        count = 0
        for refused in calls:
            if refused.status != 429:
                continue
            most = sum(
                cost if ended < refused.began else ceiling
                for began, ended, cost, ceiling in by_counter[refused.budget, refused.counter(refused.budget)]
                if began <= refused.ended
            )
            count += most + refused.need <= self.limits[refused.budget]
        return count


async def alone(crowd: Crowd, seed: int) -> None:
    """Single callers, one after the other, until each is refused: nothing else is in flight."""
    chance = random.Random(f"{seed}/alone")
    for user in range(1, USERS + 1):
        for turn in range(200):
            call = await crowd.call(chance, f"a{user}-{turn}", f"team-{user % TEAMS}", f"user-{user}", hang_up=0)
            if call.status != 200:
                break


def wait_quiet(sim: SimServer, cluster: Cluster, within_s: float = 60.0) -> None:
    """Until the calls whose callers hung up are through too: every billed call is booked."""
    due = time.monotonic() + within_s
    billed = booked = -1
    while time.monotonic() < due:
        before = (billed, booked)
        billed = len(sim.account.invoice.lines)
        booked = len(cluster.entries())
        if billed <= booked and (billed, booked) == before:
            return
        time.sleep(0.5)


def race(store: Store, clients: int, workers: int, seed: int, home: Path) -> dict[str, object]:
    """One run on one store."""
    org = int(clients * ROUNDS * MEAN_NUSD * 0.55)
    limits = {"org": org, "team": int(org * 0.3), "user": int(org * 0.13)}
    with stepped(SimServer(SimSettings(speed=0.02))) as sim:
        store_toml, env = store.start()
        cluster = Cluster(home, toml(store_toml, sim.url, limits), env, workers=workers)
        try:
            cluster.start()
            crowd = Crowd(cluster.port, seed)
            began = time.monotonic()
            asyncio.run(crowd.run(clients))
            seconds = time.monotonic() - began
            wait_quiet(sim, cluster)
            quiet_at = time.monotonic()
            asyncio.run(alone(crowd, seed))
            cluster.terminate()
            entries = cluster.entries()
            held = len(cluster.open_reservations())
        finally:
            cluster.kill()
            store.stop()
        referee = Referee(limits, entries)
        invoice: Counter[str] = Counter()
        for line in sim.account.invoice.lines:
            invoice[line.request] += line.amount_nusd
    calls = crowd.calls
    refusals = Counter(call.budget for call in calls if call.status == 429)
    return {
        "store": store.name,
        "calls": len(calls),
        "admitted": sum(call.status == 200 for call in calls),
        "hung_up": sum(call.status == 0 for call in calls),
        "refused": sum(refusals.values()),
        **{f"refused_by_{name}": refusals[name] for name in limits},
        "other": sum(call.status not in (0, 200, 429) for call in calls),
        "other_statuses": dict(Counter(call.status for call in calls if call.status not in (0, 200, 429))),
        "booked_nusd": sum(referee.cost.values()),
        "limit_nusd": org,
        "overspend_nusd": max(referee.overspend(calls, referee.cost), referee.overspend(calls, invoice)),
        "phantom_refusals": referee.phantoms(calls, quiet_at),
        "open_holds": held,
        "invoice_minus_booked_nusd": sum(invoice.values()) - sum(referee.cost.values()),
        "crowd_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4000, help="connected at once, over all workers")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=store_names(), help="only this one")
    options = parser.parse_args()
    allow_files(8 * options.clients + 4096)
    rows = []
    for name in [options.store] if options.store else store_names():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(race(store_of(name), options.clients, options.workers, options.seed, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    summed = ("calls", "admitted", "hung_up", "refused", "other", "overspend_nusd", "phantom_refusals", "open_holds")
    print(
        json.dumps(
            {"stores": [row["store"] for row in rows], "workers": options.workers, "clients": options.clients}
            | {name: sum(int(str(row[name])) for row in rows) for name in summed}
        )
    )


if __name__ == "__main__":
    main()
