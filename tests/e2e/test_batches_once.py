"""Each answer of a batch is booked once, however often and by however many workers its results are looked at."""

import asyncio
import contextlib
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import bootstrap, config
from farthing.adapters import store_opening
from farthing.bootstrap.batching import wires_of
from farthing.core.errors import FarthingError, StoreUnavailable
from farthing.core.types import Scope
from farthing.engine.batch_asks import Caller
from farthing.engine.batch_desk import LEASE_MS, BatchDesk
from farthing.engine.batch_provider import BatchProvider
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.fakes import VirtualClock
from farthing.testing.gateway import simulated_providers
from farthing.testing.servers import store_env, store_toml

TAKES = 8_000
LINES = 8
BUDGETS = (
    '[[budgets]]\nname = "hour"\nper = "rolling"\nlength = "1h"\nusd = "5"\n'
    + '[[budgets]]\nname = "all"\nper = "total"\nusd = "5"\nrequests = 500\ntokens = 1_000_000\n'
)
NAMES = itertools.count()


class Moody:
    """Books that take so many settlements of answers and then none until they are cheered up."""

    def __init__(self, books):
        self._books = books
        self.left = -1
        self.slow = None
        """Opened when answers may be settled; None: at any time."""
        self.reached = asyncio.Event()
        self.reserve, self.balances = books.reserve, books.balances
        self.open_reservations, self.close = books.open_reservations, books.close

    async def settle(self, settlement, *, now_ms):
        if settlement.entries and self.slow is not None:
            self.reached.set()
            await self.slow.wait()
        if settlement.entries and self.left >= 0:
            if self.left == 0:
                raise StoreUnavailable("The store is in a mood.")
            self.left -= 1
        await self._books.settle(settlement, now_ms=now_ms)


class Worker:
    """A gateway's books and desk, without its server and its own rounds."""

    def __init__(self, site, name):
        self.site, self.name = site, name

    async def start(self):
        site = self.site
        self.books = store_opening.open_books(site.settings, worker=self.name, env=site.env)
        await self.books.start()
        self.moody = Moody(self.books)
        services = replace(site.base.services, books=self.moody)
        shelf = store_opening.open_batches(site.settings, site.env)
        provider = BatchProvider(services, wires_of(site.settings, site.env))
        self.desk = BatchDesk(services, shelf, provider, holder=self.name, poll_ms=1)
        return self

    async def stop(self):
        self.desk.shelf.close()
        await self.books.close()

    async def look(self, upstream_id, dialect):
        with contextlib.suppress(StoreUnavailable):
            await self.desk.look(await self.desk.find("", upstream_id, dialect))


class Site:
    def __init__(self, home, sim, clock, store="", base=None):
        self.clock, self.sim = clock, sim
        self.env = {"SIM_KEY": "sk-sim", **(store_env() if store else {})}
        text = store + simulated_providers(sim.url) + BUDGETS
        self.settings = config.parse(text, env={"FARTHING_HOME": str(home), "HOME": str(home)}, source="t")
        self.base = base or bootstrap.build(self.settings, env=self.env, clock=clock)

    async def close(self):
        for transport in self.base.transports:
            await transport.close()


def caller():
    return Caller(owner="", scope=Scope(team="t"), may=lambda model: None)


async def created(worker):
    """(id, dialect) of a batch of either API, some lines of which fail."""
    say = [[{"role": "user", "content": f"q{n} [sim: fault=500]" if n == 3 else f"q{n}"}] for n in range(LINES)]
    params = [{"model": "claude-sonnet-4-6", "max_tokens": 9 + n, "messages": text} for n, text in enumerate(say)]
    requests = [{"custom_id": f"m{n}", "params": one} for n, one in enumerate(params)]
    message = await worker.desk.create_from_requests(caller(), msgspec.json.encode({"requests": requests}), ())
    url = "/v1/chat/completions"
    lines = b"\n".join(
        msgspec.json.encode(
            {
                "custom_id": f"c{n}",
                "method": "POST",
                "url": url,
                "body": {"model": "gpt-4o-mini", "max_tokens": 9, "messages": text},
            }
        )
        for n, text in enumerate(say)
    )
    file = msgspec.json.decode(await worker.desk.upload(caller(), "x.jsonl", lines, ()))
    asked = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h"}
    batch = await worker.desk.create_from_file(caller(), msgspec.json.encode(asked))
    return [(msgspec.json.decode(message)["id"], "anthropic"), (msgspec.json.decode(batch)["id"], "openai")]


