"""Messages that Valkey acts upon late, after newer ones, and grants whose answer never came."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from farthing.adapters.leases import Share, Want
from farthing.adapters.leases_books import LeasedBooks
from farthing.adapters.postgres import PostgresLedger
from farthing.adapters.postgres_shelf import Shelf
from farthing.adapters.valkey_leases import ValkeyLeases
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Held
from farthing.ports.books import Settlement
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry
from farthing.testing.servers import postgres_url, valkey_url
from farthing.testing.stores import namespace_of

KEY = ("team", "all", "usd")


class NoLedger:
    """A ledger without counters or workers."""

    def living(self):
        return ()

    def counters(self, *, now_ms):
        return ()


class Delaying:
    """Stands before Valkey: what comes next can be kept, its sender cut off, and Valkey told much later."""

    def __init__(self, port):
        self.port = port
        self.keeps = False
        self.kept = []
        self._tasks = set()

    @asynccontextmanager
    async def opened(self):
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        finally:
            server.close()
            await asyncio.gather(*self._tasks)

    async def deliver(self):
        """Valkey gets what was kept, and acts upon it."""
        for data, far_reader, far in self.kept:
            far.write(data)
            assert await far_reader.read(65_536)
            far.transport.abort()

    async def _accept(self, near_reader, near):
        self._tasks.add(asyncio.current_task())
        far_reader, far = await asyncio.open_connection("127.0.0.1", self.port)
        answers = asyncio.create_task(_pass(far_reader, near))
        while data := await _some(near_reader):
            if self.keeps and b"EVAL" in data:
                self.keeps = False
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
                self.kept.append((data, far_reader, far))
                near.transport.abort()
                return
            far.write(data)
        near.transport.abort()
        far.transport.abort()
        await answers


async def _some(reader):
    with suppress(OSError):
        return await reader.read(65_536)


async def _pass(reader, writer):
    while data := await _some(reader):
        writer.write(data)


@asynccontextmanager
async def joined(url, folder, worker):
    leases = ValkeyLeases(url, namespace_of(folder), worker, NoLedger())
    try:
        await leases.declare([])
        yield leases
    finally:
        leases.close()
        await asyncio.sleep(0)


def want(used, ask, *, slice=0):
    return Want(key=KEY, limit=100, used=used, ask=ask, slice=slice)


async def a_grant(leases):
    await leases.grant([want(0, 10)], now_ms=AT_MS)


async def a_renewal(leases):
    await leases.renew([Share(key=KEY, authority=10)])


@pytest.mark.parametrize("late", [a_grant, a_renewal])
@pytest.mark.parametrize("uses", [0, 90])
async def test_a_message_that_newer_ones_overtook_changes_nothing(tmp_path, late, uses):
    """It would leave less than is in use, so that others spend it again, or a slice that nobody holds."""
    proxy = Delaying(int(valkey_url().split(":")[-1].split("/")[0]))
    async with (
        proxy.opened() as url,
        joined(url, tmp_path, "w1") as here,
        joined(valkey_url(), tmp_path, "w2") as there,
    ):
        await here.renew([])
        proxy.keeps = True
        await late(here)  # it is sent again at once, when the connection is gone
        if uses:
            assert (await here.grant([want(10, uses - 10)], now_ms=AT_MS))[0].authority == uses
        else:
            await here.renew([Share(key=KEY, authority=0)])
        assert len(proxy.kept) == 1
        await proxy.deliver()
        (grant,) = await there.grant([want(0, 1)], now_ms=AT_MS)
        assert grant.room == 100 - uses
        await here.renew([])  # it is still known


async def test_a_late_declaration_changes_nothing(tmp_path):
    async with joined(valkey_url(), tmp_path, "w1") as here, joined(valkey_url(), tmp_path, "w2") as there:
        before = next(here._numbers)
        await here.grant([want(0, 90)], now_ms=AT_MS)
        newer, here._numbers = here._numbers, iter([before])
        await here.declare([Share(key=KEY, authority=5)])
        here._numbers = newer
        assert (await there.grant([want(0, 1)], now_ms=AT_MS))[0].room == 10


class Mute:
    """Leases of which one grant is made, and never told."""

    in_ledger = False

    def __init__(self, leases):
        self._leases = leases
        self.mute = False

    def __getattr__(self, name):
        return getattr(self._leases, name)

    async def grant(self, wants, *, now_ms):
        grants = await self._leases.grant(wants, now_ms=now_ms)
        if self.mute:
            self.mute = False
            raise StoreUnavailable("No answer came.", hint="")
        return grants


class Slow(Mute):
    """Leases of which grants wait until they are let go."""

    def __init__(self, leases):
        super().__init__(leases)
        self.free = asyncio.Event()
        self.free.set()
        self.asked = asyncio.Event()

    async def grant(self, wants, *, now_ms):
        self.asked.set()
        await self.free.wait()
        return await super().grant(wants, now_ms=now_ms)


def books_over(kind, stores, home, worker):
    name = namespace_of(home)

    def leases(name_of, shelf):
        stores.append(kind(ValkeyLeases(valkey_url(), name, name_of, shelf)))
        return stores[-1]

    (home / worker).mkdir()
    return LeasedBooks(
        home / worker,
        worker=worker,
        shelf=lambda name_of: Shelf(postgres_url(), name, name_of),
        leases=leases,
        reader=PostgresLedger(postgres_url(), name, keep=True),
    )


async def test_a_settlement_waits_for_no_lease_store_that_takes_its_time(tmp_path):
    """Settlements gather while calls wait for an answer, but not until it comes."""
    stores = []
    books = books_over(Slow, stores, tmp_path, "w1")
    await books.start()
    try:
        held = a_reservation("r1", a_hold("team", 10))
        await books.reserve(held, now_ms=AT_MS)
        stores[0].free.clear()
        stores[0].asked.clear()
        waiting = asyncio.ensure_future(books.reserve(a_reservation("r2", a_hold("other", 10)), now_ms=AT_MS))
        await stores[0].asked.wait()
        settlement = Settlement(reservation=held, amounts=(7,), entries=(an_entry("e1", 7),))
        async with asyncio.timeout(5):
            await books.settle(settlement, now_ms=AT_MS)
        assert not waiting.done()
        assert books.balances([("team", "all")])[0].posted == 7
        stores[0].free.set()
        assert isinstance(await waiting, Held)
    finally:
        stores[0].free.set()
        await books.close()


async def test_what_was_granted_and_never_told_goes_back(tmp_path):
    stores = []
    first, second = (books_over(Mute, stores, tmp_path, worker) for worker in ("w1", "w2"))
    await first.start()
    await second.start()
    try:
        stores[0].mute = True
        leaving = asyncio.ensure_future(first.reserve(a_reservation("r1", a_hold("team", 60)), now_ms=AT_MS))
        while stores[0].mute:
            await asyncio.sleep(0.001)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        desk = first._running.desk
        desk.now_s += 1_000
        desk.drop_idle()  # a worker forgets counters that it does not use
        desk.now_s -= 1_000
        for turn in range(8):
            answer = await second.reserve(a_reservation(f"r2.{turn}", a_hold("team", 100)), now_ms=AT_MS)
            if isinstance(answer, Held):
                break
            await asyncio.sleep(0.05)
        assert isinstance(answer, Held)
    finally:
        await first.close()
        await second.close()
