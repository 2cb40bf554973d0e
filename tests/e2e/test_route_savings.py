"""What routing saves, against the simulator's own invoice: with shadows, judges, classifiers and lost caches."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest

from farthing.core.money import Nusd
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings

ROUTE = """
[[routes]]
name = "turns"
models = ["gpt-4o"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = ["tag"]
sticky = "request"
"""
SYSTEM = "You know all about harbours, their ships and their tides. " * 300


def billed(sim: SimServer) -> int:
    lines = httpx.get(f"{sim.url}/sim/invoice", timeout=60).text.splitlines()
    return int(json.loads(lines[-1])["total"]["amount_nusd"])


def talk(url: str, tiers: list[str]) -> None:
    """One conversation, a turn for each tier, with answers of the same length whoever gives them."""
    messages: list[dict[str, str]] = [{"role": "system", "content": SYSTEM}]
    with httpx.Client(timeout=60) as client:
        for number, tier in enumerate(tiers):
            messages.append({"role": "user", "content": f"Turn {number}, please [sim: tokens=40 nonce=n]"})
            body = {"model": "gpt-4o", "messages": messages}
            headers = {"authorization": "Bearer sk-sim", **({"x-farthing-route": tier} if tier else {})}
            answer = client.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            messages.append({"role": "assistant", "content": f"Answer {number}: " + "word " * 30})


def sums(gateway: Any, count: int) -> tuple[int, int]:
    """(charged, baseline) of so many entries."""
    entries = gateway.books.settled(count)
    assert all(entry.baseline is not None for entry in entries)
    return sum(entry.charge.total for entry in entries), sum(entry.baseline for entry in entries)


@pytest.mark.parametrize(
    "tiers",
    [
        ["simple"] * 5,
        ["complex"] * 5,
        ["complex", "complex", "simple", "complex", "complex"],
        ["simple", "complex", "simple", "complex", "simple", "complex"],
        ["complex", "simple", "simple", "simple"],
    ],
    ids=["cheap", "strong", "one-change", "every-turn", "down"],
)
def test_the_baseline_is_what_the_asked_for_model_would_have_been_billed_with_its_cache_warm(
    stand: Callable[..., Any], tiers: list[str]
) -> None:
    here = stand(ROUTE)
    talk(here.gateway.url, tiers)
    charged, baseline = sums(here.gateway, len(tiers))
    assert charged == billed(here.sim)
    with SimServer(SimSettings()) as always:
        talk(always.url, [""] * len(tiers))
        strong = billed(always)
    assert baseline == pytest.approx(strong, rel=0.01)
    lost = [one for entry in here.gateway.books.entries() for one in entry.decisions if one.reason == "cache_lost"]
    changes = sum(one != other for one, other in pairwise(tiers))
    assert bool(lost) == bool(changes)
    assert len(lost) <= changes


def test_shadows_judges_and_classifiers_are_on_the_invoice_and_taken_off_the_savings(
    stand: Callable[..., Any],
) -> None:
    here = stand(
        """
[[routes]]
name = "asked"
models = ["gpt-4o"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = ["classifier"]
classifier = "gpt-4.1-nano"
rollout = {shadow_share = 1.0, judge = "gpt-4.1", shadow_usd_per_day = "1", holdout = 0.0}
"""
    )
    with httpx.Client(timeout=60) as client:
        for number in range(4):
            body = {"model": "gpt-4o",
                    "messages": [{"role": "user", "content": f"Harbour {number} [sim: say=simple]"}]}  # fmt: skip
            answer = client.post(f"{here.gateway.url}/v1/chat/completions", json=body)
            assert answer.headers["x-farthing-route-reason"] in ("route_control", "route_holdout")
            assert answer.headers["x-farthing-route"] == "openai/gpt-4o"
    routing = here.gateway.installation.services.routing
    while routing.shadows:
        time.sleep(0.01)
    # four calls, their classifier and their shadow; answers agree, so that no judge is asked
    entries = here.gateway.books.settled(12)
    assert sum(entry.charge.total for entry in entries) == billed(here.sim)
    levers = [entry for entry in entries if entry.charge.reason == "lever:route"]
    assert len(levers) == 8
    saved = sum(Nusd(entry.baseline - entry.charge.total) for entry in entries)
    assert saved == -sum(entry.charge.total for entry in levers)


def test_a_judge_is_asked_where_answers_differ_and_its_marks_count(stand: Callable[..., Any]) -> None:
    here = stand(
        """
[[routes]]
name = "judged"
models = ["gpt-4o"]
tiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}
by = []
rollout = {shadow_share = 1.0, judge = "gpt-4.1", holdout = 0.0}
"""
    )
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Tell me about harbours"}]}
    assert httpx.post(f"{here.gateway.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
    entries = here.gateway.books.settled(4)  # the call, its shadow, and a mark for each answer
    assert sum(entry.charge.total for entry in entries) == billed(here.sim)
    assert [entry.charge.reason for entry in entries].count("lever:route") == 3
