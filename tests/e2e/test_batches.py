"""Batches of the providers' batch APIs through the gateway: the official clients, the provider's own invoice."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import openai
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import bootstrap
from farthing.adapters.batch_sqlite import SqliteBatches
from farthing.cli import main
from farthing.core.types import KeyRecord, Scope
from farthing.ports.books import Balance
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.fakes import VirtualClock
from farthing.testing.gateway import GatewayProcess, GatewayServer, simulated_providers

URL = "/v1/chat/completions"
MONTH = '[[budgets]]\nname = "all"\nper = "month"\nusd = "2"\nrequests = 1000\ntokens = 10_000_000\n'
SLOW = '[batches]\npoll = "1h"\n'
"""Nothing is looked at by itself: the caller decides when."""
SOON = '[batches]\npoll = "50ms"\n'
TAKES = 10_000


class Site:
    """A gateway, the simulator behind it, and both official clients."""

    def __init__(self, sim: SimServer, gateway: GatewayServer, clock: VirtualClock) -> None:
        self.sim, self.gateway, self.clock = sim, gateway, clock
        self._open = ExitStack()
        self.openai, self.anthropic = self.clients("anything")

    def clients(self, secret: str) -> tuple[openai.OpenAI, anthropic.Anthropic]:
        one = openai.OpenAI(api_key=secret, base_url=f"{self.gateway.url}/v1", max_retries=0)
        other = anthropic.Anthropic(api_key=secret, base_url=self.gateway.url, max_retries=0)
        return self._open.enter_context(one), self._open.enter_context(other)

    def close(self) -> None:
        self._open.close()

    def counted(self) -> dict[str, int]:
        """What the budget's counters have posted, by unit; nothing may be held."""
        found: list[Balance] = list(self.gateway.installation.books.balances([("all", "2026-11")]))
        assert not any(one.held for one in found)
        return {one.unit: one.posted for one in found}

    def booked(self) -> int:
        entries = self.gateway.books.entries()
        assert len({entry.id for entry in entries}) == len(entries)
        return sum(entry.charge.total or 0 for entry in entries)

    def agrees(self) -> None:
        """Ledger, invoice and counters are one number."""
        invoice = self.sim.account.invoice
        entries = self.gateway.books.entries()
        assert len(entries) == len(invoice.lines)
        assert self.booked() == invoice.total_nusd
        tokens = sum(line.tokens.prompt + line.tokens.generated for line in invoice.lines)
        counted = self.counted()
        assert counted.get("usd", 0) == invoice.total_nusd
        assert counted.get("requests", 0) == len(invoice.lines)
        assert counted.get("tokens", 0) == tokens


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:
        count = 0

        def make(toml: str = MONTH + SLOW, *, takes: int = TAKES, home: str = "") -> Site:
            nonlocal count
            count += 1
            clock = VirtualClock()
            sim = stack.enter_context(SimServer(SimSettings(now_ms=clock.now_ms, batch_ms=takes)))
            folder = tmp_path / (home or f"home{count}")
            text = simulated_providers(sim.url) + toml
            made = Site(sim, stack.enter_context(GatewayServer(folder, text, clock=clock)), clock)
            stack.callback(made.close)
            return made

        yield make


def say(number: int, more: str = "") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}{more}"}]


def lines(count: int, **body: Any) -> list[dict[str, Any]]:
    asked = {"model": "gpt-4o-mini", "max_tokens": 20, **body}
    return [
        {"custom_id": f"c{n}", "method": "POST", "url": URL, "body": {**asked, "messages": say(n)}}
        for n in range(count)
    ]


def uploaded(client: openai.OpenAI, found: list[dict[str, Any]]) -> Any:
    data = "\n".join(json.dumps(one) for one in found).encode()
    return client.files.create(file=("requests.jsonl", data), purpose="batch")


def sent(client: openai.OpenAI, found: list[dict[str, Any]], **more: Any) -> Any:
    url = found[0]["url"]
    return client.batches.create(
        input_file_id=uploaded(client, found).id, endpoint=url, completion_window="24h", **more
    )


