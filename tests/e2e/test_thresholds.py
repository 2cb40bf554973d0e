"""What thresholds do to calls, as the official clients see it."""

import anthropic
import openai
import pytest

ASK = [{"role": "user", "content": "Harbours?"}]
CHAT = {"model": "gpt-4o", "messages": ASK, "max_tokens": 100}


def budget(rules, *, limit="requests = 4", hard="", **fields):
    more = "".join(f"{name} = {value}\n" for name, value in fields.items())
    return f'[[budgets]]\nname = "b"\nper = "day"\n{limit}\nthresholds = [{rules}]\n{hard}\n{more}'


@pytest.fixture
def clients():
    opened = []

    def make(gateway):
        one = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0)
        other = anthropic.Anthropic(base_url=gateway.url, api_key="x", max_retries=0)
        opened.extend((one, other))
        return one, other

    yield make
    for client in opened:
        client.close()


def decisions(gateway, stage="threshold"):
    return [one for entry in gateway.books.entries() for one in entry.decisions if one.stage == stage]


def test_past_half_of_the_limit_calls_go_to_the_cheaper_model_and_the_difference_is_a_saving(stand, clients):
    sim, gateway = stand(budget('{at = 50, do = "degrade", to = "gpt-4o-mini"}'))
    client, _ = clients(gateway)
    answers = [client.chat.completions.with_raw_response.create(**CHAT) for _ in range(4)]
    assert [one.headers["x-farthing-route"] for one in answers] == ["openai/gpt-4o"] * 2 + ["openai/gpt-4o-mini"] * 2
    reasons = [one.headers["x-farthing-route-reason"] for one in answers]
    assert reasons == ["direct", "direct", "degraded", "degraded"]
    assert [answer.parse().model.startswith("gpt-4o-mini") for answer in answers] == [False, False, True, True]
    first, *_, last = gateway.books.entries()
    assert last.model_requested == "gpt-4o"
    assert first.baseline == first.charge.total
    assert last.baseline > last.charge.total * 5
    assert sim.account.invoice.total_nusd == sum(entry.charge.total for entry in gateway.books.entries())
    (note, _) = decisions(gateway)
    assert (note.action, note.reason) == ("degrade", "threshold_reached")
    assert ("to", "gpt-4o-mini") in note.evidence


def test_nothing_is_degraded_to_what_is_dearer_or_not_served(stand, clients):
    _, gateway = stand(budget('{at = 1, do = "degrade", to = "gpt-4o"}'))
    client, other = clients(gateway)
    for _ in range(2):
        answer = client.chat.completions.with_raw_response.create(**{**CHAT, "model": "gpt-4o-mini"})
        assert answer.headers["x-farthing-route"] == "openai/gpt-4o-mini"
    assert [one.reason for one in decisions(gateway)] == ["not_cheaper"]
    answer = other.messages.with_raw_response.create(model="claude-sonnet-4-6", messages=ASK, max_tokens=50)
    assert answer.headers["x-farthing-route"].startswith(("anthropic/claude-sonnet-4-6", "openai/gpt-4o"))


def test_an_answer_is_cut_to_what_is_left_and_the_call_is_refused_when_nothing_worth_having_is(stand, clients):
    sim, gateway = stand(budget('{at = 90, do = "cap"}', limit="output_tokens = 250"))
    client, other = clients(gateway)
    many = {"x-sim-tokens": "400"}
    first = client.chat.completions.create(**CHAT, extra_headers=many)
    assert first.usage.completion_tokens == 100
    second = other.messages.create(model="claude-sonnet-4-6", messages=ASK, max_tokens=90, extra_headers=many)
    assert second.usage.output_tokens == 90
    third = client.chat.completions.create(model="gpt-4o", messages=ASK, extra_headers=many)
    assert third.usage.completion_tokens == 60
    assert [line.tokens.generated for line in sim.account.invoice.lines] == [100, 90, 60]
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**CHAT)
    assert refused.value.code == "budget_exceeded"
    (note,) = decisions(gateway)
    assert (note.action, dict(note.evidence)["cap"]) == ("cap", "60")
    assert sum(entry.usage.parts[0].lines[1][1] for entry in gateway.books.entries()) == 250


