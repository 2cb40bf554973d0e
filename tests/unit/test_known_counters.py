"""The filter of known counters never denies one that stands in the file, however loading and writing interleave."""

import sqlite3
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.sqlite_known import KnownCounters


def key(number):
    return (f"user={number}", "2026-11", "usd")


def until(condition, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


class File:
    """Shares that are written while they are read; a reader sees those that stood there when it began."""

    def __init__(self):
        self.keys = []
        self.may_read = threading.Event()
        self.fails = False

    def connect(self):
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        if not self.fails:
            connection.execute('CREATE TABLE shares (counter, "window", unit)')
            connection.executemany("INSERT INTO shares VALUES (?, ?, ?)", list(self.keys))
        assert self.may_read.wait(20)
        return connection


@settings(max_examples=25, deadline=None)
@given(before=st.integers(0, 600), meanwhile=st.integers(0, 600), after=st.integers(0, 600), again=st.booleans())
def test_what_was_written_is_never_absent(before, meanwhile, after, again):
    file = File()
    known = KnownCounters(file.connect)

    def write(numbers):
        known.add(key(number) for number in numbers)
        file.keys += [key(number) for number in numbers]

    write(range(before))
    known.load()
    write(range(before, before + meanwhile))
    if again:
        known.forget()
        known.load()
    file.may_read.set()
    until(lambda: known.absent(("nobody", "", "")))
    end = before + meanwhile + after
    write(range(before + meanwhile, end))
    assert not any(known.absent(key(number)) for number in range(end))
    new = sum(known.absent(key(number)) for number in range(end, end + 1_000))
    assert new >= 990, "new counters are told to be new"


def test_it_grows_with_the_file_and_stays_sparse():
    file = File()
    file.may_read.set()
    known = KnownCounters(file.connect)
    known.load()
    until(lambda: known.absent(("nobody", "", "")))
    for first in range(0, 200_000, 4_000):
        keys = [key(number) for number in range(first, first + 4_000)]
        known.add(keys)
        file.keys += keys
    until(lambda: known._meanwhile is None)
    known.add([("one", "", "")])
    until(lambda: known._meanwhile is None)
    assert not any(known.absent(key(number)) for number in range(200_000))
    assert sum(known.absent(key(number)) for number in range(200_000, 201_000)) > 900


def test_a_file_that_cannot_be_read_costs_look_ups_only():
    file = File()
    file.fails = True
    file.may_read.set()
    known = KnownCounters(file.connect)
    known.load()
    until(lambda: known._meanwhile is None)
    assert not known.absent(key(1))
    file.fails = False
    known.load()
    until(lambda: known.absent(key(1)))
    known.forget()
    assert not known.absent(key(1))
