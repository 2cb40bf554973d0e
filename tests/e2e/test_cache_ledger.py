"""What the cache says it saved is what the provider's invoice says it saved, to the nano-dollar."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner, Result

from farthing.cli import main
from farthing.core.budget import Need
from farthing.core.types import PromptView, Request, Scope, Target, Usage, UsagePart
from farthing.engine.caching_books import book_lever
from farthing.ports.cache import Selector
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers
from farthing.testing.servers import valkey_url

CACHE = '[[cache]]\nname = "all"\nttl = "1h"\ntags = ["faq"]\n'
FIXED_MS = 1_795_000_000_000
CHAT = "/v1/chat/completions"
HELLO = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say something about harbours."}]}


def traffic() -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """Seeded calls of both dialects, plain and streamed, with many repetitions, from three teams."""
    dice = random.Random(11)
    asks = ["What is your refund policy?", "How do I reset my password?", "Where is my parcel?", "Opening hours?"]
    found: list[tuple[str, dict[str, Any], dict[str, str]]] = []
    for _ in range(160):
        ask = [{"role": "user", "content": dice.choice(asks)}]
        said: dict[str, Any] = {"messages": ask, "stream": dice.random() < 0.5}
        headers = {"x-farthing-team": dice.choice(["search", "support", "sales"])}
        kind = dice.randrange(4)
        if kind == 0:
            found.append(("/v1/messages", {**said, "model": "claude-sonnet-4-6", "max_tokens": 4000}, headers))
        elif kind == 1:
            found.append((CHAT, {**said, "model": "gpt-4o-mini", "temperature": dice.choice([0, 1])}, headers))
        elif kind == 2:
            found.append((CHAT, {**said, "model": "gpt-4o", "max_tokens": dice.choice([5, 4000])}, headers))
        else:
            found.append(("/v1/embeddings", {"model": "text-embedding-3-small", "input": ask[0]["content"]}, headers))
    return found


def run(gateway: GatewayServer, http: httpx.Client) -> list[str]:
    words = []
    for path, body, headers in traffic():
        answer = http.post(gateway.url + path, json=body, headers=headers)
        assert answer.status_code == 200
        words.append(answer.headers["x-farthing-cache"])
    return words


def command(gateway: GatewayServer, tmp_path: Path, *arguments: str) -> Result:
    file = tmp_path / "farthing.toml"
    file.write_text(CACHE, encoding="utf-8")
    return CliRunner().invoke(main, ["--home", gateway.settings.home, "--config", str(file), *arguments])


def total(gateway: GatewayServer, tmp_path: Path, column: str, *more: str) -> int:
    result = command(gateway, tmp_path, "report", "--savings", "--by", "", "--format", "json", *more)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.output)["rows"]
    return int(row[f"{column}_nusd"])


def test_the_net_saving_is_the_difference_of_two_invoices(
    stand: Callable[..., Any], http: httpx.Client, tmp_path: Path
) -> None:
    settings = SimSettings(now_ms=lambda: FIXED_MS)
    sim_on, on = stand(CACHE, sim=settings)
    sim_off, off = stand("", sim=settings)
    words = run(on, http)
    run(off, http)
    assert words.count("hit") > 60
    invoice_on, invoice_off = sim_on.account.invoice.total_nusd, sim_off.account.invoice.total_nusd
    entries = on.books.settled(160)
    assert len({entry.request_id for entry in entries}) == 160, "every hit has its entry"
    assert sum(entry.charge.total for entry in entries) == invoice_on
    assert total(on, tmp_path, "spend") == invoice_on
    assert total(on, tmp_path, "avoided") == total(on, tmp_path, "net") == invoice_off - invoice_on > 0
    assert {entry.fidelity for entry in entries if entry.charge.reason == "cache_hit"} == {"exact"}
    assert total(off, tmp_path, "net") == 0


async def _book(gateway: GatewayServer, number: int) -> None:
    request = Request(
        id="req-1",
        received_at_ms=FIXED_MS,
        dialect="openai",
        body=b"{}",
        view=PromptView(endpoint="chat", model="gpt-4o"),
        scope=Scope(team="search"),
    )
    await book_lever(
        gateway.installation.services,
        request,
        lever="cache",
        act="embedding",
        number=number,
        target=Target(provider="openai", price_as="openai", model="text-embedding-3-small"),
        endpoint="embeddings",
        usage=Usage(parts=(UsagePart(lines=(("input", 500),), tier_basis=500),), source="reported"),
    )


def test_what_saving_costs_is_taken_off_and_counts_against_budgets(
    stand: Callable[..., Any], http: httpx.Client, tmp_path: Path
) -> None:
    budget = '[[budgets]]\nname = "search"\nper = "total"\nusd = "1"\nmatch = {team = "search"}\n'
    _, gateway = stand(CACHE + budget)
    for _ in range(2):
        http.post(gateway.url + CHAT, json=HELLO, headers={"x-farthing-team": "search"})
    gateway.books.settled(2)
    for number in (0, 1, 1):
        gateway.run(_book(gateway, number))
    entries = gateway.books.settled(4)
    assert len(entries) == 4, "the same act is booked once"
    assert total(gateway, tmp_path, "lever_cost") == 2 * 10_000, "500 tokens at $0.02 a million"
    assert total(gateway, tmp_path, "net") == total(gateway, tmp_path, "avoided") - 20_000
    posted = sum(entry.charge.total for entry in entries)

    async def balances() -> int:
        need = Need(usd=1, input_tokens=1, output_tokens=1)
        budgets = gateway.installation.services.budgets
        (hold,) = budgets.holds(Scope(team="search"), provider="openai", model="gpt-4o", need=need, at_ms=FIXED_MS)
        (balance,) = gateway.installation.books.balances([(hold.counter, hold.window)])
        return balance.posted

    assert gateway.run(balances()) == posted


def test_a_hit_is_repriced_when_prices_changed(stand: Callable[..., Any], http: httpx.Client) -> None:
    """A kept answer's saving is what the call would cost now, and it says that prices changed."""
    sim, gateway = stand(CACHE)
    http.post(gateway.url + CHAT, json=HELLO)
    store = gateway.installation.services.caching.store

    async def cheapen() -> None:
        (answer,) = await store.answers(Selector(), limit=9, now_ms=0)
        await store.put(msgspec.structs.replace(answer, charge=1), now_ms=0)

    gateway.run(cheapen())
    http.post(gateway.url + CHAT, json=HELLO)
    hit = gateway.books.settled(2)[1]
    assert (hit.baseline, hit.fidelity) == (sim.account.invoice.total_nusd, "repriced")


