"""Replaying traffic under the policy that served it gives the ledger that it gave, bit for bit, refusals included."""

import asyncio
import random
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import bootstrap, config
from farthing.adapters.memory import MemoryBooks
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.core.types import NO_TEXT, Held, Hold, Reservation, Scope, Usage
from farthing.lab.replay import replay
from farthing.lab.replay_books import ReplayBooks
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Settlement
from farthing.sim.faults import FaultOrder, FaultRule
from farthing.sim.settings import SimSettings
from farthing.testing.world import Ask, World

PROVIDERS = """
[[providers]]
name = "openai"
api_key_env = "NO_KEY"
base_url = "http://sim/v1"

[[providers]]
name = "anthropic"
api_key_env = "NO_KEY"
base_url = "http://sim/v1"
"""
OPENAI = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o4-mini")
ANTHROPIC = ("claude-sonnet-4-5", "claude-haiku-4-5")
FAULTS = (
    ("500", 0.08), ("429:retry-after=2", 0.06), ("429:retry-after=60", 0.03), ("cut:2", 0.05), ("reset", 0.04),
    ("no-usage", 0.04), ("503", 0.05), ("slow-first-byte:900", 0.05), ("404", 0.02), ("hang", 0.01),
)  # fmt: skip


@cache
def shared():
    """(price book, tokenizer): the same for every world."""
    chosen = config.parse(PROVIDERS, env={}, source="t")
    return bootstrap.price_book(chosen), BpeTokenizer()


def policy(rng: random.Random) -> str:
    """A random policy, tight enough to refuse."""
    lines = [PROVIDERS]
    if rng.random() < 0.9:
        lines.append(f'[[budgets]]\nname = "org"\nper = "day"\nusd = "{rng.choice((0.02, 0.05, 0.2, 1))}"\n')
    if rng.random() < 0.6:
        lines.append(
            f'[[budgets]]\nname = "team"\nper = "{rng.choice(("minute", "hour"))}"\neach = ["team"]\n'
            f"tokens = {rng.choice((3_000, 20_000, 80_000))}\nrequests = {rng.choice((4, 20))}\n"
        )
    if rng.random() < 0.5:
        lines.append('[[budgets]]\nname = "soft"\nper = "day"\nhard = false\nusd = "0.01"\neach = ["model"]\n')
    if rng.random() < 0.4:
        lines.append(
            f'[[budgets]]\nname = "one"\nper = "request"\nusd = "{rng.choice((0.002, 0.01))}"\n'
            "turns_without_human = 2\n"
        )
    if rng.random() < 0.3:
        lines.append('[[budgets]]\nname = "rolls"\nper = "rolling"\nlength = "10m"\nusd = "0.03"\neach = ["user"]\n')
    if rng.random() < 0.5:
        lines.append('[[fallbacks]]\nmodel = "gpt-4o*"\nto = ["gpt-4.1", "gpt-4o-mini"]\n')
    if rng.random() < 0.6:
        lines.append(f"[retries]\nattempts_max = {rng.choice((1, 2, 3))}\nbackoff = '{rng.choice((50, 400))}ms'\n")
    if rng.random() < 0.6:
        lines.append(f"[limits]\noutput_tokens_max = {rng.choice((60, 400))}\noutput_tokens_assumed = 2000\n")
    lines.append(f'[unpriced]\naction = "{rng.choice(("refuse", "ceiling", "allow"))}"\n')
    if rng.random() < 0.4:
        lines.append(f'[[cache]]\nname = "all"\nttl = "{rng.choice(("20s", "10m"))}"\npartition = ["team"]\n')
    head = f'on_disconnect = "{rng.choice(("drain", "cancel"))}"\n'
    head += f'on_unknown_outcome = "{rng.choice(("ceiling", "estimate"))}"\n'
    return head + "".join(lines)


