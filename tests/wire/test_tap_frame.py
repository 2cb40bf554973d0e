"""Events that are passed over because they look like their neighbours: what is metered and passed stays the same."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.wire.tap import MESSAGES_TERMINALS, OPENAI_TERMINALS, StreamTap, payload_of, strip_asked_usage
from farthing.wire.tap_frame import LESSONS_MAX, PlainFrame
from farthing.wire.usage import reader_for

QUICK = settings(max_examples=150, deadline=None)
TRAPS = ["", "usage", "_tokens", "finish_reason", "[DONE]", "data: [DONE]", 'said "so"', "line\n", "back\\slash", "☂"]
WORDS = st.sampled_from(["a", " the", *TRAPS])
DONE = b"data: [DONE]\n\n"


def line(payload, name=""):
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


@st.composite
def chats(draw):
    """A chat stream of many alike events, with whatever else servers put between them."""
    shape = draw(st.sampled_from(["bare", "null usage", "padded", "numbered"]))
    parts = []
    for number, word in enumerate(draw(st.lists(WORDS, min_size=4, max_size=24))):
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        payload = {"id": "c", "model": "gpt-4o", "choices": [choice]}
        if shape == "null usage":
            payload["usage"] = None
        elif shape == "padded":
            payload["obfuscation"] = "x" * (number % 5)
        elif shape == "numbered":
            payload = {"sequence": number, **payload}
        if draw(st.integers(0, 9)) == 0:
            choice["finish_reason"] = draw(st.sampled_from(["stop", "length"]))
        if draw(st.integers(0, 9)) == 0:
            payload["usage"] = {"prompt_tokens": number, "completion_tokens": 1, "total_tokens": number + 1}
        parts.append(line(payload))
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    parts.append(line({"id": "c", "model": "gpt-4o", "choices": [], "usage": usage}))
    return [*parts, DONE]


@st.composite
def cuts(draw, data):
    places = draw(st.lists(st.integers(0, len(data)), max_size=12))
    edges = [0, *sorted(set(places)), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges) if start < stop]


@QUICK
@given(data=st.data(), events=chats(), strip=st.booleans())
def test_a_chat_stream_is_metered_and_passed_as_if_every_event_were_read(data, events, strip):
    meter, every = (reader_for("openai", "chat").meter() for _ in range(2))
    tap = StreamTap(meter, marks=meter.marks, terminals=OPENAI_TERMINALS, strip_usage=strip)
    passed = b"".join(map(tap.feed, data.draw(cuts(b"".join(events)))))
    for event in events:
        every.event(payload_of(event))
    assert meter.usage(complete=True) == every.usage(complete=True)
    said = [strip_asked_usage(event) if strip else event for event in events[:-1]]
    assert (passed, tap.held) == (b"".join(said), DONE)


@QUICK
@given(data=st.data(), words=st.lists(WORDS, min_size=4, max_size=24), output=st.integers(0, 99))
def test_a_message_stream_is_metered_and_passed_as_if_every_event_were_read(data, words, output):
    usage = {"input_tokens": 5, "output_tokens": 1}
    events = [line({"type": "message_start", "message": {"id": "m", "model": "c", "usage": usage}}, "message_start")]
    for word in words:
        delta = {"type": "text_delta", "text": word}
        events.append(line({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta"))
    events.append(line({"type": "message_delta", "delta": {}, "usage": {"output_tokens": output}}, "message_delta"))
    events.append(line({"type": "message_stop"}, "message_stop"))
    meter, every = (reader_for("anthropic", "messages").meter() for _ in range(2))
    tap = StreamTap(meter, marks=meter.marks, terminals=MESSAGES_TERMINALS)
    passed = b"".join(map(tap.feed, data.draw(cuts(b"".join(events)))))
    for event in events:
        every.event(payload_of(event))
    assert meter.usage(complete=True) == every.usage(complete=True)
    assert (passed, tap.held) == (b"".join(events[:-1]), events[-1])


@st.composite
def in_chunks(draw, events):
    """The same stream as HTTP chunks: mostly an event each, now and then several or a part of one."""
    parts = []
    for event in events:
        way = draw(st.sampled_from(["alone", "alone", "alone", "joined", "cut"]))
        if way == "joined" and parts:
            parts[-1] += event
        elif way == "cut":
            place = draw(st.integers(1, len(event) - 1))
            parts += [event[:place], event[place:]]
        else:
            parts.append(event)
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]


def payload(chunk):
    line, _, rest = chunk.partition(b"\r\n")
    assert (int(line, 16), rest[-2:]) == (len(rest) - 2, b"\r\n"), "a chunk that passes is framed as it must be"
    return rest[:-2]


@QUICK
@given(data=st.data(), events=chats(), strip=st.booleans())
def test_chunks_that_are_not_parsed_are_metered_and_passed_as_if_they_were(data, events, strip):
    meter, every = (reader_for("openai", "chat").meter() for _ in range(2))
    tap = StreamTap(meter, marks=meter.marks, terminals=OPENAI_TERMINALS, strip_usage=strip)
    passed = []
    for chunk in data.draw(in_chunks(events)):
        whole = tap.take_chunk(chunk)
        passed.append(payload(whole) if whole else tap.feed(payload(chunk)))
    for event in events:
        every.event(payload_of(event))
    assert meter.usage(complete=True) == every.usage(complete=True)
    said = [strip_asked_usage(event) if strip else event for event in events[:-1]]
    assert (b"".join(passed), tap.held) == (b"".join(said), DONE)


@pytest.mark.parametrize("size", [1, 30, 180, 200, 240, 250, 260, 1_900, 3_000, 5_000])
@pytest.mark.parametrize("strips", [False, True])
def test_a_chunk_is_known_at_any_length_and_only_as_it_stands(size, strips):
    frame = PlainFrame(strips=strips)
    frame.learn(line({"a": "x", "content": "y", "usage": None}))
    event = line({"a": "x", "content": "z" * size, "usage": None})
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    for _ in range(2):  # the second time its length is known
        assert payload(frame.take_chunk(chunk)) == (event.replace(b',"usage":null', b"") if strips else event)
    for other in (
        chunk[1:],
        chunk[:-1],
        chunk + b"\n",
        b"0" + chunk,
        chunk[:-2] + b"\n\r",
        b"%x\r\n%b\r\n" % (len(event) + 1, event),
        b"%x\r\n%b\r\n" % (len(event) - 1, event),
        chunk.replace(b"z", b"\n", 1),
        chunk.replace(b"z", b'"', 1),
        event,
    ):
        assert frame.take_chunk(other) == b""


def test_no_chunk_is_taken_while_an_event_is_arriving_or_after_the_end():
    meter = reader_for("openai", "chat").meter()
    tap = StreamTap(meter, marks=meter.marks, terminals=OPENAI_TERMINALS)
    event = line({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    assert tap.take_chunk(chunk) == b""
    tap.feed(event + event)
    tap.feed(event)
    assert tap.take_chunk(chunk) == chunk
    tap.feed(event[:9])
    assert tap.take_chunk(chunk) == b""
    assert tap.feed(event[9:]) == event
    assert tap.take_chunk(chunk) == chunk
    tap.feed(DONE)
    assert tap.take_chunk(chunk) == b""


def known(*events):
    frame = PlainFrame()
    for event in events:
        frame.learn(event)
    return frame


def skipped(frame, data, start):
    end, passed = frame.take(data, start)
    assert passed == data[start:end]
    return end


def test_alike_events_are_passed_over_together_and_no_further():
    frame = known(line({"b": 1, "a": "x"}), line({"b": 2, "a": "y"}))
    run = line({"b": 3, "a": "z"}) + line({"b": 44, "a": ""})
    assert skipped(frame, run + line({"b": 3, "c": "z"}), 0) == len(run)
    assert skipped(frame, b"...." + run, 4) == 4 + len(run)


def test_a_key_a_quote_or_a_line_more_is_another_event():
    frame = known(line({"a": "x"}), line({"a": "y"}))
    for other in (
        line({"b": "x"}),
        line({"a": "x", "usage": {"total_tokens": 1}}),
        b'data: {"a":"x","b":"y"}\n\n',
        b'data: {"a":"x\\\\","b":"y"}\n\n',
        b'data: {"a":"x\ndata: [DONE]"}\n\n',
        b'data: {"a":"x"}\r\n\r\n',
        DONE,
    ):
        assert skipped(frame, other, 0) == 0
    assert skipped(frame, line({"a": "z"})[:-1], 0) == 0
    said = line({"a": 'said "so"'})
    assert skipped(frame, said + line({"a": "z"}), 0) == len(said + line({"a": "z"}))


def test_what_differs_in_a_key_or_at_the_start_teaches_nothing():
    for one, two in (
        (line({"a": "x"}), line({"b": "x"})),
        (line({"a": "x"}, "first"), line({"a": "x"}, "second")),
        (line({"a": ["x"]}), line({"a": ["y"]})),
        (line({"a": "x", "b": 1}), line({"a": "x", "b": 2})),
    ):
        assert skipped(known(one, two), two, 0) == 0


def test_a_stream_that_changes_its_form_is_not_learned_from_for_ever():
    frame = PlainFrame()
    for number in range(LESSONS_MAX):
        frame.learn(line({f"key{number}": "x"}))
    frame.learn(line({"a": "x"}))
    frame.learn(line({"a": "y"}))
    assert skipped(frame, line({"a": "z"}), 0) == 0
