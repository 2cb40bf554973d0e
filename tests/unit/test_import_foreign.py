"""Exports of other tools, in the shapes that they write: booked totals are the source's own, twice books nothing."""

# ruff: noqa: E501

import csv
import io
import json
from pathlib import Path

import pytest

from farthing.testing.practice import Home

LITELLM = [
    {"request_id": "chatcmpl-1", "call_type": "acompletion", "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05",
     "spend": 0.0010575, "total_tokens": 1850, "prompt_tokens": 1500, "completion_tokens": 350,
     "startTime": "2026-11-20T10:00:00.123000+00:00", "endTime": "2026-11-20T10:00:02.123000+00:00",
     "model": "gpt-4o-mini", "custom_llm_provider": "openai", "user": "ada", "team_id": "t1", "end_user": "cust-7",
     "request_tags": ["env=prod", "batchy"], "session_id": "s-1", "status": "success",
     "metadata": {"user_api_key_alias": "desk", "user_api_key_team_alias": "support",
                  "usage_object": {"prompt_tokens_details": {"cached_tokens": 1024}}}},
    {"request_id": "msg_2", "spend": 3.075e-05, "prompt_tokens": 9000, "completion_tokens": 10,
     "startTime": "2026-11-20T10:05:00Z", "endTime": "2026-11-20T10:05:01Z", "model": "claude-sonnet-4-5",
     "custom_llm_provider": "anthropic", "metadata": {"usage_object": {
         "cache_read_input_tokens": 4000, "cache_creation_input_tokens": 3000}}},
    {"request_id": "fail-3", "spend": 0.0, "prompt_tokens": 0, "completion_tokens": 0, "status": "failure",
     "startTime": "2026-11-20T10:06:00Z", "endTime": "2026-11-20T10:06:01Z", "model": "gpt-4o-mini"},
]  # fmt: skip
LANGFUSE = {"data": [
    {"id": "obs-1", "traceId": "tr-1", "type": "GENERATION", "name": "answer", "startTime": "2026-11-20T10:00:00.000Z",
     "endTime": "2026-11-20T10:00:01.500Z", "model": "gpt-4o", "calculatedTotalCost": 0.0071, "level": "DEFAULT",
     "usageDetails": {"input": 200, "input_cached_tokens": 800, "output": 300, "output_reasoning_tokens": 100,
                      "total": 1400}, "tags": ["tier:gold"]},
    {"id": "obs-2", "traceId": "tr-1", "type": "SPAN", "name": "retrieve", "startTime": "2026-11-20T10:00:00.000Z"},
    {"id": "obs-3", "traceId": "tr-2", "type": "GENERATION", "startTime": "2026-11-20T11:00:00.000Z", "model": "gpt-4o",
     "calculatedTotalCost": 0.0125, "usage": {"input": 1000, "output": 1000, "unit": "TOKENS"}},
]}  # fmt: skip
HELICONE = [
    {"request_id": "h1", "request_created_at": "2026-11-20T10:00:00Z", "response_status": 200, "delay_ms": 812,
     "model": "claude-sonnet-4-5", "provider": "ANTHROPIC", "prompt_tokens": 100, "completion_tokens": 50,
     "prompt_cache_read_tokens": 2000, "prompt_cache_write_tokens": 300, "total_tokens": 2450, "costUSD": 0.002775,
     "request_user_id": "u1", "request_properties": {"Feature": "chat", "Helicone-Session-Id": "hs", "env": "prod"}},
    {"request_id": "h2", "request_created_at": "2026-11-20T10:00:05Z", "response_status": 200, "model": "gpt-4o",
     "provider": "OPENAI", "prompt_tokens": 1000, "completion_tokens": 10, "prompt_cache_read_tokens": 600,
     "total_tokens": 1010, "costUSD": 0.00185},
]  # fmt: skip
OPENAI = {"object": "page", "has_more": False, "data": [
    {"object": "bucket", "start_time": 1795132800, "end_time": 1795219200, "results": [
        {"object": "organization.usage.completions.result", "input_tokens": 1_000_000, "output_tokens": 200_000,
         "input_cached_tokens": 400_000, "num_model_requests": 500, "project_id": "proj_a", "user_id": None,
         "api_key_id": "key_1", "model": "gpt-4o-mini", "batch": False},
        {"object": "organization.usage.completions.result", "input_tokens": 50_000, "output_tokens": 1_000,
         "input_cached_tokens": 0, "num_model_requests": 5, "project_id": "proj_b", "model": "gpt-4o", "batch": True}]},
]}  # fmt: skip
ANTHROPIC = {"data": [
    {"starting_at": "2026-11-20T00:00:00Z", "ending_at": "2026-11-21T00:00:00Z", "results": [
        {"uncached_input_tokens": 100_000, "cache_creation": {"ephemeral_1h_input_tokens": 1_000,
         "ephemeral_5m_input_tokens": 2_000}, "cache_read_input_tokens": 200_000, "output_tokens": 50_000,
         "model": "claude-sonnet-4-5", "service_tier": "standard", "workspace_id": "wrk", "api_key_id": "k"}]},
], "has_more": False}  # fmt: skip