def traffic(rng: random.Random, count: int) -> list[Ask]:
    """Bursts of calls of several teams, streams and hang-ups among them; some ask the same."""
    at, asks = 0, []
    for number in range(count):
        at += rng.choice((0, 0, 0, 1, 3, 400, 2_000, 15_000))
        team, words = rng.choice("ab"), rng.choice((3, 3, 30, 400, 2_000))
        text = f"{rng.randrange(6) if words == 3 else number} " + "word " * words
        messages = [{"role": "user", "content": text}]
        if rng.random() < 0.2:
            messages += [{"role": "assistant", "content": "so"}, {"role": "user", "content": "on"}] * rng.randrange(3)
        if rng.random() < 0.15:
            messages += [{"role": "assistant", "content": "so"}] * rng.randrange(1, 4)
        anthropic = rng.random() < 0.25
        body = {"model": rng.choice(ANTHROPIC if anthropic else OPENAI), "messages": messages}
        if anthropic or rng.random() < 0.5:
            body["max_tokens"] = rng.choice((20, 200, 1_000))
        if rng.random() < 0.05 and not anthropic:
            body["model"] = "gpt-unknown"
        if rng.random() < 0.4:
            body["stream"] = True
        if words == 3 and rng.random() < 0.7:  # a question that others ask too
            anthropic, body = False, {"model": "gpt-4o-mini", "max_tokens": 60}
            body["messages"] = [{"role": "user", "content": f"{rng.randrange(3)} [sim: tokens=20]"}]
            body |= {"stream": True} if rng.random() < 0.3 else {}
        headers = ((b"x-farthing-cache", b"refresh"),) if rng.random() < 0.05 else ()
        asks.append(
            Ask(
                at_ms=at,
                body=body,
                dialect="anthropic" if anthropic else "openai",
                endpoint="messages" if anthropic else "chat",
                scope=Scope(org="o", team=team, user=f"u{rng.randrange(3)}", session=f"s{rng.randrange(4)}", key="k"),
                headers=(*headers, (b"anthropic-version", b"2023-06-01")),
                leaves_after_ms=rng.choice((100, 700, 2_500)) if rng.random() < 0.1 else None,
            )
        )
    return asks


def live(seed: int, count: int = 40) -> World:
    """A random workload, served."""
    rng = random.Random(seed)
    chosen = config.parse(policy(rng), env={}, source="t")
    prices, tokens = shared()
    world = World(chosen, prices=prices, tokens=tokens, sim=SimSettings(seed=seed))
    picked = [one for one in FAULTS if rng.random() < 0.5]
    rules = tuple(FaultRule(fault=fault, rate=rate) for fault, rate in picked)
    world.sim.account.faults.install(FaultOrder(rules=rules, seed=seed))
    world.run(traffic(rng, count))
    return world


def replayed(world: World, other=None):
    prices, tokens = shared()
    entries, found = world.entries(), []
    exchanges = [msgspec.json.decode(msgspec.json.encode(one), type=type(one)) for one in world.exchanges()]
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(
            other or world.settings, loop, provider, log, prices=prices, tokens=tokens
        ),
        found.append,
        estimate=lambda logged, target: logged.usage or Usage(),
        entries_of=lambda request_id: entries.get(request_id, ()),
    )
    return found


def unaudited(entries):
    """Entries without the instant of booking, which is for audits only."""
    return [msgspec.structs.replace(entry, booked_at_ms=0) for entry in entries]


@pytest.mark.parametrize("block", range(20))
def test_replaying_under_the_same_policy_gives_every_entry_and_refusal_again(block):
    for seed in range(block * 11, block * 11 + 11):
        world = live(seed)
        entries = world.entries()
        outcomes = replayed(world)
        assert len(outcomes) == len(world.exchanges()) == 40
        for one in outcomes:
            logged = one.logged.source
            where = (seed, logged.request_id)
            assert unaudited(one.entries) == unaudited(entries.get(logged.request_id, [])), where
            assert (one.outcome, one.status, one.error) == (logged.outcome, logged.status, logged.error), where
            assert one.fidelity != "estimated" or any(e.usage.source != "reported" for e in one.entries), where


