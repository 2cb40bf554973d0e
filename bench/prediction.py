"""How well replay predicts: traffic runs live under two policies; the log of one is replayed under the other.

Everything runs in one virtual time against the simulator (``farthing.testing.world``); its own invoice under the
second policy is the truth. Prints, for each pair of policies, the error of the whole, that of the calls which are
called exact or repriced, and how often the 95 % interval covers the truth where some are estimated, with the interval
of that share itself (Wilson). The last line sums up over all pairs, as JSON.

Usage: python bench/prediction.py [--runs 200] [--requests 400] [--mix talks] [--first 9000]
"""

import argparse
import math
import random
import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import msgspec

from farthing import bootstrap, config
from farthing.adapters.tokenizers import BpeTokenizer
from farthing.config import Settings
from farthing.core.types import Exchange, Scope
from farthing.lab.compare import Bill, Tally
from farthing.lab.estimate import Estimator
from farthing.lab.replay import replay
from farthing.lab.replay_outcome import Fidelity, Outcome
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
SURE = ("exact", "repriced")
Z = 1.96
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


def traffic(seed: int, requests: int, mix: Mix = MIXES["plain"], *, named: bool = False) -> list[Ask]:
    """Questions to several models, alone or in conversations; every answer ends by itself.

    ``named``: each says who it is, so that the simulator fails at the same ones whatever a policy does to them.
    """
    rng = random.Random(seed)
    at, asks, talks = 0, [], 0
    open_talks: list[_Talk] = []
    for number in range(requests):
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
            said += f" [sim: request={number}]" if named else ""
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
    world.run(traffic(seed, requests, mix, named=failing))
    return world


class Noted(Tally):
    """Also notes what each call comes to of which nothing is estimated, in nano-USD."""

    def __init__(self, estimator: Estimator) -> None:
        super().__init__(estimator)
        self.sure: dict[str, int] = {}

    def __call__(self, outcome: Outcome) -> None:
        super().__call__(outcome)
        if outcome.entries and outcome.fidelity in SURE:
            self.sure[outcome.logged.request.id] = outcome.amount or 0

    def answered(
        self, source: Exchange, model: str, total: int | None, fidelity: Fidelity, latency_ms: int, cached: bool
    ) -> None:
        super().answered(source, model, total, fidelity, latency_ms, cached)
        if fidelity in SURE:
            self.sure[source.request_id] = total or 0

    def unanswered(
        self, source: Exchange, outcome: str, error: str, latency_ms: int, *, fidelity: Fidelity = "exact"
    ) -> None:
        super().unanswered(source, outcome, error, latency_ms, fidelity=fidelity)
        if fidelity in SURE:
            self.sure[source.request_id] = 0


def predicted(world: World, policy: str) -> Bill:
    """What the log of one world comes to under another policy."""
    return noted(world, policy)[0]


def noted(world: World, policy: str) -> tuple[Bill, dict[str, int]]:
    """The same, and the calls of which nothing is estimated."""
    prices, tokens = shared()
    estimator = Estimator()
    exchanges, entries = world.exchanges(), world.entries()
    estimator.learn(exchanges)
    tally = Noted(estimator)
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
    return tally.finish(), tally.sure


class Run(NamedTuple):
    """One log, replayed; all as parts of the invoice."""

    error: float
    covers: bool
    half: float
    sure: float
    """Error of the sum of all calls that are called exact or repriced."""
    estimated: bool
    """Something was."""


def measured(pair: tuple[str, str], seed: int, requests: int, mix: Mix = MIXES["plain"]) -> Run:
    """Traffic under both policies, and the replay from one to the other."""
    failing = "fallbacks" in pair[0]
    a, b = (served(policy, seed, requests, failing=failing, mix=mix) for policy in pair)
    truth, (bill, sure) = b.billed(), noted(a, pair[1])
    paid = {name: sum(entry.charge.total or 0 for entry in some) for name, some in b.entries().items()}
    wrong = sum(sure.values()) - sum(paid.get(name, 0) for name in sure)
    return Run(
        (bill.nusd - truth) / truth,
        bill.interval.covers(truth, bill.nusd),
        bill.interval.half / truth,
        wrong / truth,
        bill.parts["estimated"].requests > 0,
    )


def run(pair: tuple[str, str], seed: int, requests: int, mix: Mix = MIXES["plain"]) -> tuple[float, bool, float]:
    """(relative error, the interval covers the truth, its relative half-width)."""
    return measured(pair, seed, requests, mix)[:3]


def wilson(hits: int, number: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, square = hits / number, Z * Z / number
    middle = (share + square / 2) / (1 + square)
    reach = Z * math.sqrt(share * (1 - share) / number + square / number / 4) / (1 + square)
    return middle - reach, middle + reach


def line(name: str, found: Sequence[Run]) -> str:
    """One pair of policies in words."""
    errors = [abs(one.error) for one in found]
    said = f"{name:24} {len(found):3} runs: error median {statistics.median(errors):.4%}, largest {max(errors):.4%}"
    said += f", of exact calls {max(abs(one.sure) for one in found):.4%}"
    runs = [one for one in found if one.estimated]
    if runs:
        held = sum(one.covers for one in runs)
        low, high = wilson(held, len(runs))
        half = statistics.median(one.half for one in runs)
        said += f"; interval covers {held} of {len(runs)}, {held / len(runs):.1%} ({low:.1%} to {high:.1%})"
        said += f", half-width {half:.2%}"
    return said


def pooled(exact: Iterable[Run], estimated: Sequence[Run]) -> str:
    """Everything in one line of JSON."""
    held = sum(one.covers for one in estimated)
    low, high = wilson(held, len(estimated))
    exact = list(exact)
    summed = {
        "estimated_runs": len(estimated),
        "covered": held,
        "coverage": round(held / len(estimated), 4),
        "coverage_interval": [round(low, 4), round(high, 4)],
        "exact_runs": len(exact),
        "exact_error_max": max(abs(one.error) for one in exact),
        "exact_calls_error_max": max(abs(one.sure) for one in (*exact, *estimated)),
    }
    return msgspec.json.encode(summed).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--mix", choices=tuple(MIXES), default="plain", help="the kind of traffic")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    seeds, every = range(given.first, given.first + given.runs), {}
    for name, pair in {**EXACT, **ESTIMATED}.items():
        runs = given.runs if name in ESTIMATED else max(1, given.runs // 10)
        every[name] = [measured(pair, seed, given.requests, MIXES[given.mix]) for seed in seeds[:runs]]
        print(line(name, every[name]), flush=True)
    estimated = [one for name in ESTIMATED for one in every[name]]
    print(pooled((one for name in EXACT for one in every[name]), estimated), flush=True)


if __name__ == "__main__":
    main()
