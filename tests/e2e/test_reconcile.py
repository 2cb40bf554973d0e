"""Reconciliation against a provider's own reports: faults are injected, and each gap comes out with name and size."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from click.testing import CliRunner, Result

from farthing.cli import main
from farthing.sim.invoice import InvoiceLine, key_hash
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.fakes import VirtualClock
from farthing.testing.gateway import SIM_KEY, GatewayServer, simulated_providers

START = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp() * 1000)
HOUR = 3_600_000
DAY = 24 * HOUR
DAYS = 5
SHIFTED = 2
"""The day that the provider books one day late."""
PAST_KEY = "sk-past-the-gateway"
DRIFTED = "gpt-4o-mini"
PERIOD = ("--since", "2026-11-02", "--until", "2026-11-08")
SYSTEM = "The harbour opens at dawn, and every ship is counted twice. " * 90

WRONG_PRICES = """
provider: openai
source: contract
checked_on: 2026-11-01
models:
  - id: gpt-4o-mini
    prices:
      - {from: 2026-11-01, input: "0.15", input_cache_read: "0.075", output: "0.90"}
"""


class Scene(NamedTuple):
    """A gateway that kept its books, and the provider that wrote the bill."""

    sim: SimServer
    gateway: GatewayServer
    home: Path

    def run(self, *words: str) -> Result:
        arguments = ["--home", str(self.home), "--config", str(self.home / "farthing.toml"), *words]
        return CliRunner().invoke(main, arguments, env={"ADMIN": "sk-admin-sim", "ANT_ADMIN": "sk-ant-admin-sim"})

    def reconciled(self, provider: str, *words: str) -> dict[str, Any]:
        env = "ADMIN" if provider == "openai" else "ANT_ADMIN"
        keys = ["--gateway-key", f"key_{key_hash(SIM_KEY)}", "--gateway-key", f"apikey_{key_hash(SIM_KEY)}"]
        result = self.run(
            *("reconcile", "--provider", provider, "--url", self.sim.url, "--admin-key-env", env, *PERIOD),
            *(keys if "--no-keys" not in words else []),
            *("--format", "json", *(word for word in words if word != "--no-keys")),
        )
        assert result.exit_code in (0, 1), result.output
        return dict(json.loads(result.stdout), exit_code=result.exit_code)

    def billed(self, provider: str) -> list[InvoiceLine]:
        return [line for line in self.sim.account.invoice.lines if line.provider == provider]


def tokens(lines: list[InvoiceLine]) -> int:
    return sum(line.tokens.prompt + line.tokens.generated for line in lines)


def amount(lines: list[InvoiceLine]) -> int:
    return sum(line.amount_nusd for line in lines)


def line(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in found["rows"] if row["line"].strip() == name)


def body(number: int, model: str, *, lost: bool) -> tuple[str, dict[str, Any]]:
    fault = " [sim: fault=cut:6]" if lost else ""
    ask = [{"role": "user", "content": f"Report number {number}.{fault}"}]
    if model.startswith("claude"):
        system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
        return "/v1/messages", {
            "model": model, "max_tokens": 60, "system": system, "messages": ask, "stream": lost or number % 3 == 0,
        }  # fmt: skip
    if model.startswith("text-embedding"):
        return "/v1/embeddings", {"model": model, "input": f"Report number {number}."}
    messages = [{"role": "system", "content": SYSTEM}, *ask]
    return "/v1/chat/completions", {
        "model": model, "max_tokens": 60, "messages": messages, "stream": lost or number % 3 == 0,
    }  # fmt: skip


MODELS = ("gpt-4o", DRIFTED, "gpt-4.1-nano", "claude-haiku-4-5", "claude-sonnet-4-6", "text-embedding-3-small")


async def one(client: httpx.AsyncClient, sim: str, gateway: str, number: int) -> None:
    model = MODELS[number % len(MODELS)]
    lost = number % 100 == 8  # 1 %: chat models only, over all days
    if lost:
        model = ("gpt-4o", "claude-sonnet-4-6")[number // 100 % 2]
    past = number % 10 == 3
    path, payload = body(number, model, lost=lost)
    key = PAST_KEY if past else SIM_KEY
    headers = {"authorization": f"Bearer {key}"}
    if path == "/v1/messages":
        headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    try:
        answer = await client.post(f"{sim if past else gateway}{path}", json=payload, headers=headers)
        assert answer.is_success, answer.text
    except httpx.RemoteProtocolError:
        assert lost


async def traffic(scene: Scene, clock: VirtualClock, now: list[int]) -> None:
    """1,200 calls over five days; at the end of each, some close to midnight that the provider bills a day later."""
    async with httpx.AsyncClient(timeout=60) as client:
        for hour in range(DAYS * 6):
            day, at = divmod(hour, 6)
            ours = START + day * DAY + at * 4 * HOUR + HOUR
            theirs = ours + DAY + 420_000 if day == SHIFTED else ours
            if at == 5 and day == 0:
                ours = START + day * DAY + DAY - 60_000
                theirs = START + (day + 1) * DAY + 60_000
            clock.set(ours)
            now[0] = theirs
            for step in range(0, 40, 20):
                numbers = range(hour * 40 + step, hour * 40 + step + 20)
                await asyncio.gather(*(one(client, scene.sim.url, scene.gateway.url, number) for number in numbers))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("reconcile")
    now = [START]
    clock = VirtualClock(START)
    (home / "prices").mkdir()
    (home / "prices" / "own.yml").write_text(WRONG_PRICES, encoding="utf-8")
    with SimServer(SimSettings(now_ms=lambda: now[0], instance="bill")) as sim:
        toml = "[retries]\nattempts_max = 1\n" + simulated_providers(sim.url)
        (home / "farthing.toml").write_text(toml, encoding="utf-8")
        with GatewayServer(home, toml, clock=clock) as gateway:
            made = Scene(sim, gateway, home)
            asyncio.run(traffic(made, clock, now))
            yield made


def ours(scene: Scene, provider: str) -> list[InvoiceLine]:
    """What the provider billed for calls through the gateway."""
    return [line for line in scene.billed(provider) if line.key == key_hash(SIM_KEY)]


def booked(scene: Scene, provider: str) -> tuple[int, int]:
    """(tokens, nano-USD) that the gateway booked for this provider's calls."""
    entries = [entry for entry in scene.gateway.books.entries() if entry.price_as == provider]
    used = sum(count for entry in entries for part in entry.usage.parts for _, count in part.lines)
    return used, sum(entry.charge.total or 0 for entry in entries)


