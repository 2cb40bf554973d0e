"""Workers whose supervisor is killed stop serving and free the port."""

import signal
import time

import httpx

from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayProcess, simulated_providers


def test_workers_end_when_the_process_that_supervises_them_is_killed(tmp_path):
    with SimServer() as sim:
        gateway = GatewayProcess(tmp_path, "[server]\nworkers = 2\n" + simulated_providers(sim.url))
        with gateway:
            assert httpx.get(f"{gateway.url}/healthz", timeout=60).status_code == 200
            gateway.tell(signal.SIGKILL)
            gateway.wait()
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    httpx.get(f"{gateway.url}/healthz", timeout=2)
                except httpx.TransportError:
                    break
                time.sleep(0.2)
            else:
                raise AssertionError("orphaned workers still serve")