def asked(client: anthropic.Anthropic, count: int, more: str = "", **extra: Any) -> Any:
    params = {"model": "claude-sonnet-4-6", "max_tokens": 30}
    requests = [{"custom_id": f"m{n}", "params": {**params, "messages": say(n, more)}} for n in range(count)]
    return client.messages.batches.create(requests=requests, **extra)


def until(ready: Any) -> None:
    due = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < due
        time.sleep(0.02)


# -- the ordinary course


def test_openais_client_runs_a_batch_and_the_ledger_is_the_invoice(site, tmp_path):
    here = site()
    found = lines(6)
    found[2]["body"]["messages"] = say(2, " [sim: fault=500]")
    batch = sent(here.openai, found, metadata={"farthing_team": "research", "farthing_feature": "night"})
    held = here.counted()
    assert batch.status == "in_progress"
    assert held["requests"] == 6
    assert here.booked() == 0 < held["usd"]
    here.clock.advance(TAKES)
    done = here.openai.batches.retrieve(batch.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 5, 1)
    here.agrees()
    output = [json.loads(line) for line in here.openai.files.content(done.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in output] == ["c0", "c1", "c3", "c4", "c5"]
    assert json.loads(here.openai.files.content(done.error_file_id).text)["custom_id"] == "c2"
    for entry in here.gateway.books.entries():
        assert (entry.scope.team, entry.scope.feature) == ("research", "night")
        assert entry.usage.service_tier == "batch"
        assert entry.charge.total * 2 == entry.baseline
        assert entry.charge.total <= entry.ceiling
    assert [one.id for one in here.openai.batches.list()] == [batch.id]
    assert here.openai.files.retrieve(batch.input_file_id).purpose == "batch"
    output_file = tmp_path / "output.jsonl"
    output_file.write_bytes(here.openai.files.content(done.output_file_id).content)
    by_hand = ["batch", "book", str(output_file), "--provider", "openai", "--id", batch.id]
    shown = CliRunner().invoke(main, ["--home", here.gateway.settings.home, *by_hand])
    assert "0 booked, 5 already there" in shown.output
    names = {one.id for one in here.openai.files.list()}
    assert names == {batch.input_file_id, done.output_file_id, done.error_file_id}
    here.agrees()


def test_anthropics_client_runs_a_batch_and_the_ledger_is_the_invoice(site):
    here = site()
    batch = asked(here.anthropic, 5, extra_headers={"x-farthing-team": "research"})
    assert batch.processing_status == "in_progress"
    assert here.counted()["requests"] == 5
    with pytest.raises(anthropic.AnthropicError):
        here.anthropic.messages.batches.results(batch.id)
    here.clock.advance(TAKES)
    found = [(one.custom_id, one.result.type) for one in here.anthropic.messages.batches.results(batch.id)]
    assert found == [(f"m{n}", "succeeded") for n in range(5)]
    here.agrees()
    assert {entry.scope.team for entry in here.gateway.books.entries()} == {"research"}
    assert [one.id for one in here.anthropic.messages.batches.list()] == [batch.id]
    here.anthropic.messages.batches.delete(batch.id)
    assert list(here.anthropic.messages.batches.list()) == []
    with pytest.raises(anthropic.NotFoundError):
        here.anthropic.messages.batches.retrieve(batch.id)
    here.agrees()


@pytest.mark.parametrize("url", ["/v1/embeddings", "/v1/responses", "/v1/completions"])
def test_every_endpoint_of_batches_is_booked(site, url):
    here = site()
    bodies = {
        "/v1/embeddings": {"model": "text-embedding-3-small", "input": ["one", "two"]},
        "/v1/responses": {"model": "gpt-4o-mini", "input": "hello", "max_output_tokens": 30},
        "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Once", "max_tokens": 9},
    }
    found = [{"custom_id": f"c{n}", "method": "POST", "url": url, "body": bodies[url]} for n in range(2)]
    batch = sent(here.openai, found)
    here.clock.advance(TAKES)
    assert here.openai.batches.retrieve(batch.id).status == "completed"
    here.agrees()
    endpoints = {"/v1/embeddings": "embeddings", "/v1/responses": "responses", "/v1/completions": "completions"}
    assert {entry.endpoint for entry in here.gateway.books.entries()} == {endpoints[url]}


