"""The steward: notes survive a store that is away, one worker folds at a time, and every event is told once."""

import asyncio
import logging
from pathlib import Path

import pytest

from farthing.adapters.rollouts_sqlite import SqliteRollouts
from farthing.core.alerts import Alert
from farthing.core.errors import StoreUnavailable
from farthing.core.policy_routes import Route
from farthing.core.rollout import RolloutRules
from farthing.core.rollout_fold import PairNote
from farthing.engine.route_serving import RouteServing
from farthing.engine.route_steward import LEASE_MS, Steward
from farthing.engine.routing import Routing
from farthing.testing.fakes import VirtualClock

ROUTE = Route(
    name="r", models=("auto",), tiers=(("simple", "cheap"), ("complex", "strong")), by=(),
    rollout=RolloutRules(margin=0.2, pairs_min=10),
)  # fmt: skip


class Worker:
    """A steward with its routing and its view of the store."""

    def __init__(self, folder: Path, clock: VirtualClock, name: str) -> None:
        self.routing = Routing((ROUTE,), RouteServing())
        self.rollouts = SqliteRollouts(folder / "farthing.db")
        self.told: list[Alert] = []
        self.away = False
        self.steward = Steward(self.routing, self.rollouts, clock, name=name, tell=self.tell)

    def tell(self, alert: Alert) -> bool:
        if self.away:
            raise StoreUnavailable("away")
        self.told.append(alert)
        return True

    def pairs(self, count: int, difference: float = 0.0) -> None:
        ref = self.routing.candidates()["r"].ref
        self.routing.notes += [
            PairNote(route="r", candidate=ref, at_ms=1, day="1", nusd=2, difference=difference) for _ in range(count)
        ]

    def round(self) -> None:
        asyncio.run(self.steward.round())


class Away(SqliteRollouts):
    """A store that is away while told so."""

    away = False

    def saw(self, notes):
        if self.away:
            raise StoreUnavailable("away")
        super().saw(notes)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(1_000_000)


def test_notes_of_all_workers_are_folded_by_the_owner_and_known_to_all(tmp_path: Path, clock: VirtualClock) -> None:
    one, other = Worker(tmp_path, clock, "a"), Worker(tmp_path, clock, "b")
    one.round()
    other.pairs(60)
    other.round()
    assert other.routing.state("r").all_pairs == 0  # it may only note
    one.round()
    other.round()
    assert one.routing.state("r") == other.routing.state("r")
    assert one.routing.state("r").stage == "canary"
    assert [alert.event for alert in one.told] == ["promoted"]
    assert other.told == []
    one.rollouts.close()
    other.rollouts.close()


def test_another_worker_takes_over_when_the_owner_dies(
    tmp_path: Path, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "farthing.routes")
    dead, heir = Worker(tmp_path, clock, "a"), Worker(tmp_path, clock, "b")
    dead.pairs(60)
    dead.round()
    heir.pairs(40)
    heir.round()
    before = heir.routing.state("r").all_pairs
    assert before == 60
    clock.advance(LEASE_MS + 1)
    heir.round()
    heir.round()
    assert heir.routing.state("r").all_pairs == 100
    dead.rollouts.close()
    heir.rollouts.close()


def test_a_store_that_is_away_loses_no_notes_and_leaves_stages_as_they_were(
    tmp_path: Path, clock: VirtualClock
) -> None:
    worker = Worker(tmp_path, clock, "a")
    store = Away(tmp_path / "farthing.db")
    steward = Steward(worker.routing, store, clock, name="b")
    worker.pairs(60)
    asyncio.run(steward.round())
    known = worker.routing.state("r")
    assert known.stage == "canary"
    store.away = True
    worker.pairs(5)
    with pytest.raises(StoreUnavailable):
        asyncio.run(steward.round())
    assert worker.routing.state("r") == known
    store.away = False
    asyncio.run(steward.round())
    assert worker.routing.state("r").all_pairs == 65
    store.close()
    worker.rollouts.close()


def test_an_alert_that_cannot_be_raised_does_not_undo_the_move(tmp_path: Path, clock: VirtualClock) -> None:
    worker = Worker(tmp_path, clock, "a")
    worker.away = True
    worker.pairs(60, 1.0)
    worker.round()
    assert worker.routing.state("r").stage == "rolled_back"
    (changed,) = worker.rollouts.changes()
    assert (changed.subject, changed.before, changed.after) == ("route", "shadow", "rolled_back")
    assert worker.steward.gauges()["routes_rolled_back"] == 1
    worker.rollouts.close()
