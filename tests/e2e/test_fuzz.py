"""Whatever arrives, the gateway fails on nothing of its own and holds nothing afterwards."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.sim.server import SimServer
from farthing.testing.gateway import GatewayServer, simulated_providers

POLICY = """
[retries]
attempts_max = 1
[limits]
body_bytes_max = 200000
first_byte_timeout = "5s"
[[budgets]]
name = "tight"
per = "day"
usd = "0.02"
each = ["user"]
[[budgets]]
name = "call"
per = "request"
input_tokens = 3000
output_tokens = 500
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayServer]:
    with (
        SimServer() as sim,
        GatewayServer(tmp_path_factory.mktemp("fuzz"), POLICY + simulated_providers(sim.url)) as made,
    ):
        yield made
        assert made.quiet()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as made:
        yield made


TEXT = st.text(max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
ANY = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
NUMBER = st.sampled_from([None, 0, 1, 7, 500, 10_000_000, -1, 2**63, 2**70, 1.5, "7", True, [], 1e300])
FLAG = st.sampled_from([None, True, False, 0, "true", {}])
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "image", "input_text", "tool_result", "file", 7, None])},
    optional={
        "text": ANY,
        "image_url": ANY,
        "source": ANY,
        "cache_control": st.sampled_from([None, {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}, 1]),
        "file_id": TEXT,
    },
)
CONTENT = TEXT | st.lists(PART, max_size=3) | ANY
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer", 1, None])},
    optional={"content": CONTENT, "name": ANY, "tool_calls": ANY},
)
TURNS = st.lists(TURN, max_size=4) | ANY
TOOL = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "web_search", "code_interpreter", "web_search_20250305", None, 3])},
    optional={"function": ANY, "name": ANY, "input_schema": ANY, "max_uses": NUMBER},
)
RARE = {
    "stream": FLAG,
    "temperature": NUMBER,
    "user": ANY,
    "metadata": st.none() | st.dictionaries(TEXT, TEXT | ANY, max_size=3) | ANY,
    "tools": st.lists(TOOL, max_size=2) | ANY,
    "service_tier": st.sampled_from([None, "auto", "flex", "priority", "default", "batch", "x", 1]),
    "system": CONTENT,
    "unheard_of": ANY,
}
COMMON = {**RARE, "max_tokens": NUMBER}
OPENAI = st.sampled_from(["gpt-4o", "gpt-4o-mini", "o4-mini", "gpt-3.5-turbo-instruct", "text-embedding-3-small", ""])
CLAUDE = st.sampled_from(["claude-haiku-4-5", "claude-sonnet-4-6", "claude-unknown", "gpt-4o"])
OPTIONS = st.sampled_from([None, {}, {"include_usage": True}, {"include_usage": False}, {"x": 1}, 7, []])
SHAPES: dict[str, st.SearchStrategy[Any]] = {
    "/v1/chat/completions": st.fixed_dictionaries(
        {"model": OPENAI, "messages": TURNS},
        optional={
            **COMMON,
            "n": NUMBER,
            "stream_options": OPTIONS,
            "max_completion_tokens": NUMBER,
            "functions": ANY,
            "web_search_options": ANY,
        },
    ),
    "/v1/completions": st.fixed_dictionaries(
        {"model": OPENAI, "prompt": TEXT | st.lists(TEXT | st.lists(st.integers(0, 9))) | ANY},
        optional={**COMMON, "n": NUMBER, "best_of": NUMBER, "stream_options": OPTIONS},
    ),
    "/v1/embeddings": st.fixed_dictionaries({"model": OPENAI, "input": TEXT | st.lists(TEXT) | ANY}, optional=COMMON),
    "/v1/responses": st.fixed_dictionaries(
        {"model": OPENAI, "input": TEXT | TURNS},
        optional={
            **COMMON,
            "instructions": CONTENT,
            "max_output_tokens": NUMBER,
            "max_tool_calls": NUMBER,
            "previous_response_id": TEXT | ANY,
            "conversation": ANY,
            "background": FLAG,
        },
    ),
    "/v1/messages": st.fixed_dictionaries(
        {"model": CLAUDE, "messages": TURNS, "max_tokens": NUMBER | st.just(20)},
        optional={**RARE, "mcp_servers": ANY, "container": ANY, "speed": ANY, "inference_geo": ANY},
    ),
    "/v1/messages/count_tokens": st.fixed_dictionaries({"model": CLAUDE, "messages": TURNS}, optional=COMMON),
}
HEADERS = st.dictionaries(
    st.sampled_from(["x-farthing-user", "x-farthing-team", "x-farthing-tags", "content-type", "accept"]),
    st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=200),
    max_size=3,
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def check(gateway: GatewayServer, client: httpx.Client, path: str, content: bytes, headers: dict[str, str]) -> None:
    answer = client.post(gateway.url + path, content=content, headers={"anthropic-version": "2023-06-01", **headers})
    # The simulator has a 500 of its own now and then: that is the provider's error, passed on.
    assert answer.headers.get("x-farthing-error") != "internal_error", (path, content)
    if answer.status_code >= 500:
        assert answer.headers["x-farthing-error"].startswith("provider_"), (path, content, answer.text)


@pytest.mark.parametrize("path", SHAPES)
def test_near_valid_requests_are_answered_or_refused(gateway, client, path):
    @QUICK
    @given(body=SHAPES[path], headers=HEADERS)
    def fuzz(body: Any, headers: dict[str, str]) -> None:
        check(gateway, client, path, json.dumps(body).encode("utf-8", "surrogatepass"), headers)

    fuzz()
    assert gateway.quiet()


@pytest.mark.parametrize("path", SHAPES)
def test_any_json_and_any_bytes_are_refused(gateway, client, path):
    @QUICK
    @given(content=ANY.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
    def fuzz(content: bytes) -> None:
        check(gateway, client, path, content, {})

    fuzz()
    assert gateway.quiet()


@pytest.mark.timeout(600)
def test_schemathesis_finds_no_server_error_behind_the_published_description(gateway, tmp_path):
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{gateway.url}/openapi.json",
        "--checks", "not_a_server_error,status_code_conformance", "--max-examples", "8",
        "--phases", "coverage,fuzzing", "--generation-deterministic", "--continue-on-failure", "--workers", "1",
        "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert gateway.quiet()