def test_the_gateway_books_a_batch_that_nobody_asks_for_again(site):
    here = site(MONTH + SOON, takes=0)
    asked(here.anthropic, 3)
    sent(here.openai, lines(2))
    here.clock.advance(5_000)
    here.gateway.books.settled(5)
    until(lambda: here.counted()["usd"] == here.booked())
    here.agrees()


def test_operators_see_every_batch_with_what_it_may_cost(site):
    here = site()
    sent(here.openai, lines(3))
    here.clock.advance(1)
    asked(here.anthropic, 2)
    shown = CliRunner().invoke(main, ["--home", here.gateway.settings.home, "batch", "ls", "--format", "json"])
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.output)["rows"]
    assert [(row["provider"], row["kind"], row["state"], row["requests"]) for row in rows] == [
        ("anthropic", "caller", "open", 2),
        ("openai", "caller", "open", 3),
    ]
    assert sum(row["most_nusd"] for row in rows) == here.counted()["usd"]


# -- endings


def test_what_is_cancelled_costs_what_was_answered(site):
    here = site()
    batch, other = asked(here.anthropic, 4), sent(here.openai, lines(4))
    here.clock.advance(TAKES // 2)
    here.anthropic.messages.batches.cancel(batch.id)
    assert here.openai.batches.cancel(other.id).status == "cancelled"
    assert len(here.sim.account.invoice.lines) == 4
    here.agrees()


def test_what_expires_costs_what_was_answered(site):
    here = site(takes=48 * 3_600_000)
    batch = asked(here.anthropic, 4)
    other = sent(here.openai, lines(2))
    here.clock.advance(24 * 3_600_000)
    assert here.anthropic.messages.batches.retrieve(batch.id).request_counts.expired == 2
    assert here.openai.batches.retrieve(other.id).status == "expired"
    here.agrees()


def test_a_batch_that_the_provider_refuses_costs_and_holds_nothing(site):
    here = site()
    file = uploaded(here.openai, lines(2))
    here.sim.account.batch_room.files.clear()
    with pytest.raises(openai.BadRequestError, match="No file"):
        here.openai.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    assert set(here.counted().values()) <= {0}
    assert here.gateway.books.entries() == []


def test_results_are_booked_before_they_can_be_deleted(site):
    here = site()
    batch = asked(here.anthropic, 3)
    here.clock.advance(TAKES)
    here.anthropic.messages.batches.delete(batch.id)
    here.agrees()
    other = sent(here.openai, lines(3))
    here.clock.advance(TAKES)
    done = here.openai.batches.retrieve(other.id)
    here.openai.files.delete(done.output_file_id)
    here.agrees()
    with pytest.raises(openai.NotFoundError):
        here.openai.files.content(done.output_file_id)


def test_results_that_the_provider_has_lost_are_booked_at_their_ceiling(site):
    here = site()
    batch = sent(here.openai, lines(3))
    held = here.counted()["usd"]
    here.clock.advance(TAKES)
    with openai.OpenAI(api_key="sk-sim", base_url=f"{here.sim.url}/v1") as straight:
        done = straight.batches.retrieve(batch.id)
        straight.files.delete(done.output_file_id)
    here.openai.batches.retrieve(batch.id)
    (entry,) = here.gateway.books.entries()
    assert (entry.charge.total, entry.fidelity, entry.error) == (held, "unknown", "results_gone")
    assert here.counted()["usd"] == held >= here.sim.account.invoice.total_nusd


# -- refusals


def test_everything_that_is_wrong_with_a_file_is_said_at_once(site):
    here = site()
    found = lines(7)
    found[0]["body"]["stream"] = True
    found[5] = {**found[5], "custom_id": "c0", "body": {**found[5]["body"], "stream": True, "model": ""}}
    found[1]["custom_id"] = "c0"
    found[2]["body"] = {"model": "gpt-4o-mini"}
    found[3]["url"] = "/v1/images"
    found[4]["body"]["model"] = "claude-sonnet-4-6"
    with pytest.raises(openai.BadRequestError) as caught:
        uploaded(here.openai, found)
    message = caught.value.message
    assert "6 of 7 requests cannot be taken" in message
    parts = (
        "line 1: 'stream' is true",
        "line 2: custom_id 'c0' came before",
        "line 3: The request body has no 'messages'",
        "line 4: 'POST /v1/images' is none of",
        "line 5: 'claude-sonnet-4-6' is served by 'anthropic'",
        "line 6: custom_id 'c0' came before; each must be unique; 'stream' is true; answers of a batch do not "
        "stream; 'model' must be a printable name",
    )
    for part in parts:
        assert part in message
    assert here.sim.account.batch_room.files == {}
    with pytest.raises(anthropic.BadRequestError) as other:
        here.anthropic.messages.batches.create(
            requests=[
                {"custom_id": "a", "params": {"model": "claude-sonnet-4-6", "messages": say(1)}},
                {"custom_id": "b", "params": {"model": "gpt-4o", "max_tokens": 5, "messages": say(2)}},
            ]  # type: ignore[list-item, typeddict-item]
        )
    assert "2 of 2 requests cannot be taken" in str(other.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "no requests"), (b"not json", "line 1: The request body is not valid JSON"), (b"[1]\n", "wrong type")],
)
def test_a_file_that_is_none_is_refused(site, data, words):
    here = site()
    with pytest.raises(openai.BadRequestError, match=words):
        here.openai.files.create(file=("x.jsonl", data), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        here.openai.files.create(file=("x.jsonl", b"{}"), purpose="assistants")
    broken = httpx.post(
        f"{here.gateway.url}/v1/files", content=b"--x", headers={"content-type": "multipart/form-data"}, timeout=60
    )
    assert broken.status_code == 400


def test_a_batch_that_does_not_fit_is_refused_before_the_provider_hears_of_it(site):
    here = site('[[budgets]]\nname = "all"\nper = "month"\nusd = "0.0005"\n' + SLOW)
    with pytest.raises(openai.RateLimitError) as caught:
        sent(here.openai, lines(30, max_tokens=1000))
    assert caught.value.code == "budget_exceeded"
    assert "Budget 'all'" in caught.value.message
    with pytest.raises(anthropic.RateLimitError):
        asked(here.anthropic, 3)
    assert here.sim.account.batch_room.batches == {}
    assert here.counted() == {}
    sent(here.openai, lines(2))
    assert here.counted()["usd"] > 0


def test_what_a_batch_holds_is_not_there_for_live_calls_until_it_ends(site):
    here = site('[[budgets]]\nname = "all"\nper = "month"\nrequests = 4\n' + SLOW)
    batch = sent(here.openai, lines(3))
    here.openai.chat.completions.create(model="gpt-4o-mini", messages=say(1), max_tokens=5)
    with pytest.raises(openai.RateLimitError):
        here.openai.chat.completions.create(model="gpt-4o-mini", messages=say(2), max_tokens=5)
    here.openai.batches.cancel(batch.id)
    for number in range(3):
        here.openai.chat.completions.create(model="gpt-4o-mini", messages=say(number), max_tokens=5)


def test_limits_on_single_calls_bind_every_line_and_caps_are_set_in_it(site):
    single = '[[budgets]]\nname = "one"\nper = "request"\nusd = "0.0001"\n'
    here = site("[limits]\noutput_tokens_max = 7\n" + SLOW)
    batch = sent(here.openai, lines(2))
    here.clock.advance(TAKES)
    done = here.openai.batches.retrieve(batch.id)
    for line in here.openai.files.content(done.output_file_id).text.splitlines():
        assert json.loads(line)["response"]["body"]["usage"]["completion_tokens"] <= 7
    stored = json.loads(here.openai.files.content(batch.input_file_id).text.splitlines()[0])
    assert stored["body"]["max_tokens"] == 7
    strict = site(single + SLOW)
    with pytest.raises(openai.BadRequestError, match=r"1 of 2 requests .* line 2: .*the budget 'one' allows"):
        uploaded(strict.openai, [lines(1)[0], {**lines(2)[1], "body": {**lines(2)[1]["body"], "max_tokens": 5000}}])


def test_a_provider_without_a_key_of_its_own_has_no_batches(site, tmp_path):
    here = site()
    toml = simulated_providers(here.sim.url).replace("SIM_KEY", "NO_SUCH_KEY")
    with (
        GatewayServer(tmp_path / "keyless", toml) as gateway,
        openai.OpenAI(api_key="sk-own", base_url=f"{gateway.url}/v1", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="have a key of their own"),
    ):
        uploaded(client, lines(1))


# -- tenants


def key(here: Site, name: str, **fields: Any) -> str:
    secret = f"fk-{name}" + "s" * 40
    record = KeyRecord(
        id=f"key_{name}",
        name=name,
        hash=hashlib.sha256(secret.encode()).hexdigest(),
        hint=secret[-4:],
        scope=Scope(team=name, key=f"key_{name}"),
        created_at_ms=1,
        **fields,
    )
    keys = bootstrap.open_keys(here.gateway.settings)
    keys.add(record)
    keys.close()
    here.clock.advance(2_000)
    return secret


def test_nobody_sees_the_files_and_batches_of_another_key(site):
    here = site(MONTH + '[batches]\npoll = "1h"\nqueue = true\n')
    mine, theirs = key(here, "ada"), key(here, "grace")
    client, messages = here.clients(mine)
    batch, message = sent(client, lines(2)), asked(messages, 2)
    waits = client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini", messages=say(1), max_tokens=5, extra_headers={"x-farthing-defer": "batch"}
    )
    here.clock.advance(TAKES)
    done = client.batches.retrieve(batch.id)
    other, others = here.clients(theirs)
    for attempt in (
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(done.output_file_id),
        lambda: other.files.delete(batch.input_file_id),
        lambda: other.batches.create(input_file_id=batch.input_file_id, endpoint=URL, completion_window="24h"),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()
    for call in (
        lambda: others.messages.batches.retrieve(message.id),
        lambda: others.messages.batches.results(message.id),
        lambda: others.messages.batches.cancel(message.id),
        lambda: others.messages.batches.delete(message.id),
    ):
        with pytest.raises(anthropic.NotFoundError):
            call()
    assert [list(other.files.list()), list(other.batches.list()), list(others.messages.batches.list())] == [
        [],
        [],
        [],
    ]
    where = f"{here.gateway.url}{waits.headers['location']}"
    assert httpx.get(where, headers={"x-api-key": theirs}, timeout=60).status_code == 404
    assert httpx.delete(where, headers={"x-api-key": theirs}, timeout=60).status_code == 404
    assert httpx.get(where, timeout=60).status_code == 401
    assert httpx.get(where, headers={"x-api-key": mine}, timeout=60).json()["status"] == "queued"
    with pytest.raises(openai.AuthenticationError):
        here.clients("fk-unknown")[0].files.list()
    assert {entry.scope.team for entry in here.gateway.books.entries()} == {"ada"}


def test_a_key_may_batch_its_own_models_only(site):
    here = site()
    client, _ = here.clients(key(here, "ada", models=("gpt-4o-mini",)))
    with pytest.raises(openai.BadRequestError, match=r"line 1: .*may not use the model 'gpt-4o'"):
        uploaded(client, lines(1, model="gpt-4o"))


# -- restarts


def test_a_batch_outlives_its_gateway(site, tmp_path):
    here = site(home="home")
    batch, message = sent(here.openai, lines(3)), asked(here.anthropic, 3)
    held = here.counted()
    here.gateway.stop()
    assert here.gateway.books.entries() == []
    toml = simulated_providers(here.sim.url) + MONTH + SOON
    with GatewayServer(tmp_path / "home", toml, clock=here.clock) as gateway:
        again = Site(here.sim, gateway, here.clock)
        assert again.counted() == held
        here.clock.advance(TAKES)
        gateway.books.settled(6)
        assert again.openai.batches.retrieve(batch.id).status == "completed"
        assert len(list(again.anthropic.messages.batches.results(message.id))) == 3
        again.agrees()
        again.close()


def test_a_gateway_that_is_killed_keeps_what_its_batches_set_aside_and_books_them_later(tmp_path):
    with SimServer(SimSettings(batch_ms=3_600_000)) as sim:
        toml = simulated_providers(sim.url) + MONTH.replace("month", "total") + '[batches]\npoll = "100ms"\n'
        with GatewayProcess(tmp_path, toml) as gateway:
            with anthropic.Anthropic(api_key="x", base_url=gateway.url, max_retries=0) as client:
                asked(client, 3)
            held = posted(gateway)
            gateway.kill()
            gateway.start()
            assert posted(gateway) == held
            assert gateway.books.entries() == []
            shelf = SqliteBatches(tmp_path / "farthing.db")
            shelf._do(
                lambda run: run("UPDATE batches SET leased_until_ms = 0"), writes=True
            )  # or wait for two minutes
            shelf.close()
            sim.account.settings = msgspec.structs.replace(sim.account.settings, batch_ms=0)
            entries = gateway.books.settled(3, within_s=30)
            assert sum(entry.charge.total for entry in entries) == sim.account.invoice.total_nusd
            until(lambda: posted(gateway)["usd"] == sim.account.invoice.total_nusd)


def posted(gateway: GatewayProcess) -> dict[str, int]:
    ledger = bootstrap.open_ledger(gateway.settings)
    return {one.unit: one.posted for one in ledger.balances([("all", "total"), ("all", "all")])}


def test_a_worker_that_dies_while_it_books_loses_and_doubles_nothing(site, tmp_path):
    here = site(home="home")
    batch = sent(here.openai, lines(4))
    here.clock.advance(TAKES)
    done = here.openai.batches.retrieve(batch.id)
    shelf = SqliteBatches(tmp_path / "home" / "farthing.db")
    (record,) = shelf.batches("", "openai")
    shelf._do(lambda run: run("UPDATE batches SET state = 'open', leased_until_ms = 0"), writes=True)
    shelf.close()
    before = here.gateway.books.entries()
    here.gateway.stop()
    toml = simulated_providers(here.sim.url) + MONTH + SLOW
    with GatewayServer(tmp_path / "home", toml, clock=here.clock) as gateway:
        again = Site(here.sim, gateway, here.clock)
        again.openai.files.content(done.output_file_id)
        assert gateway.books.entries() == before
        again.agrees()
        again.close()
    assert record.upstream_id == batch.id


def faults(here: Site, fault: str, endpoint: str, times: int = 1) -> None:
    order = {"rules": [{"fault": fault, "endpoint": endpoint, "times": times}]}
    assert httpx.post(f"{here.sim.url}/sim/faults", json=order, timeout=60).status_code == 200


def test_a_batch_of_which_nobody_knows_whether_it_runs_is_booked_at_its_ceiling(site):
    here = site()
    file = uploaded(here.openai, lines(2))
    faults(here, "reset", "/v1/batches")
    with pytest.raises(openai.InternalServerError):
        here.openai.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
    (entry,) = here.gateway.books.entries()
    assert (entry.fidelity, entry.error, entry.usage.service_tier) == ("unknown", "provider_overloaded", "batch")
    assert entry.charge.total == here.counted()["usd"] > 0
    here.clock.advance(TAKES)
    (ran,) = here.sim.account.batch_room.batches.values()
    with openai.OpenAI(api_key="sk-sim", base_url=f"{here.sim.url}/v1") as straight:
        straight.batches.retrieve(ran.id)
    assert 0 < here.sim.account.invoice.total_nusd <= entry.charge.total


def test_a_provider_that_is_down_costs_nothing_and_can_be_asked_again(site):
    here = site()
    faults(here, "529", "/v1/messages/batches")
    with pytest.raises(anthropic.APIStatusError) as caught:
        asked(here.anthropic, 2)
    assert caught.value.status_code == 529
    assert set(here.counted().values()) <= {0}
    batch = asked(here.anthropic, 2)
    here.clock.advance(TAKES)
    assert len(list(here.anthropic.messages.batches.results(batch.id))) == 2
    here.agrees()


# -- calls that can wait


QUEUE = MONTH + '[batches]\npoll = "50ms"\nqueue = true\nqueue_size = 3\nqueue_age = "1h"\n'
WAITS = {"x-farthing-defer": "batch"}


def answered(here: Site, where: str, status: str = "done") -> None:
    """Lets time go by until a deferred call has its answer and its batch is booked."""

    def ready() -> bool:
        here.clock.advance(1_000)
        return httpx.get(where, timeout=60).json()["status"] == status

    until(ready)
    until(lambda: here.counted()["usd"] == here.booked())


def deferred(here: Site, number: int) -> str:
    answer = here.openai.chat.completions.with_raw_response.create(
        model="gpt-4o-mini",
        messages=say(number),
        max_tokens=9,
        extra_headers={**WAITS, "x-farthing-user": f"u{number}"},
    )
    assert answer.status_code == 202
    return f"{here.gateway.url}{answer.headers['location']}"


def test_calls_that_wait_are_gathered_answered_and_booked_at_batch_prices(site):
    here = site(QUEUE, takes=0)
    first = [deferred(here, number) for number in range(2)]
    held = here.counted()
    assert held["requests"] == 2
    assert httpx.get(first[0], timeout=60).json()["status"] == "queued"
    assert here.sim.account.batch_room.batches == {}
    second = deferred(here, 2)  # the third makes a batch
    until(lambda: here.sim.account.batch_room.batches)
    answered(here, second)
    answers = [httpx.get(one, timeout=60).json() for one in (*first, second)]
    assert [one["response"]["status_code"] for one in answers] == [200] * 3
    assert all(one["response"]["body"]["choices"][0]["message"]["content"] for one in answers)
    here.agrees()
    assert {entry.scope.user for entry in here.gateway.books.entries()} == {"u0", "u1", "u2"}
    assert list(here.openai.files.list()) == list(here.openai.batches.list()) == []  # they are the gateway's own


def test_an_old_call_is_sent_although_it_is_alone_and_one_can_be_taken_back(site):
    here = site(QUEUE, takes=0)
    answer = here.anthropic.messages.with_raw_response.create(
        model="claude-sonnet-4-6", max_tokens=9, messages=say(1), extra_headers=WAITS
    )
    where = f"{here.gateway.url}{answer.headers['location']}"
    other = deferred(here, 2)
    assert httpx.delete(other, timeout=60).json()["status"] == "cancelled"
    assert here.counted()["requests"] == 1
    here.clock.advance(3_600_000)
    until(lambda: here.sim.account.batch_room.batches)
    assert httpx.delete(where, timeout=60).status_code == 409
    answered(here, where)
    assert httpx.get(where, timeout=60).json()["response"]["body"]["type"] == "message"
    here.agrees()


def test_a_threshold_puts_calls_that_may_wait_into_the_queue(site):
    budget = '[[budgets]]\nname = "all"\nper = "month"\nrequests = 8\nthresholds = [{at = 50, do = "queue"}]\n'
    here = site(budget + "[batches]\nqueue = true\n")
    ask = {"model": "gpt-4o-mini", "max_tokens": 5}
    allow = {"x-farthing-defer": "allow"}
    for number in range(4):
        here.openai.chat.completions.create(**ask, messages=say(number), extra_headers=allow)
    answer = here.openai.chat.completions.with_raw_response.create(**ask, messages=say(9), extra_headers=allow)
    assert (answer.status_code, json.loads(answer.text)["status"]) == (202, "queued")
    with pytest.raises(openai.RateLimitError):  # an answer that streams cannot wait
        here.openai.chat.completions.create(**ask, messages=say(9), extra_headers=allow, stream=True)
    here.openai.chat.completions.create(**ask, messages=say(10))


def test_queued_calls_survive_a_provider_that_is_down_and_fail_with_what_it_refuses(site):
    here = site(QUEUE, takes=0)
    faults(here, "503", "/v1/batches", times=2)
    calls = [deferred(here, number) for number in range(3)]
    until(lambda: here.sim.account.batch_room.batches)  # on the third try
    answered(here, calls[0])
    here.agrees()
    faults(here, "400", "/v1/batches")
    calls = [deferred(here, number) for number in range(3)]
    answered(here, calls[0], "failed")
    assert httpx.get(calls[2], timeout=60).json()["response"]["status_code"] == 400
    here.agrees()


def test_a_call_that_may_wait_and_cannot_be_batched_is_put_off_as_without_a_queue(site, tmp_path):
    here = site()
    budget = '[[budgets]]\nname = "all"\nper = "month"\nrequests = 2\nthresholds = [{at = 50, do = "queue"}]\n'
    toml = simulated_providers(here.sim.url).replace("SIM_KEY", "NO_SUCH_KEY") + budget + "[batches]\nqueue = true\n"
    with (
        GatewayServer(tmp_path / "keyless", toml) as gateway,
        openai.OpenAI(api_key="sk-own", base_url=f"{gateway.url}/v1", max_retries=0) as client,
    ):
        ask = {"model": "gpt-4o-mini", "max_tokens": 5, "messages": say(1)}
        client.chat.completions.create(**ask)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**ask, extra_headers={"x-farthing-defer": "allow"})
        assert caught.value.code == "deferred"