def test_a_replay_reads_nothing_of_prompts_that_the_log_did_not_keep():
    world = live(3)
    assert all(one.prompt is None for one in world.exchanges())
    assert {one.logged.request.body for one in replayed(world)} == {NO_TEXT}


def test_what_came_first_within_a_millisecond_decides_near_a_limit():
    """The same log with the numbers of its acts turned round serves another of four calls that came at once."""
    chosen = config.parse(PROVIDERS + '[[budgets]]\nname = "one"\nper = "day"\nrequests = 1\n', env={}, source="t")
    prices, tokens = shared()
    world = World(chosen, prices=prices, tokens=tokens)
    chat = {"model": "gpt-4o-mini", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}
    world.run(Ask(at_ms=0, body=chat) for _ in range(4))
    errors = [one.error for one in sorted(world.exchanges(), key=lambda one: one.request_id)]
    assert errors == ["", *["budget_exceeded:one"] * 3]
    turned = []
    for exchange in world.exchanges():
        acts = tuple((at_ms, 100 - number if number > 0 else number - 100) for at_ms, number in exchange.acts)
        turned.append(msgspec.structs.replace(exchange, acts=acts))
    found: list = []
    replay(
        turned,
        lambda loop, provider, log: bootstrap.replay_services(
            chosen, loop, provider, log, prices=prices, tokens=tokens
        ),
        found.append,
        estimate=lambda logged, target: Usage(),
    )
    assert [one.logged.request.id for one in found if not one.error] == ["r00003"]


def amounts():
    return st.integers(min_value=0, max_value=60)


HOLDS = st.builds(
    lambda counter, window, unit, limit, amount, hard, also: Hold(
        counter=counter, window=window, unit=unit, limit=limit, amount=amount, hard=hard, also=also
    ),
    st.sampled_from(("a", "b", "c")),
    st.sampled_from(("1", "2")),
    st.sampled_from(("usd", "requests")),
    st.sampled_from((50, 100)),
    amounts(),
    st.booleans(),
    st.sampled_from(((), ("3",), ("3", "4"))),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.lists(HOLDS, max_size=4), st.booleans(), st.lists(amounts(), min_size=4, max_size=4))))
def test_the_books_of_a_replay_decide_as_the_reference_store_does(script):
    async def both() -> None:
        mine, reference = ReplayBooks(), MemoryBooks()
        opened = []
        for number, (holds, settles, spent) in enumerate(script):
            one = Reservation(
                id=f"{number}", request_id=f"{number}", holds=tuple(holds), ceiling=None, expires_at_ms=10**15
            )
            answers = [await books.reserve(one, now_ms=number) for books in (mine, reference)]
            assert answers[0] == answers[1]
            if isinstance(answers[0], Held):
                opened.append((one, tuple(spent[: len(holds)])))
            if settles and opened:
                ended, counted = opened.pop(0)
                for books in (mine, reference):
                    await books.settle(Settlement(reservation=ended, amounts=counted), now_ms=number)
            counters = [(counter, window) for counter in "abc" for window in "1234"]
            assert set(mine.balances(counters)) == set(reference.balances(counters))
            assert mine.open_reservations() == reference.open_reservations()

    asyncio.run(both())


def test_a_loop_that_waits_for_nothing_says_so():
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never happen"):
        VirtualLoop(0).serve(iter([(0.0, forever)]))


def test_time_jumps_and_what_is_due_first_happens_first():
    loop, seen = VirtualLoop(1_000), []

    async def sleeps(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.now_ms()))

    def starts(name, seconds):
        return lambda: sleeps(name, seconds)

    loop.serve(iter([(0.0, starts("late", 86_400)), (1.0, starts("soon", 0.25)), (1.0, starts("at once", 0))]))
    assert seen == [("at once", 2_000), ("soon", 2_250), ("late", 86_401_000)]
