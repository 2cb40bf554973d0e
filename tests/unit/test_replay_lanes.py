"""The short ways of a replay in numbers only say what the whole price book and the whole books say."""

import random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import bootstrap, config
from farthing.adapters.price_feeds import BookPrices, load_book
from farthing.core.budget import Places
from farthing.core.policy import Threshold
from farthing.core.types import NO_TEXT, Hold, PromptView, Request, Scope, Target, Usage, UsagePart
from farthing.engine.ceiling import bounds_of, need_of
from farthing.engine.plan import plan_for
from farthing.engine.record import tokens_of
from farthing.lab.replay_acts import ReplayActions
from farthing.lab.replay_books import UNITS, ReplayBooks
from farthing.lab.replay_lanes import Lane, Tariff, lane_of
from farthing.lab.replay_outcome import input_nusd
from farthing.lab.replay_parts import AsOf
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.testing.replays import PROVIDERS, shared

PRICES = BookPrices(load_book().book)
MODELS = [one for one in PRICES.book.models() if PRICES.book.resolve(one.provider, one.id) is not None]
LATELY = 1_795_014_000_000
AT = st.sampled_from((LATELY, 1_735_689_600_000, 1_770_000_000_000))
LINES = st.dictionaries(
    st.sampled_from(
        ("input", "output", "input_cache_read", "input_cache_write", "output_reasoning", "input_audio", "request",
         "web_search")
    ),
    st.integers(min_value=1, max_value=900_000),
    max_size=4,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    entry=st.sampled_from(MODELS),
    lines=LINES,
    basis=st.sampled_from((0, 1_000, 128_001, 200_000, 200_001, 272_001, 900_000)),
    tier=st.sampled_from(("", "default", "flex", "priority", "batch")),
    instants=st.lists(AT, min_size=1, max_size=3),
    part_model=st.sampled_from(("", "", "gpt-4o")),
)
def test_a_tariff_says_what_the_price_book_charges(entry, lines, basis, tier, instants, part_model):
    target = Target(provider=entry.provider, price_as=entry.provider, model=entry.id)
    part = UsagePart(lines=tuple(lines.items()), tier_basis=basis, model=part_model)
    usage = Usage(parts=(part,), source="reported", service_tier=tier)
    tariff = Tariff(PRICES, target)
    for at_ms in instants:
        said = tariff.rate(usage, at_ms)
        if said is not None:
            charge = PRICES.charge(usage, target, at_ms=at_ms)
            assert said == (charge.total, *tokens_of(usage))
            assert tariff.input_nusd(usage, at_ms) == input_nusd(charge)


def test_a_tariff_answers_for_ordinary_answers_and_at_prices_of_one_day():
    target = Target(provider="openai", price_as="openai", model="gpt-4o")
    usage = Usage(parts=(UsagePart(lines=(("input", 1_001), ("output", 7)), tier_basis=1_001),), source="reported")
    for prices in (PRICES, AsOf(PRICES, LATELY)):
        for at_ms in (LATELY, 1_735_689_600_000):
            total = prices.charge(usage, target, at_ms=at_ms).total
            assert Tariff(prices, target).rate(usage, at_ms) == (total, 1_001, 7)
    stated = msgspec.structs.replace(usage, stated_pusd=5)
    assert Tariff(PRICES, target).rate(stated, LATELY) is None


def views(rng: random.Random, endpoint: str, model: str) -> PromptView:
    return PromptView(
        endpoint=endpoint,
        model=model,
        stream=rng.random() < 0.5,
        output_tokens_max=rng.choice((None, 1, 700, 40_000)),
        choices=rng.choice((1, 1, 3)),
        images=rng.choice((0, 0, 2)),
        unbounded=rng.random() < 0.1,
        tools=rng.choice((0, 4)),
        hosted_tools=rng.choice(((), (), (("web_search", 3),), (("mcp", 0),), (("nobody_knows", 1),))),
        cache_marks=rng.choice((0, 2)),
        cache_ttl_long=rng.random() < 0.2,
        service_tier=rng.choice(("", "flex", "auto")),
    )


