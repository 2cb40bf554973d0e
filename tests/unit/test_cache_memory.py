"""The cache in memory evicts what is worth least, by a plain reading of the rule."""

import random

import pytest

from farthing.adapters.cache_memory import MemoryCache
from farthing.core.caching import worth
from farthing.testing.contracts_cache import an_answer
from farthing.testing.records import AT_MS


class Plain:
    """The rule with nothing kept in order: [worth, cost, uses, size, worth when that was last looked at] by key."""

    def __init__(self, entries_max: int) -> None:
        self.entries_max, self.clock = entries_max, 0.0
        self.kept: dict[str, list[float]] = {}

    def put(self, key: str, cost: int, size: int) -> None:
        first = worth(self.clock, cost=cost, uses=1, size=size)
        self.kept[key] = [first, cost, 1, size, first]
        while len(self.kept) > self.entries_max:
            recorded, least = min((one[4], key) for key, one in self.kept.items())
            if self.kept[least][0] > recorded:
                self.kept[least][4] = self.kept[least][0]
                continue
            self.clock = max(self.clock, recorded)
            del self.kept[least]

    def use(self, key: str) -> None:
        if key in self.kept:
            one = self.kept[key]
            one[2] += 1
            one[0] = worth(self.clock, cost=int(one[1]), uses=int(one[2]), size=int(one[3]))


@pytest.mark.parametrize("entries_max", [1, 2, 7, 60])
def test_what_is_worth_least_goes_first_and_of_equals_the_first_by_key(entries_max: int) -> None:
    rng = random.Random(entries_max)
    cache, plain = MemoryCache(entries_max=entries_max), Plain(entries_max)
    for number in range(1_500):
        key = f"k{rng.randrange(3 * entries_max + 2)}"
        if rng.random() < 0.6:
            answer = an_answer(
                key, b"x" * rng.choice((2, 900, 9_000)), ttl_ms=10**9, charge=rng.choice((1, 50, 50_000))
            )
            if rng.random() < 0.5:
                cache.add(answer, now_ms=AT_MS)
            else:
                late = (answer.charge, answer.size, answer.expires_at_ms, AT_MS)
                cache.add_later(key, lambda answer=answer: answer, *late)
            plain.put(key, answer.charge or 0, answer.size)
        else:
            assert (cache.peek(key, now_ms=AT_MS) is not None) == (key in plain.kept)
            plain.use(key)
        assert set(cache.keys()) == set(plain.kept), number
    assert plain.clock > 0


def test_marks_of_what_was_replaced_do_not_pile_up() -> None:
    cache = MemoryCache(entries_max=50)
    for number in range(5_000):
        cache.add(an_answer(f"k{number % 40}", charge=number), now_ms=AT_MS)
    assert len(cache._marks) <= 2 * 40 + 64
