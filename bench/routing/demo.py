"""The demo's traffic through HTTP, routing off and on: net saving, what the checks say, what the router costs."""

import json
import pathlib
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from farthing.core.cascade_checks import deterministic
from farthing.core.gate import judge
from farthing.core.types import LedgerEntry
from farthing.demo.plan import PlannedCall, make_plan
from farthing.engine.routing import Routing
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers
from farthing.wire.asked import answered, schema_of, tools_of

ROUTES = """
[[routes]]
name = "openai"
models = ["gpt-4o", "gpt-4.1"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = ["tag", "tools", "length"]
length_tokens = 120

[[routes]]
name = "anthropic"
models = ["claude-sonnet-*", "claude-opus-*"]
tiers = {simple = "claude-haiku-4-5", complex = "claude-sonnet-4-5"}
by = ["tag", "tools", "length"]
length_tokens = 120

[routes.cascade]
verify = ["tool_arguments"]
"""
PATHS = {"/v1/chat/completions": "chat", "/v1/messages": "messages", "/v1/responses": "responses"}


def measure(requests: int = 600, seed: int = 7) -> list[tuple[str, str]]:
    """Facts about the same calls with routing off and on."""
    calls = [call for call in make_plan(requests, seed).calls if call.ask.path in PATHS]
    off, good_off, cpu_off = _day(calls, "")
    on, good_on, cpu_on = _day(calls, ROUTES)
    both = sorted(set(off) & set(on))
    before, after = sum(off[call] for call in both), sum(on[call] for call in both)
    low, high = _interval([(off[call], on[call]) for call in both])
    differences = [float(good_off[call]) - float(good_on[call]) for call in both]
    return [
        ("calls answered both ways", f"{len(both)} of {len(calls)}"),
        ("cost with routing off", f"${before / 1e9:.4f}"),
        ("cost with routing on, escalations included", f"${after / 1e9:.4f}"),
        ("net saving", f"{100 * (1 - after / before):.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"),
        ("quality, by checks of finish, schema and tools", str(judge(differences))),
        ("gateway CPU a call, off and on", f"{cpu_off:.0f} and {cpu_on:.0f} µs (client and simulator included)"),
        ("the router alone, CPU a decision", f"{_overhead(calls):.1f} µs (median)"),
    ]


def _day(calls: list[PlannedCall], routes: str) -> tuple[dict[str, int], dict[str, bool], float]:
    """(nano-USD of every call, whether its answer passes its checks, CPU-µs a call of everything)."""
    good: dict[str, bool] = {}
    with (
        tempfile.TemporaryDirectory() as home,
        SimServer(SimSettings(seed=7)) as sim,
        GatewayServer(pathlib.Path(home), routes + simulated_providers(sim.url)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=120) as client,
        ThreadPoolExecutor(8) as pool,
    ):

        def one(call: PlannedCall) -> None:
            body = {**call.ask.body}
            body.pop("stream", None)
            body.pop("stream_options", None)
            headers = {
                "x-farthing-tags": f"call={call.id}",
                "anthropic-version": "2023-06-01",
                "x-sim-nonce": call.id,
            }
            answer = client.post(call.ask.path, content=json.dumps(body), headers=headers)
            if answer.status_code == 200:
                good[call.id] = _passes(PATHS[call.ask.path], json.dumps(body).encode(), answer.content)

        begun = time.process_time()
        list(pool.map(one, calls))
        spent = time.process_time() - begun
        entries = gateway.books.settled(len(good), within_s=20)
    costs: dict[str, int] = {}
    for entry in entries:
        costs[_call(entry)] = costs.get(_call(entry), 0) + (entry.charge.total or 0)
    return {call: costs[call] for call in good if call in costs}, good, spent / len(calls) * 1e6


def _call(entry: LedgerEntry) -> str:
    return dict(entry.scope.tags)["call"]


def _passes(endpoint: str, body: bytes, answer: bytes) -> bool:
    found = answered(endpoint, "", answer)
    if found is None:
        return False
    schema = schema_of(endpoint, body)
    if schema and not found.tool_calls and deterministic("json_schema", found, schema=schema):
        return False
    return not deterministic("tool_arguments", found, tools=tools_of(endpoint, body))


def _interval(pairs: list[tuple[int, int]]) -> tuple[float, float]:
    chance = random.Random(0)
    found = []
    for _ in range(1_000):
        drawn = chance.choices(pairs, k=len(pairs))
        found.append(1 - sum(one[1] for one in drawn) / sum(one[0] for one in drawn))
    found.sort()
    return found[25], found[975]


def _overhead(calls: list[PlannedCall]) -> float:
    """Median CPU of ``Routing.choose`` on these calls' bodies."""
    from farthing import bootstrap, config
    from farthing.core.types import Request, Scope
    from farthing.wire import anthropic, openai

    views = {"chat": openai.view_chat, "messages": anthropic.view_messages, "responses": openai.view_responses}
    with tempfile.TemporaryDirectory() as home:
        toml = ROUTES + simulated_providers("http://127.0.0.1:9")
        settings = config.parse(toml, env={"HOME": home, "FARTHING_HOME": home}, source="farthing.toml")
        installation = bootstrap.build(settings, env={"SIM_KEY": "sk"})
        services = installation.services
        routing = services.routing
        assert isinstance(routing, Routing)
        times = []
        for turn in range(2):
            for call in calls:
                body = json.dumps(call.ask.body).encode()
                endpoint = PATHS[call.ask.path]
                request = Request(
                    id=call.id,
                    received_at_ms=0,
                    dialect="anthropic" if endpoint == "messages" else "openai",
                    body=body,
                    view=views[endpoint](body),
                    scope=Scope(),
                )
                begun = time.thread_time_ns()
                routed = routing.choose(services, request)
                spent = time.thread_time_ns() - begun
                if turn and routed is not None:
                    times.append(spent / 1_000)
    return statistics.median(times)
