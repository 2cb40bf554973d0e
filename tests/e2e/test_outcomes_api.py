"""``POST /api/v1/outcomes`` on a running gateway: keys, idempotence, errors, and the figures that come of it."""

import hashlib
import json
import time
from collections.abc import Iterator

import httpx
import pytest
from click.testing import CliRunner

from farthing import bootstrap
from farthing.cli import main
from farthing.core.types import KeyRecord, Scope
from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers

SECRET = "fk-" + "o" * 43
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with SimServer() as sim, GatewayServer(tmp_path_factory.mktemp("home"), simulated_providers(sim.url)) as gateway:
        keys = bootstrap.open_keys(gateway.settings)
        keys.add(
            KeyRecord(id="k", name="desk", hash=hashlib.sha256(SECRET.encode()).hexdigest(), hint="oooo",
                      scope=Scope(team="support", key="k"), created_at_ms=1)
        )  # fmt: skip
        keys.close()
        time.sleep(1.1)  # the first key ends the open house after a second at the latest
        yield gateway


def post(gateway: GatewayServer, body: object, secret: str = SECRET) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.post(f"{gateway.url}/api/v1/outcomes", json=body, headers=headers, timeout=60)


def test_an_outcome_is_taken_once_and_sets_a_price_to_a_ticket(gateway: GatewayServer):
    for session in ("s1", "s2"):
        headers = {"authorization": f"Bearer {SECRET}", "x-farthing-session": session}
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60)
        assert answer.status_code == 200
    reports = [{"id": f"t-{s}", "kind": "ticket_resolved", "session": s, "value_usd": "0.10"} for s in ("s1", "s2")]
    first, again = post(gateway, reports), post(gateway, reports[0])
    assert (first.status_code, first.json()) == (201, {"new": 2, "known": 0})
    assert (again.status_code, again.json()) == (200, {"new": 0, "known": 1})
    home = gateway.settings.home
    said = CliRunner().invoke(
        main, ["--home", home, "unit", "--outcome", "ticket_resolved", "--by", "team", "--format", "json"]
    )
    (row,) = json.loads(said.stdout)["rows"]
    spent = sum(entry.charge.total or 0 for entry in gateway.books.entries())
    assert (row["team"], row["outcomes"], row["cost_nusd"]) == ("support", 2, spent)


@pytest.mark.parametrize(
    ("body", "secret", "status"),
    [
        ({"id": "a", "kind": "k", "session": "s"}, "", 401),
        ({"id": "a", "kind": "k", "session": "s"}, "fk-wrong-wrong-wrong", 401),
        ({"id": "a", "kind": "k"}, SECRET, 400),
        ({"id": "a", "kind": "k", "session": "s", "value_usd": 0.1}, SECRET, 400),
        ({"id": "a", "kind": "k", "session": "s", "worth": "1"}, SECRET, 400),
        ([], SECRET, 400),
        ("text", SECRET, 400),
        ([{"id": f"{n}", "kind": "k", "session": "s"} for n in range(1001)], SECRET, 400),
        ([{"id": "x" * 2_000_000}], SECRET, 413),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_reason(gateway: GatewayServer, body, secret, status):
    answer = post(gateway, body, secret)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_other_content_under_a_known_id_is_a_conflict(gateway: GatewayServer):
    one = {"id": "c-1", "kind": "k", "session": "s", "at": "2026-11-21T10:00:00Z"}
    assert post(gateway, one).status_code == 201
    assert post(gateway, one | {"success": False}).status_code == 409


def test_cloudwatch_lines_come_of_the_gateways_metrics(gateway: GatewayServer):
    headers = {"authorization": f"Bearer {SECRET}"}
    assert httpx.post(f"{gateway.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60).status_code == 200
    said = CliRunner().invoke(main, ["emf", "--once", "--url", f"{gateway.url}/metrics"])
    assert said.exit_code == 0, said.output
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert any(line.get("LLMCost", 0) > 0 for line in lines)
    assert all(line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Farthing" for line in lines)