def test_a_call_that_does_not_fit_or_cannot_be_batched_is_refused_at_once(site):
    here = site('[[budgets]]\nname = "all"\nper = "month"\nrequests = 1\n[batches]\nqueue = true\n')
    with pytest.raises(openai.BadRequestError, match="stream"):
        here.openai.chat.completions.create(model="gpt-4o-mini", messages=say(1), stream=True, extra_headers=WAITS)
    deferred(here, 1)
    with pytest.raises(openai.RateLimitError):
        here.openai.chat.completions.create(model="gpt-4o-mini", messages=say(2), extra_headers=WAITS)


# -- whatever comes

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["gpt-4o-mini", "claude-sonnet-4-6", "no-such", 7, ""]),
        "messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": ANY}), max_size=2) | ANY,
        "max_tokens": st.sampled_from([5, -1, 2**70, "7", None]),
        "stream": st.sampled_from([True, False, None, 0]),
        "tools": ANY,
        "metadata": ANY,
    },
)
LINE = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": st.text(max_size=5) | ANY,
        "method": st.sampled_from(["POST", "GET", 1]),
        "url": st.sampled_from([URL, "/v1/embeddings", "/v1/x", None]),
        "body": BODY | ANY,
        "params": BODY | ANY,
    },
)


def test_whatever_comes_is_answered_and_leaves_nothing_held(site):
    here = site(MONTH + '[batches]\npoll = "1h"\nqueue = true\n')
    spoken = {"x-api-key": "x", "anthropic-version": "2023-06-01"}

    @settings(max_examples=60, deadline=None)
    @given(st.lists(LINE | ANY, max_size=3), ANY, st.binary(max_size=20), st.data())
    def check(found, other, junk, data):
        encoded = b"\n".join(msgspec.json.encode(one) for one in found)
        junk = data.draw(st.sampled_from([encoded, junk, encoded + junk]))
        answers = [
            here.http.post("/v1/files", files={"file": ("x", junk)}, data={"purpose": "batch"}),
            here.http.post("/v1/batches", content=msgspec.json.encode(other)),
            here.http.post("/v1/batches", content=junk),
            here.http.post("/v1/messages/batches", headers=spoken, content=msgspec.json.encode({"requests": found})),
            here.http.post("/v1/messages/batches", headers=spoken, content=junk),
            here.http.get("/v1/files", params={"limit": data.draw(st.text(max_size=3)), "after": "none"}),
            here.http.post(URL, headers={"x-farthing-defer": "batch"}, content=junk),
        ]
        for answer in answers:
            assert answer.status_code < 500, answer.text
            assert answer.json()["error" if answer.status_code >= 400 else "id"]

    with httpx.Client(base_url=here.gateway.url, timeout=60) as here.http:
        check()
