"""Conversations on the simulator's prompt cache: routed per conversation and per turn, against the formula."""

import json
import pathlib
import random
import tempfile

import httpx

from farthing.core.route_sticky import Rates, Turn, conversation_cost
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers

STRONG, CHEAP = "claude-opus-4-5", "claude-haiku-4-5"
RATES = {
    STRONG: Rates(5_000_000, 25_000_000, 500_000, 6_250_000),
    CHEAP: Rates(1_000_000, 5_000_000, 100_000, 1_250_000),
}
"""Pico-USD per token: list prices, read at a tenth and written at five quarters of the input."""
MINIMUM = 4_096
ROUTE = f"""
[[routes]]
name = "talks"
models = ["{STRONG}"]
tiers = {{simple = "{CHEAP}", complex = "{STRONG}"}}
by = ["tag"]
sticky = "STICKY"
"""
CONVERSATIONS, TURNS = 60, 8
_WORDS = [
    "harbour",
    "tide",
    "quay",
    "crane",
    "vessel",
    "cargo",
    "pilot",
    "berth",
    "anchor",
    "signal",
    "channel",
    "buoy",
    "mooring",
    "ledger",
    "invoice",
]


def measure(seed: int = 0) -> list[tuple[str, ...]]:
    """Rows (strategy, cost of always-strong, predicted, off by); all calls go through a gateway with a route."""
    chance = random.Random(seed)
    talks = [[_text(chance, 5_000), *(_text(chance, 120) for _ in range(TURNS - 1))] for _ in range(CONVERSATIONS)]
    rows = []
    base = 0.0
    for name, share, wish, sticky in (
        ("always strong", 0.0, "conversation", "conversation"),
        ("per conversation, 30 % cheap", 0.3, "conversation", "conversation"),
        ("per conversation, 50 % cheap", 0.5, "conversation", "conversation"),
        ("per conversation, 70 % cheap", 0.7, "conversation", "conversation"),
        ("another wish each turn, kept to the conversation", 0.5, "turn", "conversation"),
        ("another wish each turn, followed", 0.5, "turn", "request"),
        ("always cheap", 1.0, "conversation", "conversation"),
    ):
        measured, predicted = _run(talks, share, wish, sticky, seed)
        base = base or measured
        apart = f"{100 * (predicted / measured - 1):+.2f} %" if predicted else "-"
        rows.append((name, f"{measured / base:.3f}", f"{predicted / base:.3f}" if predicted else "-", apart))
    return rows


def _run(talks: list[list[str]], share: float, wish: str, sticky: str, seed: int) -> tuple[float, float]:
    """(what the simulator's invoice says, what the formula predicts where the wish is constant), USD."""
    predicted = 0
    now = [1_795_000_000_000]
    picks = random.Random(seed + 1)
    cheap_ones = set(picks.sample(range(len(talks)), round(share * len(talks))))
    route = ROUTE.replace("STICKY", sticky)
    with (
        tempfile.TemporaryDirectory() as home,
        SimServer(SimSettings(now_ms=lambda: now[0], seed=seed)) as sim,
        GatewayServer(pathlib.Path(home), route + simulated_providers(sim.url)) as gateway,
        httpx.Client(timeout=60) as client,
    ):
        for number, talk in enumerate(talks):
            messages: list[dict] = []
            turns: list[Turn] = []
            before = 0
            for text in talk:
                cheap = number in cheap_ones if wish == "conversation" else picks.random() < share
                for message in messages:
                    message["content"][0].pop("cache_control", None)
                mark = {"type": "ephemeral"}
                messages.append({"role": "user", "content": [{"type": "text", "text": text, "cache_control": mark}]})
                body = {"model": STRONG, "max_tokens": 400, "messages": messages}
                headers = {
                    "anthropic-version": "2023-06-01",
                    "x-farthing-session": f"talk-{number}",
                    "x-farthing-route": "simple" if cheap else "complex",
                }
                answer = client.post(f"{gateway.url}/v1/messages", json=body, headers=headers)
                used = answer.raise_for_status().json()["usage"]
                whole = used["input_tokens"] + used["cache_read_input_tokens"] + used["cache_creation_input_tokens"]
                turns.append(Turn(before, whole - before, used["output_tokens"]))
                said = "".join(part.get("text", "") for part in answer.json()["content"])
                messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
                before = whole
                now[0] += 20_000
            if wish == "conversation":
                model = CHEAP if number in cheap_ones else STRONG
                predicted += conversation_cost(RATES[model], turns, minimum=MINIMUM)
            now[0] += 3_600_000
        lines = client.get(f"{sim.url}/sim/invoice").raise_for_status().text.splitlines()
        billed = sum(line["amount_nusd"] for line in map(json.loads, lines) if "model" in line)
    return billed / 1e9, predicted / 1e12


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))
