"""How well replay predicts: traffic runs live under two policies; the log of one is replayed under the other.

Everything runs in one virtual time against the simulator (``farthing.testing.world``); its own invoice under the
second policy is the truth. Prints, for each pair of policies, the error where requests are exact, and how often the
95 % interval covers the truth where some are estimated.

Usage: python bench/prediction.py [--runs 200] [--requests 400] [--mix talks] [--first 9000]
"""

import argparse
import random
import statistics
from functools import cache

import msgspec

from farthing import bootstrap, config
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.config import Settings
from farthing.core.types import Scope
from farthing.lab.compare import Bill, Tally
from farthing.lab.estimate import Estimator
from farthing.lab.replay import replay
from farthing.sim.faults import FaultOrder, FaultRule
from farthing.sim.settings import SimSettings
from farthing.testing.world import Ask, World

PROVIDERS = '[[providers]]\nname = "openai"\napi_key_env = "NO_KEY"\nbase_url = "http://sim/v1"\n'
CACHE = '[[cache]]\nname = "all"\nttl = "{}"\n'
BUDGET = '[[budgets]]\nname = "org"\nper = "hour"\nusd = "{}"\n'
MINUTE = '[[budgets]]\nname = "org"\nper = "minute"\nusd = "{}"\n'
ASSUMED = "[limits]\noutput_tokens_assumed = 600\n"
ROUTE = (
    '[[routes]]\nname = "short"\nmodels = ["gpt-4o"]\ntiers = {simple = "gpt-4o-mini", complex = "gpt-4o"}\n'
    'by = ["length"]\nlength_tokens = 100\n'
)
CASCADE = (
    '[[routes]]\nname = "first"\nmodels = ["gpt-4o"]\n{}by = ["length"]\nlength_tokens = 100\n'
    'tiers = {{simple = "gpt-4o-mini", complex = "gpt-4o"}}\n'
    'cascade = {{ verify = ["logprob"], logprob_min = -0.9 }}\n'
)
HALF = 'match = { team = "a" }\n'
LIMIT = "[limits]\noutput_tokens_max = {}\n"
FALLBACK = '[[fallbacks]]\nmodel = "gpt-4o"\nto = ["{}"]\non = ["overloaded"]\n[retries]\nattempts_max = 1\n'

EXACT = {
    "cache on": ("", CACHE.format("1h")),
    "cache lives shorter": (CACHE.format("1h"), CACHE.format("2m")),
    "budget tighter": (BUDGET.format("100"), BUDGET.format("0.05")),
    "cache, then budget": (BUDGET.format("100"), BUDGET.format("0.05") + CACHE.format("10m")),
    "cap": ("", LIMIT.format(120)),
}
ESTIMATED = {
    "budget looser": (ASSUMED + MINUTE.format("0.012"), ASSUMED + MINUTE.format("100")),
    "route": ("", ROUTE),
    "route for a team": ("", ROUTE.replace("tiers", HALF + "tiers")),
    "cascade for all": (CASCADE.format(HALF), CASCADE.format("")),
    "other fallback": (FALLBACK.format("gpt-4o-mini"), FALLBACK.format("gpt-4.1")),
    "several": (ASSUMED + MINUTE.format("0.012") + CACHE.format("2m"), ASSUMED + ROUTE + CACHE.format("1h")),
    "fallback, route and cap": (
        FALLBACK.format("gpt-4o-mini"),
        FALLBACK.format("gpt-4.1") + ROUTE + LIMIT.format(300),
    ),
}


@cache
def shared():
    """(price book, tokenizer)."""
    return bootstrap.price_book(parsed("")), BpeTokenizer()


