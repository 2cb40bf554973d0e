"""A simulator, a gateway in front of it, and the books that the gateway keeps."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers

FIXED_MS = 1_795_000_000_000


class Stand(NamedTuple):
    """A gateway and the simulator behind it."""

    sim: SimServer
    gateway: GatewayServer


class Twins(NamedTuple):
    """Two simulators that answer alike to the last byte: one asked straight, one through the gateway."""

    straight: SimServer
    behind: SimServer
    gateway: GatewayServer


NO_RETRIES = "[retries]\nattempts_max = 1\n"


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    settings = SimSettings(now_ms=lambda: FIXED_MS, instance="twin")
    with SimServer(settings) as straight, SimServer(settings) as behind:
        toml = NO_RETRIES + simulated_providers(behind.url)
        with GatewayServer(tmp_path_factory.mktemp("twins"), toml) as gateway:
            yield Twins(straight, behind, gateway)


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    """Makes stands: ``stand(toml)`` with the settings above the providers, any number of them."""
    with ExitStack() as stack:
        count = 0

        def make(
            toml: str = "", *, sim: SimSettings | None = None, tail: str = "", env: dict[str, str] | None = None
        ) -> Stand:
            nonlocal count
            count += 1
            simulator = stack.enter_context(SimServer(sim or SimSettings()))
            text = toml + simulated_providers(simulator.url) + tail
            gateway = stack.enter_context(GatewayServer(tmp_path / f"home{count}", text, env=env))
            return Stand(simulator, gateway)

        yield make


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    """One client for plain requests: making one for each takes longer than the request."""
    with httpx.Client(timeout=60) as client:
        yield client
