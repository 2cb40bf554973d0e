"""The official clients against a gateway that pulls levers: answers come as ever, and cost less."""

import anthropic
import openai
import pytest

SYSTEM = " ".join(f"Rule {number}: speak of order {number * 7} in plain words." for number in range(160))
LEVERS = """
[[levers]]
kind = "cache_breakpoints"

[[levers]]
kind = "cap_output"
models = ["gpt-*"]
tokens = 20

[[budgets]]
name = "day"
per = "day"
usd = "5"
"""


@pytest.fixture
def desk(stand):
    return stand(LEVERS)


def messages(client, number, *, stream):
    asked = {
        "model": "claude-sonnet-4-6",
        "max_tokens": 50,
        "system": SYSTEM,
        "messages": [{"role": "user", "content": f"question {number}"}],
    }
    if not stream:
        return client.messages.create(**asked)
    with client.messages.stream(**asked) as events:
        return events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_that_come_again_are_read_from_the_cache(desk, stream):
    client = anthropic.Anthropic(base_url=desk.gateway.url, api_key="none", max_retries=0)
    with client:
        usages = [messages(client, number, stream=stream).usage for number in range(4)]
    read = [usage.cache_read_input_tokens for usage in usages]
    wrote = [usage.cache_creation_input_tokens for usage in usages]
    assert wrote[0] == read[0] == read[1] == 0
    assert wrote[1] == read[2] == read[3] > 1_024
    assert wrote[2] == wrote[3] == 0
    entries = desk.gateway.books.settled(4)
    assert sum(one.charge.total for one in entries) == desk.sim.account.invoice.total_nusd
    assert [one.charge.total == one.baseline for one in entries] == [True, False, False, False]
    assert entries[1].charge.total > entries[1].baseline  # writing costs more
    assert sum(one.charge.total for one in entries) < sum(one.baseline for one in entries)
    assert all(one.charge.total <= one.ceiling for one in entries)


def test_a_callers_own_marks_are_left_as_they_are(desk):
    client = anthropic.Anthropic(base_url=desk.gateway.url, api_key="none", max_retries=0)
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    for number in range(2):
        turns = [{"role": "user", "content": f"question {number}"}]
        client.messages.create(model="claude-sonnet-4-6", max_tokens=50, system=system, messages=turns)
    client.close()
    entries = desk.gateway.books.settled(2)
    assert not [note for entry in entries for note in entry.decisions if note.stage == "levers"]
    assert all(entry.baseline == entry.charge.total for entry in entries)


def test_a_cap_of_the_policy_ends_answers_by_length(desk):
    client = openai.OpenAI(base_url=f"{desk.gateway.url}/v1", api_key="none", max_retries=0)
    asked = [{"role": "user", "content": "Tell me everything. [sim: tokens=200]"}]
    with client:
        answer = client.chat.completions.create(model="gpt-4o", messages=asked)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 20
    (entry,) = desk.gateway.books.settled(1)
    (note,) = [one for one in entry.decisions if one.stage == "levers"]
    assert (note.action, dict(note.evidence)) == ("cap_output", {"asked": "nothing", "cap": "20"})
    exchange = desk.gateway.books.exchange(entry.request_id)
    assert exchange.received_digest != exchange.sent_digest
    assert entry.ceiling < 2_500_000  # the cap is held, not the model's window
