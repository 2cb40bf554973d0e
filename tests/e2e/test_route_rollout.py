"""A downgrade goes live step by step on good evidence, comes back when the model gets worse, survives restarts."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from farthing.adapters.alert_sqlite import SqliteAlerts
from farthing.cli import main
from farthing.core.rollout import RolloutState
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers

ROUTE = """
[[alert_sinks]]
name = "lines"
kind = "log"
[[routes]]
name = "json"
models = ["auto"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = []
[routes.rollout]
margin = 0.2
pairs_min = 10
holdout = 0.1
shadow_share = 1.0
verify = ["json"]
"""


class Floor:
    """A simulator, and gateways on one home."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.home = folder / "home"
        self.stack = stack
        self.sim = stack.enter_context(SimServer(SimSettings()))
        self.client = stack.enter_context(httpx.Client(timeout=60))
        self.asked = 0

    def gateway(self, toml: str = ROUTE) -> GatewayServer:
        return self.stack.enter_context(GatewayServer(self.home, toml + simulated_providers(self.sim.url)))

    def worse(self, model: str) -> None:
        """From now on the model answers as a worse one would; empty: as before."""
        rules = [{"fault": "worse", "model": model}] if model else []
        self.client.post(f"{self.sim.url}/sim/faults", json={"rules": rules}).raise_for_status()

    def ask(self, gateway: GatewayServer, count: int = 1) -> list[str]:
        """The reasons of so many new conversations, and their models."""
        found = []
        for _ in range(count):
            self.asked += 1
            body = {
                "model": "auto",
                "messages": [{"role": "user", "content": f"JSON about harbour {self.asked}"}],
                "response_format": {"type": "json_object"},
                "max_tokens": 400,
            }
            answer = self.client.post(f"{gateway.url}/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            found.append(f"{answer.headers['x-farthing-route-reason']} {answer.headers['x-farthing-route']}")
        return found

    def until(self, gateway: GatewayServer, reached: Callable[[RolloutState], bool], *, batches: int = 30) -> int:
        """Asks until the worker knows of such a state; how many were asked. Raises ``AssertionError`` when never."""
        before = self.asked
        steward, routing = gateway.installation.steward, gateway.installation.services.routing
        assert steward is not None
        assert routing is not None
        for _ in range(batches):
            self.ask(gateway, 5)
            while routing.shadows:
                time.sleep(0.01)
            gateway.run(steward.round())  # sooner than it would by itself
            gateway.run(steward.round())
            if reached(state_of(gateway)):
                return self.asked - before
        raise AssertionError(f"after {self.asked - before} calls: {state_of(gateway)}")


def state_of(gateway: GatewayServer) -> RolloutState:
    routing = gateway.installation.services.routing
    assert routing is not None
    return routing.state("json")


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[Floor]:
    with ExitStack() as stack:
        yield Floor(tmp_path, stack)


def run(floor: Floor, *arguments: str) -> Any:
    config = floor.home / "farthing.toml"
    config.write_text(ROUTE + simulated_providers(floor.sim.url))
    return CliRunner().invoke(main, ["--home", str(floor.home), "--config", str(config), *arguments])


def test_a_downgrade_goes_live_in_steps_stays_live_over_a_restart_and_comes_back_when_the_model_gets_worse(
    floor: Floor,
) -> None:
    first = floor.gateway()
    assert set(floor.ask(first, 3)) <= {"route_control openai/gpt-4o", "route_holdout openai/gpt-4o"}
    asked = floor.until(first, lambda state: state.stage == "live")
    assert asked >= 30  # ten pairs a step at the least
    served = floor.ask(first, 40)
    held = served.count("route_holdout openai/gpt-4o")
    assert 0 < held < 15  # the permanent holdout
    assert served.count("route_first openai/gpt-4o-mini") == 40 - held
    first.stop()

    second = floor.gateway()
    assert state_of(second).stage == "live"
    assert "route_first openai/gpt-4o-mini" in floor.ask(second, 5)
    listed = run(floor, "route", "ls", "--format", "json")
    assert json.loads(listed.output)["rows"][0]["live"].startswith("live, loss 0.0 points")

    floor.worse("gpt-4o-mini")
    floor.until(second, lambda state: state.stage == "rolled_back")
    assert set(floor.ask(second, 20)) <= {"route_rolled_back openai/gpt-4o", "route_holdout openai/gpt-4o"}
    assert second.quiet()
    second.stop()

    moves = [row for row in json.loads(run(floor, "audit", "--format", "json").output)["rows"]
             if row["subject"] == "route"]  # fmt: skip
    assert [row["after"] for row in reversed(moves)] == ["canary 5 %", "canary 25 %", "live", "rolled_back"]
    with closing(SqliteAlerts(floor.home / "farthing.db")) as log:
        told = [(one.alert.event, one.alert.severity) for one in log.records() if one.alert.kind == "route"]
    assert told == [("rolled_back", "critical"), *[("promoted", "info")] * 3]

    third = floor.gateway()
    assert state_of(third).stage == "rolled_back"
    assert run(floor, "route", "restart", "json").exit_code == 0
    floor.worse("")
    due = time.monotonic() + 60
    while state_of(third).stage != "shadow" and time.monotonic() < due:
        time.sleep(0.05)
    assert state_of(third).stage == "shadow"


def test_workers_of_one_installation_share_stages_and_one_of_them_owns_them(floor: Floor) -> None:
    one, other = floor.gateway(), floor.gateway()
    for _ in range(40):
        floor.ask(one, 3)
        floor.ask(other, 3)
        if state_of(other).stage != "shadow":
            break
        time.sleep(0.2)
    due = time.monotonic() + 60
    while state_of(one).step != state_of(other).step and time.monotonic() < due:
        time.sleep(0.05)
    assert state_of(one).stage == state_of(other).stage == "canary"
    movers = [gateway.installation.steward.moved for gateway in (one, other)]  # type: ignore[union-attr]
    assert sorted(movers)[0] == 0 < sorted(movers)[1]


def test_a_model_that_changes_in_silence_reopens_the_gate_and_the_canary_set_is_booked_to_the_lever(
    floor: Floor,
) -> None:
    floor.home.mkdir()
    prompts = [json.dumps({"prompt": f"Describe harbour {number} and its ships"}) for number in range(12)]
    (floor.home / "canary.jsonl").write_text("\n".join(prompts))
    gateway = floor.gateway(ROUTE + 'canary = "canary.jsonl"\ncanary_every = "1s"\n')

    def wait(reached: Callable[[RolloutState], bool]) -> None:
        due = time.monotonic() + 60
        while not reached(state_of(gateway)):
            assert time.monotonic() < due, state_of(gateway)
            time.sleep(0.05)

    wait(lambda state: len(state.canaries) == 2 and state.canary_at_ms > 0)
    at_ms = state_of(gateway).canary_at_ms
    wait(lambda state: state.canary_at_ms > at_ms)
    assert state_of(gateway).reason == ""
    spent = [entry for entry in gateway.books.entries() if entry.scope.feature == "farthing:canary"]
    assert len(spent) >= 72  # twelve prompts, two models: twice at first, then once
    assert {(entry.charge.reason, entry.baseline) for entry in spent} == {("lever:route", 0)}
    floor.worse("gpt-4o-mini")
    wait(lambda state: state.reason == "model_changed:gpt-4o-mini")
    assert state_of(gateway).stage == "shadow"