def parsed(policy: str) -> Settings:
    """Settings with a policy."""
    return config.parse(PROVIDERS + policy, env={}, source="bench")


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of traffic."""

    models: tuple[str, ...] = ("gpt-4o", "gpt-4o", "gpt-4o-mini", "gpt-4.1")
    again: float = 0.3
    """Share of questions that are asked again and again."""
    words: int = 150
    spread: float = 0.0
    """Where above 0: answers are as long as the question says, lognormal with this deviation, at any model."""
    hints: tuple[str, ...] = ("",)
    """What the questions (of one conversation) end with."""
    turns: int = 1
    """Calls in a conversation, on average."""


MIXES = {
    "plain": Mix(),
    "uneven": Mix(models=("gpt-4o",) * 8 + ("gpt-4o-mini", "gpt-4.1")),
    "hints": Mix(hints=("", "briefly", "explain"), again=0.1),
    "tails": Mix(spread=1.0, again=0.05),
    "talks": Mix(turns=8, hints=("", "", "briefly", "explain"), again=0.05),
}


def traffic(seed: int, requests: int, mix: Mix = MIXES["plain"]) -> list[Ask]:
    """Questions to several models, alone or in conversations; every answer ends by itself."""
    rng = random.Random(seed)
    at, asks, talks = 0, [], 0
    open_talks: list[_Talk] = []
    for _ in range(requests):
        at += int(rng.expovariate(1 / 4_000))
        again = rng.random() < mix.again
        if again:
            text, model, session, team = f"{rng.randrange(12)} " + "again " * 20, "gpt-4o-mini", "", rng.choice("ab")
            messages = [{"role": "user", "content": text}]
        else:
            if mix.turns > 1 and open_talks and rng.random() > 1 / mix.turns:
                talk = rng.choice(open_talks)
            else:
                talks += 1
                talk = _Talk(f"s{talks}", rng.choice(mix.models), rng.choice("ab"), rng.choice(mix.hints))
                open_talks = [*open_talks, talk][-6:]
            said = (
                f" [sim: tokens={min(4_000, max(1, round(rng.lognormvariate(5, mix.spread))))}]" if mix.spread else ""
            )
            content = f"{rng.random()} {'word ' * rng.randrange(5, mix.words)}{talk.hint}{said}"
            messages = [*talk.messages, {"role": "user", "content": content}]
            if mix.turns > 1:
                talk.messages = [*messages, {"role": "assistant", "content": "so it is " * 20}]
            model, session, team = talk.model, talk.session if mix.turns > 1 else "", talk.team
        scope = Scope(org="o", team=team, key="k", session=session)
        asks.append(Ask(at_ms=at, body={"model": model, "messages": messages}, scope=scope))
    return asks


class _Talk:
    """A conversation."""

    def __init__(self, session: str, model: str, team: str, hint: str) -> None:
        self.session, self.model, self.team, self.hint = session, model, team, hint
        self.messages: list[dict[str, str]] = []


def served(policy: str, seed: int, requests: int, *, failing: bool = False, mix: Mix = MIXES["plain"]) -> World:
    """The traffic under a policy."""
    prices, tokens = shared()
    world = World(parsed(policy), prices=prices, tokens=tokens, sim=SimSettings(seed=seed))
    if failing:
        rules = (FaultRule(fault="503", rate=0.3, model="gpt-4o"),)
        world.sim.account.faults.install(FaultOrder(rules=rules, seed=seed))
    world.run(traffic(seed, requests, mix))
    return world


def predicted(world: World, policy: str) -> Bill:
    """What the log of one world comes to under another policy."""
    prices, tokens = shared()
    estimator = Estimator()
    exchanges, entries = world.exchanges(), world.entries()
    estimator.learn(exchanges)
    tally = Tally(estimator)
    settings = parsed(policy)
    replay(
        exchanges,
        lambda loop, provider, log: bootstrap.replay_services(
            settings, loop, provider, log, prices=prices, tokens=tokens
        ),
        tally,
        estimate=estimator.usage,
        verdicts=estimator.verdicts,
        entries_of=lambda request_id: entries.get(request_id, ()),
    )
    return tally.finish()


def run(pair: tuple[str, str], seed: int, requests: int, mix: Mix = MIXES["plain"]) -> tuple[float, bool, float]:
    """(relative error, the interval covers the truth, its relative half-width)."""
    failing = "fallbacks" in pair[0]
    a, b = (served(policy, seed, requests, failing=failing, mix=mix) for policy in pair)
    truth, bill = b.billed(), predicted(a, pair[1])
    return (bill.nusd - truth) / truth, bill.interval.covers(truth, bill.nusd), bill.interval.half / truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--mix", choices=tuple(MIXES), default="plain", help="the kind of traffic")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.runs)
    for name, pair in {**EXACT, **ESTIMATED}.items():
        runs = given.runs if name in ESTIMATED else max(1, given.runs // 10)
        found = [run(pair, seed, given.requests, MIXES[given.mix]) for seed in seeds[:runs]]
        errors = [abs(error) for error, _, _ in found]
        line = f"{name:20} {runs} runs: error median {statistics.median(errors):.4%}, largest {max(errors):.4%}"
        if name in ESTIMATED:
            covered = sum(covers for _, covers, _ in found)
            width = statistics.median(half for _, _, half in found)
            line += f"; 95 % interval covers {covered / runs:.1%}, half-width {width:.2%}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
