"""What the semantic cache remembers: the same sentences in SQLite and in PostgreSQL with pgvector."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import numpy as np
import psycopg
import pytest
import uvloop

from farthing.adapters.semantic_opening import index_factory
from farthing.adapters.semantic_postgres import PostgresSemantic, nearest
from farthing.adapters.semantic_sqlite import SqliteSemantic
from farthing.core.errors import StoreUnavailable
from farthing.engine.semantic_partitions import Partitions, SearchedPartition
from farthing.ports.cache import Selector
from farthing.ports.semantic import Comparison, Remembered
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of

DIMENSIONS = 24
LATE = 10**12
Store = SqliteSemantic | PostgresSemantic
Trial = Callable[[Store, Store], Awaitable[None]]


def vectors(count: int, seed: int = 1) -> list[bytes]:
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype("<f4")
    return [row.tobytes() for row in rows / np.linalg.norm(rows, axis=1, keepdims=True)]


def question(key: str, vector: bytes, **changed: object) -> Remembered:
    made = Remembered(
        key=key,
        partition="p",
        text=f"What is {key}?",
        vector=vector,
        embedder="test",
        cluster=key,
        caller="acme",
        route="answers",
        model="gpt-4o",
        tags=("faq",),
        created_at_ms=1_000,
        expires_at_ms=LATE,
    )
    return msgspec.structs.replace(made, **changed)


@pytest.fixture(params=["sqlite", "postgres"])
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Trial], None]:
    """Runs a trial on two workers' views of one store."""

    def opened() -> Store:
        if request.param == "sqlite":
            return SqliteSemantic(tmp_path / "semantic.db")
        return PostgresSemantic(postgres_url(), namespace_of(tmp_path))

    async def both(trial: Trial) -> None:
        one, other = opened(), opened()
        await asyncio.gather(one.start(), other.start())
        try:
            await trial(one, other)
        finally:
            await one.close()
            await other.close()

    return lambda trial: uvloop.run(both(trial))


def test_what_one_worker_adds_another_reads_until_it_expires(trial: Callable[[Trial], None]) -> None:
    async def run(one: Store, other: Store) -> None:
        made = vectors(3)
        first = await one.add(question("a", made[0], expires_at_ms=5_000))
        second = await one.add(question("b", made[1], partition="q"))
        third = await other.add(question("c", made[2], text="naïve \U0001f600 'quoted'"))
        assert first < second < third
        found = await other.partition("p", now_ms=4_999)
        assert [item.key for item in found] == ["a", "c"]
        assert found[1].text == "naïve \U0001f600 'quoted'"
        assert found[1].number == third
        for item, vector in zip(found, (made[0], made[2]), strict=True):
            stored = np.frombuffer(item.vector, "<f4")
            assert np.allclose(stored, np.frombuffer(vector, "<f4"), atol=2e-3)
        assert [item.key for item in await other.partition("p", now_ms=5_000)] == ["c"]
        assert [item.key for item in await one.since(first, ("p", "q"), now_ms=0)] == ["b", "c"]
        assert await one.since(0, (), now_ms=0) == ()

    trial(run)


def test_a_key_asked_again_replaces_its_question(trial: Callable[[Trial], None]) -> None:
    async def run(one: Store, other: Store) -> None:
        made = vectors(2)
        await one.add(question("a", made[0]))
        again = await other.add(question("a", made[1], text="changed"))
        found = await one.partition("p", now_ms=0)
        assert [(item.number, item.text) for item in found] == [(again, "changed")]

    trial(run)


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        (Selector(tag="faq"), ["b"]),
        (Selector(model="gpt-*"), ["c"]),
        (Selector(prefix="b"), ["a", "c"]),
        (Selector(partition="acme"), ["c"]),
        (Selector(before_ms=2_000), ["b"]),
        (Selector(route="other"), ["a", "b", "c"]),
    ],
)
def test_forgets_what_the_selector_means(trial: Callable[[Trial], None], selector: Selector, left: list[str]) -> None:
    async def run(one: Store, other: Store) -> None:
        made = vectors(3)
        await one.add(question("a", made[0]))
        await one.add(question("b", made[1], tags=(), created_at_ms=2_000))
        await one.add(question("c", made[2], model="claude-sonnet-4", caller="globex"))
        assert await other.forget(selector) == 3 - len(left)
        assert [item.key for item in await one.partition("p", now_ms=0)] == left

    trial(run)


