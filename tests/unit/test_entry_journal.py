"""The entry journal: what was written is shipped once and in order, whether it is still in memory or only on disk."""

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.journal import EntryJournal, Record, line_of, read_entries, record_of

GROUPS = st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30)
"""Per group: its records, whether they are kept in memory, and how often the shipper comes before the next one."""


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, segment_bytes=st.integers(60, 500), loses=st.integers(0, 5))
def test_records_are_shipped_once_and_in_order(tmp_path_factory, groups, segment_bytes, loses):
    folder = tmp_path_factory.mktemp("journal")
    journal = EntryJournal(folder, "w", segment_bytes=segment_bytes)
    seq, shipped, reads = 0, [], 0

    def ship():
        nonlocal reads
        found, place = journal.read()
        reads += 1
        if reads % 5 != loses:  # else the database did not take them: they come again
            shipped.extend(record.seq for record in found)
            journal.shipped(place)

    for size, kept, visits in groups:
        records = [Record(seq=seq + number, ids=(f"e{seq + number}",)) for number in range(1, size + 1)]
        seq += size
        journal.write([line_of(record) for record in records], records if kept else ())
        for _ in range(visits):
            ship()
    first = shipped[-1] if shipped else 0
    on_disk = [record.seq for record in read_entries(folder, "w")]
    assert on_disk == list(range(on_disk[0], seq + 1)), "nothing of an earlier use of a segment is read"
    assert on_disk[0] <= first + 1, "nothing goes from the disk before it is shipped"
    while journal.waiting:
        ship()
    assert shipped == list(range(1, seq + 1))
    journal.close(remove=True)


@given(ids=st.lists(st.text(max_size=9000), max_size=3), at=st.integers(0, 40))
def test_a_line_is_read_back_and_a_damaged_one_is_not(ids, at):
    record = Record(seq=7, ids=tuple(ids), ended="é")
    line = line_of(record)
    assert record_of(line.removesuffix(b"\n")) == record
    assert line.count(b"\n") == 1
    place = min(at, len(line) - 2)
    damaged = bytearray(line.removesuffix(b"\n"))
    damaged[place] ^= 1
    assert place == 8 or record_of(bytes(damaged)) is None
