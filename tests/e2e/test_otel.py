"""Spans of booked calls reach a collector: valid OTLP, the caller's trace, the ledger's own figures."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_to_row

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes spans over HTTP; answers 503 for as long as ``down``."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.refused = 0
        self.down = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.refused += outer.down
                if not outer.down:
                    outer.bodies.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(503 if outer.down else 200 if self.path == "/v1/traces" else 404)
                self.end_headers()
                self.wfile.write(b'{"partialSuccess": {}}')

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list[Span]:
        """Every span so far, read as the protocol's own definition reads it; an unknown field is an error."""
        found: list[Span] = []
        for body in list(self.bodies):
            text = json.loads(body)
            for span in _spans_in(text):
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in span:
                        span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
            request = json_format.Parse(json.dumps(text), ExportTraceServiceRequest())
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    found.extend(scope.spans)
        return found


def _spans_in(text: Any) -> Iterator[dict[str, str]]:
    for resource in text["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            yield from scope["spans"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def until(holds: Callable[[], bool]) -> None:
    due = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < due, "it never happened"
        time.sleep(0.05)


def said(span: Span) -> dict[str, Any]:
    kinds = {"string_value", "int_value", "double_value"}
    return {
        one.key: getattr(one.value, kind) if (kind := one.value.WhichOneof("value")) in kinds else one.value
        for one in span.attributes
    }


def toml(collector: Collector) -> str:
    return f'[analytics]\notlp_url = "{collector.url}"\notlp_headers_env = "OTLP_HEADERS"\n'


def test_a_call_is_a_span_in_the_callers_trace(stand: Callable[..., Any], collector: Collector) -> None:
    collector.down = True
    _, gateway = stand(toml(collector), env={"OTLP_HEADERS": "api-key=abc%20d,x-team=search"})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-test", max_retries=0) as client:
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Hello"}],
            extra_headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-farthing-feature": "search"},
        )
        client.embeddings.create(model="text-embedding-3-small", input="Hello")
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x" * 3_000_000}])
    until(lambda: collector.refused > 0)
    collector.down = False
    until(lambda: len(collector.spans()) >= 5)
    spans = {(span.name, span.kind): span for span in collector.spans()}
    assert collector.headers[0]["api-key"] == "abc d"
    assert collector.headers[0]["x-team"] == "search"

    chat, embeddings = gateway.books.settled(2)
    served = spans["farthing chat", Span.SPAN_KIND_SERVER]
    tried = next(one for one in collector.spans() if said(one).get("farthing.entry_id") == chat.id)
    assert tried.kind == Span.SPAN_KIND_CLIENT
    assert tried.name == "chat gpt-4o"
    assert tried.trace_id.hex() == TRACE
    mine = next(one for one in collector.spans() if one.span_id == tried.parent_span_id)
    assert (mine.parent_span_id.hex(), mine.trace_id.hex()) == (PARENT, TRACE)
    row = dict(zip(ENTRY_COLUMNS, entry_to_row(chat), strict=True))
    facts = said(tried)
    assert facts["gen_ai.usage.input_tokens"] == row["input_tokens"]
    assert facts["gen_ai.usage.output_tokens"] == row["output_tokens"]
    assert facts["farthing.cost_nano_usd"] == chat.charge.total
    assert facts["gen_ai.provider.name"] == "openai"
    assert facts["gen_ai.response.model"] == chat.model
    assert facts["farthing.feature"] == chat.scope.feature == "search"
    assert mine.start_time_unix_nano == chat.received_at_ms * 1_000_000
    assert tried.start_time_unix_nano <= tried.end_time_unix_nano

    other = spans["embeddings text-embedding-3-small", Span.SPAN_KIND_CLIENT]
    assert said(other)["farthing.cost_nano_usd"] == embeddings.charge.total
    assert other.trace_id.hex() != TRACE
    failed = [one for one in collector.spans() if one.status.code]
    assert {one.kind for one in failed} == {Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT}
    assert [said(one)["http.response.status_code"] for one in failed] == [refused.value.status_code] * 2
    assert said(failed[0])["error.type"]
    assert served.name
    assert b"Hello" not in b"".join(collector.bodies)


def test_what_was_sent_is_not_sent_again_by_the_next_process(stand: Callable[..., Any], collector: Collector) -> None:
    _, gateway = stand(toml(collector), env={"OTLP_HEADERS": "a=b"})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-test", max_retries=0) as client:
        client.embeddings.create(model="text-embedding-3-small", input="Hello")
        until(lambda: len(collector.spans()) == 2)
        gateway.stop()
        gateway.start()
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-test", max_retries=0) as client:
        client.embeddings.create(model="text-embedding-3-small", input="Hello again")
    until(lambda: len(collector.spans()) >= 4)
    ids = [span.span_id for span in collector.spans()]
    assert len(set(ids)) == len(ids) == 4
