"""Faults under load, from a seed, and what the books say after each of them.

    python bench/chaos.py --faults 200 --seed 1

A gateway of two worker processes serves concurrent callers over HTTP: streams and whole answers, both dialects. One
fault after the other strikes at a random moment; it is healed, the load ends, and the books are compared with what
the callers saw and with the provider's own invoice. The schedule (kinds, moments, lengths) follows from the seed;
what the operating system makes of it does not. The table of results goes to ``docs/reference/chaos.md``. The
last line is one JSON object:

* ``faults``, ``answers``: answers that a caller received whole (all bytes of a body, or the stream's own end);
* ``lost``: such answers that are not in the ledger as reported usage; ``doubled``: attempts or upstream calls booked
  more than once;
* ``overspend_nusd``: what the provider billed, or the ledger booked, beyond a limit;
* ``unbooked_nusd``: what the provider billed for some call beyond what is booked for it;
* ``unseen_nusd``: what it billed for the ends of streams that the network broke off. Such a stream is booked by the
  text that arrived (decision 0005); this is the one amount that need not be 0, and it is not in ``overspend_nusd``;
* ``behind``: faults after which the books had not caught up in time; ``open_holds``: reservations left in the end.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from cluster import Clock, Cluster, allow_files, fields_of, stepped
from crash import lost_and_doubled
from faults import Disk, Proxy
from stores import Store, store_names, store_of

from farthing.adapters.clickhouse import ClickHouseLedger, migrate
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.clickhouse import ClickHouseServer, InProcessClickHouse
from farthing.testing.gateway import simulated_providers

CALLERS = 16
WORKERS = 2
HOUR_MS = 3_600_000
CATCH_UP_S = 20.0
LIMIT_NUSD = 2_500_000
ASK = [{"role": "user", "content": "Which ships were in the harbour?"}]
USD = f"{Decimal(LIMIT_NUSD).scaleb(-9):f}"
BUDGETS = f"""
[[budgets]]
name = "round"
per = "total"
usd = "{USD}"
each = ["session"]
match = {{ team = "tight" }}

