"""Reading ahead: the pages that are named are those that have the rows; what is no such file is left alone."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.sqlite_ahead import Ahead

SIZE = 512


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(the file, the first page of its table, the row numbers of the table)."""
    path = tmp_path_factory.mktemp("ahead") / "x.db"
    seqs = [*range(1, 3_000, 2), *range(10**6, 10**6 + 3_000), *range(2**40, 2**40 + 2_000, 7)]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {SIZE}")
        connection.execute("CREATE TABLE entries (seq INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO entries VALUES (?, ?)", ((seq, "x" * (seq % 150)) for seq in seqs))
        connection.commit()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()
    return path, root, seqs


def rows_of(data: bytes, number: int) -> list[int]:
    """The row numbers on a leaf, read by the file format's own words."""
    page = data[(number - 1) * SIZE : number * SIZE]
    assert page[0] == 13, "a leaf of a table"
    found = []
    for at in range(int.from_bytes(page[3:5], "big")):
        place = int.from_bytes(page[8 + 2 * at : 10 + 2 * at], "big")
        while page[place] & 0x80:
            place += 1
        place, value = place + 1, 0
        while page[place] & 0x80:
            place, value = place + 1, value << 7 | page[place] & 0x7F
        found.append(value << 7 | page[place])
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from((0, 2_900, 10**6 - 5, 10**6 + 1_500, 2**40 + 900)),
                          st.integers(0, 120), st.integers(1, 90)), max_size=5))  # fmt: skip
def test_the_pages_of_rows_are_those_that_sqlite_put_them_on(table, said):
    path, root, seqs = table
    spans = [(start + shift, start + shift + length) for start, shift, length in said]
    ahead, data = Ahead(path, root, small=0), path.read_bytes()
    pages = ahead.pages(spans)
    ahead.fetch(spans)
    on_pages = {seq for page in pages for seq in rows_of(data, page)}
    wanted = {seq for low, high in spans for seq in seqs if low <= seq < high}
    assert wanted <= on_pages
    assert len(pages) <= len(wanted) + 2 * len(spans)


def test_what_is_no_tree_is_left_alone(tmp_path, table):
    for text in (b"", b"nothing of the kind " * 400, table[0].read_bytes()[:3_000]):
        (tmp_path / "y.db").write_bytes(text)
        Ahead(tmp_path / "y.db", 2, small=0).fetch([(1, 50)])
    assert Ahead(tmp_path / "missing.db", 2, small=0).pages([(1, 50)]) == []
    assert Ahead(table[0], table[1]).pages([(1, 50)]) == [], "small files are not worth it"
