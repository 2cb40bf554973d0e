"""Exports as current versions of their tools write them: field names, places and units that differ between versions."""

# ruff: noqa: E501

import json

import msgspec
import pytest

from farthing.testing.practice import Home

CONSOLE_HEADER = (
    "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
    "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
    "usage_output_tokens,web_search_count,inference_geo,speed\n"
)
CONSOLE = CONSOLE_HEADER + (
    "2026-11-20,claude-sonnet-4-5,desk,Default,standard,≤ 200k,1000000,40000,2000,300000,50000,3,not_available,\n"
    "2026-11-20,claude-sonnet-4-5,desk,Default,standard,> 200k,400000,0,0,0,1000,0,not_available,\n"
    "2026-11-20,claude-haiku-4-5,desk,Default,batch,≤ 200k,10000,0,0,0,5000,0,not_available,\n"
)
CONSOLE_NUSD = (
    (1_000_000 * 3_000 + 40_000 * 3_750 + 2_000 * 6_000 + 300_000 * 300 + 50_000 * 15_000 + 3 * 10_000_000)
    + (400_000 * 6_000 + 1_000 * 22_500)
    + (10_000 * 500 + 5_000 * 2_500)
)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def take(home: Home, kind: str, document: object, *more: str):
    file = home.folder / "export.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    done = home.run("import", kind, str(file), *more, "--format", "json")
    assert done.exit_code == 0, done.output
    return {row["what"]: row for row in json.loads(done.stdout)["rows"]}


def whole(home: Home):
    (row,) = home.json("report", "--by", "")["rows"]
    return row


def test_a_days_usage_is_not_one_long_prompt(home):
    """Sums of a day are millions of tokens; only rows of the long context window have its price."""
    result = {"uncached_input_tokens": 1_000_000, "cache_creation": {"ephemeral_5m_input_tokens": 0},
              "cache_read_input_tokens": 0, "output_tokens": 0, "model": "claude-sonnet-4-5"}  # fmt: skip
    bucket = {"starting_at": "2026-11-20T00:00:00Z", "results": [
        {**result, "context_window": "0-200k"}, {**result, "context_window": "200k-1M"}, result]}  # fmt: skip
    take(home, "anthropic-usage", {"data": [bucket], "has_more": False})
    assert sorted(entry.charge.total or 0 for entry in home.ledger.entries()) == [3 * 10**9, 3 * 10**9, 6 * 10**9]


def test_the_consoles_usage_file_is_read_with_its_windows_batches_and_searches(home):
    take(home, "anthropic-usage", CONSOLE)
    found = whole(home)
    assert found["cost_nusd"] == CONSOLE_NUSD
    assert (found["input_tokens"], found["output_tokens"], found["cached_tokens"]) == (1_752_000, 56_000, 300_000)
    assert {row["tag:key"] for row in home.json("report", "--by", "tag:key")["rows"]} == {"desk"}


def test_web_searches_of_the_usage_report_are_priced(home):
    result = {"uncached_input_tokens": 0, "output_tokens": 0, "model": "claude-sonnet-4-5",
              "server_tool_use": {"web_search_requests": 7}}  # fmt: skip
    take(home, "anthropic-usage", {"data": [{"starting_at": "2026-11-20T00:00:00Z", "results": [result]}]})
    assert whole(home)["cost_nusd"] == 7 * 10_000_000


def test_embeddings_have_no_output_and_empty_buckets_no_row(home):
    page = {"object": "page", "data": [
        {"object": "bucket", "start_time": 1795132800, "results": [
            {"object": "organization.usage.embeddings.result", "input_tokens": 1_000_000, "num_model_requests": 2,
             "project_id": None, "model": "text-embedding-3-small"}]},
        {"object": "bucket", "start_time": 1795219200, "results": []}]}  # fmt: skip
    said = take(home, "openai-usage", page)
    assert (said["rows"]["value"], said["bad rows"]["value"], said["calls"]["value"]) == (1, 0, 2)
    assert whole(home)["cost_nusd"] == 20_000_000