def span(name, attributes, status=0):
    held = [{"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in attributes.items()]  # fmt: skip
    return {"traceId": "5b8e", "spanId": name, "name": name, "startTimeUnixNano": "1795168800123000000",
            "endTimeUnixNano": "1795168801623000000", "attributes": held, "status": {"code": status}}  # fmt: skip


OTEL = {"resourceSpans": [
    {"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "desk"}}]}, "scopeSpans": [{"spans": [
        span("aa", {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "session.id": "s",
                    "gen_ai.response.model": "gpt-4o-mini", "gen_ai.usage.input_tokens": 1200,
                    "gen_ai.usage.output_tokens": 80, "gen_ai.usage.cache_read.input_tokens": 1024}),
        span("bb", {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "gpt-4o-mini",
                    "gen_ai.usage.input_tokens": 1200, "gen_ai.usage.output_tokens": 80}),
        span("cc", {"http.method": "GET"})]}]}]}  # fmt: skip

CASES = {
    "litellm": (LITELLM, 10500, 360, 5024, 1_057_500 + 30_750 + 0),
    "langfuse": (LANGFUSE, 2000, 1400, 800, 7_100_000 + 12_500_000),
    "helicone": (HELICONE, 3400, 60, 2600, 2_775_000 + 1_850_000),
    "openai-usage": (OPENAI, 1_050_000, 201_000, 400_000, None),
    "anthropic-usage": (ANTHROPIC, 303_000, 50_000, 200_000, None),
    "otel": (OTEL, 1200, 80, 1024, None),
}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def take(home: Home, kind: str, document: object, *more: str, name: str = "export.json"):
    file = home.folder / name
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return {row["what"]: row for row in home.json("import", kind, str(file), *more)["rows"]}


@pytest.mark.parametrize("kind", CASES)
def test_booked_totals_are_the_sources_own(home, kind):
    document, into, out, cached, cost = CASES[kind]
    take(home, kind, document)
    (row,) = home.json("report", "--by", "")["rows"]
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (into, out, cached)
    assert row["unpriced"] == 0
    if cost is not None:
        assert row["cost_nusd"] == cost


@pytest.mark.parametrize("kind", CASES)
def test_the_same_export_again_books_nothing(home, kind):
    first = take(home, kind, CASES[kind][0])
    again = take(home, kind, CASES[kind][0])
    assert again["booked now"]["value"] == 0
    assert again["already there"]["value"] == first["booked now"]["value"] > 0


def test_a_record_that_an_export_holds_twice_counts_once_in_what_is_said_and_booked(home):
    said = take(home, "litellm", [*LITELLM, LITELLM[0], {**LITELLM[1], "spend": 99}])
    assert (said["rows"]["value"], said["booked now"]["value"], said["already there"]["value"]) == (3, 3, 0)
    assert said["cost of all rows"]["value_nusd"] == CASES["litellm"][4]
    (row,) = home.json("report", "--by", "")["rows"]
    assert row["cost_nusd"] == said["cost of all rows"]["value_nusd"]


