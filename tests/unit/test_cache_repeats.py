"""The short way of cache hits, held against the long way: the same answers, the same books, whatever happens."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from farthing import config
from farthing.adapters.cache_memory import MemoryCache
from farthing.adapters.memory import MemoryKeys
from farthing.core.experiment import Assigned
from farthing.core.money import Nusd
from farthing.core.types import Charge, Exchange, KeyRecord, LedgerEntry, Request, Scope, Target, Usage
from farthing.engine.caching import Caching
from farthing.engine.record import Recorder
from farthing.engine.trials import Trials
from farthing.ports.cache import Selector
from farthing.ports.prices import Prices
from farthing.ports.reply import Fixed, Headers
from farthing.server.app import App, Gateway
from farthing.server.auth import Doorman
from farthing.server.head import Head
from farthing.testing.fakes import SeededIds
from farthing.testing.replays import PROVIDERS, shared
from farthing.testing.world import START_MS, World

ROUTES = """
[[cache]]
name = "never"
match = { feature = "live" }
use = false

[[cache]]
name = "faq"
models = ["gpt-4o"]
ttl = "60s"
tags = ["help"]
partition = ["org", "team"]

[[cache]]
name = "rest"
models = ["gpt-4o-mini"]
ttl = "1h"
"""
TRACES = ("0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", "1af7651916cd43dd8448eb211c80319c-c7ad6b7169203331")
RISES_MS = START_MS + 90_000


def body(model: str, text: str, **more: object) -> bytes:
    return msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": text}], **more})


BODIES = (
    body("gpt-4o", "hello"),
    body("gpt-4o", "hello", stream=True),
    body("gpt-4o", "hello", stream=True, stream_options={"include_usage": True}),
    body("gpt-4o", "hello", user="u9"),
    body("gpt-4o", "goodbye"),
    body("gpt-4o-mini", "hello"),
    body("gpt-4o-mini", "hello", temperature=0.5),
    body("gpt-4o-mini", "hello", n=2),
    b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}',
)
SAID: tuple[tuple[tuple[bytes, bytes], ...], ...] = (
    (),
    ((b"user-agent", b"one/1.0"),),
    ((b"x-farthing-user", b"u1"),),
    ((b"x-farthing-user", b"u2"),),
    ((b"x-farthing-feature", b"live"),),
    ((b"x-farthing-tags", b"plan=pro"),),
    ((b"traceparent", f"00-{TRACES[0]}-01".encode()),),
    ((b"traceparent", f"00-{TRACES[1]}-01".encode()),),
    ((b"cache-control", b"no-cache"),),
    ((b"cache-control", b"max-age=1"),),
    ((b"cache-control", b"no-store"),),
    ((b"x-farthing-cache", b"bypass"),),
    ((b"x-farthing-cache", b"only-if-cached"),),
    ((b"openai-organization", b"org-7"),),
    ((b"content-encoding", b"gzip"),),
)
SECRETS = ("fk-one", "fk-two", "fk-small", "fk-strict", "fk-gone")


def key(name: str, **more: Any) -> KeyRecord:
    digest = hashlib.sha256(f"fk-{name}".encode()).hexdigest()
    return KeyRecord(id=f"key_{name}", name=name, hash=digest, hint="", created_at_ms=0, **more)


class Register(MemoryKeys):
    def change(self, record: KeyRecord) -> None:
        self._by_id[record.id] = record


def keys() -> Register:
    found = Register()
    found.add(key("one", scope=Scope(org="o", team="a")))
    found.add(key("two", scope=Scope(org="o", team="a", tags=(("plan", "free"),))))
    found.add(key("small", scope=Scope(org="o", team="b"), models=("gpt-4o-mini",)))
    found.add(key("strict", scope=Scope(org="o", team="a"), refine=()))
    found.add(key("gone", scope=Scope(org="o", team="a"), expires_at_ms=START_MS + 40_000))
    return found


class Rising(msgspec.Struct):
    """The book's prices, doubled from one second on."""

    book: Prices

    @property
    def ref(self) -> str:
        return self.book.ref

    def charge(self, usage: Usage, target: Target, *, at_ms: int) -> Charge:
        charge = self.book.charge(usage, target, at_ms=at_ms)
        if at_ms < RISES_MS or charge.total is None:
            return charge
        return msgspec.structs.replace(charge, total=Nusd(2 * charge.total))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.book, name)


