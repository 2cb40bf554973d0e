"""What every store of cached answers keeps, as tests: subclass ``ExactCacheContract`` and name how it is opened."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing.core.types import Scope, Target, Usage, UsagePart
from farthing.ports.cache import ExactCache, Selector, SharedCache, StoredAnswer
from farthing.testing.records import AT_MS

MANY = 1_000_000
TICK_MS = 10_000
"""Long enough that a store which ends values by its own clock ends none of them early."""


def an_answer(
    key: str = "k",
    body: bytes = b"{}",
    *,
    at_ms: int = AT_MS,
    ttl_ms: int = 10_000,
    charge: int | None = 1_000,
    route: str = "all",
    model: str = "gpt-4o",
    tags: tuple[str, ...] = (),
    partition: str = "p",
) -> StoredAnswer:
    """A small valid answer."""
    return StoredAnswer(
        key=key,
        partition=partition,
        created_at_ms=at_ms,
        expires_at_ms=at_ms + ttl_ms,
        route=route,
        tags=tags,
        scope=Scope(team="search"),
        dialect="openai",
        endpoint="chat",
        target=Target(provider="openai", price_as="openai", model=model),
        body=body,
        usage=Usage(parts=(UsagePart(lines=(("input", 3),)),), source="reported"),
        charge=charge,
        entry_id=f"entry-{key}",
    )


class ExactCacheContract:
    """Subclasses say how a fresh, empty store is made; ``fresh`` is called once a test and may be called often."""

    def fresh(self, *, entries_max: int = MANY, bytes_max: int = MANY * 1000) -> ExactCache:
        """A store that nothing is in."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, *, entries_max: int = MANY, bytes_max: int = MANY * 1000) -> AsyncIterator[ExactCache]:
        """A fresh store, started and closed."""
        cache = self.fresh(entries_max=entries_max, bytes_max=bytes_max)
        await cache.start()
        try:
            yield cache
        finally:
            await cache.close()

    async def test_an_answer_is_found_whole_until_it_expires(self) -> None:
        async with self.opened() as cache:
            answer = an_answer(body=b'{"a": "\xc3\xa9"}', tags=("x", "y"))
            await cache.put(answer, now_ms=AT_MS)
            assert await cache.get("k", now_ms=AT_MS + 9_999) == answer
            assert await cache.get("k", now_ms=AT_MS + 9_999) == answer, "being read does not remove it"
            assert await cache.get("k", now_ms=AT_MS + 10_000) is None, "the end of its time is outside"
            assert cache.peek("k", now_ms=AT_MS + 10_000) is None

    async def test_reading_does_not_prolong(self) -> None:
        async with self.opened() as cache:
            await cache.put(an_answer(), now_ms=AT_MS)
            for step in range(1, 10):
                assert await cache.get("k", now_ms=AT_MS + 1_000 * step) is not None
            assert await cache.get("k", now_ms=AT_MS + 10_001) is None

    async def test_keys_are_whole(self) -> None:
        async with self.opened() as cache:
            await cache.put(an_answer("abc"), now_ms=AT_MS)
            for other in ("ab", "abcd", "ABC", "abc ", ""):
                assert await cache.get(other, now_ms=AT_MS) is None

    async def test_the_newest_answer_wins(self) -> None:
        async with self.opened() as cache:
            await cache.put(an_answer(body=b"1"), now_ms=AT_MS)
            await cache.put(an_answer(body=b"22"), now_ms=AT_MS)
            found = await cache.get("k", now_ms=AT_MS)
            assert found is not None
            assert found.body == b"22"
            state = await cache.state()
            assert (state.entries, state.bytes) == (1, found.size)

    async def test_an_expired_answer_is_not_stored(self) -> None:
        async with self.opened() as cache:
            await cache.put(an_answer(), now_ms=AT_MS + 10_000)
            assert (await cache.state()).entries == 0

    async def test_bounds_hold(self) -> None:
        async with self.opened(entries_max=5) as cache:
            for number in range(20):
                await cache.put(an_answer(f"k{number}"), now_ms=AT_MS)
                assert (await cache.state()).entries <= 5
            assert (await cache.state()).evictions == 15
        async with self.opened(bytes_max=10_000) as cache:
            for number in range(20):
                await cache.put(an_answer(f"k{number}", b"x" * 1_000), now_ms=AT_MS)
                assert (await cache.state()).bytes <= 10_000
            await cache.put(an_answer("huge", b"x" * 20_000), now_ms=AT_MS)
            assert await cache.get("huge", now_ms=AT_MS) is None
            assert (await cache.state()).entries > 0, "an answer that never fits pushes nothing out"

    async def test_what_saves_least_per_byte_goes_first(self) -> None:
        async with self.opened(entries_max=3) as cache:
            await cache.put(an_answer("dear", charge=1_000_000), now_ms=AT_MS)
            await cache.put(an_answer("unpriced", charge=None), now_ms=AT_MS)
            await cache.put(an_answer("large", b"x" * 50_000, charge=1_000), now_ms=AT_MS)
            await cache.put(an_answer("small", charge=1_000), now_ms=AT_MS)
            kept = {answer.key for answer in await cache.answers(Selector(), limit=9, now_ms=AT_MS)}
            assert kept == {"dear", "large", "small"}
            await cache.put(an_answer("other", charge=2_000), now_ms=AT_MS)
            kept = {answer.key for answer in await cache.answers(Selector(), limit=9, now_ms=AT_MS)}
            assert kept == {"dear", "small", "other"}

    async def test_popularity_fades(self) -> None:
        async with self.opened(entries_max=2) as cache:
            await cache.put(an_answer("old", charge=5_000), now_ms=AT_MS)
            for number in range(200):
                await cache.put(an_answer(f"k{number}", charge=1_000), now_ms=AT_MS)
            assert await cache.get("old", now_ms=AT_MS) is None, "one dear answer does not stay for ever"

    async def test_answers_are_forgotten_by_what_they_are(self) -> None:
        answers = [
            an_answer("a1", tags=("faq", "en"), route="r1", model="gpt-4o", partition="p1"),
            an_answer("a2", tags=("faq",), route="r2", model="gpt-4o-mini", partition="p1", at_ms=AT_MS + 5),
            an_answer("b1", route="r2", model="claude-x", partition="p2", at_ms=AT_MS + 9),
        ]
        cases = [
            (Selector(tag="faq"), {"b1"}),
            (Selector(tag="en"), {"a2", "b1"}),
            (Selector(tag="fa"), {"a1", "a2", "b1"}),
            (Selector(route="r2"), {"a1"}),
            (Selector(model="gpt-*"), {"b1"}),
            (Selector(model="gpt-4o"), {"a2", "b1"}),
            (Selector(prefix="a"), {"b1"}),
            (Selector(prefix="a1"), {"a2", "b1"}),
            (Selector(partition="p1"), {"b1"}),
            (Selector(before_ms=AT_MS + 5), {"a2", "b1"}),
            (Selector(tag="faq", route="r2"), {"a1", "b1"}),
            (Selector(), set()),
        ]
        for selector, left in cases:
            async with self.opened() as cache:
                for answer in answers:
                    await cache.put(answer, now_ms=AT_MS)
                count = await cache.forget(selector, now_ms=AT_MS)
                found = {one.key for one in answers if await cache.get(one.key, now_ms=AT_MS) is not None}
                assert (found, count) == (left, 3 - len(left)), selector
                assert (await cache.state()).entries == len(left)

    async def test_answers_are_listed_newest_first(self) -> None:
        async with self.opened() as cache:
            for number in range(5):
                await cache.put(an_answer(f"k{number}", at_ms=AT_MS + number), now_ms=AT_MS)
            found = await cache.answers(Selector(), limit=3, now_ms=AT_MS)
            assert [answer.key for answer in found] == ["k4", "k3", "k2"]

    async def test_a_claim_has_one_owner_until_it_ends(self) -> None:
        async with self.opened() as cache:
            assert await cache.claim("k", owner="a", ttl_ms=80, now_ms=AT_MS)
            assert await cache.claim("k", owner="a", ttl_ms=80, now_ms=AT_MS)
            assert not await cache.claim("k", owner="b", ttl_ms=80, now_ms=AT_MS)
            assert await cache.claim("other", owner="b", ttl_ms=80, now_ms=AT_MS)
            await cache.release("k", owner="b")
            assert not await cache.claim("k", owner="b", ttl_ms=80, now_ms=AT_MS)
            await asyncio.sleep(0.1)
            assert await cache.claim("k", owner="b", ttl_ms=80, now_ms=AT_MS + 100), "its owner died"
            await cache.release("k", owner="b")
            assert await cache.claim("k", owner="a", ttl_ms=80, now_ms=AT_MS + 100)

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test_any_sequence_of_acts_ends_like_a_dictionary(self, data: st.DataObject) -> None:
        """Without bounds, a store is a dictionary with an end for each value."""
        steps = data.draw(
            st.lists(
                st.one_of(
                    st.tuples(st.just("put"), st.sampled_from("abcd"), st.integers(0, 50)),
                    st.tuples(st.just("forget"), st.sampled_from(["a", "b", "", "z"]), st.just(0)),
                    st.tuples(st.just("wait"), st.just(""), st.integers(0, 30)),
                ),
                max_size=30,
            )
        )
        asyncio.run(self._compare(steps))

    async def _compare(self, steps: list[tuple[str, str, int]]) -> None:
        async with self.opened() as cache:
            model: dict[str, StoredAnswer] = {}
            now_ms = AT_MS
            for number, (act, key, amount) in enumerate(steps):
                if act == "put":
                    answer = an_answer(key, str(number).encode(), at_ms=now_ms, ttl_ms=amount * TICK_MS)
                    await cache.put(answer, now_ms=now_ms)
                    if amount:
                        model[key] = answer
                elif act == "forget":
                    await cache.forget(Selector(prefix=key), now_ms=now_ms)
                    model = {one: kept for one, kept in model.items() if not one.startswith(key)}
                else:
                    now_ms += amount * TICK_MS
                model = {one: kept for one, kept in model.items() if kept.expires_at_ms > now_ms}
                for one in "abcd":
                    assert await cache.get(one, now_ms=now_ms) == model.get(one), (steps, number)