def test_a_cap_fits_every_budget_in_dollars_too(stand, clients):
    dollars = budget('{at = 90, do = "cap"}', limit='usd = "0.0005"')
    tokens = '[[budgets]]\nname = "t"\nper = "day"\noutput_tokens = 20\n'
    for tail, most in (("", 49), (tokens, 20)):
        _, gateway = stand(dollars + tail)
        client, _ = clients(gateway)
        answer = client.chat.completions.create(**CHAT, extra_headers={"x-sim-tokens": "400"})
        assert 16 <= answer.usage.completion_tokens <= most
        if tail:
            assert answer.usage.completion_tokens == 20
        (entry,) = gateway.books.entries()
        assert entry.charge.total <= entry.ceiling <= 500_000
        assert entry.ceiling > 480_000 or tail


def test_a_budget_that_does_not_cap_refuses_as_ever(stand, clients):
    _, gateway = stand(budget('{at = 90, do = "notify"}', limit="output_tokens = 50"))
    client, _ = clients(gateway)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**CHAT)


def test_a_throttled_client_is_told_how_long_to_wait(stand, clients):
    _, gateway = stand(budget('{at = 25, do = "throttle", per_minute = 2}', limit="requests = 8"))
    client, other = clients(gateway)
    for _ in range(4):
        client.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError) as slow:
        client.chat.completions.create(**CHAT)
    assert slow.value.code == "throttled"
    assert 1 <= int(slow.value.response.headers["retry-after"]) <= 60
    assert "x-should-retry" not in slow.value.response.headers
    with pytest.raises(anthropic.RateLimitError) as also:
        other.messages.create(model="claude-sonnet-4-6", messages=ASK, max_tokens=50)
    assert "lets 2 calls a minute through" in also.value.response.json()["error"]["message"]


def test_only_calls_that_can_wait_are_left_to_the_batch_api(stand, clients):
    _, gateway = stand(budget('{at = 50, do = "queue"}', limit="requests = 8"))
    client, _ = clients(gateway)
    waits = {"x-farthing-defer": "allow"}
    for _ in range(4):
        client.chat.completions.create(**CHAT, extra_headers=waits)
    client.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError) as put_off:
        client.chat.completions.create(**CHAT, extra_headers=waits)
    assert put_off.value.code == "deferred"
    assert "batch API" in put_off.value.message
    assert put_off.value.response.headers["x-should-retry"] == "false"
    assert int(put_off.value.response.headers["retry-after"]) > 0


def test_a_block_begins_where_its_threshold_says(stand, clients):
    sim, gateway = stand(budget('{at = 50, do = "block"}'))
    client, _ = clients(gateway)
    for _ in range(2):
        client.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError) as blocked:
        client.chat.completions.create(**CHAT)
    assert blocked.value.code == "budget_exceeded"
    assert "blocks calls from 50 % of its 4 requests on" in blocked.value.message
    assert blocked.value.response.headers["x-farthing-budget"] == "b"
    assert sim.account.requests == 2
    assert gateway.open_reservations() == ()


def test_a_soft_budget_only_notes_what_it_would_have_done(stand, clients):
    rules = '{at = 50, do = "degrade", to = "gpt-4o-mini"}, {at = 75, do = "block"}'
    _, gateway = stand(budget(rules, hard="hard = false"))
    client, _ = clients(gateway)
    answers = [client.chat.completions.with_raw_response.create(**CHAT) for _ in range(5)]
    assert {one.headers["x-farthing-route"] for one in answers} == {"openai/gpt-4o"}
    noted = [[one.action for one in entry.decisions if one.stage == "threshold"] for entry in gateway.books.entries()]
    assert noted == [[], [], ["would_degrade"], ["would_block", "would_degrade"], ["would_block", "would_degrade"]]


def test_each_counter_has_its_own_level(stand, clients):
    _, gateway = stand(budget('{at = 50, do = "block"}', each='["user"]'))
    client, _ = clients(gateway)
    for _ in range(2):
        client.chat.completions.create(**CHAT, extra_headers={"x-farthing-user": "ada"})
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**CHAT, extra_headers={"x-farthing-user": "ada"})
    client.chat.completions.create(**CHAT, extra_headers={"x-farthing-user": "bob"})


def test_after_a_restart_the_level_is_that_of_the_books(stand, clients, tmp_path):
    from farthing.testing.gateway import GatewayServer, simulated_providers

    sim, first = stand(budget('{at = 50, do = "block"}'))
    client, _ = clients(first)
    for _ in range(2):
        client.chat.completions.create(**CHAT)
    first.stop()
    toml = budget('{at = 50, do = "block"}') + simulated_providers(sim.url)
    with GatewayServer(tmp_path / "home1", toml) as again:
        client, _ = clients(again)
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**CHAT)