def test_a_long_prompts_saving_is_an_estimate(stand: Callable[..., Any], http: httpx.Client) -> None:
    """The provider's own prompt cache might have made the avoided call cheaper, from each model's own minimum on."""
    _, gateway = stand(CACHE)
    long = {"messages": [{"role": "user", "content": "All about harbours. " * 600}], "max_tokens": 4_000}
    for path, model in (
        (CHAT, "gpt-4o"),
        ("/v1/messages", "claude-sonnet-4-5"),
        ("/v1/messages", "claude-haiku-4-5"),
    ):
        for _ in range(2):
            http.post(gateway.url + path, json=long | {"model": model})
    booked = [(entry.model_requested, entry.fidelity) for entry in gateway.books.settled(6)]
    assert booked[1::2] == [
        ("gpt-4o", "estimated"), ("claude-sonnet-4-5", "estimated"), ("claude-haiku-4-5", "exact"),
    ]  # fmt: skip


def test_a_hit_needs_no_budget(stand: Callable[..., Any], http: httpx.Client) -> None:
    """A budget that is used up refuses calls, not answers that cost nothing."""
    _, gateway = stand(CACHE + '[[budgets]]\nname = "all"\nper = "total"\nrequests = 1\n')
    words = [http.post(gateway.url + CHAT, json=HELLO).headers.get("x-farthing-cache") for _ in range(3)]
    assert words == ["miss", "hit", "hit"]
    assert http.post(gateway.url + CHAT, json=HELLO | {"seed": 1}).status_code == 429


