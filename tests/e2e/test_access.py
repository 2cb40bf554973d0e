"""Keys: who may call, what a key allows, and where its owner's secrets go."""

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from farthing import bootstrap, config
from farthing.core.errors import ConfigError
from farthing.core.types import KeyRecord, Scope
from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
SECRET = "fk-" + "s" * 40


class Desk:
    def __init__(self, sim: SimServer, gateway: GatewayServer) -> None:
        self.sim = sim
        self.gateway = gateway
        self._count = 0

    def key(self, **fields: Any) -> tuple[str, str]:
        """(secret, id) of a new key."""
        self._count += 1
        secret = f"{SECRET}{self._count}"
        record = KeyRecord(
            id=f"key_{self._count}",
            name=f"name{self._count}",
            hash=hashlib.sha256(secret.encode()).hexdigest(),
            hint=secret[-4:],
            **{"scope": Scope(key=f"key_{self._count}"), "created_at_ms": 1, **fields},
        )
        keys = bootstrap.open_keys(self.gateway.settings)
        keys.add(record)
        keys.close()
        time.sleep(0.12)  # a new key is known after a tenth of a second at the latest
        return secret, record.id

    def post(self, secret: str = "", body: Any = CHAT, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if secret:
            given["authorization"] = f"Bearer {secret}"
        return httpx.post(f"{self.gateway.url}/v1/chat/completions", json=body, headers=given, timeout=60)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with SimServer() as sim, GatewayServer(tmp_path_factory.mktemp("keys"), simulated_providers(sim.url)) as gateway:
        made = Desk(sim, gateway)
        made.key()
        time.sleep(1.1)  # the first key ends the open house after a second at the latest
        yield made


def error(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert answer.headers["x-farthing-error"] == code
    assert answer.headers["x-should-retry"] == "false"
    return str(answer.json()["error"]["message"])


def test_a_key_is_asked_for_once_one_exists(desk):
    message = error(desk.post(), 401, "invalid_api_key")
    assert "No API key was given" in message
    assert "Authorization: Bearer fk-" in message


def test_an_unknown_key_is_named_by_its_last_characters_only(desk):
    message = error(desk.post("fk-" + "x" * 30 + "wxyz"), 401, "invalid_api_key")
    assert "…wxyz" in message
    assert "xxxx" not in message
    assert "farthing key create" in message


def test_a_revoked_and_an_expired_key_say_so(desk):
    revoked, _ = desk.key(revoked_at_ms=2)
    expired, _ = desk.key(expires_at_ms=2)
    assert "was revoked" in error(desk.post(revoked), 401, "invalid_api_key")
    assert "has expired" in error(desk.post(expired), 401, "invalid_api_key")


def test_a_key_revoked_while_serving_stops_within_a_second_or_so(desk):
    secret, key_id = desk.key()
    assert desk.post(secret).status_code == 200
    keys = bootstrap.open_keys(desk.gateway.settings)
    keys.revoke(key_id, at_ms=5)
    keys.close()
    due = time.monotonic() + 60
    while desk.post(secret).status_code == 200:
        assert time.monotonic() < due
        time.sleep(0.1)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_a_key_may_come_in_any_clients_header(desk, header):
    secret, key_id = desk.key()
    value = f"Bearer {secret}" if header == "authorization" else secret
    answer = httpx.post(f"{desk.gateway.url}/v1/chat/completions", json=CHAT, headers={header: value}, timeout=60)
    assert answer.status_code == 200
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    assert entry.scope.key == key_id


def test_the_official_clients_see_an_authentication_error(desk):
    def clients() -> Iterator[tuple[Callable[[], Any], type[Exception]]]:
        one = openai.OpenAI(base_url=f"{desk.gateway.url}/v1", api_key="fk-wrong")
        yield (lambda: one.chat.completions.create(**CHAT)), openai.AuthenticationError
        one.close()
        other = anthropic.Anthropic(base_url=desk.gateway.url, api_key="fk-wrong")
        yield (lambda: other.messages.create(**{**CHAT, "model": "claude-haiku-4-5"})), anthropic.AuthenticationError
        other.close()

    for call, kind in clients():
        with pytest.raises(kind):
            call()


def test_a_key_limited_to_models_serves_no_other_and_lists_no_other(desk):
    secret, _ = desk.key(models=("gpt-4o-*", "claude-haiku-*"))
    assert desk.post(secret).status_code == 200
    message = error(desk.post(secret, {**CHAT, "model": "gpt-4.1"}), 403, "forbidden")
    assert "gpt-4o-*" in message
    with openai.OpenAI(base_url=f"{desk.gateway.url}/v1", api_key=secret) as client:
        names = [model.id for model in client.models.list()]
        assert names
        assert all(name.startswith("gpt-4o-") for name in names)
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4.1")
    with anthropic.Anthropic(base_url=desk.gateway.url, api_key=secret) as other:
        assert all(model.id.startswith("claude-haiku-") for model in other.models.list())


def test_headers_refine_what_the_key_allows_and_nothing_else(desk):
    secret, _ = desk.key(scope=Scope(key="k", team="search", tags=(("env", "prod"),)), refine=("user", "tags"))
    answer = desk.post(secret, x_farthing_user="ada", x_farthing_team="search", x_farthing_tags="a=b")
    assert answer.status_code == 200
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    assert (entry.scope.team, entry.scope.user) == ("search", "ada")
    assert entry.scope.tags == (("a", "b"), ("env", "prod"))
    message = error(desk.post(secret, x_farthing_team="sales"), 403, "forbidden")
    assert "x-farthing-team to 'sales'" in message
    assert "--refine team" in message
    message = error(desk.post(secret, x_farthing_tags="env=dev"), 403, "forbidden")
    assert "env" in message
    body = {**CHAT, "metadata": {"farthing_team": "sales", "env": "dev"}}
    answer = desk.post(secret, body)
    (entry,) = desk.gateway.books.entries(answer.headers["x-farthing-request-id"])
    assert entry.scope.team == "search"
    assert entry.scope.tags == (("env", "prod"),)


@pytest.mark.parametrize(
    ("header", "value", "part"),
    [
        ("x-farthing-user", "a" * 129, "128"),
        ("x-farthing-user", b"\xff\xfe", "UTF-8"),
        ("x-farthing-tags", "novalue", "name=value"),
        ("x-farthing-tags", ",".join(f"t{number}=1" for number in range(20)), "at most 16"),
    ],
)
def test_a_header_that_cannot_be_kept_is_a_bad_request(desk, header, value, part):
    secret, _ = desk.key()
    headers = [("authorization", f"Bearer {secret}"), (header, value)]
    answer = httpx.post(f"{desk.gateway.url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60)
    message = error(answer, 400, "bad_request")
    assert header in message
    assert part in message


def test_a_header_that_means_nothing_is_named_in_the_answer(desk):
    secret, _ = desk.key(refine=("customer",))
    typo = {"x-farthing-custmer": "acme"}
    whole, plain = desk.post(secret, **typo), desk.post(secret, x_farthing_customer="acme", traceparent="00-x")
    assert whole.headers["x-farthing-warning"] == (
        "unknown header x-farthing-custmer (did you mean x-farthing-customer?)"
    )
    assert whole.status_code == plain.status_code == 200
    assert "x-farthing-warning" not in plain.headers
    streamed = desk.post(secret, CHAT | {"stream": True}, **typo, x_farthing_zebra="1")
    assert streamed.headers["x-farthing-warning"].endswith("; x-farthing-zebra")
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "x-farthing-warning" in desk.post(secret, {"model": 7}, **typo).headers


def test_a_policy_may_refuse_headers_that_mean_nothing_and_make_others_mean_something(stand):
    routes = (
        '[[routes]]\nname = "r"\nmodels = ["auto"]\ntiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}\n'
        'tag_header = "x-farthing-task"\nmatch = {"header:x-farthing-shop" = "1"}\n'
    )
    _, gateway = stand(f'[limits]\nunknown_headers = "refuse"\n{routes}')
    known = {"x-farthing-task": "simple", "x-farthing-shop": "1"}
    url = f"{gateway.url}/v1/chat/completions"
    assert httpx.post(url, json=CHAT | {"model": "auto"}, headers=known, timeout=60).status_code == 200
    refused = httpx.post(url, json=CHAT, headers=known | {"x-farthing-taem": "search"}, timeout=60)
    message = error(refused, 400, "bad_request")
    assert "x-farthing-taem (did you mean x-farthing-team?)" in message


def test_a_farthing_key_never_reaches_a_provider(tmp_path):
    with SimServer() as sim:
        toml = f'[[providers]]\nname = "office"\nbase_url = "{sim.url}/v1"\n'
        with GatewayServer(tmp_path, toml) as gateway:
            desk = Desk(sim, gateway)
            assert desk.post("sk-mine").status_code == 200
            secret, _ = desk.key()
            time.sleep(1.1)
            answer = desk.post(secret)
            assert answer.status_code == 401
            assert answer.headers["x-farthing-error"] == "provider_rejected"
            with (
                openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=secret) as client,
                pytest.raises(openai.AuthenticationError),
            ):
                client.models.list()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_that_is_taken_is_told_with_the_fix(tmp_path: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        toml = f"[server]\nport = {port}\nworkers = {workers}\n"
        settings = config.parse(toml, env={"FARTHING_HOME": str(tmp_path)}, source="farthing.toml")
        with pytest.raises(ConfigError) as caught:
            bootstrap.serve(settings)
    assert f"port {port} cannot be listened on: Address already in use; stop what listens there" in str(caught.value)
