"""The providers' prompt caches on an injected clock."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from farthing.sim.server import SimServer
from farthing.sim.settings import SimSettings

# Plain HTTP on loopback: loading CA certificates for each call would only cost time.
post = partial(httpx.post, verify=False)
fetch = partial(httpx.get, verify=False)

MINUTE = 60_000
DOCUMENT = " ".join(f"Fact {number} is about the harbour." for number in range(600))


class Clock:
    """Milliseconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now


class Account:
    """A simulator, its clock, and the two calls these tests make."""

    def __init__(self, sim: SimServer, clock: Clock) -> None:
        self.sim, self.clock = sim, clock

    def chat(self, messages: list[dict[str, Any]], *, key: str = "sk-a", model: str = "gpt-4o", **extra: Any) -> Any:
        body = {"model": model, "messages": messages, "max_tokens": 1, **extra}
        headers = {"authorization": f"Bearer {key}"}
        return post(f"{self.sim.url}/v1/chat/completions", json=body, headers=headers).json()["usage"]

    def ask(self, *, key: str = "sk-ant-a", model: str = "claude-sonnet-4-6", **body: Any) -> Any:
        headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        wanted = {"model": model, "max_tokens": 1, **body}
        answer = post(f"{self.sim.url}/v1/messages", json=wanted, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["usage"]


@pytest.fixture(scope="module")
def running() -> Iterator[Account]:
    clock = Clock()
    with SimServer(SimSettings(now_ms=clock)) as sim:
        yield Account(sim, clock)


@pytest.fixture
def account(running: Account) -> Account:
    post(f"{running.sim.url}/sim/reset")
    return running


def cached(usage: Any) -> int:
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def talk(text: str, question: str = "Why?") -> list[dict[str, Any]]:
    return [{"role": "system", "content": text}, {"role": "user", "content": question}]


def marked(text: str, ttl: str = "5m") -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}


def split(usage: Any) -> tuple[int, int, int, int]:
    """Uncached, read, 5-minute write, 1-hour write."""
    made = usage["cache_creation"]
    return (
        usage["input_tokens"],
        usage["cache_read_input_tokens"],
        made["ephemeral_5m_input_tokens"],
        made["ephemeral_1h_input_tokens"],
    )


def test_openai_caches_from_1024_tokens_in_steps_of_128(account: Account) -> None:
    short = talk("word " * 900)
    assert cached(account.chat(short)) == cached(account.chat(short)) == 0
    long = talk(DOCUMENT)
    first, second = account.chat(long), account.chat(long)
    assert cached(first) == 0
    assert cached(second) == 1024 + (second["prompt_tokens"] - 1024) // 128 * 128
    assert second["prompt_tokens"] == first["prompt_tokens"]


def test_openai_reads_only_the_shared_prefix(account: Account) -> None:
    account.chat(talk(DOCUMENT, "Why?"))
    other = account.chat(talk(DOCUMENT, "How? " * 200))
    assert 1024 <= cached(other) < other["prompt_tokens"] - 200
    changed_start = account.chat(talk("New. " + DOCUMENT))
    assert cached(changed_start) == 0


def test_openai_keeps_keys_and_models_apart(account: Account) -> None:
    account.chat(talk(DOCUMENT))
    assert cached(account.chat(talk(DOCUMENT), key="sk-b")) == 0
    assert cached(account.chat(talk(DOCUMENT), model="gpt-4o-mini")) == 0
    assert cached(account.chat(talk(DOCUMENT), model="gpt-4o-2024-08-06")) > 0


def test_openai_forgets_after_five_to_ten_idle_minutes(account: Account) -> None:
    account.chat(talk(DOCUMENT))
    account.clock.now += 5 * MINUTE - 1
    assert cached(account.chat(talk(DOCUMENT))) > 0
    account.clock.now += 5 * MINUTE - 1  # the last call refreshed it
    assert cached(account.chat(talk(DOCUMENT))) > 0
    account.clock.now += 10 * MINUTE + 1
    assert cached(account.chat(talk(DOCUMENT))) == 0