class SharedCacheContract(ExactCacheContract):
    """Stores of several processes; ``another`` opens the same store as somebody else would."""

    def another(self, cache: ExactCache) -> SharedCache:
        """The same store, not started."""
        raise NotImplementedError

    @asynccontextmanager
    async def two(self) -> AsyncIterator[tuple[ExactCache, SharedCache]]:
        """One store, opened twice."""
        async with self.opened() as cache:
            other = self.another(cache)
            await other.start()
            try:
                yield cache, other
            finally:
                await other.close()

    async def test_what_one_stores_the_other_finds(self) -> None:
        async with self.two() as (one, other):
            await one.put(an_answer(), now_ms=AT_MS)
            assert await other.get("k", now_ms=AT_MS) == an_answer()
            assert not (await other.claim("k", owner="b", ttl_ms=50, now_ms=AT_MS)) or not await one.claim(
                "k", owner="a", ttl_ms=50, now_ms=AT_MS
            )

    async def test_what_one_forgets_the_other_learns(self) -> None:
        async with self.two() as (one, other):
            start, _ = await other.forgotten(0)
            await one.forget(Selector(tag="a"), now_ms=AT_MS)
            await one.forget(Selector(route="b"), now_ms=AT_MS)
            number, selectors = await other.forgotten(start)
            assert selectors == (Selector(tag="a"), Selector(route="b"))
            assert await other.forgotten(number) == (number, ())
            for _ in range(1_005):
                await one.forget(Selector(prefix="zzz"), now_ms=AT_MS)
            assert (await other.forgotten(number))[1] is None, "too many to tell: forget everything"

    async def test_uses_elsewhere_count(self) -> None:
        async with self.two() as (_, other):
            for key in ("a", "b", "c"):
                await other.put(an_answer(key), now_ms=AT_MS)
            await other.touch({"b": 50, "nobody": 3}, now_ms=AT_MS)
            smaller = self.shrunk(other)
            await smaller.start()
            await smaller.put(an_answer("d", charge=5_000), now_ms=AT_MS)
            kept = {answer.key for answer in await smaller.answers(Selector(), limit=9, now_ms=AT_MS)}
            await smaller.close()
            assert kept == {"b", "d"}

    def shrunk(self, cache: SharedCache) -> SharedCache:
        """The same store, not started, with room for two answers."""
        raise NotImplementedError

    async def test_two_writers_at_once_lose_nothing(self) -> None:
        async with self.two() as (one, other):
            stores: tuple[ExactCache, ...] = (one, other)
            await asyncio.gather(
                *(stores[n % 2].put(an_answer(f"k{n}", str(n).encode()), now_ms=AT_MS) for n in range(60))
            )
            state = await other.state()
            assert (state.entries, state.bytes) == (
                60,
                sum(answer.size for answer in await one.answers(Selector(), limit=99, now_ms=AT_MS)),
            )