[[budgets]]
name = "hourly"
per = "hour"
usd = "{USD}"
each = ["session"]
match = {{ team = "hourly" }}
"""
WAREHOUSE = """
[analytics]
clickhouse_url = "{url}"
clickhouse_user = "farthing"
clickhouse_password_env = "WAREHOUSE"
"""
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "chaos.md"


class Load:
    """Callers that go on until they are told to stop."""

    def __init__(self, port: int, number: int, seed: int) -> None:
        self.answers: list[str] = []
        self.refused = self.broken = 0
        self.stopping = False
        self._port, self._number = port, number
        self._chance = random.Random(seed)
        self._calls = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    async def _caller(self) -> None:
        while not self.stopping:
            try:
                async with asyncio.timeout(15):
                    await self._call()
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.broken += 1
                await asyncio.sleep(0.05)

    def _request(self) -> tuple[bytes, bytes]:
        self._calls += 1
        chance, id = self._chance, f"{self._number}-{self._calls}"
        stream, anthropic = chance.random() < 0.5, chance.random() < 0.3
        body = {"messages": ASK, "max_tokens": chance.randint(5, 80), "stream": stream}
        path, end = "/v1/chat/completions", b"data: [DONE]\n\n"
        if anthropic:
            path, end = "/v1/messages", b"event: message_stop\n"
        body["model"] = "claude-haiku-4-5" if anthropic else chance.choice(("gpt-4o-mini", "gpt-4.1-nano"))
        team = chance.choice(("", "tight", "hourly"))
        headers = {
            "host": "chaos",
            "connection": "close",
            "anthropic-version": "2023-06-01",
            "x-farthing-session": f"round-{self._number}",
            "x-farthing-customer": id,
            "x-sim-request": id,
        } | ({"x-farthing-team": team} if team else {})
        payload = json.dumps(body).encode()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\n{lines}content-length: {len(payload)}\r\n\r\n"
        return head.encode() + payload, end if stream else b""

    async def _call(self) -> None:
        data, end = self._request()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            fields, status = fields_of(head), int(head.split()[1])
            if status != 200:
                self.refused += status == 429
                self.broken += status != 429
                await asyncio.sleep(0.02)
                return
            if end:
                await reader.readuntil(end)
            else:
                await reader.readexactly(int(fields["content-length"]))
            self.answers.append(fields["x-farthing-request-id"])
        finally:
            writer.close()


@dataclass(frozen=True)
class Fault:
    """One entry of the schedule."""

    number: int
    kind: str
    after_s: float
    """Of load before it strikes."""
    lasts_s: float
    chance: int


@dataclass
class Result:
    """What one fault did."""

    fault: Fault
    answers: int
    refused: int
    broken: int
    lost: int = 0
    doubled: int = 0
    overspend_nusd: int = 0
    unbooked_nusd: int = 0
    unseen_nusd: int = 0
    behind: int = 0
    missing: tuple[str, ...] = ()
    healed_s: float = 0.0
    """From the end of the fault until every worker was ready again and the books had everything."""


@dataclass
class Scene:
    """All that runs."""

    store: Store
    cluster: Cluster
    clock: Clock
    disk: Disk
    sim: SimServer
    provider: Proxy
    warehouse: ClickHouseServer
    copy: ClickHouseLedger
    """What has arrived in ClickHouse."""
    answers: list[str] = field(default_factory=list)
    offset_ms: int = 0

    def kinds(self) -> dict[str, Callable[[Fault], None]]:
        """What can happen here. Each one returns when it is over and healed."""
        return {
            "kill -9 of a worker": self._kill_worker,
            "kill -9 of all workers": self._kill_all,
            "disk full": self._disk_full,
            "clock +1 h": lambda fault: self._clock_jump(HOUR_MS),
            "clock -1 h": lambda fault: self._clock_jump(-HOUR_MS),
            "provider cut off": lambda fault: self._network(self.provider, "cut", fault),
            "provider acts, answers lost": lambda fault: self._network(self.provider, "deaf", fault),
            "ClickHouse acts, answers lost": self._redeliver,
            **{
                name: lambda fault, act=act: self._store_fault(act, fault)  # type: ignore[misc]
                for name, act in self.store.faults().items()
            },
        }

    def _kill_worker(self, fault: Fault) -> None:
        self.cluster.kill_worker(fault.chance)
        time.sleep(0.2)
        self.cluster.ready()

    def _kill_all(self, fault: Fault) -> None:
        self.cluster.kill()
        time.sleep(fault.lasts_s / 4)
        self.cluster.start()

    def _disk_full(self, fault: Fault) -> None:
        self.disk.fill(self.cluster)
        time.sleep(fault.lasts_s)
        if fault.chance % 3 == 0:
            self.cluster.kill_worker(fault.chance)
            time.sleep(0.2)
        self.disk.free(self.cluster)
        self.cluster.ready()

    def _clock_jump(self, by_ms: int) -> None:
        self.offset_ms += by_ms
        self.clock.set(self.offset_ms)
        time.sleep(0.4)

    def _network(self, proxy: Proxy, state: str, fault: Fault) -> None:
        proxy.set(state)
        time.sleep(fault.lasts_s)
        proxy.set("open")

    def _redeliver(self, fault: Fault) -> None:
        """Whole batches arrive, and nobody learns of it: they are sent again."""
        self.warehouse.refuse_after = 0
        time.sleep(fault.lasts_s + 1)
        self.warehouse.refuse_after = None

    def _store_fault(self, act: Callable[[float], None], fault: Fault) -> None:
        act(fault.lasts_s)
        self.cluster.ready()


def schedule(kinds: list[str], faults: int, seed: str) -> list[Fault]:
    """Every kind once in random order, then again, until there are enough."""
    chance = random.Random(seed)
    order: list[str] = []
    while len(order) < faults:
        order += chance.sample(kinds, len(kinds))
    return [
        Fault(n, kind, chance.uniform(0.2, 0.8), chance.uniform(0.3, 1.5), chance.randrange(2**31))
        for n, kind in enumerate(order[:faults])
    ]


class Referee:
    """The ledger beside the callers and the invoice."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.known = 0
        """Nano-USD that were not booked before and never will be."""
        self.missing: list[str] = []
        """What had not come when ``settled`` gave up."""

    def waiting(self, entries: list[LedgerEntry]) -> int:
        """Nano-USD billed for calls beyond what is booked for them, but for streams that broke off."""
        return sum(self._short(entries, partial=False).values())

    def unseen(self, entries: list[LedgerEntry]) -> int:
        """Nano-USD billed for the end of streams that the network broke off, which nobody here has seen."""
        return sum(self._short(entries, partial=True).values())

    def _short(self, entries: list[LedgerEntry], *, partial: bool) -> dict[str, int]:
        broken = {entry.scope.customer for entry in entries if entry.usage.source == "partial"}
        booked: Counter[str] = Counter()
        for entry in entries:
            booked[entry.scope.customer] += entry.charge.total or 0
        billed: Counter[str] = Counter()
        for line in self._scene.sim.account.invoice.lines:
            billed[line.request] += line.amount_nusd
        return {
            call: amount - booked[call]
            for call, amount in billed.items()
            if amount > booked[call] and (call in broken) == partial
        }

    def overspend(self, entries: list[LedgerEntry]) -> int:
        """The most that any limit is passed by."""
        sums: dict[tuple[str, ...], int] = defaultdict(int)
        tight: set[str] = set()
        for entry in entries:
            cost = entry.charge.total or 0
            if entry.scope.team == "tight":
                sums["tight", entry.scope.session] += cost
                tight.add(entry.scope.customer)
            elif entry.scope.team == "hourly":
                sums["hourly", entry.scope.session, str(entry.received_at_ms // HOUR_MS)] += cost
        for line in self._scene.sim.account.invoice.lines:
            if line.request in tight:
                sums["invoice", line.request.split("-")[0]] += line.amount_nusd
        for call, amount in self._short(entries, partial=True).items():
            if call in tight:
                sums["invoice", call.split("-")[0]] -= amount
        return max(0, *(total - LIMIT_NUSD for total in sums.values())) if sums else 0

    def _copied(self, entries: list[LedgerEntry]) -> bool:
        """ClickHouse has every entry once."""
        (total,) = self._scene.copy.totals(LedgerQuery())
        return (total.entries, total.amount) == (len(entries), sum(entry.charge.total or 0 for entry in entries))

    def settled(self) -> list[LedgerEntry] | None:
        """The ledger once it has everything that was billed and answered; None when it takes too long."""
        due = time.monotonic() + CATCH_UP_S
        before = -1
        while True:
            entries = self._scene.cluster.entries()
            reported = {entry.request_id for entry in entries if entry.usage.source == "reported"}
            missing = {
                "answers": not reported.issuperset(self._scene.answers),
                "billed calls": self.waiting(entries) > self.known,
                "ledger still grows": len(entries) != before,
                "ClickHouse": not self._copied(entries),
                "settlements wait": not _drained(self._scene.cluster),
            }
            if not any(missing.values()):
                return entries
            if time.monotonic() > due:
                self.missing = [name for name, still in missing.items() if still]
                return None
            before = len(entries)
            time.sleep(0.15)


def _drained(cluster: Cluster) -> bool:
    found = re.findall(r"^farthing_(?!rollup)\w*(?:waiting|unshipped)\w* (\S+)$", cluster.metrics(), re.MULTILINE)
    return all(float(value) == 0 for value in found)


async def _strike(scene: Scene, fault: Fault, load: Load) -> float:
    running = asyncio.ensure_future(load.run())
    await asyncio.sleep(fault.after_s)
    await asyncio.to_thread(scene.kinds()[fault.kind], fault)
    ended = time.monotonic()
    await asyncio.sleep(0.3)
    load.stopping = True
    await running
    return ended


def strike(scene: Scene, fault: Fault, known: int) -> Result:
    """One fault under load, and what the books say afterwards."""
    load = Load(scene.cluster.port, fault.number, fault.chance)
    ended = asyncio.run(_strike(scene, fault, load))
    scene.answers += load.answers
    referee = Referee(scene)
    referee.known = known
    entries = referee.settled()
    result = Result(fault, len(load.answers), load.refused, load.broken, behind=int(entries is None))
    result.missing = tuple(referee.missing)
    entries = scene.cluster.entries() if entries is None else entries
    lost, doubled = lost_and_doubled(scene.answers, entries)
    result.lost, result.doubled = lost, doubled
    result.overspend_nusd = referee.overspend(entries)
    result.unbooked_nusd = referee.waiting(entries)
    result.unseen_nusd = referee.unseen(entries)
    result.healed_s = round(time.monotonic() - ended, 1)
    return result


def run(store: Store, faults: int, seed: int, home: Path, *, only: str = "") -> tuple[list[Result], int, str]:
    """Results, reservations left open, and how the disk was filled."""
    disk = Disk(home)
    with stepped(SimServer(SimSettings(speed=0.02))) as sim:
        provider = Proxy(sim.port)
        url = f"http://127.0.0.1:{provider.port}"
        clock = Clock(home.parent / "clock")
        engine = InProcessClickHouse()
        migrate(engine)
        warehouse = ClickHouseServer(engine)
        store_toml, env = store.start()
        toml = store_toml + WAREHOUSE.format(url=warehouse.url) + BUDGETS + simulated_providers(url)
        cluster = Cluster(home, toml, env, workers=WORKERS, clock=clock)
        try:
            warehouse.__enter__()
            cluster.start()
            scene = Scene(store, cluster, clock, disk, sim, provider, warehouse, ClickHouseLedger(engine))
            results: list[Result] = []
            kinds = sorted(kind for kind in scene.kinds() if only in kind)
            for fault in schedule(kinds, faults, f"{seed}/{store.name}"):
                before = totals(results)
                results.append(strike(scene, fault, before["unbooked_nusd"]))
                _differences(results[-1], before)
                print(_line(store.name, results[-1]), flush=True)
            cluster.terminate()
            held = len(cluster.open_reservations())
        finally:
            with contextlib.ExitStack() as stack:
                stack.callback(disk.close)
                stack.callback(warehouse.__exit__, None, None, None)
                stack.callback(provider.close)
                stack.callback(store.stop)
                stack.callback(cluster.kill)
    return results, held, disk.kind


SUMMED = (
    "answers",
    "refused",
    "broken",
    "lost",
    "doubled",
    "overspend_nusd",
    "unbooked_nusd",
    "unseen_nusd",
    "behind",
)
STATES = ("lost", "doubled", "overspend_nusd", "unbooked_nusd", "unseen_nusd")


def totals(results: list[Result]) -> dict[str, int]:
    """Sums over faults."""
    return {name: sum(getattr(result, name) for result in results) for name in SUMMED}


def _differences(result: Result, before: dict[str, int]) -> None:
    """What was wrong before is not this fault's doing."""
    for name in STATES:
        setattr(result, name, max(0, getattr(result, name) - before[name]))


def _line(store: str, result: Result) -> str:
    names = ("lost", "doubled", "overspend_nusd", "unbooked_nusd")
    wrong: dict[str, object] = {name: getattr(result, name) for name in names if getattr(result, name)}
    if result.missing:
        wrong["not there in time"] = result.missing
    return (
        f"{store} {result.fault.number:>3} {result.fault.kind:<30} {result.answers:>4} answers"
        f" {result.refused:>4} refused {result.broken:>4} broken, healed in {result.healed_s} s"
        f" {'WRONG ' + json.dumps(wrong) if wrong else ''}"
    )


def page(rows: dict[str, list[Result]], seed: int, disks: set[str]) -> str:
    """The table for the documentation."""
    lines = [
        "# Chaos",
        "",
        f"Written by `make chaos` (seed {seed}); do not edit. A gateway of {WORKERS} workers serves {CALLERS} callers"
        " over HTTP while something",
        "goes wrong; after each fault the ledger is compared with what the callers received and with the provider's",
        "own invoice. [bench/chaos.py](../../bench/chaos.py) says what the columns mean; the last is the worst.",
        "",
        f"Disk full: {', '.join(sorted(disks))}. Clock: the gateway's own, moved through a file that only its tests"
        " read.",
        "",
        "| store | fault | times | answers | lost | doubled | overspent, nano-USD | billed, not booked |"
        " not caught up | healed in |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for store, results in rows.items():
        for kind in sorted({result.fault.kind for result in results}):
            of_kind = [result for result in results if result.fault.kind == kind]
            sums = totals(of_kind)
            lines.append(
                f"| {store} | {kind} | {len(of_kind)} | {sums['answers']} | {sums['lost']} | {sums['doubled']} |"
                f" {sums['overspend_nusd']} | {sums['unbooked_nusd']} | {sums['behind']}"
                f" | {max(one.healed_s for one in of_kind)} s |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200, help="over all stores")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=store_names(), help="only this one")
    parser.add_argument("--only", default="", help="only faults with this in their name")
    parser.add_argument("--write", action="store_true", help="the page of the documentation")
    options = parser.parse_args()
    allow_files(8192)
    names = [options.store] if options.store else store_names()
    rows: dict[str, list[Result]] = {}
    held, disks = 0, set()
    for number, name in enumerate(names):
        share = options.faults // len(names) + (number < options.faults % len(names))
        with tempfile.TemporaryDirectory() as folder:
            rows[name], left, disk = run(
                store_of(name), share, options.seed, Path(folder) / "home", only=options.only
            )
            held += left
            disks.add(disk)
    if options.write:
        PAGE.write_text(page(rows, options.seed, disks), encoding="utf-8")
    every = [result for results in rows.values() for result in results]
    print(
        json.dumps({"faults": len(every), "stores": names, "seed": options.seed, **totals(every), "open_holds": held})
    )


if __name__ == "__main__":
    main()