def test_openai_counts_tools_and_images_as_prefix(account: Account) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}}
    other = {"type": "image_url", "image_url": {"url": "https://example.com/b.png", "detail": "high"}}

    def with_picture(image: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [image, {"type": "text", "text": DOCUMENT}]}]

    account.chat(with_picture(picture), tools=[tool])
    assert cached(account.chat(with_picture(picture), tools=[tool])) > 0
    assert cached(account.chat(with_picture(other), tools=[tool])) == 0
    assert cached(account.chat(with_picture(picture))) == 0


def test_openai_charges_writes_of_newer_models_and_keeps_them_half_an_hour(account: Account) -> None:
    written = account.chat(talk(DOCUMENT), model="gpt-5.6-luna")
    fresh = written["prompt_tokens_details"]["cache_write_tokens"]
    assert fresh == 1024 + (written["prompt_tokens"] - 1024) // 128 * 128
    line = account.sim.account.invoice.lines[-1]
    assert line.tokens.cache_write == fresh
    assert line.tokens.prompt == written["prompt_tokens"]
    account.clock.now += 30 * MINUTE - 1
    assert cached(account.chat(talk(DOCUMENT), model="gpt-5.6-luna")) == fresh
    assert account.sim.account.invoice.lines[-1].tokens.cache_write == 0
    account.clock.now += 30 * MINUTE
    headers = {"authorization": "Bearer sk-a"}
    body = {"model": "gpt-5.6-luna", "input": DOCUMENT, "max_output_tokens": 1}
    usage = post(f"{account.sim.url}/v1/responses", json=body, headers=headers).json()["usage"]
    details = usage["input_tokens_details"]
    assert details["cached_tokens"] == 0
    assert details["cache_write_tokens"] == details["cache_write_tokens_details"]["ttl_30m_tokens"] > 1024


def test_anthropic_writes_then_reads_what_the_mark_covers(account: Account) -> None:
    system = [marked(DOCUMENT)]
    first = account.ask(system=system, messages=[{"role": "user", "content": "Why?"}])
    second = account.ask(system=system, messages=[{"role": "user", "content": "How so?"}])
    assert split(first)[1] == 0
    assert split(first)[2] > 1024
    assert split(second)[1:] == (split(first)[2], 0, 0)
    assert 0 < split(second)[0] < 20


def test_anthropic_caches_nothing_without_a_mark_or_below_the_models_minimum(account: Account) -> None:
    plain = [{"type": "text", "text": DOCUMENT}]
    question = [{"role": "user", "content": "Why?"}]
    for _ in range(2):
        assert split(account.ask(system=plain, messages=question))[1:] == (0, 0, 0)
        assert split(account.ask(system=[marked("word " * 700)], messages=question))[1:] == (0, 0, 0)
    medium = [marked("word " * 1500)]  # between the minimum of Sonnet (1,024) and of Haiku (4,096)
    assert split(account.ask(system=medium, messages=question))[2] > 1024
    assert split(account.ask(system=medium, messages=question, model="claude-haiku-4-5"))[1:] == (0, 0, 0)


@pytest.mark.parametrize(("ttl", "minutes"), [("5m", 5), ("1h", 60)])
def test_anthropic_entries_lapse_after_their_ttl_and_a_hit_refreshes_them(
    account: Account, ttl: str, minutes: int
) -> None:
    wanted = {"system": [marked(DOCUMENT, ttl)], "messages": [{"role": "user", "content": "Why?"}]}
    written = sum(split(account.ask(**wanted))[2:])
    for _ in range(3):
        account.clock.now += minutes * MINUTE - 1
        assert split(account.ask(**wanted))[1] == written
    account.clock.now += minutes * MINUTE
    assert split(account.ask(**wanted))[1] == 0


