"""The pipeline with real parts around a provider that misbehaves at the port."""

from pathlib import Path

import httpx
import pytest

from farthing.engine.services import Upstream
from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


class BrokenCodec:
    """A codec with a defect: it fails in a way that nobody foresaw."""

    def __init__(self, real, place):
        self._real = real
        self._place = place

    def __getattr__(self, name):
        if name == self._place:
            raise ZeroDivisionError
        return getattr(self._real, name)


@pytest.mark.parametrize("place", ["encode", "reader", "failure"])
def test_a_defect_is_an_internal_error_and_leaves_no_hold_behind(tmp_path: Path, place, caplog):
    with SimServer() as sim, GatewayServer(tmp_path, simulated_providers(sim.url)) as gateway:
        upstreams = gateway.installation.services.upstreams
        real = upstreams["openai"]
        upstreams["openai"] = Upstream(codec=BrokenCodec(real.codec, place), transport=real.transport)
        headers = {"x-sim-fault": "400"} if place == "failure" else {}
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert answer.headers["x-should-retry"] == "false"
        assert gateway.quiet()
        exchange = gateway.books.exchange(answer.headers["x-farthing-request-id"])
        assert (exchange.outcome, exchange.error) == ("failed", "internal_error")
        booked = {"encode": 0, "reader": 1, "failure": 1}[place]
        assert len(gateway.books.entries()) == booked
    assert "ZeroDivisionError" in caplog.text
