"""Results of batches, held against what the simulated provider's own invoice says of the same calls."""

import json

import httpx
import pytest
from click.testing import CliRunner

from farthing import bootstrap, config
from farthing.cli import main
from farthing.core.types import Scope
from farthing.lab.batches import Batch, ceiling_of, entry_id, read_results
from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.wire.usage import reader

AT = 1_795_000_000_000
PROVIDERS = '[[providers]]\nname = "openai"\n[[providers]]\nname = "anthropic"\n'
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


def body(dialect, number):
    turns = [{"role": "user", "content": f"job {number} " + "word " * 30 * number}]
    if dialect == "anthropic":
        return {"model": "claude-sonnet-4-5", "max_tokens": 60, "messages": turns}
    return {"model": "gpt-4o-mini", "max_completion_tokens": 60, "messages": turns}


def line(dialect, name, answer):
    if dialect == "anthropic":
        return {"custom_id": name, "result": {"type": "succeeded", "message": answer}}
    return {"id": "r", "custom_id": name, "response": {"status_code": 200, "body": answer}, "error": None}


@pytest.fixture(scope="module", params=["openai", "anthropic"])
def done(request):
    """(dialect, requests file, results file, what the provider bills)."""
    dialect = request.param
    with SimServer(SimSettings(now_ms=lambda: AT)) as sim, httpx.Client(timeout=60) as http:
        asks, results = [], []
        for number in range(6):
            asks.append(body(dialect, number))
            headers = {"authorization": "Bearer sk-sim", "x-api-key": "sk-sim", "anthropic-version": "2023-06-01"}
            answer = http.post(sim.url + PATHS[dialect], json=asks[-1], headers={**headers, "x-sim-tier": "batch"})
            assert answer.status_code == 200, answer.text
            results.append(line(dialect, f"job-{number}", answer.json()))
        billed = sim.account.invoice.total_nusd
    part = "params" if dialect == "anthropic" else "body"
    requests = [{"custom_id": f"job-{number}", part: ask} for number, ask in enumerate(asks)]
    return dialect, lines(requests), lines(results), billed


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def about(dialect, **changes):
    fields = {
        "id": "batch_1", "provider": dialect, "price_as": dialect, "dialect": dialect, "model": "",
        "scope": Scope(team="jobs"), "at_ms": AT, "now_ms": AT,
    }  # fmt: skip
    return Batch(**{**fields, **changes})


def prices():
    return bootstrap.price_book(config.parse(PROVIDERS, env={"HOME": "/h"}, source="t"))


def read(dialect, data, **changes):
    return read_results(data.split(b"\n"), about(dialect, **changes), reader(f"{dialect}.batch").line, prices())


def test_results_are_booked_at_what_the_provider_bills_and_the_ordinary_price_is_the_baseline(done):
    dialect, _, results, billed = done
    found = read(dialect, results)
    assert (found.lines, len(found.entries), found.bad, found.unpriced) == (6, 6, (), 0)
    assert found.nusd == billed
    for entry in found.entries:
        assert entry.charge.total * 2 == pytest.approx(entry.baseline, abs=2)
        assert entry.scope == Scope(team="jobs")


def test_no_batch_costs_more_than_its_ceiling(done):
    dialect, requests, _, billed = done
    found = ceiling_of(requests.split(b"\n"), about(dialect), prices(), output_assumed=None)
    assert found.requests == 6
    assert billed <= found.nusd < billed * 50


def test_answers_without_a_cap_have_no_ceiling_until_one_is_assumed():
    ask = {"custom_id": "a", "body": {"model": "gpt-4o-mini", "messages": []}}
    assert ceiling_of([lines([ask])], about("openai"), prices(), output_assumed=None).nusd is None
    assert ceiling_of([lines([ask])], about("openai"), prices(), output_assumed=10).nusd > 0
    nameless = {**ask, "body": {"messages": []}}
    with pytest.raises(ValueError, match=r"line 2 is no request.*; line 3 names no model; line 4 is no request"):
        ceiling_of([lines([ask]), b"{", lines([nameless]), b"[]"], about("openai"), prices(), output_assumed=10)


def test_lines_that_failed_are_free_and_lines_that_cannot_be_booked_are_named(done):
    dialect, _, results, _ = done
    first = json.loads(results.split(b"\n")[0])
    rows = [
        first,
        {**first},
        {"custom_id": "late", "result": {"type": "expired"}},
        {"custom_id": "bad", "response": {"status_code": 400, "body": {"error": {}}}, "error": None},
        {**first, "custom_id": None},
        line(dialect, "silent", {"id": "x"}),
    ]
    found = read(dialect, lines(rows) + b"\n")
    assert (found.lines, found.free, found.again, len(found.entries)) == (6, 2, 1, 1)
    assert found.bad == ((5, "no_custom_id"), (6, "no_usage"))


def test_an_entry_is_named_after_its_provider_batch_and_id_only():
    one = entry_id(about("openai"), "a")
    assert one == entry_id(about("openai", model="other", at_ms=1), "a")
    others = [
        entry_id(about("openai"), "b"),
        entry_id(about("openai", id="batch_2"), "a"),
        entry_id(about("openai", provider="azure"), "a"),
        entry_id(about("openai", id="batch_1\x00a"), ""),
    ]
    assert len({one, *others[:3]}) == 4


def test_the_command_books_every_answer_once(done, tmp_path):
    dialect, requests, results, billed = done
    (tmp_path / "farthing.toml").write_text(PROVIDERS)
    part, whole, asks = tmp_path / "part.jsonl", tmp_path / "whole.jsonl", tmp_path / "asks.jsonl"
    part.write_bytes(b"".join(one + b"\n" for one in results.split(b"\n")[:2]))
    whole.write_bytes(results)
    asks.write_bytes(requests)

    def run(*words):
        return CliRunner().invoke(main, ["--home", str(tmp_path), *words])

    def book(path, *words):
        return run("batch", "book", str(path), "--provider", dialect, "--id", "b1", *words)

    assert "would be booked" in book(whole, "--dry-run").output
    assert "2 booked, 0 already there" in book(part).output
    assert "4 booked, 2 already there" in book(whole, "--team", "jobs").output
    assert "0 booked, 6 already there" in book(whole).output
    rows = json.loads(run("report", "--by", "provider", "--since", "2020-01-01", "--format", "json").output)["rows"]
    assert [row["provider"] for row in rows] == [dialect]
    assert billed in rows[0].values()
    assert "cost at most" in run("batch", "ceiling", str(asks), "--provider", dialect).output
    assert run("batch", "ceiling", str(asks), "--provider", "nobody").exit_code == 1
