"""Shipping to PostgreSQL: one statement a batch, and the long way when it does not apply; both book the same."""

import contextlib

import msgspec
import pytest

from farthing.adapters.journal import Post, Record
from farthing.adapters.postgres import PostgresLedger
from farthing.adapters.postgres_rows import entry_to_json, exchange_to_json
from farthing.adapters.postgres_shelf import Shelf
from farthing.core.types import LedgerQuery
from farthing.testing.records import an_entry, an_exchange
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of


def a_record(seq, *amounts, exchange="", posts=(), prefix="e"):
    entries = [an_entry(f"{prefix}{seq}-{number}", amount) for number, amount in enumerate(amounts)]
    return Record(
        seq=seq,
        ids=tuple(entry.id for entry in entries),
        entries=tuple(msgspec.Raw(entry_to_json(entry)) for entry in entries),
        exchanges=(msgspec.Raw(exchange_to_json(an_exchange(exchange))),) if exchange else (),
        posts=tuple(Post(counter, "2026-11", "usd", amount, 100, 77) for counter, amount in posts),
        ended=f"r{seq}",
    )


class Place:
    """A namespace of its own, with a worker's shelf."""

    def __init__(self, name, stack):
        self._name, self._stack = name, stack
        self.shelf = self.open()
        self.ledger = PostgresLedger(postgres_url(), name)
        self.ship, self.posted = self.shelf.ship, self.shelf.posted

    def open(self, worker="w1"):
        """Another shelf: of the same worker, it does not know how far the journal is shipped."""
        made = Shelf(postgres_url(), self._name, worker)
        made.start()
        self._stack.callback(made.close)
        return made


@pytest.fixture
def shelf(tmp_path):
    with contextlib.ExitStack() as stack:
        yield Place(namespace_of(tmp_path), stack)


def booked(shelf):
    (total,) = shelf.ledger.totals(LedgerQuery())
    return total.entries, total.amount, len(list(shelf.ledger.exchanges()))


def figures(posted):
    return {one.key[0]: (one.amount, one.version, one.ends_at_ms) for one in posted}


def test_batches_add_up_and_tell_the_counters_as_they_are_now(shelf):
    first = shelf.ship([a_record(1, 5, exchange="x1", posts=[("team", 5), ("user", 5)])])
    assert figures(first) == {"team": (5, 1, 77), "user": (5, 1, 77)}
    second = shelf.ship([a_record(2, 7, 8, posts=[("team", 15)]), a_record(3, posts=[("team", 10**19)])])
    assert figures(second) == {"team": (10**19 + 20, 2, 77)}
    third = shelf.ship([a_record(4, 1, exchange="x4", posts=[("user", -2)])])
    assert figures(third) == {"user": (3, 2, 77)}
    assert booked(shelf) == (4, 21, 2)


def test_a_batch_that_is_shipped_again_changes_nothing(shelf):
    batches = [
        [a_record(1, 5, posts=[("team", 5)])],
        [a_record(2, posts=[("team", 3)]), a_record(3, 9, exchange="x")],
    ]
    for batch in batches:
        shelf.ship(batch)
    before = booked(shelf), figures(shelf.posted([("team", "2026-11", "usd")]))
    for _ in range(2):  # by the one that knows how far it is, and by one that does not
        for batch in batches:
            shelf.ship(batch)
            shelf.open().ship(batch)
    assert (booked(shelf), figures(shelf.posted([("team", "2026-11", "usd")]))) == before
    assert figures(shelf.ship([a_record(4, 1, posts=[("team", 1)])])) == {"team": (9, 3, 77)}


def test_an_id_that_is_taken_fails_nobody_else_and_is_kept(shelf):
    shelf.ship([a_record(1, 5, posts=[("team", 5)])])
    other = shelf.open("w2")
    other.ship([a_record(1, 3, posts=[("team", 3)], prefix="f")])
    same = a_record(2, 6, posts=[("team", 6)])
    taken = msgspec.structs.replace(a_record(1, 8), seq=3, posts=(Post("team", "2026-11", "usd", 8, 100, 77),))
    other.ship([same, taken, a_record(4, 4, posts=[("team", 4)])])
    assert booked(shelf) == (4, 18, 0)
    assert figures(shelf.posted([("team", "2026-11", "usd")]))["team"][0] == 26
    assert figures(other.ship([a_record(5, 1, posts=[("team", 1)])]))["team"][0] == 27


def test_a_record_the_database_cannot_hold_is_set_aside_and_the_rest_is_booked(shelf):
    shelf.ship([a_record(1, 5, posts=[("team", 5)])])
    broken = msgspec.structs.replace(a_record(2, 6), entries=(msgspec.Raw(b'{"id": "bad", "attempt": "x"}'),))
    shelf.ship([broken, a_record(3, 7, posts=[("team", 7)])])
    assert booked(shelf) == (2, 12, 0)
    assert figures(shelf.posted([("team", "2026-11", "usd")]))["team"][0] == 12
