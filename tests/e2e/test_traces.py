"""An agent's calls with OpenTelemetry's header: one trace in the ledger, refused calls included."""

import httpx
import openai

from farthing.testing.gateway import GatewayServer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BUDGET = '[[budgets]]\nname = "writer"\nper = "day"\nrequests = 1\nmatch = {"tag:agent" = "writer"}\n'


def test_calls_of_one_trace_are_one_run_however_they_ended(stand):
    gateway: GatewayServer = stand(BUDGET).gateway
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    with client:
        for span, agent in ((1, "planner"), (2, "writer"), (3, "writer")):
            headers = {
                "traceparent": f"00-{TRACE}-{span:016x}-01",
                "x-farthing-tags": f"agent={agent},step=s{span}",
            }
            try:
                client.chat.completions.create(
                    model="gpt-4o", messages=[{"role": "user", "content": "hello"}], extra_headers=headers
                )
            except openai.RateLimitError:
                assert span == 3
    entries = gateway.books.settled(2)
    assert {dict(entry.scope.tags)["trace"] for entry in entries} == {TRACE}
    refused = next(iter(one for one in _until(gateway) if one.outcome == "refused"))

    (trace,) = httpx.get(f"{gateway.url}/traces.json", timeout=60).json()["tables"]["traces"]["rows"]
    assert (trace["trace"], trace["requests"], trace["agents"]) == (TRACE, 2, "planner, writer")
    page = httpx.get(f"{gateway.url}/traces/{TRACE}.json", params={"since": "24h"}, timeout=60).json()
    rows = page["tables"]["spans"]["rows"]
    assert [(row["agent"], row["step"], row["span"]) for row in rows] == [
        ("planner", "s1", f"{1:016x}"), ("writer", "s2", f"{2:016x}"), ("writer", "s3", f"{3:016x}"),
    ]  # fmt: skip
    assert rows[2]["request"] == refused.request_id
    assert rows[2]["error"].startswith("budget_exceeded")
    assert page["figures"]["cost"]["value"] == sum(entry.charge.total for entry in entries)


def _until(gateway):
    """The traffic log once it has the refused call."""
    for _ in range(200):
        found = gateway.books.exchanges()
        if any(one.outcome == "refused" for one in found):
            return found
        httpx.get(f"{gateway.url}/live.json", timeout=60)
    raise AssertionError("the refused call was not logged")