def agreed(worker, sim):
    entries = list(worker.books.entries())
    ids = [entry.id for entry in entries]
    assert len(ids) == len(set(ids)) == len(sim.account.invoice.lines)
    assert sum(entry.charge.total for entry in entries) == sim.account.invoice.total_nusd
    return entries


def counted(worker):
    found = worker.books.balances([("all", "total"), ("all", "all")])
    assert not any(one.held for one in found)
    return {one.unit: one.posted for one in found}


async def overtaken(slow, fast, batch, clock):
    """One worker is so slow at booking that its lease ends, and another books and ends the batch meanwhile."""
    moody = slow.moody
    moody.slow, moody.reached = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(slow.look(*batch))
    reached = asyncio.create_task(moody.reached.wait())
    await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
    clock.advance(LEASE_MS + 1)
    await fast.look(*batch)
    moody.slow.set()
    await task
    reached.cancel()
    moody.slow = None


ACTS = st.one_of(
    st.tuples(st.just("look"), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.just("both"), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.just("round"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([TAKES // 4, TAKES, LEASE_MS + 1]), st.just(0)),
    st.tuples(st.just("mood"), st.integers(0, 1), st.integers(0, LINES)),
    st.tuples(st.just("cheer"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("overtake"), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.just("cancel"), st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.just("restart"), st.integers(0, 1), st.just(0)),
)


async def played(site, acts):
    workers = [await Worker(site, f"w{number}").start() for number in range(2)]
    try:
        batches = await created(workers[0])
        for act, number, other in acts:
            worker = workers[number % 2]
            if act == "look":
                await worker.look(*batches[other])
            elif act == "both":
                await asyncio.gather(*(one.look(*batches[other]) for one in (*workers, worker)))
            elif act == "round":
                await worker.desk.round()
            elif act == "overtake":
                await overtaken(worker, workers[1 - number], batches[other], site.clock)
            elif act == "wait":
                site.clock.advance(number)
            elif act == "mood":
                worker.moody.left = other
            elif act == "cheer":
                worker.moody.left = -1
            elif act == "cancel":
                batch = await worker.desk.find("", *batches[other])
                with contextlib.suppress(FarthingError):  # it has ended, or the store is in a mood
                    await worker.desk.cancel(batch)
            else:
                await worker.stop()
                workers[number] = await Worker(site, f"w{number}-{next(NAMES)}").start()
        for worker in workers:
            worker.moody.left = -1
        site.clock.advance(TAKES + LEASE_MS + 1)
        await overtaken(*workers, batches[0], site.clock)
        for worker in workers:
            for batch in batches:
                await worker.look(*batch)
        entries = agreed(workers[0], site.sim)
        lines = site.sim.account.invoice.lines
        tokens = sum(line.tokens.prompt + line.tokens.generated for line in lines)
        expected = {"usd": site.sim.account.invoice.total_nusd, "requests": len(entries), "tokens": tokens}
        assert {unit: counted(workers[1]).get(unit, 0) for unit in expected} == expected
    finally:
        for worker in workers:
            await worker.stop()


def test_ledger_counters_and_invoice_agree_whatever_two_workers_do(tmp_path):
    clock = VirtualClock()

    @settings(max_examples=25, deadline=None)
    @given(st.lists(ACTS, max_size=12))
    def check(acts):
        sim.account.reset()
        with tempfile.TemporaryDirectory() as home:
            runner.run(played(Site(Path(home), sim, clock, base=stage.base), acts))

    with SimServer(SimSettings(now_ms=clock.now_ms, batch_ms=TAKES)) as sim, asyncio.Runner() as runner:
        stage = Site(tmp_path, sim, clock)
        check()
        runner.run(stage.close())


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_what_is_set_aside_is_brought_to_what_was_spent_in_every_store(tmp_path, kind):
    async def run(site):
        worker = await Worker(site, "w0").start()
        batches = await created(worker)
        assert counted(worker)["requests"] == 2 * LINES
        await worker.stop()
        worker = await Worker(site, "w1").start()
        assert counted(worker)["requests"] == 2 * LINES
        site.clock.advance(TAKES)
        for batch in batches:
            await worker.look(*batch)
            await worker.look(*batch)
        found = counted(worker)
        entries = agreed(worker, site.sim)
        assert found["usd"] == site.sim.account.invoice.total_nusd
        assert found["requests"] == len(entries) == 2 * LINES - 2
        await worker.stop()
        await site.close()

    clock = VirtualClock()
    with SimServer(SimSettings(now_ms=clock.now_ms, batch_ms=TAKES)) as sim:
        asyncio.run(run(Site(tmp_path, sim, clock, store_toml(kind, f"batches_{kind}"))))
