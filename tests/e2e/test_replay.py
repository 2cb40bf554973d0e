"""The demo's traffic over HTTP, replayed: every entry again, and the command's answers about another policy."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from farthing import bootstrap
from farthing.cli import main
from farthing.core.types import Usage
from farthing.lab.replay import replay

SPAN = ("--since", "2020-01-01", "--until", "2100-01-01")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An installation with a finished day of the demo."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "farthing", "--home", str(folder), "demo", "--once", "--requests", "250"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return folder


def ask(home: Path, *words: str):
    arguments = ["--home", str(home), "--config", str(home / "farthing.toml"), "replay", *SPAN, *words]
    return CliRunner().invoke(main, arguments)


def policy(home: Path, name: str) -> str:
    """The demo's own policy with a cache and a lower cap."""
    path = home / name
    text = (home / "farthing.toml").read_text().replace("output_tokens_max = 2000", "output_tokens_max = 100")
    path.write_text(text + '\n[[cache]]\nname = "all"\nttl = "1h"\n', encoding="utf-8")
    return str(path)


def test_the_demo_replayed_is_the_demo_bit_for_bit(home):
    settings = bootstrap.load_settings(str(home / "farthing.toml"), str(home))
    ledger = bootstrap.open_ledger(settings)
    entries: dict[str, list] = {}
    for entry in ledger.entries():
        entries.setdefault(entry.request_id, []).append(msgspec.structs.replace(entry, booked_at_ms=0))
    exchanges = list(ledger.exchanges())
    found: list = []
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(settings, loop, provider, log),
        found.append,
        estimate=lambda logged, target: Usage(),
        entries_of=lambda request_id: entries.get(request_id, ()),
        longest_ms=max(one.latency_ms for one in exchanges),
    )
    assert len(found) == len(exchanges) >= 250
    assert {one.outcome for one in found} >= {"answered", "refused", "failed"}
    for one in found:
        logged = one.logged.source
        again = [msgspec.structs.replace(entry, booked_at_ms=0) for entry in one.entries]
        assert again == entries.get(logged.request_id, []), logged.request_id
        assert (one.outcome, one.status, one.error) == (logged.outcome, logged.status, logged.error)


def test_its_own_policy_decides_alike(home):
    result = ask(home, "--policy", str(home / "farthing.toml"))
    assert result.exit_code == 0, result.output
    assert "The two policies decide alike." in result.output


def test_a_cache_and_its_share_of_the_saving_sum_to_the_difference(home):
    other = policy(home, "cached.toml")
    result = ask(home, "--policy", other, "--format", "json", "--state", str(home / "state.json"))
    assert result.exit_code == 0, result.output
    bill, _, levers, *_ = json.loads(result.output)
    assert {row["section"] for row in levers["rows"]} == {"cache", "limits"}
    total = bill["total"]
    saved = total["before_nusd"] - total["after_nusd"]
    assert saved > 0
    assert sum(row["ordered_nusd"] for row in levers["rows"]) == saved
    assert sum(row["shapley_nusd"] for row in levers["rows"]) == saved
    again = ask(home, "--policy", other, "--format", "json", "--state", str(home / "state.json"))
    assert again.output == result.output


def test_an_empty_log_is_said_and_is_no_success(home):
    arguments = ["--home", str(home), "replay", "--policy", str(home / "farthing.toml"), "--since", "2020-01-01"]
    result = CliRunner().invoke(main, [*arguments, "--until", "2021-01-01"])
    assert result.exit_code == 1
    assert "retention_days" in result.output


def test_parts_that_share_nothing_are_replayed_in_several_processes(home):
    plain = home / "plain.toml"
    providers = (home / "farthing.toml").read_text().partition("[[budgets]]")[0]
    plain.write_text(providers, encoding="utf-8")
    alone, spread = (
        ask(home, "--policy", str(plain), "--against", str(plain), "--jobs", jobs, "--format", "json")
        for jobs in ("1", "2")
    )
    assert alone.exit_code == spread.exit_code == 0, spread.output
    one, two = (json.loads(result.output)[0]["total"]["after_nusd"] for result in (alone, spread))
    assert one == two > 0
