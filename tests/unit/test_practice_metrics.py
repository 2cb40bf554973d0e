"""``metrics``: every figure against entries that are counted by hand."""

import msgspec
import pytest

from farthing.core.types import Exchange, PromptSection, PromptView, Scope
from farthing.insight.reports import prompts
from farthing.testing.practice import NOW_MS, Home
from farthing.testing.records import an_entry

USD = 10**9
AT = NOW_MS - 3_600_000


def entry(id: str, dollars: float, **more):
    made = an_entry(id, int(dollars * USD), request_id=more.pop("request", ""), received_at_ms=AT,
                    scope=Scope(team="a", session=more.pop("session", "")), model=more.pop("model", "gpt-4o"),
                    tokens=more.pop("tokens", (("input", 1000), ("output", 500))))  # fmt: skip
    return msgspec.structs.replace(made, **more)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.book(
        [
            entry("a1", 1, request="a", session="s", attempt=1, error="upstream_timeout", status=504),
            entry("a2", 2, request="a", session="s", attempt=2, latency_ms=100),
            entry("b", 4, request="b", session="s", client_gone=True),
            entry("c", 8, request="c", error="upstream_error", status=502),
            entry("d", 16, request="d", latency_ms=300, tokens=(("input", 200), ("input_cache_read", 800))),
            entry("e", 0.5, request="e", model="gpt-4o-mini", latency_ms=50),
        ]
    )
    return home


def test_waste_and_unit_costs_are_what_the_entries_say(home):
    (row,) = home.json("metrics", "--by", "team")["rows"]
    assert row["cost_nusd"] == 31.5 * USD
    assert row["per_request_nusd"] == 31.5 * USD / 5
    assert row["per_success_nusd"] == 31.5 * USD / 3
    assert row["per_session_nusd"] == 31.5 * USD
    assert (row["retried_nusd"], row["aborted_nusd"], row["failed_nusd"]) == (USD, 4 * USD, 8 * USD)
    assert (row["p50_ms"], row["p95_ms"]) == (100, 300)


def test_hit_rates_have_names_of_their_own(home):
    (row,) = home.json("metrics", "--by", "team")["rows"]
    assert row["token_hit_rate_percent"] == "13.33"
    assert row["request_hit_rate_percent"] == "20.00"
    assert row["answer_hit_rate_percent"] == "0.00"


def test_the_six_metrics_are_judged_and_what_is_not_measured_says_so(home):
    rows = {row["metric"]: row for row in home.json("metrics", "--six", "--target", "10")["rows"]}
    assert rows["cost per request"]["met"] == "yes"
    assert rows["token cache hit rate"]["met"] == "no"
    assert rows["routing ratio"]["now"] == "20.00 %"
    assert rows["GPU utilisation"]["now"] is None
    said = home.json(
        "metrics", "--six", "--gpu-seconds", "100", "--gpu-busy-seconds", "80", "--gpu-provider", "openai"
    )
    rows = {row["metric"]: row for row in said["rows"]}
    assert rows["GPU utilisation"]["met"] == "yes"
    assert rows["tokens per GPU second"]["now"] == (6 * 1500 - 500) // 100


def test_prompts_are_told_apart_by_what_they_begin_with():
    def exchange(id, digest, amount):
        sections = (
            PromptSection(role="system", size=900, digest=digest),
            PromptSection(role="user", size=10, digest=f"u{id}"),
        )
        return Exchange(request_id=id, received_at_ms=5, scope=Scope(feature="f"), dialect="openai",
                        view=PromptView(endpoint="chat", model="m"), outcome="answered", status=200,
                        sections=sections, amount=amount)  # fmt: skip

    found = [exchange("1", "aaaaaaaaaa", 5), exchange("2", "aaaaaaaaaa", 6), exchange("3", "bbbbbbbbbb", 20)]
    table = prompts.build(found, since_ms=0, until_ms=10)
    assert [(row[0], row[4], row[5]) for row in table.rows] == [("bbbbbbbb", 1, 20), ("aaaaaaaa", 2, 11)]