def test_the_usage_file_of_openais_dashboard_counts_in_decimals(home):
    table = (
        "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,batch,"
        "service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens\n"
        "1795132800,1795136400,2026-11-20T00:00:00+00:00,2026-11-20T01:00:00+00:00,proj_a,3.0,,key_a,gpt-4o,False,default,4000.0,100.0,1000.0,3000.0\n"
        "1795132800,1795136400,2026-11-20T00:00:00+00:00,2026-11-20T01:00:00+00:00,proj_a,1.0,,key_a,gpt-4o,True,default,4000.0,100.0,0.0,4000.0\n"
        "1795136400,1795140000,2026-11-20T01:00:00+00:00,2026-11-20T02:00:00+00:00,,,,,,,,,,,\n"
    )
    said = take(home, "openai-usage", table)
    assert (said["rows"]["value"], said["bad rows"]["value"], said["calls"]["value"]) == (2, 0, 4)
    plain = 3_000 * 2_500 + 1_000 * 1_250 + 100 * 10_000
    batch = (4_000 * 2_500 + 100 * 10_000) // 2
    assert whole(home)["cost_nusd"] == plain + batch


LANGFUSE_BLOB = {
    "id": "o1", "trace_id": "t1", "project_id": "p", "type": "GENERATION", "parent_observation_id": None,
    "start_time": "2026-11-20 13:46:19.963000", "end_time": "2026-11-20 13:46:21.963000", "name": "answer",
    "level": "DEFAULT", "provided_model_name": "gpt-4o", "user_id": "u1", "session_id": "s1", "trace_name": "chat",
    "usage_details": {"input": 100, "input_cached_tokens": 900, "input_cache_creation": 50, "output": 40,
                      "output_reasoning_tokens": 60, "total": 1150},
    "cost_details": {"input": "0.001", "output": "0.002", "total": "0.003"}, "total_cost": "0.003",
}  # fmt: skip


def test_langfuses_blob_export_is_read_like_its_api(home):
    take(home, "langfuse", json.dumps(LANGFUSE_BLOB) + "\n")
    found = home.json("report", "--by", "user,session,feature")["rows"][0]
    assert (found["user"], found["session"], found["feature"]) == ("u1", "s1", "chat")
    assert (found["input_tokens"], found["output_tokens"], found["cached_tokens"]) == (1050, 100, 900)
    assert found["cost_nusd"] == 3_000_000


def test_every_observation_that_costs_is_taken_whatever_its_type(home):
    """Evaluators, agents and tools carry costs of their own in current versions; plain spans do not."""
    base = {"startTime": "2026-11-20T10:00:00.000Z", "model": "gpt-4o", "traceId": "t"}
    take(home, "langfuse", [
        {**base, "id": "a", "type": "EVALUATOR", "usageDetails": {"input": 10, "output": 1}, "totalCost": 0.5},
        {**base, "id": "b", "type": "TOOL", "usageDetails": {}, "costDetails": {"total": 0.25}},
        {**base, "id": "c", "type": "SPAN", "usageDetails": {}, "costDetails": {}},
        {**base, "id": "d", "type": "AGENT", "totalCost": 0, "usageDetails": {"input": 0, "output": 0, "total": 0}}])  # fmt: skip
    found = whole(home)
    assert (found["entries"], found["cost_nusd"]) == (2, 750_000_000)


def helicone(**said):
    return {"request_id": "h", "request_created_at": "2026-11-20 10:00:00.123", "response_status": 200, **said}


@pytest.mark.parametrize(
    ("record", "into", "out"),
    [
        # Anthropic's input never holds cached tokens, and the total leaves them out.
        (helicone(provider="ANTHROPIC", model="claude-sonnet-4-5", prompt_tokens=100, completion_tokens=50,
                  prompt_cache_read_tokens=2000, prompt_cache_write_tokens=300, reasoning_tokens=0,
                  total_tokens=150, cost=0.01), 2400, 50),
        # A total with reasoning beside the answer: the parts are disjoint.
        (helicone(provider="OPENAI", model="gpt-5-mini", prompt_tokens=500, completion_tokens=20,
                  prompt_cache_read_tokens=400, reasoning_tokens=80, total_tokens=600, cost=0.01), 900, 100),
        # Reasoning inside the answer, cached tokens inside the prompt.
        (helicone(provider="OPENAI", model="gpt-5-mini", prompt_tokens=500, completion_tokens=100,
                  prompt_cache_read_tokens=400, reasoning_tokens=80, total_tokens=600, cost=0.01), 500, 100),
        # More cached than the prompt has: it cannot hold them.
        (helicone(provider="OPENAI", model="gpt-5-mini", prompt_tokens=50, completion_tokens=100,
                  prompt_cache_read_tokens=400, total_tokens=150, cost=0.01), 450, 100),
    ],
)  # fmt: skip
def test_helicones_tokens_are_put_together_by_what_the_record_says(home, record, into, out):
    take(home, "helicone", [record])
    found = whole(home)
    assert (found["input_tokens"], found["output_tokens"], found["cost_nusd"]) == (into, out, 10_000_000)