def test_anthropic_keeps_keys_apart(account: Account) -> None:
    wanted = {"system": [marked(DOCUMENT)], "messages": [{"role": "user", "content": "Why?"}]}
    account.ask(**wanted)
    assert split(account.ask(**wanted, key="sk-ant-b"))[1] == 0


def test_anthropic_mixed_ttls_split_the_write(account: Account) -> None:
    wanted = {
        "system": [marked(DOCUMENT, "1h")],
        "messages": [
            {"role": "user", "content": [marked("A long story. " * 100, "5m"), {"type": "text", "text": "?"}]}
        ],
    }
    _, read, five, hour = split(account.ask(**wanted))
    assert read == 0
    assert hour > 1024 > five > 100
    assert split(account.ask(**wanted))[1:] == (five + hour, 0, 0)
    account.clock.now += 6 * MINUTE  # the 5-minute part is gone, the hour stays
    assert split(account.ask(**wanted))[1:] == (hour, five, 0)


def test_anthropic_refuses_a_one_hour_mark_after_a_five_minute_one_and_a_fifth_mark(account: Account) -> None:
    headers = {"x-api-key": "sk-ant-a", "anthropic-version": "2023-06-01"}
    for marks in (["5m", "1h"], ["5m"] * 5):
        body = {
            "model": "claude-sonnet-4-6",
            "max_tokens": 1,
            "system": [marked(f"{DOCUMENT} {index}", ttl) for index, ttl in enumerate(marks)],
            "messages": [{"role": "user", "content": "Why?"}],
        }
        answer = post(f"{account.sim.url}/v1/messages", json=body, headers=headers)
        assert answer.status_code == 400
        assert "cache_control" in answer.json()["error"]["message"]
    assert account.sim.account.invoice.lines == []


def test_anthropic_finds_an_earlier_prefix_up_to_twenty_blocks_back(account: Account) -> None:
    def conversation(extra: int) -> list[dict[str, Any]]:
        turns = [{"type": "text", "text": f"Remark {number}."} for number in range(extra)]
        return [{"role": "user", "content": [marked(DOCUMENT), *turns]}]

    def follow(extra: int) -> tuple[int, int, int, int]:
        turns = [{"type": "text", "text": f"Remark {number}."} for number in range(extra - 1)]
        content = [{"type": "text", "text": DOCUMENT}, *turns, marked(f"Remark {extra - 1}.")]
        return split(account.ask(messages=[{"role": "user", "content": content}]))

    written = split(account.ask(messages=conversation(0)))[2]
    near = follow(20)
    assert near[1] == written
    assert near[2] > 0
    account.clock.now += 10 * MINUTE
    account.ask(messages=conversation(0))
    far = follow(21)
    assert far[1] == 0
    assert far[2] > written


def test_anthropic_reads_the_longest_live_prefix_as_a_conversation_grows(account: Account) -> None:
    content: list[dict[str, Any]] = [{"role": "user", "content": [marked(DOCUMENT)]}]
    total = sum(split(account.ask(messages=content))[1:])
    for turn in range(3):
        content[-1]["content"][0].pop("cache_control", None)
        content += [
            {"role": "assistant", "content": [{"type": "text", "text": f"Answer {turn}."}]},
            {"role": "user", "content": [marked(f"Question {turn}?")]},
        ]
        uncached, read, five, _ = split(account.ask(messages=content))
        assert read == total
        assert uncached == 0
        assert five > 0
        total += five


def test_reset_empties_the_caches(account: Account) -> None:
    account.chat(talk(DOCUMENT))
    account.ask(system=[marked(DOCUMENT)], messages=[{"role": "user", "content": "Why?"}])
    post(f"{account.sim.url}/sim/reset")
    assert cached(account.chat(talk(DOCUMENT))) == 0
    assert fetch(f"{account.sim.url}/sim/state").json()["prompt_cache"]["anthropic"] == 0