@pytest.mark.parametrize("kind", ["litellm", "langfuse", "helicone"])
def test_json_lines_and_csv_say_the_same_as_a_document(tmp_path, kind):
    records = CASES[kind][0]["data"] if isinstance(CASES[kind][0], dict) else CASES[kind][0]
    lines = "\n".join(json.dumps(record) for record in records)
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(dict.fromkeys(name for record in records for name in record)))
    writer.writeheader()
    for record in records:
        writer.writerow({k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in record.items()})
    totals = []
    for form, text in (("a.json", json.dumps(records)), ("b.jsonl", lines), ("c.csv", table.getvalue())):
        folder = tmp_path / form
        folder.mkdir()
        home = Home(folder)
        take(home, kind, text, name=form)
        (row,) = home.json("report", "--by", "")["rows"]
        totals.append((row["entries"], row["input_tokens"], row["output_tokens"], row["cost_nusd"]))
    assert totals[0] == totals[1] == totals[2]


def test_who_it_was_comes_along(home):
    take(home, "litellm", LITELLM)
    rows = home.json("report", "--by", "team,user,session,tag:env,tag:key")["rows"]
    assert ("support", "cust-7", "s-1", "prod", "desk") in {
        (row["team"], row["user"], row["session"], row["tag:env"], row["tag:key"]) for row in rows
    }


def test_the_books_own_price_stands_beside_the_stated_one(home):
    take(home, "langfuse", LANGFUSE)
    entries = {entry.charge.total: entry.charge.computed for entry in home.ledger.entries()}
    assert entries[12_500_000] == 12_500_000  # gpt-4o: 1,000 in at 2.50 and 1,000 out at 10 per million
    assert entries[7_100_000] == (200 * 2_500 + 800 * 1_250 + 400 * 10_000)
    assert {entry.provider for entry in home.ledger.entries()} == {"openai"}


def test_prices_of_a_day_replace_the_stated_ones_when_asked_for(home):
    take(home, "litellm", LITELLM, "--price-at", "trace")
    (row,) = home.json("report", "--by", "", "--where", "model=gpt-4o-mini")["rows"]
    assert row["cost_nusd"] == 476 * 150 + 1024 * 75 + 350 * 600


def test_usage_reports_know_how_many_calls_they_sum(home):
    said = take(home, "openai-usage", OPENAI)
    assert said["calls"]["value"] == 505
    batch = [entry for entry in home.ledger.entries() if entry.model == "gpt-4o"]
    assert batch[0].usage.service_tier == "batch"
    assert batch[0].charge.total == (50_000 * 2_500 + 1_000 * 10_000) // 2


@pytest.mark.parametrize(
    ("kind", "record", "said"),
    [
        ("litellm", {"request_id": "x", "startTime": "yesterday", "prompt_tokens": 1, "completion_tokens": 1}, "time"),
        ("langfuse", {"type": "GENERATION", "startTime": "2026-11-20T10:00:00Z", "usage": {"input": 1.5}}, "no count"),
        ("helicone", {"request_id": "x", "request_created_at": "2026-11-20T10:00:00Z", "prompt_tokens": 1,
                      "completion_tokens": 1, "costUSD": "a lot", "model": "gpt-4o"}, "cost is"),
    ],
)  # fmt: skip
def test_records_that_cannot_be_read_are_named(home, kind, record, said):
    file = home.folder / "bad.json"
    good = CASES[kind][0]["data"][0] if isinstance(CASES[kind][0], dict) else CASES[kind][0][0]
    file.write_text(json.dumps([good, record]), encoding="utf-8")
    result = home.run("import", kind, str(file))
    assert result.exit_code == 0
    assert said in result.stderr
    assert home.run("import", kind, str(file), "--strict").exit_code == 1


def test_a_file_that_does_not_exist_is_wrong_usage(home):
    assert home.run("import", "litellm", str(Path("nowhere.json"))).exit_code == 2