def test_helicones_own_csv_has_neither_request_id_nor_provider(home):
    table = (
        "response_id,response_created_at,response_status,request_created_at,request_body,request_properties,"
        "request_user_id,model,prompt_tokens,completion_tokens,latency,cost\n"
        '"r1","2026-11-20 10:00:02.123","200","2026-11-20 10:00:00.123","","{""Feature"":""chat""}","u1",'
        '"gpt-4o","1000","10","812","0.0026"\n'
        '"r2","2026-11-20 10:00:02.123","200","2026-11-20 10:00:00.123","","","u1","gpt-4o","1000","10","812","0.0026"\n'
    )
    said = take(home, "helicone", table)
    assert (said["booked now"]["value"], whole(home)["cost_nusd"]) == (2, 5_200_000)


def test_litellms_cache_numbers_may_stand_beside_the_prompt(home):
    """Older versions left cached tokens out of prompt_tokens; the one-hour part of writes is told apart."""
    meta = {"usage_object": {"prompt_tokens": 12, "cache_read_input_tokens": 4000, "cache_creation_input_tokens": 3000,
                             "prompt_tokens_details": {"cache_creation_token_details": {
                                 "ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000}}}}  # fmt: skip
    take(home, "litellm", [
        {"request_id": "m", "spend": 0.02, "prompt_tokens": 12, "completion_tokens": 10, "metadata": json.dumps(meta),
         "startTime": "2026-11-20 10:05:00.123456", "endTime": "2026-11-20 10:05:01", "model": "claude-sonnet-4-5",
         "custom_llm_provider": "anthropic", "request_tags": "[]"}])  # fmt: skip
    (entry,) = home.ledger.entries()
    assert dict(entry.usage.parts[0].lines) == {
        "input": 12, "input_cache_read": 4000, "input_cache_write_5m": 1000, "input_cache_write_1h": 2000, "output": 10,
    }  # fmt: skip


def test_rows_are_booked_on_the_provider_that_they_name(home):
    """Not on whichever provider happens to take models that nobody else claims."""

    def row(name, model, provider):
        return {"request_id": name, "spend": 0.01, "prompt_tokens": 10, "completion_tokens": 1, "model": model,
                "custom_llm_provider": provider, "startTime": "2026-11-20T10:05:00Z"}  # fmt: skip

    take(home, "litellm", [
        row("a", "gpt-4o", "openai"), row("b", "gpt-4o", "azure"), row("c", "gemini/gemini-2.5-pro", "gemini"),
        row("d", "openai/gpt-4o-mini", "openai"), row("e", "openai/gpt-4o", "openrouter"),
        row("f", "anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock"), row("g", "our-own", "hosted_vllm")])  # fmt: skip
    found = {(row["provider"], row["model"]) for row in home.json("report", "--by", "provider,model")["rows"]}
    assert found == {
        ("openai", "gpt-4o"), ("azure", "gpt-4o"), ("google", "gemini-2.5-pro"), ("openai", "gpt-4o-mini"),
        ("openrouter", "openai/gpt-4o"), ("aws", "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("hosted_vllm", "our-own"),
    }  # fmt: skip


def test_models_without_a_named_provider_go_to_one_that_sells_them(home):
    take(home, "langfuse", [
        {"id": str(n), "type": "GENERATION", "startTime": "2026-11-20T10:00:00Z", "model": model, "totalCost": 0.1,
         "usageDetails": {"input": 10, "output": 1}}
        for n, model in enumerate(("gpt-4o", "gemini-2.5-pro", "claude-sonnet-4-5", "mistral-large-latest"))])  # fmt: skip
    found = {(row["provider"], row["model"]) for row in home.json("report", "--by", "provider,model")["rows"]}
    assert {provider for provider, _ in found} == {"openai", "google", "anthropic", "mistral"}


def test_the_summary_names_every_provider(home):
    file = home.folder / "a.json"
    file.write_text(json.dumps([
        {"request_id": str(n), "spend": 0.01, "prompt_tokens": 10, "completion_tokens": 1, "model": model,
         "startTime": "2026-11-20T10:05:00Z"} for n, model in enumerate(("claude-sonnet-4-5", "gpt-4o"))]), encoding="utf-8")  # fmt: skip
    assert "at anthropic, openai" in home.ok("import", "litellm", str(file))


def test_a_cost_that_a_tool_states_stays_when_the_past_is_rated_again(home):
    """The totals of an import are the source's own, also after the month was closed with today's prices."""
    row = {"request_id": "a", "spend": 0.5, "prompt_tokens": 1000, "completion_tokens": 10, "model": "gpt-4o",
           "custom_llm_provider": "azure", "startTime": "2026-11-20T10:05:00Z"}  # fmt: skip
    take(home, "litellm", [row])
    (said,) = home.json("reprice", "--since", "30d", "--apply")["rows"]
    assert (said["kept"], said["changed"]) == (1, 0)
    assert whole(home)["cost_nusd"] == 500_000_000


def span(name, parent, attributes):
    held = [{"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in attributes.items()]  # fmt: skip
    return {"traceId": "5b8e", "spanId": name, "parentSpanId": parent, "name": name,
            "startTimeUnixNano": "1795168800123000000", "endTimeUnixNano": "1795168801623000000", "attributes": held}  # fmt: skip


def test_an_agents_span_counts_where_no_call_of_its_trace_does(home):
    """Remote agents tell their usage on the agent's span alone; local ones repeat what their calls said."""
    usage = {
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 10,
    }
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": "openai", **usage}
    take(home, "otel", {"resourceSpans": [{"scopeSpans": [
        {"spans": [span("a", "", agent), span("b", "a", {"gen_ai.operation.name": "execute_tool"})]},
        {"spans": [span("c", "b", {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", **usage})]},
        {"spans": [{**span(name, parent, agent), "traceId": "77"} for name, parent in (("d", ""), ("e", "d"))]}]}]})  # fmt: skip
    assert (whole(home)["entries"], whole(home)["input_tokens"]) == (2, 2000)


def test_spans_of_openinference_are_read_too(home):
    take(home, "otel", {"resourceSpans": [{"scopeSpans": [{"spans": [span("a", "", {
        "openinference.span.kind": "LLM", "llm.model_name": "gpt-4o-mini", "llm.provider": "openai",
        "llm.token_count.prompt": 1200, "llm.token_count.completion": 80,
        "llm.token_count.prompt_details.cache_read": 1024})]}]}]})  # fmt: skip
    found = whole(home)
    assert (found["input_tokens"], found["output_tokens"], found["cached_tokens"]) == (1200, 80, 1024)


OPENAI_ROW = {"input_tokens": 1_000, "output_tokens": 10, "num_model_requests": 2, "model": "gpt-4o-mini"}


def openai_page(row: dict[str, object], **more: object) -> dict[str, object]:
    return {"object": "page", "data": [{"start_time": 1_795_132_800, "results": [row]}], **more}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            openai_page(OPENAI_ROW, has_more=True, next_page="AAA"),
            "more follows after the page (has_more: next_page AAA)",
        ),
        (openai_page(OPENAI_ROW, has_more=False), ""),
        ([openai_page(OPENAI_ROW, has_more=True), openai_page(OPENAI_ROW, has_more=False)], ""),
        (
            [openai_page(OPENAI_ROW, has_more=True), openai_page(OPENAI_ROW, has_more=True)],
            "more follows after 2 pages",
        ),
        (
            "\n".join(json.dumps(openai_page(OPENAI_ROW, has_more=True)) for _ in range(2)),
            "more follows after 2 pages",
        ),
        (openai_page(OPENAI_ROW, page=1, total_pages=3), "1 of 3 pages are here"),
        (openai_page(OPENAI_ROW, meta={"page": 1, "totalPages": 2}), "1 of 2 pages are here"),
    ],
)
def test_one_page_of_several_is_not_taken_for_the_whole(home, document, said):
    file = home.folder / "export.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    strict = home.run("import", "openai-usage", str(file), "--strict")
    assert (strict.exit_code != 0) == bool(said)
    assert said in strict.output
    done = home.run("import", "openai-usage", str(file))
    assert (done.exit_code, said in done.output) == (0, True)


@pytest.mark.parametrize(
    ("kind", "document"),
    [("openai-usage", openai_page(OPENAI_ROW)), ("anthropic-usage", CONSOLE)],
)
def test_a_report_that_an_earlier_version_named_otherwise_counts_once(home, kind, document):
    take(home, kind, document)
    earlier = Home(home.folder / "earlier") if (home.folder / "earlier").mkdir() is None else home
    earlier.book(msgspec.structs.replace(one, id=f"imp-old{place}", request_id=f"imp-old{place}")
                 for place, one in enumerate(home.ledger.entries()))  # fmt: skip
    before = whole(earlier)
    for _ in range(2):
        found = take(earlier, kind, document)
        assert (found["booked now"]["value"], found["already there"]["value"]) == (0, before["entries"])
        assert whole(earlier) == before


def test_a_day_imported_before_it_was_over_does_not_count_twice(home):
    file = home.folder / "export.json"
    take(home, "openai-usage", openai_page(OPENAI_ROW))
    later = openai_page({**OPENAI_ROW, "input_tokens": 4_000})
    file.write_text(json.dumps(later), encoding="utf-8")
    refused = home.run("import", "openai-usage", str(file))
    assert refused.exit_code != 0
    assert "imported before with other counts (the first: gpt-4o-mini, 2026-11-20 00:00" in refused.output
    assert "--allow-overlap" in refused.output
    assert whole(home)["input_tokens"] == 1_000
    other = openai_page({**OPENAI_ROW, "input_tokens": 4_000, "project_id": "another"})
    take(home, "openai-usage", other)
    take(home, "openai-usage", later, "--allow-overlap")
    assert whole(home)["input_tokens"] == 9_000


def test_spoken_tokens_have_their_own_price(home):
    """$2.50 and $10 a million of text, $40 and $80 of audio: eight tenths of both were spoken."""
    take(home, "openai-usage", openai_page({
        "input_tokens": 10_000, "input_audio_tokens": 8_000, "output_tokens": 5_000, "output_audio_tokens": 4_000,
        "num_model_requests": 10, "model": "gpt-4o-audio-preview"}))  # fmt: skip
    by_hand = 2_000 * 2_500 + 8_000 * 40_000 + 1_000 * 10_000 + 4_000 * 80_000
    found = whole(home)
    assert (found["cost_nusd"], found["input_tokens"], found["output_tokens"]) == (by_hand, 10_000, 5_000)


def test_langfuse_files_with_tokens_in_columns_keep_them(home):
    take(home, "langfuse", "id,startTime,inputTokens,outputTokens,totalCost,model,type\n"
                           "o1,2026-11-20T10:00:00.000Z,1000,200,0.0045,gpt-4o,GENERATION\n")  # fmt: skip
    found = whole(home)
    assert (found["cost_nusd"], found["input_tokens"], found["output_tokens"]) == (4_500_000, 1_000, 200)


def test_calls_that_helicone_saw_cancelled_are_failures(home):
    take(home, "helicone", "request_id,request_created_at,response_status,request_model,provider\n"
                           "q2,2026-11-20 10:00:00,-3,gpt-4o,OPENAI\n")  # fmt: skip
    (entry,) = home.ledger.entries()
    assert (entry.status, entry.error) == (500, "upstream_error")


def test_a_report_without_models_says_how_to_ask_for_it(home):
    (home.folder / "x").write_text(json.dumps(openai_page({**OPENAI_ROW, "model": None})), encoding="utf-8")
    assert "ask for the report grouped by model" in home.run("import", "openai-usage", str(home.folder / "x")).output
