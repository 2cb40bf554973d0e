"""Replaying traffic under the policy that served it gives the ledger that it gave, bit for bit, refusals included."""

import random
from functools import cache

import msgspec
import pytest

from farthing import bootstrap, config
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.core.types import Scope, Usage
from farthing.lab.replay import replay
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
    settings = config.parse(PROVIDERS, env={}, source="t")
    return bootstrap.price_book(settings), BpeTokenizer()


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
    settings = config.parse(policy(rng), env={}, source="t")
    prices, tokens = shared()
    world = World(settings, prices=prices, tokens=tokens, sim=SimSettings(seed=seed))
    picked = [one for one in FAULTS if rng.random() < 0.5]
    rules = tuple(FaultRule(fault=fault, rate=rate) for fault, rate in picked)
    world.sim.account.faults.install(FaultOrder(rules=rules, seed=seed))
    world.run(traffic(rng, count))
    return world


def replayed(world: World, settings=None):
    prices, tokens = shared()
    entries, found = world.entries(), []
    exchanges = [msgspec.json.decode(msgspec.json.encode(one), type=type(one)) for one in world.exchanges()]
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(
            settings or world.settings, loop, provider, log, prices=prices, tokens=tokens
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
