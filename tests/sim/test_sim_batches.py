"""The simulated batch APIs, by the official clients: what is answered, what is left, and what the invoice says."""

import json

import anthropic
import openai
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings
from farthing.testing.fakes import VirtualClock

HOUR = 3_600_000


class Bench:
    def __init__(self, sim: SimServer, clock: VirtualClock) -> None:
        self.sim, self.clock = sim, clock
        self.openai = openai.OpenAI(api_key="sk-a", base_url=f"{sim.url}/v1", max_retries=0)
        self.anthropic = anthropic.Anthropic(api_key="sk-a", base_url=sim.url, max_retries=0)


@pytest.fixture(params=[10_000])
def bench(request):
    clock = VirtualClock()
    with SimServer(SimSettings(now_ms=clock.now_ms, batch_ms=request.param)) as sim:
        made = Bench(sim, clock)
        with made.openai, made.anthropic:
            yield made


def lines(count, url="/v1/chat/completions", **body):
    asked = {"model": "gpt-4o-mini", "max_tokens": 20, **body}
    return [
        {"custom_id": f"c{n}", "method": "POST", "url": url, "body": {**asked, "messages": say(n)}}
        for n in range(count)
    ]


def say(number, more=""):
    return [{"role": "user", "content": f"question {number}{more}"}]


def sent(bench, found, url="/v1/chat/completions"):
    data = "\n".join(json.dumps(one) for one in found).encode()
    file = bench.openai.files.create(file=("r.jsonl", data), purpose="batch")
    return bench.openai.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h")


def asked(bench, count):
    params = {"model": "claude-sonnet-4-6", "max_tokens": 30}
    requests = [{"custom_id": f"m{n}", "params": {**params, "messages": say(n)}} for n in range(count)]
    return bench.anthropic.messages.batches.create(requests=requests)


def test_lines_are_answered_evenly_over_its_time_and_billed_at_half_the_price(bench):
    batch = sent(bench, lines(4))
    counts = []
    for _ in range(4):
        bench.clock.advance(2_500)
        counts.append(bench.openai.batches.retrieve(batch.id).request_counts.completed)
    assert counts == [1, 2, 3, 4]
    done = bench.openai.batches.retrieve(batch.id)
    assert (done.status, done.error_file_id) == ("completed", None)
    answers = [json.loads(line) for line in bench.openai.files.content(done.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in answers] == ["c0", "c1", "c2", "c3"]
    bench.openai.chat.completions.create(model="gpt-4o-mini", max_tokens=20, messages=say(0))
    invoice = bench.sim.account.invoice.lines
    assert [line.tier for line in invoice] == ["batch"] * 4 + ["default"]
    assert invoice[0].amount_nusd * 2 == invoice[4].amount_nusd


def test_a_line_that_fails_is_in_the_error_file_and_free(bench):
    found = lines(3)
    found[1]["body"]["messages"] = say(1, " [sim: fault=500]")
    found[2]["body"]["model"] = "no-such-model"
    batch = sent(bench, found)
    bench.clock.advance(10_000)
    done = bench.openai.batches.retrieve(batch.id)
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 2)
    errors = [json.loads(line) for line in bench.openai.files.content(done.error_file_id).text.splitlines()]
    assert [(one["custom_id"], one["response"]["status_code"]) for one in errors] == [("c1", 500), ("c2", 404)]
    assert len(bench.sim.account.invoice.lines) == 1


def test_cancelling_keeps_what_was_answered(bench):
    batch = asked(bench, 4)
    bench.clock.advance(5_000)
    assert bench.anthropic.messages.batches.cancel(batch.id).processing_status == "ended"
    found = [(one.custom_id, one.result.type) for one in bench.anthropic.messages.batches.results(batch.id)]
    assert found == [("m0", "succeeded"), ("m1", "succeeded"), ("m2", "canceled"), ("m3", "canceled")]
    assert len(bench.sim.account.invoice.lines) == 2
    other = sent(bench, lines(4))
    bench.clock.advance(2_500)
    stopped = bench.openai.batches.cancel(other.id)
    assert stopped.status == "cancelled"
    left = [json.loads(line) for line in bench.openai.files.content(stopped.error_file_id).text.splitlines()]
    assert [one["error"]["code"] for one in left] == ["batch_cancelled"] * 3


@pytest.mark.parametrize("bench", [48 * HOUR], indirect=True)
def test_what_takes_longer_than_a_day_expires_half_done(bench):
    batch, other = asked(bench, 4), sent(bench, lines(4))
    bench.clock.advance(24 * HOUR)
    counts = bench.anthropic.messages.batches.retrieve(batch.id).request_counts
    assert (counts.succeeded, counts.expired) == (2, 2)
    done = bench.openai.batches.retrieve(other.id)
    assert (done.status, done.request_counts.completed) == ("expired", 2)
    bench.clock.advance(24 * HOUR)
    assert len(bench.sim.account.invoice.lines) == 4


def test_a_file_that_is_wrong_fails_the_batch_with_every_line_named(bench):
    found = lines(4)
    found[1]["custom_id"] = "c0"
    found[2]["url"] = "/v1/embeddings"
    batch = sent(bench, found)
    assert batch.status == "failed"
    assert [(one.line, one.code) for one in batch.errors.data] == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_endpoint"),
    ]


def test_another_key_sees_nothing(bench):
    batch = sent(bench, lines(1))
    message = asked(bench, 1)
    stranger = bench.openai.with_options(api_key="sk-b")
    with pytest.raises(openai.NotFoundError):
        stranger.batches.retrieve(batch.id)
    with pytest.raises(openai.NotFoundError):
        stranger.files.content(batch.input_file_id)
    assert list(stranger.files.list()) == list(stranger.batches.list()) == []
    other = bench.anthropic.with_options(api_key="sk-b")
    with pytest.raises(anthropic.NotFoundError):
        other.messages.batches.retrieve(message.id)


def test_lists_are_paged_newest_first(bench):
    ids = [sent(bench, lines(1)).id for _ in range(5)]
    assert [one.id for one in bench.openai.batches.list(limit=2)] == ids[::-1]
    messages = [asked(bench, 1).id for _ in range(5)]
    assert [one.id for one in bench.anthropic.messages.batches.list(limit=2)] == messages[::-1]