class Without:
    """An experiment whose calls of one user do without caches."""

    def arm(self, request: Request) -> Assigned | None:
        if request.scope.user == "u1":
            return Assigned(experiment="x", arm="control", unit="user", off=("caches",))
        return Assigned(experiment="x", arm="treated", unit="user", off=())


class Caller:
    """What one caller gets; ``again`` as a connection that stays open gives it."""

    def __init__(self, repeats: bool) -> None:
        self.started = False
        self.gone = False
        self.repeated = False
        self.got: tuple[int, dict[bytes, bytes], bytes] | None = None
        self._repeats = repeats

    def again(self, headers: Headers, fixed: Fixed) -> bool:
        if not self._repeats:
            return False
        self.repeated = True
        self.got = fixed.status, dict(headers + fixed.headers), b"".join(fixed.events or (fixed.body,))
        return True

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.got = status, dict(headers), body

    async def start(self, status: int, headers: Headers) -> None:
        self.got = status, dict(headers), b""

    async def write(self, data: bytes) -> None:
        await self.end(data)

    async def end(self, data: bytes) -> None:
        assert self.got is not None
        self.got = self.got[0], self.got[1], self.got[2] + data

    async def wait_gone(self) -> None:
        await asyncio.get_running_loop().create_future()

    def abort(self) -> None:
        self.got = None


class Ask(msgspec.Struct, frozen=True):
    secret: str
    body: bytes
    said: tuple[tuple[bytes, bytes], ...] = ()


class Forget(msgspec.Struct, frozen=True):
    selector: Selector


class Revoke(msgspec.Struct, frozen=True):
    name: str


class Try(msgspec.Struct, frozen=True):
    on: bool


class Prolong(msgspec.Struct, frozen=True):
    """Another gateway, whose route keeps answers for longer, keeps what is here again."""


class Change(msgspec.Struct, frozen=True):
    """A key's record is written anew."""

    record: KeyRecord


Act = Ask | Forget | Revoke | Try | Prolong | Change
Turn = tuple[int, Act]
"""(pause before it in ms, what happens)."""


class Stage:
    """One gateway in virtual time."""

    def __init__(
        self, *, repeats_bytes_max: int, text: str = "none", at_once: bool = True, routes: str = ROUTES
    ) -> None:
        prices, tokens = shared()
        chosen = config.parse(PROVIDERS + routes, env={}, source="t")
        self.world = World(chosen, prices=prices, tokens=tokens)
        self.caching = Caching(chosen.policy.cache, MemoryCache(), owner="world", repeats_bytes_max=repeats_bytes_max)
        services = replace(self.world.services, caching=self.caching, prices=Rising(prices), trials=Trials())
        self.services = services
        self.keys = keys()
        recorder = Recorder(text=text, redact=(), salt=b"world", policy_ref=chosen.policy.ref)
        nobody: Any = None
        self.app = App(
            Gateway(
                services=services,
                recorder=recorder,
                doorman=Doorman(self.keys, self.world.loop),
                ids=SeededIds("t"),
                admin=nobody,
            )
        )
        self.callers: list[Caller] = []
        self._at_once = at_once

    def run(self, turns: Sequence[Turn]) -> None:
        self.world.loop.serve(self._arrivals(turns))
        for exchange in self.world.background.take_unlogged():
            self.world.books.exchange(exchange)

    def _arrivals(self, turns: Sequence[Turn]) -> Iterator[tuple[float, Callable[[], Coroutine[Any, Any, None]]]]:
        at_ms = 0
        for pause_ms, act in turns:
            at_ms += pause_ms

            async def go(act: Act = act) -> None:
                await self._do(act)

            yield at_ms / 1000, go

    async def _do(self, act: Act) -> None:
        now_ms = self.world.loop.now_ms()
        if isinstance(act, Forget):
            await self.caching.store.forget(act.selector, now_ms=now_ms)
        elif isinstance(act, Revoke):
            self.keys.revoke(f"key_{act.name}", at_ms=now_ms)
        elif isinstance(act, Change):
            self.keys.change(act.record)
        elif isinstance(act, Prolong):
            for answer in await self.caching.store.answers(Selector(), limit=100, now_ms=now_ms):
                longer = msgspec.structs.replace(answer, expires_at_ms=answer.expires_at_ms + 3_600_000)
                await self.caching.store.put(longer, now_ms=now_ms)
        elif isinstance(act, Try):
            self.services.trials.running = Without() if act.on else None
        else:
            caller = Caller(self._at_once)
            self.callers.append(caller)

            async def read() -> bytes:
                return act.body

            head = Head([(b"host", b"x"), (b"authorization", f"Bearer {act.secret}".encode()), *act.said])
            await self.app.serve(("openai", "chat"), head, read, caller)

    def told(self) -> tuple[list[Any], dict[str, list[LedgerEntry]], list[Exchange], Any]:
        """Answers, ledger, traffic log and counters."""
        counters = [(name, values) for name, _, _, values in self.caching.counters()]
        return [one.got for one in self.callers], self.world.entries(), self.world.exchanges(), counters


