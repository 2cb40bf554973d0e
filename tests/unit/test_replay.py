"""Replaying traffic under the policy that served it gives the ledger that it gave, bit for bit, refusals included."""

import asyncio
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import bootstrap, config
from farthing.adapters.memory import MemoryBooks
from farthing.core.budget import Places
from farthing.core.types import NO_TEXT, Held, Hold, Reservation, Usage
from farthing.lab.replay import replay
from farthing.lab.replay_books import CROWDED, ReplayBooks
from farthing.lab.replay_consumed import Consumed, Known
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.books import Settlement
from farthing.testing.replays import PROVIDERS, live, shared
from farthing.testing.world import Ask, World


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


def test_counters_of_windows_that_ended_long_ago_are_forgotten_and_no_other():
    """Five days of a budget by user and day, and a total: about a day is in memory, limits hold all the same."""
    loop = VirtualLoop(0)
    books, total = ReplayBooks(loop, Provider(loop, lambda logged, target: Usage())), ("total", "all", "requests")
    users, once = CROWDED // 2, (0, 0, 0, 0, 1, 0, 0)
    for day in range(5):
        loop.jump(day * 86_400.0)
        ends = (day + 1) * 86_400_000
        for user in range(users):
            keys = [(f"user={user}", f"{day}", "requests"), total]
            holds = [
                Hold(counter=keys[0][0], window=keys[0][1], unit="requests", limit=1, amount=0, resets_at_ms=ends),
                Hold(counter="total", window="all", unit="requests", limit=10**9, amount=0),
            ]
            account = books.account(Places(tuple(holds), tuple(keys), 0, ends))
            assert books.fits(account, once)
        assert not books.fits(account, once)
        assert books.take_all("r", account, once)[0] is not None
    counters = dict(books.counters())
    assert counters[total] == 5 * users
    assert len(counters) < 4 * users


def test_a_loop_that_waits_for_nothing_says_so():
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="never happen"):
        VirtualLoop(0).serve(iter([(0.0, forever)]))


def test_what_is_due_happens_in_order_whether_it_was_asked_for_long_before_or_late():
    rng, told, wanted = random.Random(4), [], []
    loop = VirtualLoop(0)

    def asks(number: int) -> None:
        told.append((loop.time(), number))
        for _ in range(rng.choice((0, 1, 2)) if len(wanted) < 3_000 else 0):
            when = loop.time() + rng.choice((0.0, 0.001, 0.4, 1.0, 2.5, 60.0)) * rng.random()
            wanted.append(when)
            loop.later(when, asks, len(wanted) - 1)

    arrivals = sorted(rng.random() * 30 for _ in range(200))
    loop.serve_by(asks, iter([(when, -1) for when in arrivals]))
    timers = [one for one in told if one[1] >= 0]
    assert timers == sorted((max(when, 0.0), number) for number, when in enumerate(wanted))
    assert [when for when, number in told] == sorted(when for when, number in told)
    assert len(timers) > 1_000
    assert loop.timers() == []


def test_time_jumps_and_what_is_due_first_happens_first():
    loop, seen = VirtualLoop(1_000), []

    async def sleeps(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.now_ms()))

    def starts(name, seconds):
        return lambda: sleeps(name, seconds)

    loop.serve(iter([(0.0, starts("late", 86_400)), (1.0, starts("soon", 0.25)), (1.0, starts("at once", 0))]))
    assert seen == [("at once", 2_000), ("soon", 2_250), ("late", 86_401_000)]


def test_what_answers_consumed_is_found_by_entry_however_late_it_is_asked():
    consumed, known = Consumed(), {}
    rng = random.Random(6)
    for number in range(400):
        entry = f"e{rng.randrange(300)}"
        known[entry] = Known(entry, f"m{number}", Usage(model=f"u{number}"), number)
        consumed.fields.extend(known[entry])
        if rng.random() < 0.05:
            assert all(consumed.get(one) == said for one, said in known.items())
            assert consumed.get("e300") is None
    assert len(consumed.every()) == 400
    assert {one.entry_id: one for one in consumed.every()} == known