def test_a_lane_holds_what_the_pipeline_holds_for_bodies_of_every_size():
    rng, lanes = random.Random(5), 0
    _, tokens = shared()
    limits = "[limits]\noutput_tokens_assumed = 2000\n"
    more = '[[providers]]\nname = "gemini"\napi_key_env = "NO_KEY"\n'
    chosen = config.parse(PROVIDERS + more + limits, env={}, source="t")
    loop = VirtualLoop(0)
    provider = Provider(loop, lambda logged, target: Usage())
    services = bootstrap.replay_services(chosen, loop, provider, None, prices=PRICES, tokens=tokens)
    asked = [("chat", "openai", name) for name in ("gpt-4o", "gpt-4.1", "o4-mini", "gemini-2.5-pro", "gpt-unknown")]
    asked += [("messages", "anthropic", name) for name in ("claude-sonnet-4-5", "claude-haiku-4-5")]
    for endpoint, dialect, model in asked:
        for _ in range(12):
            view = views(rng, endpoint, model)
            request = Request(id="r", received_at_ms=LATELY, dialect=dialect, body=NO_TEXT, view=view, scope=Scope())
            name = "gemini" if model.startswith("gemini") else dialect
            target = Target(provider=name, price_as=name, model=model)
            upstream, plan = services.upstreams[name], plan_for(services, request, "gpt-4o")
            lane = lane_of(services, PRICES, request, target, upstream, plan)
            assert (lane is None) == view.unbounded
            for size in (0, 1, 4_321, 127_900, 199_000, 200_001, 1_050_000, 9_000_000):
                known = None if lane is None else lane.need(size, LATELY)
                if known is not None:
                    sized = msgspec.structs.replace(request, view=msgspec.structs.replace(view, body_bytes=size))
                    bounds = bounds_of(services, sized, target, upstream, plan)
                    amount, need = need_of(services, sized, target, bounds)
                    taken, given = need.input_tokens, need.output_tokens
                    assert known == (amount, taken + given, taken, given, 1, 0, 0), (model, view, size)
                    lanes += 1
    assert lanes > 250
    assert Lane.__doc__


def holds(rng: random.Random) -> tuple[Hold, ...]:
    found = []
    for counter in rng.sample("abcd", rng.randrange(1, 5)):
        for unit in rng.sample(UNITS[:5], rng.randrange(1, 3)):
            also = ("w0",) if rng.random() < 0.1 else ()
            limit, hard = rng.choice((5, 12, 30, 90)), rng.random() < 0.8
            found.append(
                Hold(
                    counter=counter,
                    window="w",
                    unit=unit,
                    limit=limit,
                    amount=0,
                    hard=hard,
                    budget=counter,
                    also=also,
                )
            )
    return tuple(found)


def test_what_fits_at_a_glance_is_what_the_books_take_and_the_rest_leaves_no_trace():
    rng, glances, refused = random.Random(8), 0, 0
    for _ in range(150):
        quick, slow = ReplayBooks(), ReplayBooks()
        for books in (quick, slow):
            books.share({"a": (), "b": ()})
        places = [Places(found, tuple((one.counter, one.window, one.unit) for one in found), 0, 1)
                  for found in (holds(rng) for _ in range(3))]  # fmt: skip
        flying = []
        for _ in range(25):
            place = rng.choice(places)
            taken, given = rng.randrange(9), rng.randrange(9)
            amounts = (rng.randrange(12), taken + given, taken, given, 1, 0, 0)
            before = quick.counters()
            fits = quick.fits(quick.account(place), amounts)
            if not fits:
                account = quick.account(place)
                assert [one for one in quick.counters() if one[1]] == [one for one in before if one[1]]
                denied, over = quick.take_all("r", account, amounts)
                assert account.plain is False or denied is not None or over
            again, more = slow.take_all("r", slow.account(place), amounts)
            assert fits == (again is None and not more) or not quick.account(place).plain
            if not fits:
                assert (denied, over) == (again, more)
            glances, refused = glances + fits, refused + (again is not None)
            if again is None:
                flying.append((place, amounts))
            if flying and rng.random() < 0.4:
                place, held = flying.pop(rng.randrange(len(flying)))
                used = (rng.randrange(20), rng.randrange(20), rng.randrange(20), rng.randrange(20))
                for books in (quick, slow):
                    books.spend(books.account(place), held, used)
            assert quick.counters() == slow.counters()
            assert quick.levels() == slow.levels()
    assert glances > 500
    assert refused > 300


def test_within_its_edges_a_call_fits_and_has_reached_no_threshold():
    rng, went, stopped = random.Random(9), 0, 0
    for _ in range(150):
        quick, slow = ReplayBooks(), ReplayBooks()
        rules = {name: (Threshold(percent=rng.choice((40, 90)), action="throttle", per_minute=1),) for name in "ab"}
        acts, found = ReplayActions(quick, rules), holds(rng)
        place = Places(found, tuple((one.counter, one.window, one.unit) for one in found), 0, 1)
        account, other = quick.account(place), slow.account(place)
        for _ in range(12):
            taken, given = rng.randrange(3), rng.randrange(3)
            amounts = (rng.randrange(4), taken + given, taken, given, 1, 0, 0)
            before, reached = quick.counters(), acts.reached(account)
            fits = slow.fits(other, amounts)
            if quick.fits(account, amounts, acts.edges(account)):
                assert fits
                assert not reached
                went += 1
            else:
                assert quick.counters() == before
                assert quick.fits(account, amounts) == fits
                assert reached or not fits or acts.reached(account)
                stopped += 1
            assert quick.counters() == slow.counters()
    assert went > 200
    assert stopped > 200
