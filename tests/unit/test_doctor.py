"""The cache doctor on logs with planted causes, mixed in time: the dollars must go to the right cause."""

import json
import random
from collections import defaultdict

import msgspec
import pytest

from farthing.config import ProviderSettings
from farthing.core.prefix_cache import ANTHROPIC_5M, OPENAI_AUTO, PrefixCache
from farthing.core.types import AttemptFact, Exchange, PromptSection, PromptView, Scope, Usage, UsagePart
from farthing.lab.doctor import CAUSES, Doctor, Rates, summarise
from farthing.lab.doctor_ttl import TtlAdvice
from farthing.lab.rates import BookRates
from farthing.library import price_book
from farthing.wire import prefix

SALT = b"test"
RULES = {"openai": OPENAI_AUTO, "anthropic": ANTHROPIC_5M, "other": OPENAI_AUTO}
RATES = Rates(input=3_000_000, read=300_000)
MINUTE = 60_000


WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


class World:
    """Providers with real prompt caches over the sections of real bodies, and the log that they leave."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.log: list[tuple[Exchange, str]] = []
        """(exchange, the cause that was planted for a miss)."""
        self._caches = defaultdict(dict)

    def ask(
        self, feature, at_ms, messages, cause, *, system="", tools=(), provider="openai", model="m", org="o",
        session="", marks=1, tier="", took=2_000, drop=False,
    ):  # fmt: skip
        body = {"model": model, "messages": messages}
        if tools:
            body["tools"] = list(tools)
        if system:
            body["system"] = system
        data = json.dumps(body, separators=(",", ":")).encode()
        sections, blocks = prefix.sections(data, SALT)
        self.log.append(
            (
                Exchange(
                    request_id=f"{feature}-{len(self.log)}",
                    received_at_ms=at_ms,
                    scope=Scope(org=org, team="t", feature=feature, session=session),
                    dialect="openai",
                    view=PromptView(
                        endpoint="chat", model=model, body_bytes=len(data), cache_marks=marks, service_tier=tier
                    ),
                    outcome="answered",
                    status=200,
                    sections=sections,
                    blocks=blocks,
                    attempts=(
                        AttemptFact(
                            attempt=1, provider=provider, model=model, status=200, started_at_ms=at_ms,
                            latency_ms=took, ttft_ms=took, entry_id="e",
                        ),
                    ),
                ),
                "drop" if drop else cause,
            )
        )  # fmt: skip

    def served(self) -> list[tuple[Exchange, str]]:
        """The log in order of time, with the usage that the providers' caches give."""
        done = []
        for exchange, cause in sorted(self.log, key=lambda pair: pair[0].received_at_ms):
            fact, view = exchange.attempts[0], exchange.view
            rule = RULES[fact.provider]
            cache = self._caches.setdefault(
                (fact.provider, fact.model, exchange.scope.org, view.service_tier),
                {"cache": PrefixCache(rule), "writes": []},
            )
            ready = [entry for entry in cache["writes"] if entry[0] <= fact.started_at_ms]
            for entry in ready:  # a prefix can be read once the call that wrote it has answered its first byte
                cache["cache"].use(entry[1], entry[2], entry[3])
                cache["writes"].remove(entry)
            chain, names, sizes = "", [], []
            for section in exchange.sections:
                chain += section.digest
                names.append(chain)
                sizes.append(section.size // 4)
            marked = fact.provider != "anthropic" or view.cache_marks > 0
            probe = PrefixCache(rule)
            probe._until = dict(cache["cache"]._until)
            read = probe.use(names, sizes, fact.started_at_ms, marked=marked).read
            if cause == "drop":
                read, cause = 0, "evicted"
            if marked:
                cache["writes"].append((fact.started_at_ms + fact.latency_ms, names, sizes, fact.started_at_ms))
            total = sum(sizes)
            lines = tuple(line for line in (("input", total - read), ("input_cache_read", read)) if line[1])
            usage = Usage(parts=(UsagePart(lines=lines, tier_basis=total),), source="reported")
            done.append((msgspec.structs.replace(exchange, usage=usage), cause))
        return done


def turn(role, text):
    return {"role": role, "content": text}


def plant(world: World, name: str, start: int, count: int) -> None:
    """A feature whose misses, after its first call, all have one cause."""
    rng = world.rng
    system = words(rng, 2_000)
    tools = [{"name": f"tool{n}", "description": words(rng, 150)} for n in range(8)]
    for number in range(count):
        at = start + number * 2 * MINUTE
        ask = [turn("user", words(rng, 20))]
        label = name if number else "first_seen"
        match name:
            case "dynamic_value":
                head, tail = system[:3_000], system[3_000:]
                world.ask(name, at, ask, label, system=f"{head} now {at:013} {tail}")
            case "prompt_deployed":
                version = number // 6
                text = words(random.Random(version), 2_000)
                world.ask(name, at, ask, label if number % 6 == 0 else "none", system=text)
            case "tools_reordered":
                rng.shuffle(tools)
                world.ask(name, at, ask, label, tools=tools, system=system)
            case "tools_changed":
                some = sorted(rng.sample(tools, 5), key=lambda tool: tool["name"])
                world.ask(name, at, ask, label, tools=some, system=system)
            case "ttl_lapsed":
                world.ask(name, start + number * 7 * MINUTE, ask, label, system=system)
            case "model_switched":
                world.ask(name, start + number * 4 * MINUTE, ask, label, system=system, model=f"m{number % 2}")
            case "provider_switched":
                provider = ("openai", "other")[number % 2]
                world.ask(name, start + number * 4 * MINUTE, ask, label, system=system, provider=provider)
            case "key_switched":
                world.ask(name, start + number * 4 * MINUTE, ask, label, system=system, org=f"org{number % 2}")
            case "settings_changed":
                tier = ("default", "flex")[number % 2]
                world.ask(name, start + number * 4 * MINUTE, ask, label, system=system, tier=tier)
            case "burst":
                text = words(rng, 2_000)
                for _ in range(4):
                    again = [turn("user", words(rng, 20))]
                    world.ask(name, at + rng.randrange(500), again, name, system=system, took=3_000)
                system = text
            case "no_breakpoint":
                world.ask(name, at, ask, label, system=system, provider="anthropic", marks=0)
            case "below_minimum":
                world.ask(name, at, ask, label, system=system[:2_400])
            case "evicted":
                world.ask(name, at, ask, label, system=system, drop=number > 0)
            case "history_trimmed" | "history_rewritten":
                conversation(world, name, start + number * 30 * MINUTE)


def conversation(world: World, name: str, start: int) -> None:
    """A session that grows, whose past is cut or changed at every turn from the third on."""
    rng = world.rng
    history: list[dict] = []
    session = f"s{start}"
    for step in range(8):
        history += [turn("user", words(rng, 300)), turn("assistant", words(rng, 300))]
        sent = list(history)
        if step > 2 and name == "history_trimmed":
            del history[:2]
            sent = list(history)
        if step > 2 and name == "history_rewritten":
            sent[0] = turn("user", words(rng, 300))
        label = name if step > 2 else "any"
        world.ask(name, start + step * MINUTE, sent, label, session=session)


PLANTED = [
    "dynamic_value", "prompt_deployed", "tools_reordered", "tools_changed", "ttl_lapsed", "model_switched",
    "provider_switched", "key_switched", "settings_changed", "burst", "no_breakpoint", "below_minimum", "evicted",
    "history_trimmed", "history_rewritten",
]  # fmt: skip


def examine(seed: int, names=PLANTED, count: int = 24):
    world = World(seed)
    for name in names:
        plant(world, name, 1_795_000_000_000 + world.rng.randrange(20) * MINUTE, count)
    served = world.served()
    doctor = Doctor(
        lambda provider, model: RATES,
        lambda provider, model: RULES[provider],
        marks_needed=lambda p: p == "anthropic",
    )
    truth = {exchange.request_id: cause for exchange, cause in served}
    return list(doctor.examine(exchange for exchange, _ in served)), truth


@pytest.mark.parametrize("seed", range(5))
def test_miss_dollars_go_to_the_planted_cause(seed):
    found, truth = examine(seed)
    right = wrong = 0
    by_cause: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for exchange, miss in found:
        planted = truth[exchange.request_id]
        if miss is None or planted == "any" or miss.cause == planted == "first_seen":
            continue
        ok = miss.cause == planted
        right, wrong = right + miss.nusd * ok, wrong + miss.nusd * (not ok)
        by_cause[planted][ok] += miss.nusd
    assert right / (right + wrong) >= 0.95, dict(by_cause)
    assert len([name for name, sums in by_cause.items() if sums[True] > 4 * sums[False]]) >= 13


def test_healthy_traffic_has_no_findings():
    world = World(1)
    system = words(world.rng, 2_000)
    for number in range(30):
        world.ask(
            "ok", 1_795_000_000_000 + number * MINUTE, [turn("user", f"question {number}")], "none", system=system
        )
    doctor = Doctor(lambda p, m: RATES, lambda p, m: OPENAI_AUTO, marks_needed=lambda p: False)
    report = summarise(doctor.examine(exchange for exchange, _ in world.served()))
    assert [finding.cause for finding in report.findings] == ["first_seen"]
    assert report.read_share > 0.9
    assert report.possible_tokens == report.read_tokens


def test_the_position_of_a_dynamic_value_is_told():
    found, _ = examine(3, ["dynamic_value"])
    misses = [miss for _, miss in found if miss is not None and miss.cause == "dynamic_value"]
    assert len(misses) >= 20
    assert all("after byte" in miss.where for miss in misses)
    assert {int(miss.where.rsplit(" ", 1)[1]) for miss in misses} <= {2048, 3072}


def test_a_report_sums_what_was_examined_and_advises():
    found, _ = examine(2)
    report = summarise(found)
    assert sum(finding.tokens for finding in report.findings) == sum(miss.tokens for _, miss in found if miss)
    assert sum(finding.nusd for finding in report.findings) == sum(miss.nusd for _, miss in found if miss)
    assert all(finding.advice for finding in report.findings)
    assert {finding.cause for finding in report.findings} <= set(CAUSES)
    assert report.read_tokens < report.possible_tokens <= report.input_tokens


def test_an_unknown_price_is_said_and_is_not_zero():
    world = World(1)
    plant(world, "dynamic_value", 1_795_000_000_000, 5)
    doctor = Doctor(lambda p, m: None, lambda p, m: OPENAI_AUTO, marks_needed=lambda p: False)
    found = [miss for _, miss in doctor.examine(exchange for exchange, _ in world.served()) if miss]
    assert found
    assert all(miss.nusd is None for miss in found)


def test_the_time_to_live_that_pays_depends_on_the_pauses():
    def saved(minutes: int) -> list[int]:
        world = World(1)
        system = words(world.rng, 2_000)
        for number in range(30):
            at = 1_795_000_000_000 + number * minutes * MINUTE
            world.ask("f", at, [turn("user", f"q {number}")], "none", system=system, provider="anthropic")
        advice = TtlAdvice(lambda p, m: RATES, lambda p: p == "anthropic")
        assert len(list(advice.watch(exchange for exchange, _ in world.served()))) == 30
        return [one.saved_nusd for one in advice.kept()]

    short, long = saved(3)
    assert short > long > 0
    short, long = saved(20)
    assert short < 0 < long
    short, long = saved(90)
    assert long < short < 0


def test_no_time_to_live_pays_below_the_models_own_minimum():
    saved = []
    for model in ("claude-sonnet-4-5", "claude-haiku-4-5"):
        world = World(1)
        system = words(world.rng, 2_000)
        for number in range(9):
            at = 1_795_000_000_000 + number * MINUTE
            world.ask("f", at, [turn("user", "q")], "none", system=system, provider="anthropic", model=model)
        advice = TtlAdvice(lambda p, m: RATES, lambda p: True)
        list(advice.watch(exchange for exchange, _ in world.served()))
        saved.append([one.saved_nusd > 0 for one in advice.kept()])
    assert saved == [[True, True], [False, False]]


def test_providers_that_cache_by_themselves_get_no_advice_on_it():
    world = World(1)
    plant(world, "ttl_lapsed", 1_795_000_000_000, 4)
    advice = TtlAdvice(lambda p, m: RATES, lambda p: p == "anthropic")
    list(advice.watch(exchange for exchange, _ in world.served()))
    assert advice.kept() == ()


def test_a_long_prompt_pays_and_saves_at_its_own_rates():
    """Gemini 2.5 Pro: $1.25 and $0.125 read, $2.50 and $0.25 beyond 200,000 tokens of prompt."""
    settings = ProviderSettings(name="mine", kind="anthropic", base_url="", price_as="google",
                                price_models=(("house", "gemini-2.5-pro"),))  # fmt: skip
    rates = BookRates(price_book(), (settings,), 1_795_000_000_000)
    found = rates("mine", "house")
    assert found is not None
    by_hand = {1: (1_250_000, 125_000), 200_000: (1_250_000, 125_000), 200_001: (2_500_000, 250_000)}
    assert {tokens: (found.at(tokens).input, found.at(tokens).read) for tokens in by_hand} == by_hand

    def dearest(tokens: int) -> tuple[int, int, list[int]]:
        fact = AttemptFact(attempt=1, provider="mine", model="house", status=200, started_at_ms=0, latency_ms=1,
                           entry_id="e")  # fmt: skip
        usage = Usage(parts=(UsagePart(lines=(("input", tokens),)),), source="reported")
        section = PromptSection(role="system", digest="s", size=4 * tokens)
        log = [
            Exchange(
                request_id=str(place), received_at_ms=place, scope=Scope(feature="f"), dialect="anthropic",
                view=PromptView(endpoint="messages", model="house"), outcome="answered", status=200, usage=usage,
                sections=(section,), attempts=(msgspec.structs.replace(fact, started_at_ms=place * MINUTE),),
            ) for place in range(2)
        ]  # fmt: skip
        doctor = Doctor(rates, rates.rule, marks_needed=rates.needs_marks)
        advice = TtlAdvice(rates, rates.needs_marks)
        second = list(doctor.examine(advice.watch(log)))[1][1]
        assert second is not None
        assert second.nusd is not None
        return second.tokens, second.nusd, [one.saved_nusd for one in advice.kept()]

    # Written once at 1.25 or 2 times the input, read once at a tenth: 0.65 of one prompt saved, or 0.1 lost.
    assert dearest(100_000) == (100_000, 112_500_000, [81_250_000, -12_500_000])
    assert dearest(300_000) == (300_000, 675_000_000, [487_500_000, -75_000_000])