CHANGES = (
    key("one", scope=Scope(org="o", team="moved")),
    key("one", scope=Scope(org="o", team="a"), models=("claude-*",)),
    key("one", scope=Scope(org="o", team="a"), refine=("user",)),
    key("one", scope=Scope(org="o", team="a"), expires_at_ms=START_MS + 11_000),
)
SELECTORS = (
    Selector(),
    Selector(tag="help"),
    Selector(tag="other"),
    Selector(route="faq"),
    Selector(route="rest"),
    Selector(model="gpt-4o"),
    Selector(model="*-mini"),
    Selector(prefix="0"),
    Selector(prefix="8"),
    Selector(before_ms=START_MS + 20_000),
)
ASKS = st.builds(Ask, st.sampled_from(SECRETS), st.sampled_from(BODIES), st.sampled_from(SAID))
OTHERS = st.one_of(
    st.builds(Forget, st.sampled_from(SELECTORS)),
    st.builds(Revoke, st.sampled_from(("one", "two"))),
    st.builds(Try, st.booleans()),
    st.just(Prolong()),
    st.builds(Change, st.sampled_from(CHANGES)),
)
PAUSES = st.sampled_from((2_000, 2_000, 2_000, 3_001, 20_000, 59_000))
FIRST = Ask("fk-one", BODIES[0])
MINI = Ask("fk-one", BODIES[5])


def with_said(ask: Ask, place: int) -> Ask:
    return msgspec.structs.replace(ask, said=SAID[place])


@st.composite
def turns_of_few(draw: st.DrawFn) -> list[Turn]:
    """A handful of callers who ask again and again, and what happens meanwhile."""
    first = draw(st.sampled_from((FIRST, MINI, Ask("fk-one", BODIES[1]))))
    changed = st.one_of(
        st.builds(lambda said: msgspec.structs.replace(first, said=said), st.sampled_from(SAID)),
        st.builds(lambda secret: msgspec.structs.replace(first, secret=secret), st.sampled_from(SECRETS)),
        st.builds(lambda body: msgspec.structs.replace(first, body=body), st.sampled_from(BODIES)),
        ASKS,
    )
    cast = [first, *draw(st.lists(changed, max_size=3))]
    act = st.one_of(*[st.sampled_from(cast)] * 6, OTHERS)
    return [(2_000, first)] * 3 + draw(st.lists(st.tuples(PAUSES, act), max_size=25))


def compare(turns: list[Turn], *, text: str = "none", at_once: bool = True) -> Stage:
    short = Stage(repeats_bytes_max=1 << 24, text=text, at_once=at_once)
    long = Stage(repeats_bytes_max=0, text=text)
    short.run(turns)
    long.run(turns)
    assert short.told() == long.told()
    assert not any(caller.repeated for caller in long.callers)
    return short


@settings(max_examples=60, deadline=None)
@given(turns_of_few(), st.sampled_from(("none", "full")), st.booleans())
def test_hits_are_the_same_with_and_without_the_short_way(turns: list[Turn], text: str, at_once: bool) -> None:
    compare(turns, text=text, at_once=at_once)


OTHER_CALLS = [
    *[Ask(secret, FIRST.body) for secret in SECRETS],
    *[Ask("fk-one", body) for body in BODIES],
    *[with_said(FIRST, place) for place in range(len(SAID))],
]


@pytest.mark.parametrize("first", [FIRST, with_said(FIRST, 2), with_said(FIRST, 6), MINI])
def test_another_call_never_takes_the_short_way_of_this_one(first: Ask) -> None:
    """Each comes when the first is on the short way, and each has it the other way round."""
    turns: list[Turn] = [(1_000, first)] * 3
    for other in OTHER_CALLS:
        turns += [(300, other), (300, other), (300, other), (300, first)]
    assert sum(caller.repeated for caller in compare(turns).callers) > len(OTHER_CALLS)


