"""What is called exact is exact, although the provider's prompt cache holds other prompts under the other policy."""

import importlib.util
import random
import sys
from pathlib import Path

import msgspec
import pytest

from farthing.core.types import AttemptFact, Exchange, PromptSection, PromptView, Scope, Target, Usage, UsagePart
from farthing.lab.estimate_reads import rereads
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.lab.replay_warmth import GONE_MS, KEPT_MS, SURE_MS, WARM_MIN, Warmth
from farthing.testing.world import Ask, World

_SPEC = importlib.util.spec_from_file_location(
    "bench_prediction_talks", Path(__file__).parents[2] / "bench" / "prediction.py"
)
bench = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = bench
_SPEC.loader.exec_module(bench)

FAST = bench.ASSUMED + bench.MINUTE.format("0.03")
LOOSE = bench.ASSUMED + bench.MINUTE.format("100")
CACHE = bench.CACHE.format("1h")
ROUTE = bench.ROUTE.replace("length_tokens = 100", "length_tokens = 1500").replace("tiers", bench.HALF + "tiers")
PAIRS = {
    "a budget is lifted": (FAST, LOOSE),
    "a budget is set": (LOOSE, FAST),
    "a cache is lifted": (CACHE, ""),
    "short turns move": ("", ROUTE),
    "short turns move back": (ROUTE, ""),
    "a cache instead of a budget": (FAST, bench.ASSUMED + CACHE),
}


def talks(seed: int, requests: int = 70) -> list[Ask]:
    """Conversations with long turns, some of them asked twice, several at a time; some pause for minutes."""
    rng = random.Random(seed)
    at, asks = 0, []
    open_talks = [_talk(rng, number) for number in range(4)]
    for number in range(requests):
        at += int(rng.expovariate(1 / 9_000)) + (400_000 if rng.random() < 0.02 else 0)
        if rng.random() < 0.1:
            open_talks[rng.randrange(4)] = _talk(rng, number + 10)
        model, team, session, messages = rng.choice(open_talks)
        if not messages or rng.random() > 0.15:
            words = "word " * rng.randrange(20, 700)
            answered = [{"role": "assistant", "content": "so it is"}] if messages else []
            messages += [*answered, {"role": "user", "content": f"{rng.random()} {words}[sim: tokens=40]"}]
        scope = Scope(org="o", team=team, key="k", session=session)
        asks.append(Ask(at_ms=at, body={"model": model, "messages": list(messages)}, scope=scope))
    return asks


def _talk(rng: random.Random, number: int) -> tuple[str, str, str, list[dict[str, str]]]:
    return rng.choice(("gpt-4o", "gpt-4o", "gpt-4.1")), rng.choice("ab"), f"s{number}", []


def lived(policy: str, seed: int) -> World:
    prices, tokens = bench.shared()
    world = World(bench.parsed(policy), prices=prices, tokens=tokens, sim=bench.SimSettings(seed=seed))
    world.run(talks(seed))
    return world


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_every_call_that_is_called_exact_costs_what_it_then_costs(name):
    moved = 0
    for seed in range(2):
        a, b = (lived(policy, seed) for policy in PAIRS[name])
        bill, sure = bench.noted(a, PAIRS[name][1])
        paid = {one: sum(entry.charge.total or 0 for entry in some) for one, some in b.entries().items()}
        assert {one: amount for one, amount in sure.items() if amount != paid.get(one, 0)} == {}
        was = {one.request_id: one.amount for one in a.exchanges() if one.usage is not None}
        moved += sum(one not in sure and was.get(one, 0) != amount for one, amount in paid.items() if one in was)
        assert abs(bill.nusd - b.billed()) < 0.05 * b.billed()
        if name == "a cache is lifted":
            assert bill.interval.covers(b.billed(), bill.nusd)
    assert moved  # other reads than the log's were in it


def call(name: str, at_ms: int, *, blocks: int = 8, model: str = "gpt-4o", read: int = 0, **fields) -> Exchange:
    """A prompt of so many blocks, those of its conversation."""
    fact = AttemptFact(
        attempt=1,
        provider="p",
        model=model,
        status=200,
        started_at_ms=at_ms,
        latency_ms=5,
        entry_id=f"{name}-{at_ms}",
    )
    lines = (("input", 300 * blocks - read), *((("input_cache_read", read),) if read else ()), ("output", 9))
    return Exchange(
        request_id=f"{name} {at_ms}",
        received_at_ms=at_ms,
        scope=Scope(),
        dialect="openai",
        view=PromptView(endpoint="chat", model=model, body_bytes=1_024 * blocks, **fields),
        outcome="answered",
        status=200,
        attempts=(fact,),
        blocks=tuple(f"{name} {one}" for one in range(blocks)),
        usage=Usage(parts=(UsagePart(lines=lines),), source="reported", finish_reason="stop"),
    )


def same(warmth: Warmth, one: Exchange) -> int | None:
    assert one.usage is not None
    return warmth.same(one, one.attempts[0], one.usage, one.attempts[0].started_at_ms)