def drift(scene: Scene, provider: str) -> int:
    """What the wrong price row cost: billed minus booked over the calls of one model, all of them metered exactly."""
    billed = amount([line for line in ours(scene, provider) if line.model_requested == DRIFTED])
    entries = [entry for entry in scene.gateway.books.entries() if entry.model_requested == DRIFTED]
    assert all(entry.usage.source == "reported" for entry in entries)
    return billed - sum(entry.charge.total or 0 for entry in entries) if provider == "openai" else 0


def moved(scene: Scene, provider: str) -> list[InvoiceLine]:
    """Lines that the provider booked a day later than the gateway."""
    return [one for one in ours(scene, provider) if one.at % HOUR == 420_000 or (one.at - START) % DAY == 60_000]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_every_injected_gap_is_named_with_its_size(scene: Scene, provider: str):
    found = scene.reconciled(provider)
    billed, through = scene.billed(provider), ours(scene, provider)
    past = [one for one in billed if one.key == key_hash(PAST_KEY)]
    used, spent = booked(scene, provider)
    assert len(scene.sim.account.invoice.lines) == 1_200
    assert line(found, f"billed by {provider}")["tokens"] == tokens(billed)
    assert line(found, f"billed by {provider}")["amount_nusd"] == amount(billed)
    assert line(found, "booked by Farthing")["tokens"] == used
    assert line(found, "booked by Farthing")["amount_nusd"] == spent

    bypass = line(found, "past the gateway")
    assert bypass["tokens"] == tokens(past) > 0
    assert abs(bypass["amount_nusd"] - amount(past)) <= len(past)

    estimated = line(found, "booked on an estimate")
    assert estimated["tokens"] == tokens(through) - used, "everything else was metered to the token"
    wrong_price = line(found, "another price")
    assert abs(wrong_price["amount_nusd"] - drift(scene, provider)) <= len(through)
    assert (wrong_price["amount_nusd"] < 0) == (provider == "openai")
    missed = amount(through) - spent - drift(scene, provider)
    assert abs(estimated["amount_nusd"] - missed) <= len(through)

    timing = line(found, "billed on the neighbouring day")
    assert timing["tokens"] == timing["amount_nusd"] == 0, "what one day lacks, the other has"
    shifted = moved(scene, provider)
    assert abs(timing["tokens_size"] - tokens(shifted)) <= abs(estimated["tokens_size"])
    assert abs(timing["amount_size_nusd"] - amount(shifted)) <= estimated["amount_size_nusd"] + len(shifted)

    unnamed = line(found, "unnamed")
    assert unnamed["tokens_size"] * 1_000 <= tokens(billed)
    assert unnamed["amount_size_nusd"] * 1_000 <= amount(billed)
    assert found["exit_code"] == 0
    parts = [row["amount_nusd"] for row in found["rows"] if row["line"].startswith("  ")]
    assert line(found, "gap")["amount_nusd"] == sum(parts) + unnamed["amount_nusd"] == amount(billed) - spent


def test_a_wrong_price_is_named_with_its_row_and_what_was_billed(scene: Scene):
    evidence = line(scene.reconciled("openai"), "another price")["evidence"]
    assert "gpt-4o-mini, output: billed $0.6000 / 1M" in evidence
    assert "$0.9000 / 1M" in evidence


