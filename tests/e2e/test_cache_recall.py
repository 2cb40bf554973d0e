"""What the engine does with a semantic cache's word: serve, shadow, learn, and book what it cost."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from farthing.ports.cache import Ask, RecallHit, RecallMiss, Selector, StoredAnswer

ROUTE = '[[cache]]\nname = "all"\nsemantic = { mode = "on", risk = 0.02 }\n'
CHAT = "/v1/chat/completions"


def hello(text: str) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}


class OneAnswer:
    """A ``Recall`` that says what it is told to."""

    def __init__(self, *, shadow: bool = False, serves: bool = True) -> None:
        self.shadow = shadow
        self.serves = serves
        self.kept: StoredAnswer | None = None
        self.learned: list[tuple[str, str, bool]] = []

    async def start(self) -> None: ...

    async def recall(self, ask: Ask, *, now_ms: int) -> RecallHit | RecallMiss:
        assert "stream" not in ask.fields
        if self.kept is None:
            return RecallMiss(token="vector")
        if not self.serves:
            return RecallMiss(reason="shadow_mode", would_serve=self.kept)
        return RecallHit(answer=self.kept, evidence=(("cosine", "0.97"),), shadow=self.shadow)

    async def learn(
        self, ask: Ask, answer: StoredAnswer, outcome: RecallHit | RecallMiss, *, stored: bool, now_ms: int
    ) -> None:
        self.kept = self.kept or answer
        self.learned.append((type(outcome).__name__, answer.key, stored))

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        return 0

    async def close(self) -> None: ...


def started(stand: Callable[..., Any], recall: OneAnswer) -> Any:
    sim, gateway = stand(ROUTE)
    gateway.installation.services.caching.recall = recall
    return sim, gateway


def test_a_similar_question_is_served_and_booked(stand: Callable[..., Any], http: httpx.Client) -> None:
    recall = OneAnswer()
    sim, gateway = started(stand, recall)
    first = http.post(gateway.url + CHAT, json=hello("Opening hours?"))
    second = http.post(gateway.url + CHAT, json=hello("When are you open?") | {"stream": True})
    assert [one.headers["x-farthing-cache"] for one in (first, second)] == ["miss", "semantic"]
    assert len(sim.account.invoice.lines) == 1
    _, hit = gateway.books.settled(2)
    (decision,) = [one for one in hit.decisions if one.stage == "cache"]
    assert (decision.reason, dict(decision.evidence)["cosine"]) == ("semantic_hit", "0.97")
    assert (hit.charge.total, hit.baseline) == (0, sim.account.invoice.total_nusd)
    assert recall.learned == [("RecallMiss", first.headers.get("x-farthing-cache-key", recall.learned[0][1]), True)]


def test_a_shadowed_hit_asks_the_provider_too_at_the_levers_cost(
    stand: Callable[..., Any], http: httpx.Client
) -> None:
    recall = OneAnswer(shadow=True)
    sim, gateway = started(stand, recall)
    http.post(gateway.url + CHAT, json=hello("Opening hours?"))
    hit = http.post(gateway.url + CHAT, json=hello("When are you open?"))
    assert hit.headers["x-farthing-cache"] == "semantic"
    entries = gateway.books.settled(3)
    assert len(sim.account.invoice.lines) == 2
    mine = [entry for entry in entries if entry.request_id == hit.headers["x-farthing-request-id"]]
    assert sorted(entry.charge.reason for entry in mine) == ["cache_hit", "lever:cache"]
    (lever,) = [entry for entry in mine if entry.charge.reason == "lever:cache"]
    assert (lever.charge.total, lever.baseline) == (sim.account.invoice.lines[1].amount_nusd, 0)
    assert sum(entry.charge.total for entry in entries) == sim.account.invoice.total_nusd
    for _ in range(100):
        if len(recall.learned) == 2:
            break
        time.sleep(0.02)
    assert [name for name, _, _ in recall.learned] == ["RecallMiss", "RecallHit"]
    exchanges = [one for one in gateway.books.exchanges() if one.request_id == mine[0].request_id]
    assert len(exchanges) == 1
    assert gateway.quiet(), "nothing stays held"


def test_a_failed_shadow_concerns_nobody(stand: Callable[..., Any], http: httpx.Client) -> None:
    recall = OneAnswer(shadow=True)
    _, gateway = started(stand, recall)
    http.post(gateway.url + CHAT, json=hello("Opening hours?"))
    fault = {"x-sim-fault": "status=400"}
    for _ in range(2):
        hit = http.post(gateway.url + CHAT, json=hello("When are you open?"), headers=fault)
        assert (hit.status_code, hit.headers["x-farthing-cache"]) == (200, "semantic")
    assert gateway.quiet()
    assert len(recall.learned) == 1


def test_shadow_mode_serves_nothing(stand: Callable[..., Any], http: httpx.Client) -> None:
    recall = OneAnswer(serves=False)
    sim, gateway = started(stand, recall)
    words = [
        http.post(gateway.url + CHAT, json=hello(text)).headers["x-farthing-cache"]
        for text in ("One?", "Two?", "One?")
    ]
    assert words == ["miss", "shadow", "hit"]
    assert len(sim.account.invoice.lines) == 2


@pytest.mark.parametrize("word", ["exact", "bypass"])
def test_callers_may_refuse_similar_answers(stand: Callable[..., Any], http: httpx.Client, word: str) -> None:
    sim, gateway = started(stand, OneAnswer())
    http.post(gateway.url + CHAT, json=hello("Opening hours?"))
    http.post(gateway.url + CHAT, json=hello("When are you open?"), headers={"x-farthing-cache": word})
    assert len(sim.account.invoice.lines) == 2
