"""Killed under load, the gateway loses no answer and books none twice; told to stop, it finishes what it began."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayProcess, simulated_providers

ROOT = Path(__file__).parents[2]
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Harbours?"}], "max_tokens": 200}


def test_three_kills_under_load_lose_and_double_nothing():
    command = [sys.executable, str(ROOT / "bench" / "crash.py"), "--rounds", "3", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["answers"] > 20
    for name in ("lost", "doubled", "open_after", "overspend_nusd", "unbooked_nusd"):
        assert found[name] == 0, name


def test_a_hung_up_process_goes_on_and_a_terminated_one_finishes_its_streams_and_leaves_nothing_held(tmp_path):
    with (
        SimServer(SimSettings(speed=0.3)) as sim,
        GatewayProcess(tmp_path, simulated_providers(sim.url)) as gateway,
    ):
        got: list[bytes] = []

        def read() -> None:
            body = {**CHAT, "stream": True}
            with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, timeout=60) as answer:
                got.extend(answer.iter_raw())

        reader = threading.Thread(target=read)
        reader.start()
        while not got:
            time.sleep(0.01)
        gateway.tell(signal.SIGHUP)
        assert httpx.get(f"{gateway.url}/healthz", timeout=60).status_code == 200
        gateway.tell(signal.SIGTERM)
        reader.join(30)
        assert gateway.wait() in (0, -signal.SIGTERM)
        assert b"".join(got).endswith(b"data: [DONE]\n\n")
        (entry,) = gateway.books.entries()
        assert entry.usage.source == "reported"
        assert entry.charge.total == sim.account.invoice.lines[-1].amount_nusd


def test_a_worker_that_is_told_to_read_a_bad_configuration_says_what_is_wrong_and_ends(tmp_path):
    """Its supervisor keeps the one that it was to replace."""
    config = tmp_path / "farthing.toml"
    config.write_text("[server]\nbogus = 3\n", encoding="utf-8")
    environment = {**os.environ, "FARTHING_CONFIG": str(config), "FARTHING_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from farthing.bootstrap import factory; factory()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == os.EX_CONFIG
    assert "server.bogus: unknown setting" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_process_books_the_ceiling_of_what_was_in_flight_when_the_next_one_starts(tmp_path):
    with SimServer() as sim, GatewayProcess(tmp_path, simulated_providers(sim.url)) as gateway:

        def hang() -> None:
            with httpx.Client(timeout=60) as client:
                try:
                    client.post(f"{gateway.url}/v1/chat/completions", json=CHAT, headers={"x-sim-fault": "hang"})
                except httpx.TransportError:
                    return

        caller = threading.Thread(target=hang)
        caller.start()
        while not sim.account.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        gateway.kill()
        caller.join(10)
        assert gateway.books.entries() == []
        gateway.start()
        (entry,) = gateway.books.settled(1)
        assert (entry.error, entry.fidelity) == ("worker_lost", "unknown")
        assert entry.charge.total == entry.ceiling > sim.account.invoice.lines[0].amount_nusd
