"""A ledger that goes away: what the policy says happens, and nothing that was spent stays unbooked."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from farthing.core.errors import StoreUnavailable
from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


class Flaky:
    """``Books`` whose named acts fail."""

    def __init__(self, real, failing):
        self._real = real
        self._failing = failing

    async def reserve(self, reservation, *, now_ms, stub=None):
        self._fail("reserve")
        return await self._real.reserve(reservation, now_ms=now_ms, stub=stub)

    async def settle(self, settlement, *, now_ms):
        self._fail("settle")
        await self._real.settle(settlement, now_ms=now_ms)

    def _fail(self, act):
        if act in self._failing:
            raise StoreUnavailable("The disk is full.", hint="Free some space.")


@pytest.fixture
def sim() -> Iterator[SimServer]:
    with SimServer() as made:
        yield made


@pytest.fixture
def broken(tmp_path: Path, sim: SimServer) -> Iterator[Callable[..., GatewayServer]]:
    """A gateway whose requests find the books broken; its background work reaches the real ones."""
    started: list[GatewayServer] = []

    def make(policy: str, failing: set[str]) -> GatewayServer:
        gateway = GatewayServer(tmp_path, f'on_store_failure = "{policy}"\n' + simulated_providers(sim.url)).start()
        started.append(gateway)
        app = gateway.installation.app
        services = app.gateway.services
        flaky = dataclasses.replace(services, books=Flaky(services.books, failing))
        app.gateway = dataclasses.replace(app.gateway, services=flaky)
        return gateway

    yield make
    for gateway in started:
        gateway.stop()


def post(gateway: GatewayServer, **fields) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, **fields}, timeout=60)


def test_under_refuse_nothing_is_sent_while_nothing_can_be_held(broken, sim):
    answer = post(broken("refuse", {"reserve"}))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "store_unavailable"
    assert "Free some space" in answer.json()["error"]["message"]
    assert sim.account.requests == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_under_refuse_an_answer_that_cannot_be_booked_is_not_given_but_booked_later(broken, sim, stream):
    gateway = broken("refuse", {"settle"})
    if stream:
        with pytest.raises(httpx.RemoteProtocolError):
            post(gateway, stream=True)
    else:
        assert post(gateway).json()["error"]["code"] == "store_unavailable"
    (entry,) = gateway.books.settled(1)
    assert entry.charge.total == sim.account.invoice.lines[-1].amount_nusd
    assert gateway.quiet()


@pytest.mark.parametrize("failing", [{"reserve"}, {"settle"}, {"reserve", "settle"}], ids=["hold", "book", "both"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_under_allow_calls_are_served_and_booked_as_soon_as_it_can_be(broken, sim, failing, stream):
    gateway = broken("allow", failing)
    answer = post(gateway, stream=stream)
    assert answer.status_code == 200
    if stream:
        assert answer.content.endswith(b"data: [DONE]\n\n")
    (entry,) = gateway.books.settled(1)
    assert entry.charge.total == sim.account.invoice.lines[-1].amount_nusd
    assert entry.usage.source == "reported"
    assert gateway.quiet()
    assert "farthing_store_failures_total{" in httpx.get(f"{gateway.url}/metrics", timeout=60).text


def test_what_still_waits_is_booked_when_the_gateway_stops(broken):
    gateway = broken("allow", {"reserve", "settle"})
    assert post(gateway).status_code == 200
    gateway.stop()
    assert len(gateway.books.entries()) == 1
