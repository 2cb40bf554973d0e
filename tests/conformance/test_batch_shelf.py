"""The shelf of batches keeps the same sentences in SQLite and PostgreSQL."""

import threading
from pathlib import Path

import pytest

from farthing.adapters.batch_postgres import PostgresBatches
from farthing.adapters.batch_shelf import SqlBatches
from farthing.adapters.batch_sqlite import SqliteBatches
from farthing.core.types import Scope, Target
from farthing.ports.batches import Batch, BatchFile, DeferredCall, Group, Share
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of

LEASE = 1_000


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path):
    made: list[SqlBatches] = []

    def shelf() -> SqlBatches:
        if request.param == "sqlite":
            made.append(SqliteBatches(tmp_path / "farthing.db"))
        else:
            made.append(PostgresBatches(postgres_url(), namespace_of(tmp_path)))
        return made[-1]

    yield shelf
    for one in made:
        one.close()


@pytest.fixture
def shelf(opener):
    return opener()


def batch(name: str, **fields):
    given = {"id": name, "provider": "openai", "dialect": "openai", "owner": "ada", "created_ms": 1, **fields}
    return Batch(**given)


def opened(shelf, name: str, **fields):
    shelf.begin(batch(name, **fields), b"{}")
    shelf.sent(name, f"up-{name}", b'{"id":"x"}', due_ms=10)


def call(name: str, at: int = 1, **fields):
    target = Target(provider="openai", price_as="openai", model=fields.pop("model", "gpt-4o"))
    given = {
        "id": name, "owner": "ada", "provider": "openai", "dialect": "openai", "endpoint": "chat", "created_ms": at,
        "body": b"{}", "group": Group(scope=Scope(team="t"), target=target, model="m", at_ms=at),
        "share": Share(0, 7, 2, 3), **fields,
    }  # fmt: skip
    return DeferredCall(**given)


def test_files_are_their_owners_own_and_come_newest_first(shelf):
    for at, name in enumerate(("a", "b")):
        shelf.add_file(
            BatchFile(id=name, provider="p", owner="ada", purpose="batch", created_ms=at, shown=b"{}"), b"[1]"
        )
    shelf.add_file(BatchFile(id="a", provider="p", owner="eve", purpose="batch", created_ms=9, shown=b"!"))
    assert [one.id for one in shelf.files("ada")] == ["b", "a"]
    assert shelf.file("eve", "a") is None
    assert shelf.files("eve") == ()
    assert shelf.asks("a") == b"[1]"
    assert shelf.asks("none") == b""
    shelf.forget_file("a")
    assert shelf.file("ada", "a") is None


def test_a_batch_is_found_by_its_owner_once_the_provider_has_it(shelf):
    shelf.begin(batch("one"), b'{"m":1}')
    assert shelf.batch("ada", "") is None
    assert shelf.stuck(before_ms=2) == (batch("one"),)
    assert shelf.stuck(before_ms=1) == ()
    shelf.sent("one", "up-one", b"{}", due_ms=5)
    found = shelf.batch("ada", "up-one")
    assert (found.id, found.state, found.shown) == ("one", "open", b"{}")
    assert shelf.batch("eve", "up-one") is None
    assert shelf.batches("ada", "anthropic") == shelf.batches("eve", "openai") == shelf.stuck(before_ms=99) == ()
    assert shelf.batches("ada", "openai") == (found,)
    assert shelf.manifest("one") == b'{"m":1}'
    shelf.saw("one", b"[]")
    assert shelf.by_id("one").shown == b"[]"
    shelf.settled("one", "failed")  # too late
    assert shelf.by_id("one").state == "open"
    shelf.forget("one")
    assert shelf.batch("ada", "up-one") is None
    assert shelf.by_id("one") is not None


def test_only_one_holder_has_a_batch_and_it_alone_ends_it_once(opener):
    mine, theirs = opener(), opener()
    opened(mine, "one")
    assert mine.due("w1", now_ms=9, lease_ms=LEASE, most=9) == ()
    assert [one.id for one in mine.due("w1", now_ms=10, lease_ms=LEASE, most=9)] == ["one"]
    assert theirs.due("w2", now_ms=10, lease_ms=LEASE, most=9) == ()
    assert not theirs.claim("one", "w2", now_ms=1_009, lease_ms=LEASE)
    assert mine.claim("one", "w1", now_ms=20, lease_ms=LEASE)
    assert not theirs.end("one", "w2")
    assert theirs.claim("one", "w2", now_ms=1_020, lease_ms=LEASE)  # it has lapsed
    assert not mine.end("one", "w1")
    assert theirs.end("one", "w2")
    assert not theirs.end("one", "w2")
    assert not mine.claim("one", "w1", now_ms=99_999, lease_ms=LEASE)


