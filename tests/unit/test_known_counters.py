"""What a lone worker knows of counters is exactly what stands in the file, however loading and booking interleave."""

import json
import sqlite3
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters import sqlite_known
from farthing.adapters.sqlite_known import LEAST, KnownCounters, _Bits, _Sums

WINDOW = "2026-11"


def key(number, window=WINDOW):
    return (f"user={number}", window, "usd")


def until(condition, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


class File:
    """Shares that are booked on while they are read; a reader sees those that stood there when it began."""

    def __init__(self):
        self.posted = {}
        self.may_read = threading.Event()
        self.may_read.set()
        self.fails = False

    def connect(self):
        if self.fails:
            raise sqlite3.OperationalError("disk I/O error")
        connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        connection.execute('CREATE TABLE shares (counter, "window", unit, worker, posted, authority)')
        rows = [(*one, "", amount, 0) for one, amount in self.posted.items() if amount % 3]
        rows += [(*key(0), "me", 1_000_000, 5), (*key(0, "2026-10"), "", 7, 0)]
        connection.executemany("INSERT INTO shares VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute('CREATE TABLE runs (run, "window", unit)')
        connection.execute("CREATE TABLE run_rows (run, first, counters, body)")
        connection.executemany("INSERT INTO runs VALUES (?, ?, 'usd')", [(1, WINDOW), (2, "2026-10"), (3, WINDOW)])
        for one, amount in self.posted.items():
            if not amount % 3:  # in two parts
                for run, part in ((1, amount + 5), (3, -5)):
                    body = json.dumps({one[0]: part})
                    connection.execute("INSERT INTO run_rows VALUES (?, ?, 1, ?)", (run, one[0], body))
        booker = threading.current_thread()
        if not self.may_read.is_set():
            connection.set_progress_handler(lambda: threading.current_thread() is not booker and self._wait(), 50)
        return connection

    def _wait(self):
        assert self.may_read.wait(20)

    def book(self, known, amounts):
        for one, amount in amounts:
            self.posted[one] = self.posted.get(one, 0) + amount
        known.add(amounts)


def load(known, *windows):
    for window in windows:
        known.booked(key(0, window))
    known.load()


amounts = st.lists(st.tuples(st.integers(0, 40), st.integers(-50, 10**15)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(before=amounts, meanwhile=amounts, after=amounts, again=st.booleans())
def test_what_is_known_is_what_stands_in_the_file(before, meanwhile, after, again):
    file = File()
    known = KnownCounters(file.connect, "me")
    file.book(known, [(key(number), amount) for number, amount in before])
    assert known.booked(key(1)) is None
    assert known.wanted == {WINDOW}
    file.may_read.clear()
    known.load()
    file.book(known, [(key(number), amount) for number, amount in meanwhile])
    if again:
        known.forget()
        load(known, WINDOW)
    file.may_read.set()
    file.book(known, [(key(number), amount) for number, amount in after])
    until(lambda: known.booked(key(0)) is not None)
    assert {number: known.booked(key(number)) for number in range(50)} == {
        number: file.posted.get(key(number), 0) for number in range(50)
    }
    assert known.booked(key(0, "2026-10")) is None, "a window that nobody asked for is not loaded"


def test_it_is_loaded_anew_when_it_has_no_room_for_more():
    file = File()
    known = KnownCounters(file.connect, "me")
    load(known, WINDOW)
    until(lambda: known.booked(key(0)) is not None)
    file.book(known, [(key(number), 3) for number in range(LEAST)])
    assert known.booked(key(0)) is None
    load(known, WINDOW)
    until(lambda: known.booked(key(0)) is not None)
    assert [known.booked(key(number)) for number in (0, 1, LEAST - 1, LEAST)] == [3, 3, 3, 0]


def test_it_has_more_room_before_it_is_full_without_a_look_at_the_file():
    file = File()
    known = KnownCounters(file.connect, "me")
    load(known, WINDOW)
    until(lambda: known.booked(key(0)) is not None)
    shift = 0
    for first in range(0, 2 * LEAST, 1_024):
        file.book(known, [(key(number // 2), number) for number in range(first, first + 1_024)])
        if known.wanted:
            file.posted[key(0)] = 10**9  # whoever reads it sees that
            known.load()
            shift += 1
            file.book(known, [(key(number), 1) for number in (1, 3 * LEAST)])
            file.posted.pop(key(0))
            until(lambda: not known._meanwhile)
        assert known.booked(key(0)) == 1
    assert shift == 1
    assert known.booked(key(1)) == 2 + 3 + 1
    assert known.booked(key(3 * LEAST)) == 1
    assert known.booked(key(LEAST - 1)) == 4 * LEAST - 3
    assert known.booked(key(LEAST)) == 0


def test_a_window_with_too_many_counters_moves_to_a_filter():
    sums = _Sums(0)
    sums.add([(number, 5) for number in range(1, 40_000)])
    assert isinstance(sums.moved(), _Sums)
    filtered = sums.moved(most=30_000)
    assert isinstance(filtered, _Bits)
    assert {filtered.booked(number) for number in range(1, 40_000)} == {None}


def test_a_file_that_cannot_be_read_costs_look_ups_only():
    file = File()
    file.fails = True
    known = KnownCounters(file.connect, "me")
    load(known, WINDOW)
    assert known.booked(key(1)) is None
    file.fails = False
    known.load()
    until(lambda: known.booked(key(1)) == 0)
    known.forget()
    assert known.booked(key(1)) is None


def test_a_window_on_which_nothing_is_booked_any_more_is_forgotten():
    file = File()
    known = KnownCounters(file.connect, "me")
    load(known, "2026-10")
    until(lambda: known.booked(key(0, "2026-10")) == 7)
    known._used["2026-10"] -= sqlite_known.KEPT_S + 1
    load(known, WINDOW)
    until(lambda: known.booked(key(0)) is not None)
    assert known.booked(key(0, "2026-10")) is None


def test_a_sum_that_no_integer_of_the_file_holds_is_not_known():
    file = File()
    known = KnownCounters(file.connect, "me")
    file.posted = {key(number): 2**62 for number in range(3)}
    load(known, WINDOW)
    until(lambda: known.booked(key(0)) is not None)
    known.add([(key(0), 2**62)])
    assert known.booked(key(0)) is None
    assert known.wanted == {WINDOW}


@pytest.mark.parametrize("hashes", [range(1, 500), range(7, 2**43, 2**34)], ids=["one after the other", "far apart"])
def test_sums_keep_hashes_apart_that_want_the_same_place(hashes):
    sums = _Sums(0)
    numbers = [number * LEAST for number in hashes]
    assert sums.add([(number, number + 1) for number in numbers])
    assert [sums.booked(number) for number in numbers] == [number + 1 for number in numbers]
    assert sums.booked(5) == 0
    assert not sums.crowded()
    assert not sums.add([(number, 1) for number in range(1, LEAST)]), "full"


def test_a_filter_denies_nothing_that_was_added_and_little_else():
    bits = _Bits(5_000)
    hashes = [hash(key(number)) for number in range(20_000)]
    assert bits.add([(number, 1) for number in hashes[:10_000]])
    assert {bits.booked(number) for number in hashes[:10_000]} == {None}
    assert sum(bits.booked(number) == 0 for number in hashes[10_000:]) > 9_700
    assert not bits.add([(1, 1)])