def test_the_command_line_shows_explains_and_forgets(
    stand: Callable[..., Any], http: httpx.Client, tmp_path: Path
) -> None:
    _, gateway = stand(CACHE)
    made = http.post(gateway.url + CHAT, json=HELLO)
    hit = http.post(gateway.url + CHAT, json=HELLO)
    gateway.books.settled(2)
    key = hit.headers["x-farthing-cache-key"]
    listed = command(gateway, tmp_path, "cache", "ls", "--format", "json", "--key", key[:10])
    assert json.loads(listed.output)["rows"][0]["key"] == key
    said = command(gateway, tmp_path, "cache", "explain", hit.headers["x-farthing-request-id"])
    assert "hit: exact_hit" in said.output
    missed = command(gateway, tmp_path, "cache", "explain", made.headers["x-farthing-request-id"])
    assert "miss: not_kept" in missed.output
    status = command(gateway, tmp_path, "cache", "status")
    assert "sqlite" in status.output
    assert command(gateway, tmp_path, "cache", "forget").exit_code == 2
    assert "0 answers" in command(gateway, tmp_path, "cache", "forget", "--tag", "other").output
    assert http.post(gateway.url + CHAT, json=HELLO).headers["x-farthing-cache"] == "hit"
    assert "1 answer forgotten" in command(gateway, tmp_path, "cache", "forget", "--tag", "faq").output
    words = []
    for _ in range(40):
        words.append(http.post(gateway.url + CHAT, json=HELLO).headers["x-farthing-cache"])
        if words[-1] == "miss":
            break
        time.sleep(0.05)
    assert words[-1] == "miss", "gateways learn within a second"
    scrape = http.get(gateway.url + "/metrics").text
    assert 'farthing_cache_events_total{event="hit:memory",route="all"}' in scrape
    assert "farthing_cache_avoided_usd_total" in scrape


@pytest.mark.parametrize("kind", ["memory", "valkey"])
def test_every_store_serves(tmp_path: Path, http: httpx.Client, kind: str) -> None:
    env = {"CACHE_URL": valkey_url()} if kind == "valkey" else {}
    store = f'[cache_store]\nkind = "{kind}"\n' + (
        f'url_env = "CACHE_URL"\nname = "{tmp_path.name.lower()}"\n' if kind == "valkey" else ""
    )
    with SimServer(SimSettings()) as sim:
        toml = CACHE + store + simulated_providers(sim.url)
        with GatewayServer(tmp_path / "home", toml, env=env) as gateway:
            words = [http.post(gateway.url + CHAT, json=HELLO).headers["x-farthing-cache"] for _ in range(2)]
        with GatewayServer(tmp_path / "home", toml, env=env) as gateway:
            words.append(http.post(gateway.url + CHAT, json=HELLO).headers["x-farthing-cache"])
        assert words == ["miss", "hit", "hit" if kind == "valkey" else "miss"]


def test_a_store_that_is_away_is_a_miss(tmp_path: Path, http: httpx.Client) -> None:
    with SimServer(SimSettings()) as sim:
        toml = CACHE + '[cache_store]\nkind = "valkey"\nurl_env = "CACHE_URL"\n' + simulated_providers(sim.url)
        env = {"CACHE_URL": "valkey://127.0.0.1:1/0"}
        with GatewayServer(tmp_path / "home", toml, env=env) as gateway:
            answers = [http.post(gateway.url + CHAT, json=HELLO) for _ in range(2)]
            assert [one.status_code for one in answers] == [200, 200]