def test_only_what_begins_like_a_call_of_one_side_is_held_otherwise():
    warmth = Warmth()
    assert same(warmth, call("a", 0, read=1_024)) is None
    warmth.unsent(call("a", 1_000, blocks=12))
    assert same(warmth, call("b", 2_000, blocks=14)) is None
    assert same(warmth, call("a", 3_000, blocks=6)) is None  # all of it was there already
    assert same(warmth, call("a", 4_000, blocks=14)) == 8 * 1_024 + 512
    assert same(warmth, call("a", 5_000, blocks=15)) is None  # the one before was sent by both


def test_what_is_sent_elsewhere_is_held_there_and_no_longer_here():
    warmth = Warmth()
    same(warmth, call("a", 0, read=1_024))
    moved, target = call("a", 1_000, blocks=12), Target(provider="p", price_as="p", model="gpt-4.1")
    assert warmth.other(moved, target, 1_000) == 0
    warmth.unsent(moved)
    assert warmth.other(call("a", 2_000, blocks=13), target, 2_000) == 12 * 1_024 + 512
    assert same(warmth, call("a", 3_000, blocks=14)) == 8 * 1_024 + 512


def test_time_parts_both_courses_and_brings_them_together():
    for pause, held in ((SURE_MS - 10, 0), (KEPT_MS + 1, 0), (GONE_MS + 1, None)):
        warmth = Warmth()
        same(warmth, call("x", 0, read=1_024))
        warmth.unsent(call("a", 0))
        assert same(warmth, call("a", pause, blocks=9)) == held
    late = call("a", 400_000)
    warmth = Warmth()
    same(warmth, call("a", 0, read=1_024))
    assert late.usage is not None
    assert warmth.same(late, late.attempts[0], late.usage, 700_000) == 0  # it was waited for, and the cache forgot it


def test_the_time_that_a_gateway_took_itself_parts_nothing():
    """The demo's clock runs so fast that milliseconds of work are minutes of its traffic."""
    provider = Provider(VirtualLoop(0), lambda logged, target: Usage())
    for at_ms in (0, 200_000, 400_000):
        late = call("a", at_ms, read=1_024)
        late = msgspec.structs.replace(late, received_at_ms=at_ms - 290_000)
        assert late.usage is not None
        assert provider.reread_of(late, late.attempts[0], late.usage, None) is None
    assert provider.warmth.state()[0][2].now == {}


def test_providers_without_a_cache_and_prompts_without_marks_hold_nothing():
    warmth = Warmth()
    for turn in range(WARM_MIN + 1):
        same(warmth, call("a", turn * 1_000))
    warmth.unsent(call("a", 90_000, blocks=12))
    assert same(warmth, call("a", 91_000, blocks=14)) is None
    warmth.unsent(call("b", 90_000))
    assert same(warmth, call("b", 91_000)) == 0  # of those it is not known: other parts of a log may hold the rest
    for marks, found in ((0, None), (1, 0)):
        warmth = Warmth()
        warmth.unsent(call("a", 0, model="claude-sonnet-4-5"))
        assert same(warmth, call("a", 1_000, model="claude-sonnet-4-5", cache_marks=marks)) == found


def test_short_prompts_are_never_held():
    warmth = Warmth()
    warmth.unsent(call("a", 0, blocks=3))
    warmth.unsent(call("b", 0, blocks=1))
    assert same(warmth, call("a", 1_000, blocks=3)) is None
    assert same(warmth, call("b", 2_000, blocks=20)) is None  # what both begin with is too short to be kept


def test_a_beginning_ends_where_a_section_does():
    sections = tuple(PromptSection(role="user", size=size, digest=str(size)) for size in (3_000, 6_000))
    warmth = Warmth()
    target = Target(provider="p", price_as="p", model="gpt-4o")
    for number, size in ((2, 3_001), (3, 3_584)):
        one = call("a", number)
        warmth.other(call("a", number, blocks=number), target, number)
        assert warmth.other(_with(one, sections), target, number) == size
        warmth = Warmth()


def _with(one: Exchange, sections: tuple[PromptSection, ...]) -> Exchange:
    return msgspec.structs.replace(one, sections=sections)


@pytest.mark.parametrize(
    ("lines", "tokens", "found"),
    [
        ((("input", 500), ("input_cache_read", 1_500)), 0, {"input": 2_000}),
        ((("input", 2_000),), 1_500, {"input": 500, "input_cache_read": 1_500}),
        (
            (("input", 10), ("input_cache_read", 900), ("input_cache_write_5m", 90)),
            300,
            {"input": 10, "input_cache_read": 300, "input_cache_write_5m": 690},
        ),
        (
            (("input", 10), ("input_cache_write_5m", 990)),
            995,
            {"input": 5, "input_cache_read": 995},
        ),
    ],
)
def test_what_is_not_read_is_sent_or_written(lines, tokens, found):
    usage = Usage(parts=(UsagePart(lines=(*lines, ("output", 7)), tier_basis=2_000),), source="reported")
    again = rereads(usage, tokens)
    assert dict(again.parts[0].lines) == {**found, "output": 7}
    assert (again.source, again.parts[0].tier_basis) == ("estimated", 2_000)
