"""Requests that cannot be served: an exact error in the caller's dialect, before anything is spent."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers
from farthing.wire.complaints import BODY_MAX

ASK = [{"role": "user", "content": "Hi"}]
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "gpt-4o", "messages": ASK},
    "/v1/completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Hi"},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "Hi"},
    "/v1/responses": {"model": "gpt-4o", "input": "Hi"},
    "/v1/messages": {"model": "claude-haiku-4-5", "messages": ASK, "max_tokens": 9},
    "/v1/messages/count_tokens": {"model": "claude-haiku-4-5", "messages": ASK},
}
PATHS = list(VALID)


class Desk(NamedTuple):
    sim: SimServer
    gateway: GatewayServer
    http: httpx.Client

    def refused(self, path: str, content: bytes, status: int = 400, code: str = "bad_request") -> str:
        """Posts; checks status, headers and shape; the message."""
        asked = self.sim.account.requests
        answer = self.http.post(self.gateway.url + path, content=content)
        assert answer.status_code == status, answer.text
        assert answer.headers["x-farthing-error"] == code
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        assert body["error"]["code"] == code
        if path.startswith("/v1/messages"):
            assert body["type"] == "error"
            assert body["request_id"] == answer.headers["x-farthing-request-id"]
            assert body["error"]["type"] == {400: "invalid_request_error", 404: "not_found_error"}[status]
        else:
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert body["error"]["type"] == "invalid_request_error"
        assert self.sim.account.requests == asked
        return str(body["error"]["message"])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, http: httpx.Client) -> Iterator[Desk]:
    budget = '[[budgets]]\nname = "b"\nper = "day"\nusd = "0.5"\n'
    with (
        SimServer() as sim,
        GatewayServer(tmp_path_factory.mktemp("bad"), budget + simulated_providers(sim.url)) as gateway,
    ):
        yield Desk(sim, gateway, http)
        assert gateway.books.entries() == []
        assert gateway.open_reservations() == ()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b'{"model": "gpt-4o",}', b"\x00", b"nope", b'{"a":1'])
def test_malformed_json_says_so(desk, path, content):
    message = desk.refused(path, content)
    assert "not valid JSON" in message
    assert "one JSON object encoded as UTF-8" in message


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content", [b"[]", b'"text"', b"7", b"null", b"true"])
def test_json_that_is_no_object_says_so(desk, path, content):
    assert "The request body has the wrong type: Expected `object`" in desk.refused(path, content)


@pytest.mark.parametrize("path", PATHS)
def test_invalid_utf_8_anywhere_says_so(desk, path):
    body = json.dumps({**VALID[path], "note": "@"}).encode()
    assert "not valid UTF-8" in desk.refused(path, body.replace(b"@", b"\xff\xfe"))
    inside = json.dumps(VALID[path]).encode().replace(b'"Hi"', b'"\xc3("')
    assert "not valid UTF-8" in desk.refused(path, inside)


@pytest.mark.parametrize("path", PATHS)
def test_a_missing_field_is_named(desk, path):
    for name in VALID[path]:
        if name in ("prompt", "input") and path in ("/v1/completions", "/v1/responses"):
            continue  # the provider knows prompts that live elsewhere
        body = {key: value for key, value in VALID[path].items() if key != name}
        message = desk.refused(path, json.dumps(body).encode())
        assert f"has no '{name}'" in message


@pytest.mark.parametrize(
    ("path", "change", "parts"),
    [
        ("/v1/chat/completions", {"model": 7}, ("'model'", "Expected `str`, got `int`")),
        ("/v1/chat/completions", {"model": ""}, ("'model'", "1 to 256 characters")),
        ("/v1/chat/completions", {"model": "a\nb"}, ("'model'", "printable")),
        ("/v1/chat/completions", {"model": "m" * 300}, ("'model'", "256")),
        ("/v1/chat/completions", {"messages": "Hi"}, ("'messages'", "list")),
        ("/v1/chat/completions", {"messages": None}, ("'messages'", "list")),
        ("/v1/chat/completions", {"stream": "yes"}, ("'stream'", "Expected `bool | null`")),
        ("/v1/chat/completions", {"stream_options": {"include_usage": 1}}, ("'stream_options.include_usage'",)),
        ("/v1/chat/completions", {"max_tokens": "9"}, ("'max_tokens'",)),
        ("/v1/chat/completions", {"max_tokens": -1}, ("'max_tokens' is -1", "between 0 and 10000000")),
        ("/v1/chat/completions", {"max_completion_tokens": 10**12}, ("'max_completion_tokens' is 1000000000000",)),
        ("/v1/chat/completions", {"max_tokens": 10**30}, ("'max_tokens'",)),
        ("/v1/chat/completions", {"max_tokens": 1.5}, ("'max_tokens'",)),
        ("/v1/chat/completions", {"n": -1}, ("'n' is -1", "between 1 and 128")),
        ("/v1/chat/completions", {"n": 0}, ("'n' is 0",)),
        ("/v1/chat/completions", {"n": 10**9}, ("'n' is 1000000000",)),
        ("/v1/completions", {"best_of": 0}, ("'best_of' is 0",)),
        ("/v1/completions", {"max_tokens": 10**8}, ("'max_tokens' is 100000000",)),
        ("/v1/responses", {"max_output_tokens": -5}, ("'max_output_tokens' is -5",)),
        ("/v1/responses", {"tools": {"a": 1}}, ("'tools' must be a list",)),
        ("/v1/responses", {"tools": [1]}, ("'tools' must be a list",)),
        ("/v1/responses", {"background": True}, ("'background'", "without 'background'")),
        ("/v1/messages", {"max_tokens": 10**9}, ("'max_tokens' is 1000000000",)),
        ("/v1/messages", {"max_tokens": None}, ("has no 'max_tokens'",)),
        ("/v1/messages", {"messages": {}}, ("'messages'", "list")),
        ("/v1/messages", {"metadata": "x"}, ("'metadata'",)),
        ("/v1/messages", {"tools": "x"}, ("'tools' must be a list",)),
    ],
)
def test_an_impossible_value_is_named_with_what_is_allowed(desk, path, change, parts):
    message = desk.refused(path, json.dumps({**VALID[path], **change}).encode())
    for part in parts:
        assert part in message


def test_everything_wrong_with_a_body_is_said_at_once(desk):
    odd = {"model": 5, "messages": "x", "stream": "yes", "stream_options": {"include_usage": 1}, "max_tokens": -1}
    told = desk.refused("/v1/chat/completions", json.dumps({**odd, "n": 0, "temperature": "hot"}).encode())
    assert "7 problems: (1) 'model' has the wrong type" in told
    for part in ("'messages' must be a list", "'stream' has", "'stream_options.include_usage' has",
                 "'max_tokens' is -1", "'n' is 0", "'temperature' has"):  # fmt: skip
        assert told.count(part) == 1
    told = desk.refused("/v1/messages", b'{"stream": 3, "max_tokens": 99999999, "tools": "x"}')
    for part in ("has no 'model'", "has no 'messages'", "'stream' has", "'tools' must", "'max_tokens' is 99999999"):
        assert told.count(part) == 1


def test_of_a_long_body_one_fault_is_said_so_that_nobody_waits_for_the_rest(desk):
    odd = {"model": 5, "messages": "x" * BODY_MAX, "stream": "yes"}
    assert "problems" not in desk.refused("/v1/chat/completions", json.dumps(odd).encode())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("depth", [1_000, 20_000])
def test_deep_nesting_is_no_crash(desk, path, depth):
    deep = b"[" * depth + b"]" * depth
    body = json.dumps({**VALID[path], "x": "@"}).encode().replace(b'"@"', deep)
    answer = desk.http.post(desk.gateway.url + path, content=body)
    assert answer.status_code in (400, 401, 404), answer.text
    if depth > 10_000:
        assert "nested too deeply" in answer.json()["error"]["message"]


def test_an_unknown_model_says_who_serves_what(tmp_path):
    toml = '[[providers]]\nname = "groq"\napi_key_env = "SIM_KEY"\n'
    with GatewayServer(tmp_path, toml) as gateway:
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=VALID["/v1/chat/completions"])
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "serves the model 'gpt-4o'" in error["message"]
        assert "groq: llama-*" in error["message"]
        assert "farthing.toml" in error["message"]
        assert gateway.books.exchange(answer.headers["x-farthing-request-id"]).outcome == "refused"


def test_surrogates_and_odd_numbers_pass_to_the_provider_even_when_the_prompt_must_be_counted(stand):
    _, gateway = stand('[[budgets]]\nname = "b"\nper = "day"\ninput_tokens = 10\n')
    for text in (rb'"\ud800"', rb'"\u0000"', b'"a"', rb'"\udc00\ud800"'):
        body = b'{"model":"gpt-4o","x":1e999,"y":-0.0,"z":' + b"9" * 400 + b',"messages":[{"role":"user","content":'
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", content=body + text + b"}]}")
        assert answer.status_code in (200, 400, 429), answer.text
        assert answer.headers.get("x-farthing-error") != "internal_error"
    assert gateway.quiet()
