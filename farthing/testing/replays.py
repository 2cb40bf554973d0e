"""Random policies and random traffic for replays: the same seed gives the same, anywhere.

Limits are tight enough to refuse, calls come in bursts, some hang up, and the simulated provider fails often.
"""

import random
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from farthing import bootstrap, config
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.core.money import Nusd
from farthing.core.types import AttemptFact, Exchange, PromptView, Scope, Usage, UsagePart
from farthing.ports.prices import Prices
from farthing.ports.tokens import Tokenizer
from farthing.sim.faults import FaultOrder, FaultRule
from farthing.sim.settings import SimSettings
from farthing.testing.world import START_MS, Ask, World

PROVIDERS: Final = """
[[providers]]
name = "openai"
api_key_env = "NO_KEY"
base_url = "http://sim/v1"

[[providers]]
name = "anthropic"
api_key_env = "NO_KEY"
base_url = "http://sim/v1"
"""
OPENAI: Final = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o4-mini")
ANTHROPIC: Final = ("claude-sonnet-4-5", "claude-haiku-4-5")
FAULTS: Final = (
    ("500", 0.08), ("429:retry-after=2", 0.06), ("429:retry-after=60", 0.03), ("cut:2", 0.05), ("reset", 0.04),
    ("no-usage", 0.04), ("503", 0.05), ("slow-first-byte:900", 0.05), ("404", 0.02), ("hang", 0.01),
)  # fmt: skip


@cache
def shared() -> tuple[Prices, Tokenizer]:
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
    asks: list[Ask] = []
    at = 0
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
        body: dict[str, Any] = {"model": rng.choice(ANTHROPIC if anthropic else OPENAI), "messages": messages}
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


def live(seed: int, count: int = 40, *, more: str = "") -> World:
    """A random workload, served; ``more``: further sections of the policy."""
    rng = random.Random(seed)
    chosen = config.parse(policy(rng) + more, env={}, source="t")
    prices, tokens = shared()
    world = World(chosen, prices=prices, tokens=tokens, sim=SimSettings(seed=seed))
    picked = [one for one in FAULTS if rng.random() < 0.5]
    rules = tuple(FaultRule(fault=fault, rate=rate) for fault, rate in picked)
    world.sim.account.faults.install(FaultOrder(rules=rules, seed=seed))
    world.run(traffic(rng, count))
    return world


def thresholds(rng: random.Random) -> str:
    """A budget that acts before it is full, and one of an odd kind: credits, a raise, a long rolling window."""
    limit, percent = rng.choice(("0.01", "0.05", "0.3")), rng.choice((1, 30, 80))
    act = rng.choice(('do = "degrade", to = "gpt-4o-mini"', 'do = "queue"', 'do = "block"'))
    acting = f'[[budgets]]\nname = "acts"\nper = "day"\nusd = "{limit}"\nhard = {rng.choice(("true", "false"))}\n'
    acting += f'each = ["{rng.choice(("team", "model", "user"))}"]\nthresholds = [{{ at = {percent}, {act} }}]\n'
    odd = rng.choice(
        (
            '[[budgets]]\nname = "paid"\nper = "total"\ncredits = [{ usd = "0.05" }]\n',
            '[[budgets]]\nname = "long"\nper = "rolling"\nlength = "3h"\nrequests = 25\n',
            '[[budgets]]\nname = "agents"\nper = "session"\ntool_calls = 3\nrequests = 6\n',
        )
    )
    return acting + odd


def busy_log(requests: int, *, seed: int = 1, start_ms: int = START_MS, every_ms: int = 100) -> Iterator[Exchange]:
    """A traffic log as a store gives it back, made as it is read: calls begin ``every_ms`` apart on average.

    Every answer is whole and takes one to twenty seconds; one call in ten asks what another of its team asked.
    """
    rng = random.Random(seed)
    at = start_ms
    for number in range(requests):
        at += rng.randrange(2 * every_ms)
        user = rng.randrange(500)
        again = rng.random() < 0.1
        model = "gpt-4o-mini" if again else rng.choice(OPENAI)
        took = rng.randrange(1_000, 20_000)
        taken, given = (300, 80) if again else (rng.randrange(100, 4_000), rng.randrange(10, 800))
        digest = f"again-{rng.randrange(40)}" if again else f"{seed}-{number}"
        stream = rng.random() < 0.5
        fact = AttemptFact(
            attempt=1,
            provider="openai",
            model=model,
            status=200,
            started_at_ms=at,
            latency_ms=took,
            ttft_ms=took // 4 if stream else took,
            entry_id=f"r{seed}-{number}-1",
        )
        yield Exchange(
            request_id=f"r{seed}-{number}",
            received_at_ms=at,
            scope=Scope(org="o", team=f"t{user % 7}", user=f"u{user}", key="k"),
            dialect="openai",
            view=PromptView(
                endpoint="chat",
                model=model,
                body_bytes=taken * 4,
                output_tokens_max=1_000,
                stream=stream,
                include_usage=stream,
            ),
            outcome="answered",
            status=200,
            received_digest=digest,
            attempts=(fact,),
            usage=Usage(
                parts=(UsagePart(lines=(("input", taken), ("output", given)), tier_basis=taken),),
                source="reported",
                model=model,
                finish_reason="stop",
            ),
            amount=Nusd(1_000 * taken + 4_000 * given),
            latency_ms=took,
            ttft_ms=fact.ttft_ms,
            acts=((0, 2 * number + 1), (took, -2 * number - 2)),
        )
