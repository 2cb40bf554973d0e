"""The semantic cache over HTTP, with official clients and a small encoder of its own."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from farthing import bootstrap
from farthing.core.types import LedgerEntry
from farthing.engine.semantic_families import kept
from farthing.ports.semantic import Comparison
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers
from farthing.testing.servers import store_env
from farthing.testing.stores import namespace_of
from farthing.testing.tiny_embedder import make_tiny_embedder

FIRST = "how do i reset my account password"
SIMILAR = "how do i reset my account password please"
OTHERS = ("how do i not reset my account password", "how do i reset my account 7 password", "weather in paris")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return make_tiny_embedder(tmp_path / "encoder", (FIRST, SIMILAR, *OTHERS))


def settings(encoder: Path, semantic: str) -> str:
    return (
        f'[embedder]\nkind = "onnx"\nfolder = "{encoder}"\n'
        f'[[cache]]\nname = "all"\n[cache.semantic]\nmode = "on"\n{semantic}\n'
    )


def ask(
    gateway: GatewayServer, text: str, *, system: str = "", stream: bool = False, key: str = "sk-test", **more: Any
) -> tuple[str, str]:
    """(answer, what the cache header says)."""
    messages: list[Any] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    call: dict[str, Any] = {"model": "gpt-4o", "messages": messages} | more
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
        if not stream:
            raw = client.chat.completions.with_raw_response.create(**call)
            return raw.parse().choices[0].message.content or "", raw.headers["x-farthing-cache"]
        said = ""
        with client.chat.completions.with_streaming_response.create(**call, stream=True) as raw:
            for chunk in raw.parse():
                said += "".join(choice.delta.content or "" for choice in chunk.choices)
            return said, raw.headers["x-farthing-cache"]


def calls(sim: SimServer) -> int:
    return len(sim.account.invoice.lines)


def evidence(entry: LedgerEntry) -> dict[str, str]:
    return next(dict(one.evidence) for one in entry.decisions if one.stage == "cache")


def eventually(holds: Callable[[], bool]) -> None:
    """Waits for what happens behind an answer."""
    due = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < due, "it never happened"
        time.sleep(0.02)


def learned(gateway: GatewayServer, questions: int) -> None:
    """Returns once so many questions are kept; each is kept after its answer was compared."""

    def kept_by_now() -> bool:
        with sqlite3.connect(Path(gateway.books.settings.home) / "semantic.db") as db:
            (count,) = db.execute("SELECT count(*) FROM questions").fetchone()
        db.close()
        return bool(count >= questions)

    eventually(kept_by_now)


@pytest.mark.parametrize("stream", [False, True])
def test_a_similar_question_gets_the_answer_that_is_kept(
    stand: Callable[..., Any], encoder: Path, stream: bool
) -> None:
    sim, gateway = stand(settings(encoder, "threshold = 0.8\nshadow_share = 0.0"))
    made, word = ask(gateway, FIRST)
    assert word == "miss"
    learned(gateway, 1)
    again, word = ask(gateway, SIMILAR, stream=stream)
    assert (again, word) == (made, "semantic")
    assert calls(sim) == 1
    paid, hit = gateway.books.settled(2)
    assert (hit.charge.total, hit.baseline) == (0, paid.charge.total)
    found = evidence(hit)
    assert float(found["similarity"]) >= 0.8
    assert found["source"] == paid.id


def test_a_guard_or_distance_keeps_other_questions_apart(stand: Callable[..., Any], encoder: Path) -> None:
    _, gateway = stand(settings(encoder, "threshold = 0.7\nshadow_share = 0.0"))
    ask(gateway, FIRST)
    learned(gateway, 1)
    assert [ask(gateway, text)[1] for text in OTHERS] == ["miss"] * len(OTHERS)


CHANGES: tuple[dict[str, Any], ...] = (
    {"system": "You are a pirate."},
    {"model": "gpt-4o-mini"},
    {"temperature": 0.3},
    {"response_format": {"type": "json_object"}},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    {"extra_body": {"seed": 5}},
)


def test_nothing_but_the_question_may_differ(stand: Callable[..., Any], encoder: Path) -> None:
    sim, gateway = stand(settings(encoder, "threshold = 0.5\nshadow_share = 0.0"))
    ask(gateway, FIRST)
    learned(gateway, 1)
    assert [ask(gateway, SIMILAR, **change)[1] for change in CHANGES] == ["miss"] * len(CHANGES)
    assert calls(sim) == 1 + len(CHANGES)
    assert ask(gateway, SIMILAR)[1] == "semantic"


def test_what_one_caller_plants_no_other_is_served(stand: Callable[..., Any], encoder: Path) -> None:
    sim, gateway = stand(settings(encoder, "threshold = 0.5\nshadow_share = 0.0"))
    planted, _ = ask(gateway, FIRST, key="sk-attacker")
    learned(gateway, 1)
    _, word = ask(gateway, SIMILAR, key="sk-victim")
    assert word == "miss"
    assert calls(sim) == 2
    assert ask(gateway, SIMILAR, key="sk-attacker") == (planted, "semantic")


def test_a_promised_risk_serves_nothing_before_it_has_evidence(stand: Callable[..., Any], encoder: Path) -> None:
    sim, gateway = stand(settings(encoder, "risk = 0.05"))
    for number in range(6):
        ask(gateway, f"{FIRST} {'please ' * number}")
        learned(gateway, number + 1)
    assert calls(sim) == 6


def test_a_shadowed_hit_is_served_and_measured_at_the_levers_cost(stand: Callable[..., Any], encoder: Path) -> None:
    sim, gateway = stand(settings(encoder, "threshold = 0.8\nshadow_share = 1.0"))
    made, _ = ask(gateway, FIRST)
    learned(gateway, 1)
    again, word = ask(gateway, SIMILAR)
    assert (again, word) == (made, "semantic")
    eventually(lambda: calls(sim) == 2)
    learned(gateway, 2)
    entries = gateway.books.settled(3)
    lever = [entry for entry in entries if entry.charge.reason.startswith("lever:cache")]
    assert [entry.baseline for entry in lever] == [0]
    assert sum(entry.charge.total or 0 for entry in entries) == sim.account.invoice.total_nusd


def test_shadow_mode_serves_nothing_and_says_what_it_would_have_done(
    stand: Callable[..., Any], encoder: Path
) -> None:
    sim, gateway = stand(settings(encoder, "threshold = 0.8").replace('"on"', '"shadow"'))
    ask(gateway, FIRST)
    learned(gateway, 1)
    assert ask(gateway, SIMILAR)[1] == "shadow"
    assert calls(sim) == 2


def test_a_judge_is_paid_for_by_the_lever(stand: Callable[..., Any], encoder: Path) -> None:
    sim, gateway = stand(settings(encoder, 'threshold = 0.99\njudge = "gpt-4o-mini"'))
    ask(gateway, FIRST)
    learned(gateway, 1)
    ask(gateway, SIMILAR)
    learned(gateway, 2)
    entries = gateway.books.entries()
    judged = [entry for entry in entries if "-judge" in entry.request_id]
    assert judged
    assert {entry.charge.reason for entry in judged} == {"lever:cache"}
    assert sum(entry.charge.total or 0 for entry in entries) == sim.account.invoice.total_nusd


def test_a_restart_keeps_questions_and_what_was_learned(tmp_path: Path, encoder: Path) -> None:
    with SimServer(SimSettings()) as sim:
        toml = settings(encoder, "threshold = 0.8\nshadow_share = 1.0") + simulated_providers(sim.url)
        with GatewayServer(tmp_path / "home", toml) as gateway:
            ask(gateway, FIRST)
            learned(gateway, 1)
            ask(gateway, SIMILAR)
            learned(gateway, 2)
        with GatewayServer(tmp_path / "home", toml) as gateway:
            _, word = ask(gateway, f"please {FIRST}")
            assert word == "semantic"
            learned(gateway, 3)
            records = bootstrap.open_semantic_records(gateway.books.settings)
            found: list[Comparison] = list(records.comparisons())
            assert [one.served for one in found][-1:] == [True]
        (state,) = bootstrap.open_semantic_records(gateway.books.settings).overview()
        assert kept(state.state).learned.tally.hits == 2


def test_without_an_embedder_equal_questions_are_still_answered(stand: Callable[..., Any], tmp_path: Path) -> None:
    sim, gateway = stand(settings(tmp_path / "nothing", "threshold = 0.8"))
    assert [ask(gateway, FIRST)[1] for _ in range(2)] == ["miss", "hit"]
    assert ask(gateway, SIMILAR)[1] == "miss"
    assert calls(sim) == 2


ENDPOINT = (
    '[embedder]\nkind = "endpoint"\nprovider = "openai"\nmodel = "text-embedding-3-small"\ndimensions = 1536\n'
    '[[cache]]\nname = "all"\n[cache.semantic]\nmode = "on"\nthreshold = 0.7\nshadow_share = 0.0\n'
)


def test_vectors_from_an_endpoint_are_booked_to_the_cache(stand: Callable[..., Any]) -> None:
    sim, gateway = stand(ENDPOINT)
    made, word = ask(gateway, FIRST)
    assert word == "miss"
    learned(gateway, 1)
    assert ask(gateway, SIMILAR) == (made, "semantic")
    assert ask(gateway, OTHERS[2])[1] == "miss"
    entries = gateway.books.settled(6)
    embedded = [entry for entry in entries if entry.endpoint == "embeddings"]
    assert [entry.decisions[0].stage for entry in embedded] == ["cache"] * 3
    assert [entry.charge.state for entry in embedded] == ["priced"] * 3
    assert sorted(entry.charge.total or 0 for entry in entries if entry.charge.total) == sorted(
        line.amount_nusd for line in sim.account.invoice.lines
    )


def test_an_endpoint_that_fails_costs_no_answer(stand: Callable[..., Any]) -> None:
    sim, gateway = stand(ENDPOINT.replace("1536", "7"))
    assert [ask(gateway, text)[1] for text in (FIRST, SIMILAR)] == ["miss", "miss"]
    assert [line.endpoint for line in sim.account.invoice.lines].count("/v1/chat/completions") == 2


def test_gateways_on_several_hosts_share_questions(stand: Callable[..., Any], encoder: Path, tmp_path: Path) -> None:
    shared = (
        f'[cache_store]\nkind = "valkey"\nurl_env = "FARTHING_VALKEY_URL"\nname = "{namespace_of(tmp_path)}"\n'
        f'questions = "postgres"\n[store]\nnamespace = "{namespace_of(tmp_path)}"\n'
    )
    toml = shared + settings(encoder, "threshold = 0.8\nshadow_share = 0.0")
    (_, one), (_, other) = stand(toml, env=store_env()), stand(toml, env=store_env())
    made, _ = ask(one, FIRST)
    records = bootstrap.open_semantic_records(one.books.settings)

    def known() -> bool:
        return ask(other, SIMILAR) == (made, "semantic")

    eventually(known)
    assert list(records.comparisons()) == []