@pytest.mark.parametrize(
    "happens",
    [
        *[Forget(selector) for selector in SELECTORS],
        Revoke("one"),
        Try(True),
        Prolong(),
        *[Change(change) for change in CHANGES],
        with_said(MINI, 8),
        with_said(MINI, 10),
        Ask("fk-two", MINI.body),
    ],
    ids=lambda act: type(act).__name__,
)
@pytest.mark.parametrize("ask", [MINI, FIRST, with_said(MINI, 2)])
def test_what_happens_between_two_hits_counts(happens: Act, ask: Ask) -> None:
    turns: list[Turn] = [(2_000, ask)] * 4 + [(2_000, happens)] + [(5_000, ask)] * 3
    if isinstance(happens, Prolong):
        turns += [(62_000, ask)] * 2
    compare(turns)


def test_a_key_that_ends_ends_its_hits() -> None:
    stage = compare([(2_000, Ask("fk-gone", BODIES[0]))] * 30)
    assert [caller.got[0] for caller in stage.callers if caller.got][17:21] == [200, 200, 401, 401]


def repeated(*asks: Ask, pause_ms: int = 2_000, more: list[Turn] | None = None) -> list[bool]:
    stage = Stage(repeats_bytes_max=1 << 24, text="none")
    stage.run([(pause_ms, one) for one in asks] + (more or []))
    return [caller.repeated for caller in stage.callers]


def test_the_short_way_is_taken_from_the_third_time_on() -> None:
    """The first is a miss; the second finds its answer in memory, and what it booked is noted for the next."""
    assert repeated(*[FIRST] * 4) == [False, False, True, True]
    assert repeated(*[Ask("fk-one", BODIES[1])] * 4) == [False, False, True, True]


def test_traced_calls_take_it_too_each_with_its_own_trace() -> None:
    stage = Stage(repeats_bytes_max=1 << 24, text="none")
    stage.run([(2_000, Ask("fk-one", BODIES[0], SAID[6 + number % 2])) for number in range(6)])
    assert [caller.repeated for caller in stage.callers] == [False, False, True, True, True, True]
    spans = [dict(one.scope.tags)["span"] for one in stage.world.exchanges()]
    assert spans == [TRACES[number % 2][-16:] for number in range(6)]


def test_models_that_a_route_may_exchange_go_the_long_way() -> None:
    tiers = 'tiers = {simple = "gpt-4.1-nano", complex = "gpt-4o-mini"}'
    routed = f'[[routes]]\nname = "r"\nmodels = ["gpt-4o-mini"]\n{tiers}\n'
    stage = Stage(repeats_bytes_max=1 << 24, routes=ROUTES + routed)
    stage.run([(2_000, ask) for _ in range(4) for ask in (FIRST, MINI)])
    assert stage.services.routing is not None
    assert [caller.repeated for caller in stage.callers] == [False] * 4 + [True, False] * 2


def test_routes_may_ask_for_the_trace() -> None:
    apart = f'[[cache]]\nname = "none"\nmatch = {{ "tag:trace" = "{TRACES[1][:32]}" }}\nuse = false\n{ROUTES}'
    stage = Stage(repeats_bytes_max=1 << 24, routes=apart)
    stage.run([(2_000, with_said(FIRST, 6))] * 4 + [(2_000, with_said(FIRST, 7))])
    hits = [caller.got[1].get(b"x-farthing-cache") == b"hit" for caller in stage.callers if caller.got]
    assert hits == [False, True, True, True, False]


def test_a_change_of_price_makes_the_next_hit_say_the_new_amount() -> None:
    stage = Stage(repeats_bytes_max=1 << 24, text="none")
    mini = Ask("fk-one", BODIES[5])
    stage.run([(20_000, mini)] * 8)
    saved = [entry.baseline for entries in stage.world.entries().values() for entry in entries][1:]
    assert saved == [saved[0]] * 3 + [2 * (saved[0] or 0)] * 4
    assert [caller.repeated for caller in stage.callers] == [False, False, True, True, False, True, True, True]


def test_what_is_remembered_stays_within_its_bound() -> None:
    stage = Stage(repeats_bytes_max=40_000, text="none")
    asks = [Ask("fk-one", body("gpt-4o-mini", f"question {number}")) for number in range(12)]
    stage.run([(2_000, one) for one in asks for _ in range(4)])
    assert 0 < len(stage.caching.repeats) <= 4
