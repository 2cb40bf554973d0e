"""``farthing sim`` as a process."""

import json
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
from click.testing import CliRunner

from farthing.cli.sim import sim

# Plain HTTP on loopback: loading CA certificates for each call would only cost time.
post = partial(httpx.post, verify=False)

START = "from farthing.cli.sim import sim; sim()"


def test_the_command_serves_both_dialects_and_its_invoice_survives_a_kill(tmp_path: Path) -> None:
    file = tmp_path / "invoice.jsonl"
    command = [sys.executable, "-c", START, "--port", "0", "--key", "sk-mine", "--invoice", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
        mine = post(f"{address}/chat/completions", json=body, headers={"authorization": "Bearer sk-mine"})
        other = post(f"{address}/chat/completions", json=body, headers={"authorization": "Bearer sk-other"})
        process.send_signal(signal.SIGKILL)
    assert (mine.status_code, other.status_code) == (200, 401)
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [mine.json()["id"]]


def test_only_loopback_addresses_are_served() -> None:
    outcome = CliRunner().invoke(sim, ["--host", "0.0.0.0"])
    assert outcome.exit_code == 2
    assert "not a loopback address" in outcome.output


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = CliRunner().invoke(sim, ["--port", str(taken.getsockname()[1])])
    assert outcome.exit_code == 1
    assert "choose another --port" in outcome.output