def test_without_the_gateways_keys_requests_the_ledger_lacks_are_traffic_past_it(scene: Scene):
    found = scene.reconciled("openai", "--no-keys")
    past = [one for one in scene.billed("openai") if one.key == key_hash(PAST_KEY)]
    bypass = line(found, "past the gateway")
    estimated = line(found, "booked on an estimate")
    assert abs(bypass["tokens"] - tokens(past)) <= estimated["tokens_size"] + 6_000, "estimates blur it a little"
    assert "requests more than the ledger" in bypass["evidence"]
    assert any("--gateway-key" in note for note in found["notes"])


def test_a_gap_without_a_cause_ends_with_one(scene: Scene):
    """Anthropic counts no requests, so without keys nothing tells what the surplus is."""
    result = scene.run(
        *("reconcile", "--provider", "anthropic", "--url", scene.sim.url, "--admin-key-env", "ANT_ADMIN", *PERIOD)
    )
    assert result.exit_code == 1
    assert "more than the tolerated 0.50 %" in result.output


def test_the_details_sum_to_the_gap(scene: Scene):
    found = scene.reconciled("anthropic", "--detail")
    assert sum(row["amount_nusd"] for row in found["rows"]) == found["total"]["amount_nusd"]
    through = scene.reconciled("anthropic")
    assert found["total"]["amount_nusd"] == line(through, "gap")["amount_nusd"]
    assert {row["cause"] for row in found["rows"]} >= {"past the gateway", "billed on the neighbouring day"}


def test_pages_saved_to_files_give_the_same_answer_as_the_api(scene: Scene, tmp_path: Path):
    admin = {"authorization": "Bearer sk-admin-sim"}
    asked = {
        "usage/completions": "model api_key_id service_tier batch",
        "usage/embeddings": "model api_key_id",
        "costs": "line_item api_key_id",
    }
    files = []
    with httpx.Client(headers=admin, timeout=60) as client:
        for number, (report, groups) in enumerate(asked.items()):
            query = [
                ("start_time", str(START // 1000)),
                ("end_time", str(START // 1000 + 6 * 86_400)),
                ("limit", "31"),
            ]
            query += [("group_by", name) for name in groups.split()]
            answer = client.get(f"{scene.sim.url}/v1/organization/{report}", params=query)
            path = tmp_path / f"page{number}.json"
            path.write_bytes(answer.content)
            files += ["--file", str(path)]
    key = f"key_{key_hash(SIM_KEY)}"
    result = scene.run(
        *("reconcile", "--provider", "openai", *PERIOD, "--gateway-key", key, "--format", "json", *files)
    )
    assert json.loads(result.stdout)["rows"] == scene.reconciled("openai")["rows"]


def test_periods_longer_than_a_page_are_read_to_the_end(scene: Scene):
    key = f"key_{key_hash(SIM_KEY)}"
    result = scene.run(
        *(
            "reconcile",
            "--provider",
            "openai",
            "--url",
            scene.sim.url,
            "--admin-key-env",
            "ADMIN",
            "--format",
            "json",
        ),
        *("--since", "2026-08-01", "--until", "2026-11-08", "--gateway-key", key),
    )
    assert json.loads(result.stdout)["rows"] == scene.reconciled("openai")["rows"]


def test_an_ordinary_key_is_refused_with_the_way_out(scene: Scene):
    result = CliRunner().invoke(
        main,
        [
            *("--home", str(scene.home), "reconcile", "--provider", "openai", "--url", scene.sim.url),
            *("--admin-key-env", "ORDINARY", *PERIOD),
        ],
        env={"ORDINARY": "sk-ordinary"},
    )
    assert result.exit_code == 2
    assert "admin key" in result.output
    assert "sk-ordinary" not in result.output


def test_corrections_bring_estimates_to_the_bill_once_and_leave_the_entries_as_they_are(scene: Scene):
    before = scene.gateway.books.entries()
    first = scene.reconciled("openai", "--correct")
    assert "Corrected:" in first["notes"][-1]
    entries = scene.gateway.books.entries()
    added = [entry for entry in entries if entry.kind == "adjustment"]
    assert added
    assert entries[: len(before)] == before
    held = {entry.id: entry for entry in before}
    assert all(held[entry.corrects].usage.source != "reported" for entry in added)
    assert all(entry.charge.total == sum(line.amount or 0 for line in entry.charge.lines) for entry in added)

    second = scene.reconciled("openai", "--correct")
    assert len(scene.gateway.books.entries()) == len(entries), "the same bill corrects nothing twice"
    was, now = line(first, "booked on an estimate"), line(second, "booked on an estimate")
    assert abs(now["amount_size_nusd"]) < abs(was["amount_size_nusd"])
    assert line(second, "unnamed")["amount_size_nusd"] * 1_000 <= line(second, "billed by openai")["amount_nusd"]