def test_a_batch_that_is_left_is_due_again_when_it_was_said(shelf):
    opened(shelf, "one")
    shelf.due("w1", now_ms=10, lease_ms=LEASE, most=9)
    shelf.leave("one", "w2", due_ms=50)  # not its own
    assert shelf.due("w2", now_ms=60, lease_ms=LEASE, most=9) == ()
    shelf.leave("one", "w1", due_ms=50)
    assert shelf.due("w2", now_ms=49, lease_ms=LEASE, most=9) == ()
    assert len(shelf.due("w2", now_ms=50, lease_ms=LEASE, most=9)) == 1


def test_calls_are_gathered_by_size_or_age_and_by_what_goes_together(shelf):
    for name in ("a", "b", "c"):
        shelf.defer(call(name))
    shelf.defer(call("other", 5, model="gpt-4o-mini"))
    told = []

    def manifest_of(calls):
        told.append([one.id for one in calls])
        return b"{}"

    assert shelf.gather(manifest_of, now_ms=10, size=4, age_ms=100) is None
    made, calls = shelf.gather(manifest_of, now_ms=10, size=2, age_ms=100)
    assert [one.id for one in calls] == ["a", "b"] == told[0]
    assert calls[0].share == Share(0, 7, 2, 3)
    assert (made.kind, made.provider, shelf.by_id(made.id).state) == ("queue", "openai", "sending")
    assert shelf.gather(manifest_of, now_ms=10, size=2, age_ms=100) is None
    assert shelf.gather(manifest_of, now_ms=101, size=2, age_ms=100)[1][0].id == "c"
    assert shelf.gather(manifest_of, now_ms=105, size=2, age_ms=100)[1][0].id == "other"
    shelf.put_back(made.id)
    assert [one.id for one in shelf.gather(manifest_of, now_ms=200, size=9, age_ms=100)[1]] == ["a", "b"]


def test_a_call_is_answered_once_and_taken_back_only_while_it_waits(shelf):
    shelf.defer(call("a"))
    assert not shelf.answer("a", "done", 200, b"early")
    assert not shelf.cancel("eve", "a")
    assert shelf.cancel("ada", "a")
    assert not shelf.cancel("ada", "a")
    assert (shelf.deferred("ada", "a").state, shelf.deferred("eve", "a")) == ("cancelled", None)
    shelf.defer(call("b"))
    shelf.gather(lambda calls: b"{}", now_ms=1, size=1, age_ms=0)
    assert not shelf.cancel("ada", "b")
    assert shelf.answer("b", "done", 200, b'{"ok":1}')
    assert not shelf.answer("b", "failed", 500, b"later")
    found = shelf.deferred("ada", "b")
    assert (found.state, found.status, found.answer, found.body) == ("done", 200, b'{"ok":1}', b"")


def test_two_workers_at_once_give_each_call_to_one_batch(opener):
    first, second = opener(), opener()
    for number in range(40):
        first.defer(call(f"c{number:02d}"))
    found: list[str] = []

    def work(shelf: SqlBatches) -> None:
        while True:
            got = shelf.gather(lambda calls: b"{}", now_ms=1, size=3, age_ms=0)
            if got is None:
                return
            found.extend(one.id for one in got[1])

    threads = [threading.Thread(target=work, args=(shelf,)) for shelf in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while got := first.gather(lambda calls: b"{}", now_ms=1, size=3, age_ms=0):
        found.extend(one.id for one in got[1])
    assert sorted(found) == [f"c{number:02d}" for number in range(40)]


def test_pruning_forgets_what_is_over_and_keeps_what_runs(shelf):
    opened(shelf, "runs")
    opened(shelf, "ended")
    shelf.claim("ended", "w", now_ms=1, lease_ms=LEASE)
    shelf.end("ended", "w")
    shelf.defer(call("queued"))
    assert shelf.prune(2) == 1
    assert shelf.deferred("ada", "queued") is not None
    assert shelf.by_id("runs") is not None
    assert shelf.by_id("ended") is None
