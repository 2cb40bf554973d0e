"""Without a traffic log: the same answers, entries and metrics, nothing logged, and whoever needs the log says so."""

from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from farthing.cli import main
from farthing.core.types import LedgerEntry
from farthing.server.pages.unlogged import READERS as READING_PAGES
from farthing.server.pages.views import VIEWS
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.gateway import GatewayServer, simulated_providers

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Harbours?"}], "max_tokens": 100}
CACHED = '[[cache]]\nname = "all"\n'
LITTLE = '[[budgets]]\nname = "little"\nper = "day"\nusd = "0.009"\n'
OFF = "[exchange_log]\nenabled = false\n"
READERS = (
    "cache doctor", "optimize", "explain req_x", "requests", "trace t", "metrics --prompts", f"estimate {__file__}",
)  # fmt: skip


def served(gateway: GatewayServer) -> tuple[list[tuple[int, bytes]], set[str]]:
    """(statuses and bodies, the metrics of calls) of the same calls: two questions, one again, a refused one."""
    streamed = {**CHAT, "stream": True, "messages": [{"role": "user", "content": "Lighthouses?"}]}
    large = {**CHAT, "model": "gpt-4o-mini", "max_tokens": 16_000}
    answers = []
    for body in (CHAT, streamed, CHAT, CHAT, CHAT, large):
        answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=20)
        answers.append((answer.status_code, answer.content if answer.status_code == 200 else b""))
    lines = httpx.get(f"{gateway.url}/metrics", timeout=30).text.splitlines()
    counted = {line for line in lines if line.startswith(("farthing_re", "gen_ai_client_inf", "farthing_cost"))}
    return answers, {line for line in counted if "_created" not in line}


def bare(entry: LedgerEntry) -> LedgerEntry:
    """Without what differs between two runs of the same calls."""
    decisions = tuple([replace(one, evidence=()) for one in entry.decisions])
    own = {"id": entry.id[-2:], "request_id": "", "received_at_ms": 0, "booked_at_ms": 0, "decisions": decisions}
    usage = replace(entry.usage, upstream_id="", raw=b"")
    return replace(entry, **own, usage=usage, latency_ms=0, ttft_ms=None, policy_ref="")


def test_only_the_log_is_missing(tmp_path: Path):
    found = []
    for name, log in (("on", ""), ("off", OFF)):
        with (
            SimServer(SimSettings(now_ms=lambda: 1_795_000_000_000, instance="log")) as sim,
            GatewayServer(tmp_path / name, log + CACHED + LITTLE + simulated_providers(sim.url)) as gateway,
        ):
            answers, metrics = served(gateway)
            found.append((answers, metrics, [bare(one) for one in gateway.books.settled(5)]))
            assert gateway.open_reservations() == ()
            assert bool(gateway.books.exchanges()) == (name == "on")
    assert found[0] == found[1]
    assert [status for status, _ in found[0][0]] == [200] * 5 + [429]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlogged")
    (folder / "farthing.toml").write_text(OFF + simulated_providers("http://127.0.0.1:9"), encoding="utf-8")
    with GatewayServer(folder, (folder / "farthing.toml").read_text(encoding="utf-8")) as gateway:
        assert "The traffic log is switched off" in httpx.get(f"{gateway.url}/requests", timeout=30).text
        assert "switched off" not in httpx.get(f"{gateway.url}/prices", timeout=30).text
    return folder


def test_every_page_that_reads_the_log_is_one():
    assert {view.name for view in VIEWS} >= READING_PAGES


@pytest.mark.parametrize("command", READERS)
def test_whoever_needs_the_log_says_that_it_is_off(home: Path, command: str):
    base = ["--home", str(home), "--config", str(home / "farthing.toml")]
    result = CliRunner().invoke(main, [*base, *command.split()])
    assert "exchange_log.enabled = false" in result.output, result.output


def test_text_cannot_be_kept_without_a_log(tmp_path: Path):
    config = tmp_path / "farthing.toml"
    config.write_text(OFF + 'text = "full"\n', encoding="utf-8")
    result = CliRunner().invoke(main, ["--config", str(config), "--home", str(tmp_path), "check"])
    assert result.exit_code != 0
    assert 'exchange_log.text: "full" keeps nothing while exchange_log.enabled = false' in result.output