def test_keeps_what_was_learned_and_labels_of_comparisons(trial: Callable[[Trial], None]) -> None:
    async def run(one: Store, other: Store) -> None:
        assert await one.state("f") is None
        await one.keep("f", b"\x00one", now_ms=1)
        await other.keep("f", b"two\xff", now_ms=2)
        assert await one.state("f") == b"two\xff"
        assert [(item.family, item.state, item.updated_at_ms) for item in one.overview()] == [("f", b"two\xff", 2)]
        for number, wrong in enumerate((False, True, True)):
            await one.note(
                Comparison(
                    id=f"r{number}",
                    at_ms=number,
                    family="f",
                    asked="x",
                    cached="y",
                    cached_key="k",
                    similarity=0.9,
                    risk=0.1,
                    served=False,
                    wrong=wrong,
                )
            )
        assert other.label("r1", "same")
        assert not other.label("r9", "same")
        assert [(item.id, item.label) for item in other.comparisons()] == [("r2", ""), ("r1", "same"), ("r0", "")]
        assert [item.id for item in other.comparisons(since_ms=2, only_wrong=True)] == ["r2"]
        assert [item.id for item in other.comparisons(only_wrong=True)] == ["r2", "r1"]

    trial(run)


def test_numbers_are_read_in_the_order_of_commits(trial: Callable[[Trial], None]) -> None:
    """A reader that goes on from the largest number it saw misses nothing that is written meanwhile."""

    async def run(one: Store, other: Store) -> None:
        made = vectors(60)
        done, seen, last = False, [], 0

        async def write(store: Store, keys: range) -> None:
            for number in keys:
                await store.add(question(f"k{number}", made[number]))

        async def follow(reader: Store) -> None:
            nonlocal last
            while not done:
                for item in await reader.since(last, ("p",), now_ms=0):
                    seen.append(item.key)
                    last = item.number

        following = asyncio.create_task(follow(one))
        await asyncio.gather(write(one, range(30)), write(other, range(30, 60)))
        done = True
        await following
        seen += [item.key for item in await other.since(last, ("p",), now_ms=0)]
        assert sorted(seen) == sorted(f"k{number}" for number in range(60))

    trial(run)


@pytest.mark.parametrize("graph", [False, True])
def test_postgres_finds_the_neighbours_that_a_process_would(tmp_path: Path, graph: bool) -> None:
    async def run() -> None:
        store = PostgresSemantic(postgres_url(), namespace_of(tmp_path), index_above=100 if graph else 10_000)
        await store.start()
        made, asked = vectors(300), vectors(20, seed=2)
        for number, vector in enumerate(made):
            await store.add(
                question(f"k{number}", vector, cluster=f"c{number % 50}", expires_at_ms=10 if number == 7 else LATE)
            )
        await store.add(question("elsewhere", asked[0], partition="q"))
        held = Partitions(store, index_factory(DIMENSIONS))
        searched = Partitions(store, index_factory(DIMENSIONS), search=store, searched_above=100)
        mine, theirs = await held.get("p", now_ms=20), await searched.get("p", now_ms=20)
        assert isinstance(theirs, SearchedPartition)
        assert not isinstance(mine, SearchedPartition)
        assert not isinstance(await searched.get("q", now_ms=20), SearchedPartition)
        await store.close()  # waits for the graph
        assert _walks_a_graph(namespace_of(tmp_path), asked[0]) is graph
        await store.start()
        for vector in asked:
            expected = await mine.near(vector, 5, now_ms=20)
            found = await theirs.near(vector, 5, now_ms=20)
            same = [(one.key, one.cluster, one.members) for one in expected]
            assert [(one.key, one.cluster, one.members) for one in found] == same
            assert [one.similarity for one in found] == pytest.approx([one.similarity for one in expected], abs=1e-3)
            assert theirs.reading(found[0].key) == mine.reading(found[0].key) is not None
        theirs.drop(found[0].key)
        assert found[0].key not in [one.key for one in await theirs.near(asked[-1], 5, now_ms=20)]
        assert theirs.find(found[0].key) is None
        await store.close()

    uvloop.run(run())


def _walks_a_graph(namespace: str, vector: bytes) -> bool:
    """Whether the search's own statement can be answered from a graph."""
    with psycopg.connect(postgres_url()) as db:
        db.execute(f'SET search_path TO "{namespace}", public'.encode())
        db.execute("SET enable_sort = off")
        numbers = list(np.frombuffer(vector, "<f4").astype(float))
        plan = db.execute(b"EXPLAIN " + nearest(DIMENSIONS), (numbers, "p", 20, 5, "p", 20)).fetchall()
    return "semantic_graph_" in str(plan)


def test_a_partition_that_grows_too_large_is_searched(tmp_path: Path) -> None:
    async def run() -> None:
        store = PostgresSemantic(postgres_url(), namespace_of(tmp_path))
        await store.start()
        partitions = Partitions(store, index_factory(DIMENSIONS), search=store, searched_above=10)
        made = vectors(12)
        assert not isinstance(await partitions.get("p", now_ms=0), SearchedPartition)
        for number, vector in enumerate(made):
            await partitions.add(question(f"k{number}", vector))
        assert isinstance(await partitions.get("p", now_ms=5_000), SearchedPartition)
        await store.close()

    uvloop.run(run())


def test_a_database_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    async def run() -> None:
        store = PostgresSemantic("postgresql://127.0.0.1:1/none", namespace_of(tmp_path))
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await store.start()
        with pytest.raises(StoreUnavailable):
            await store.partition("p", now_ms=0)
        await store.close()

    uvloop.run(run())
