"""The event splitter: the WHATWG format, however the bytes are cut, in bounded memory."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.errors import StreamBroken
from farthing.wire.sse import SseEvent, SseSplitter


def events_of(*chunks: bytes) -> list[tuple[bytes, bytes]]:
    splitter = SseSplitter()
    found = [event for chunk in chunks for event in splitter.feed(chunk)]
    return [tuple(event) for event in found + splitter.finish()]


def reference(data: bytes) -> list[tuple[bytes, bytes]]:
    """The format read in one go: obviously right, and nothing else."""
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, name, lines = [], b"", []
    for line in [*data.split(b"\n"), b""]:
        if not line:
            if lines:
                events.append((name, b"\n".join(lines)))
            name, lines = b"", []
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    return events


pieces = st.sampled_from(
    [b"data: a", b"data:b", b"data", b"data:", b"event: x", b"event:y", b": note", b":", b"id: 1", b"\n", b"\r\n",
     b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b"\xef\xbb\xbf", b" ", b"data: \xc3\xa9", b"retry: 9", b"datax: 1"]
)  # fmt: skip


@given(st.lists(pieces, max_size=30).map(b"".join), st.data())
@settings(max_examples=300, deadline=None)
def test_any_cut_gives_the_same_events_as_reading_it_whole(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    bounds = [0, *cuts, len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    assert events_of(*chunks) == events_of(stream) == reference(stream)


@given(st.lists(pieces, max_size=20).map(b"".join))
@settings(max_examples=200, deadline=None)
def test_feeding_byte_by_byte_gives_the_same_events(stream: bytes) -> None:
    assert events_of(*[stream[place : place + 1] for place in range(len(stream))]) == reference(stream)


def test_several_data_lines_are_joined_by_a_line_feed() -> None:
    assert events_of(b"event: note\ndata: one\ndata:  two\n\n") == [(b"note", b"one\n two")]


def test_comments_ids_and_empty_events_are_not_events() -> None:
    assert events_of(b": OPENROUTER PROCESSING\n\nid: 7\n\nevent: lost\n\ndata: kept\n\n") == [(b"", b"kept")]


def test_an_event_is_given_out_as_soon_as_its_blank_line_arrived() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: 1\r\n\r") == [SseEvent(b"", b"1")]
    assert splitter.feed(b"\ndata: 2\r") == []
    assert splitter.feed(b"\n\r\n") == [SseEvent(b"", b"2")]


def test_the_end_of_the_stream_completes_an_open_event_once() -> None:
    splitter = SseSplitter()
    assert splitter.feed(b"data: last") == []
    assert splitter.finish() == [SseEvent(b"", b"last")]
    assert splitter.finish() == []


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 40, b": " + b"x" * 40, b"data: xxxxxxxx\n" * 4])
def test_an_event_beyond_the_bound_is_refused_whatever_it_is_made_of(chunk: bytes) -> None:
    splitter = SseSplitter(event_bytes_max=32)
    with pytest.raises(StreamBroken, match="larger than 32 bytes"):
        splitter.feed(chunk)


def test_the_bound_is_per_event_not_per_stream() -> None:
    splitter = SseSplitter(event_bytes_max=32)
    assert sum(len(splitter.feed(b"data: 0123456789\n\n")) for _ in range(100)) == 100


def test_a_byte_order_mark_inside_the_stream_is_data() -> None:
    assert events_of(b"data: 1\n\n", b"\xef\xbb\xbfdata: 2\n\n") == [(b"", b"1")]
