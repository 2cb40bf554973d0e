"""Every vector index against a plain reading of its contract."""

from collections.abc import Callable

import numpy as np
import pytest

from farthing.adapters.semantic_opening import index_factory
from farthing.adapters.vector_flat import FlatIndex
from farthing.adapters.vector_graph import GraphIndex, GrowingIndex
from farthing.ports.vectors import VectorIndex

DIMENSIONS = 48
INDEXES = {
    "flat": lambda: FlatIndex(DIMENSIONS),
    "graph": lambda: GraphIndex(DIMENSIONS),
    "growing": lambda: GrowingIndex(DIMENSIONS, above=150),
    "product": index_factory(DIMENSIONS),
}


@pytest.fixture(params=sorted(INDEXES))
def make(request: pytest.FixtureRequest) -> Callable[[], VectorIndex]:
    return INDEXES[request.param]


def units(count: int, seed: int = 1):
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype("<f4")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_nearest_are_those_of_an_exhaustive_search(make: Callable[[], VectorIndex]) -> None:
    rows, asked = units(400), units(60, seed=2)
    index = make()
    index.add((number, row.tobytes()) for number, row in enumerate(rows, 1_000))
    assert len(index) == 400
    agreed = 0
    for one in asked:
        cosines = rows @ one
        found = index.search(one.tobytes(), 5)
        assert len({number for number, _ in found}) == 5
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
        for number, similarity in found:
            assert similarity == pytest.approx(float(cosines[number - 1_000]), abs=0.02)
        agreed += float(cosines[found[0][0] - 1_000]) >= cosines.max() - 0.01
    assert agreed >= 57


def test_equal_vectors_come_by_their_ids(make: Callable[[], VectorIndex]) -> None:
    index, row = make(), units(1)[0].tobytes()
    index.add([(9, row), (3, row), (7, row)])
    assert [number for number, _ in index.search(row, 3)] == [3, 7, 9]
    assert [number for number, _ in index.search(row, 10)] == [3, 7, 9]


def test_a_removed_vector_is_never_found_and_a_replaced_one_is_new(make: Callable[[], VectorIndex]) -> None:
    index, rows = make(), units(40)
    index.add((number, row.tobytes()) for number, row in enumerate(rows))
    index.remove([4, 4, 99, 0])
    assert len(index) == 38
    assert all(number not in (0, 4) for row in rows for number, _ in index.search(row.tobytes(), 40))
    index.add([(8, rows[4].tobytes())])
    assert len(index) == 38
    assert index.search(rows[4].tobytes(), 1)[0][0] == 8


def test_an_empty_index_finds_nothing(make: Callable[[], VectorIndex]) -> None:
    index, row = make(), units(1)[0].tobytes()
    assert list(index.search(row, 3)) == []
    index.add([(1, row)])
    index.remove([1])
    assert list(index.search(row, 3)) == []
    index.add([])
    assert len(index) == 0


def test_growing_past_the_border_loses_nothing() -> None:
    index, rows = GrowingIndex(DIMENSIONS, above=50), units(120)
    for number, row in enumerate(rows):
        index.add([(number, row.tobytes())])
    assert len(index) == 120
    assert sum(index.search(row.tobytes(), 1)[0][0] == number for number, row in enumerate(rows)) >= 118
