"""The register of experiments keeps the same sentences in SQLite and PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farthing.adapters.practice_log import SqlPractice
from farthing.adapters.practice_postgres import PostgresPractice
from farthing.adapters.practice_sqlite import SqlitePractice
from farthing.core.errors import Conflict
from farthing.core.experiment import Experiment
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path):
    """Opens the same register as often as it is called: one for each worker."""
    made: list[SqlPractice] = []

    def open_() -> SqlPractice:
        if request.param == "sqlite":
            made.append(SqlitePractice(tmp_path / "farthing.db"))
        else:
            made.append(PostgresPractice(postgres_url(), namespace_of(tmp_path)))
        return made[-1]

    yield open_
    for one in made:
        one.close()


@pytest.fixture
def register(opener) -> Iterator[SqlPractice]:
    return opener()


def design(name: str, *, starts_ms: int = 1_000, ends_ms: int | None = None) -> Experiment:
    return Experiment(
        name=name, off=("caches", "levers"), share_bp=2_000, salt=f"salt {name}", starts_ms=starts_ms,
        ends_ms=ends_ms, match=(("team", "süd"),), why="who knows",
    )  # fmt: skip


def test_an_experiment_runs_from_begin_to_end_for_everybody(opener):
    one, other = opener(), opener()
    assert one.running() is None
    made = design("a")
    one.begin(made, now_ms=500)
    assert other.running() == made
    assert other.end("a", at_ms=2_000)
    assert one.running() is None
    (kept,) = one.experiments()
    assert (kept.stopped_ms, kept.over_ms, kept.salt) == (2_000, 2_000, made.salt)


def test_what_has_ended_is_not_ended_again(register):
    register.begin(design("a"), now_ms=500)
    assert not register.end("b", at_ms=900)
    assert register.end("a", at_ms=1_500)
    assert not register.end("a", at_ms=9_000)
    assert register.experiments()[0].stopped_ms == 1_500


def test_one_runs_at_a_time_and_a_name_is_used_once(register):
    register.begin(design("a"), now_ms=500)
    with pytest.raises(Conflict, match="'a' is running"):
        register.begin(design("b"), now_ms=600)
    register.end("a", at_ms=700)
    with pytest.raises(Conflict, match="'a' already"):
        register.begin(design("a"), now_ms=800)
    register.begin(design("b", starts_ms=2_000), now_ms=900)
    assert [one.name for one in register.experiments()] == ["b", "a"]


def test_one_that_is_past_its_planned_end_makes_room_and_counts_as_ended_then(register):
    register.begin(design("a", ends_ms=5_000), now_ms=500)
    with pytest.raises(Conflict):
        register.begin(design("b", starts_ms=5_000), now_ms=4_999)
    register.begin(design("b", starts_ms=6_000), now_ms=5_000)
    found = {one.name: one for one in register.experiments()}
    assert (found["a"].stopped_ms, found["a"].as_planned) == (5_000, True)
    assert register.running() == found["b"]


def test_of_many_that_begin_at_once_one_does(opener):
    registers = [opener() for _ in range(4)]
    registers[0].experiments()

    def begin(place: int) -> bool:
        try:
            registers[place % 4].begin(design(f"n{place}"), now_ms=500)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(begin, range(16)))
    assert sum(begun) == 1
    assert len(registers[0].experiments()) == 1
