"""What is remembered between calls: the same comes out as if nothing were, whatever came before."""

import asyncio
import hashlib

import msgspec
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from farthing.adapters.http_request import HeadWriter
from farthing.core.errors import FarthingError, Unauthorized
from farthing.core.types import KeyRecord, PromptView, Scope
from farthing.ports.provider import HttpRequest
from farthing.server.auth import Doorman, Scopes, scope_of
from farthing.server.direct import head_of
from farthing.server.head import Head
from farthing.server.protocol import GatewayProtocol
from farthing.testing.fakes import VirtualClock
from farthing.wire import anthropic, openai
from farthing.wire.headers import Travellers, travelling
from farthing.wire.prefix import Prefixes, digest
from farthing.wire.usage.openai import ChatReader
from farthing.wire.usage.openai_tokens import TOKEN_USAGE, token_part, totals_of

QUICK = settings(max_examples=120, deadline=None)
NAMES = st.sampled_from(
    [b"accept", b"x-farthing-team", b"x-farthing-user", b"x-farthing-tags", b"traceparent", b"authorization", b"host"]
)
VALUES = st.sampled_from([b"a", b"search", b"k=v", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01", b"\xff", b""])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=4)


def record(**fields):
    plain = {"id": "key_1", "name": "n", "hash": "h", "hint": "abcd", "scope": Scope(), "created_at_ms": 1}
    return KeyRecord(**{**plain, **fields})


RECORDS = (
    record(),
    record(scope=Scope(team="other")),
    record(id="key_2", refine=("team", "user", "tags"), scope=Scope(user="u", tags=(("k", "w"),))),
)
VIEWS = tuple(
    PromptView(endpoint="chat", model="m", **more)
    for more in ({}, {"user": "ada"}, {"metadata": (("farthing_feature", "f"), ("plan", "gold"))})
)


def outcome(made):
    try:
        return made()
    except FarthingError as error:
        return type(error), str(error)


@QUICK
@given(calls=st.lists(st.tuples(st.sampled_from(RECORDS), HEADERS, st.sampled_from(VIEWS)), max_size=12))
def test_a_remembered_scope_is_the_one_that_is_read(calls):
    scopes = Scopes(most=3)
    for key, headers, view in calls:
        expected = outcome(lambda key=key, headers=headers, view=view: scope_of(key, headers, view))
        found = outcome(lambda key=key, headers=headers, view=view: scopes.of(key, Head(headers), view))
        assert found == expected


class Keys:
    """A fake of our ``Keys`` port."""

    def __init__(self, *records):
        self.records = list(records)

    def find(self, secret_hash):
        return next((one for one in self.records if one.hash == secret_hash), None)

    def all(self):
        return tuple(self.records)


def test_a_key_that_was_used_is_refused_a_second_after_it_was_revoked_changed_or_deleted():
    clock = VirtualClock(1_000_000)
    key = record(hash=hashlib.sha256(b"fk-1").hexdigest())
    keys = Keys(key, record(id="key_2", hash="other"))
    doorman = Doorman(keys, clock)
    assert doorman.key(b"fk-1") is doorman.key(b"fk-1")
    clock.advance(1_000)
    assert doorman.key(b"fk-1") is key  # unchanged, so what is remembered of it stays
    keys.records[0] = msgspec.structs.replace(key, scope=Scope(team="new"))
    clock.advance(1_000)
    assert doorman.key(b"fk-1").scope.team == "new"
    keys.records[0] = msgspec.structs.replace(key, revoked_at_ms=1)
    clock.advance(1_000)
    with pytest.raises(Unauthorized, match="revoked"):
        doorman.key(b"fk-1")
    del keys.records[0]
    clock.advance(1_000)
    with pytest.raises(Unauthorized, match="not known"):
        doorman.key(b"fk-1")


@QUICK
@given(sent=st.lists(HEADERS, min_size=1, max_size=5), order=st.lists(st.integers(0, 4), max_size=20))
def test_headers_travel_alike_whether_or_not_they_came_before(sent, order):
    tuples = [tuple(headers) for headers in sent]
    own, default = ((b"authorization", b"p"),), ((b"accept", b"*/*"), (b"version", b"1"))
    travellers, writer = Travellers(own, default=default, most=2), HeadWriter()
    for place in order:
        headers = tuples[place % len(tuples)]
        found = travellers.of(headers)
        bare = [*travelling(headers), *own]
        assert found == (*bare, *[pair for pair in default if pair[0] not in dict(bare)])
        url, body = f"http://h/{place % 2}", b"x" * place
        request = HttpRequest(method="POST", url=url, headers=found, body=body)
        fresh = HeadWriter()
        assert writer.head(writer.start("POST", url)[1], request) == fresh.head(fresh.start("POST", url)[1], request)


@QUICK
@given(
    prompts=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=5)),
        max_size=12,
    )
)
def test_known_parts_have_the_digests_of_new_ones(prompts):
    warm = Prefixes(b"salt", most=6)
    for system, turns in prompts:
        messages = [{"role": "user" if many % 2 else "assistant", "content": letter * 400} for letter, many in turns]
        fields = {"tools": [{"name": "t" * system}], "system": "s" * system, "messages": messages}
        body = msgspec.json.encode(fields)
        assert warm.sections(body) == Prefixes(b"salt").sections(body)
        assert warm.digest(body) == digest(body, b"salt")


COUNTS = st.one_of(st.none(), st.integers(0, 30))


@QUICK
@given(
    prompt=st.integers(0, 30), completion=st.integers(0, 30), off=st.sampled_from([0, 0, 0, 1]), cached=COUNTS,
    reasoning=COUNTS, audio=COUNTS, rejected=COUNTS, beside=st.booleans(),
)  # fmt: skip
def test_plain_usage_makes_the_lines_of_the_long_way(
    prompt, completion, off, cached, reasoning, audio, rejected, beside
):
    taken = {"cached_tokens": cached, "audio_tokens": audio}
    given_ = {"reasoning_tokens": reasoning, "rejected_prediction_tokens": rejected}
    names = ("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details")
    others = ("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")  # never plain
    found = []
    for said in (names, others):
        fields = dict(zip(said, (prompt, completion, taken, given_), strict=True))
        usage = TOKEN_USAGE.decode(msgspec.json.encode({**fields, "total_tokens": prompt + completion + off}))
        notes = []
        found.append((token_part(usage, totals_of(usage, notes), notes, reasoning_beside=beside), notes))
    assert found[0] == found[1]


class LongWay(ChatReader):
    """The same reader, told from one without habits of its own by its overriding something."""

    def extras(self, raw, facts, notes):
        return super().extras(raw, facts, notes)


FIGURES = st.sampled_from([None, 0, 1, 7, 7, 7, -1, 2.5, "x", 10**15])
WORDS = st.sampled_from([None, "", "default", "on_demand", "gpt", 3])


@settings(max_examples=250, deadline=None)
@given(
    figures=st.dictionaries(
        st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "reasoning_tokens"]),
        FIGURES,
        min_size=2,
    ),
    cached=st.one_of(st.none(), st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens"]), FIGURES)),
    tiers=st.tuples(WORDS, WORDS), named=st.tuples(WORDS, WORDS, WORDS), adds_up=st.booleans(), given_=st.booleans(),
)  # fmt: skip
def test_an_ordinary_answer_is_read_as_by_the_long_way(figures, cached, tiers, named, adds_up, given_):
    usage = {**figures, "prompt_tokens_details": cached, "service_tier": tiers[0]}
    if adds_up:
        usage |= {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    fields = {"id": named[0], "model": named[1], "service_tier": tiers[1], "choices": [{"finish_reason": named[2]}]}
    body = msgspec.json.encode({**fields, "usage": usage} if given_ else fields)
    assert ChatReader("openai").from_body(body) == LongWay("openai").from_body(body)


@QUICK
@given(
    headers=st.lists(st.tuples(st.sampled_from([b"a", b"connection", b"b\n"]), st.binary(max_size=6)), max_size=5),
    keep_alive=st.booleans(),
)
def test_a_header_with_a_control_character_is_left_out_and_nothing_else(headers, keep_alive):
    head, stays = head_of(200, headers, keep_alive=keep_alive)
    controls = {*range(9), *range(10, 32), 127}
    kept = [pair for pair in headers if pair[0] == b"a" and not controls & {*pair[1]}]
    stayed = keep_alive and all(name != b"connection" for name, _ in headers)
    lines = [b"%b: %b" % pair for pair in kept] + ([] if stayed else [b"connection: close"])
    assert (head, stays) == (b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b""]), stayed)


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": dict(scope["headers"]).get(b"content-length", b"")[:0]})


async def test_a_connection_without_a_request_is_closed_and_one_with_half_a_request_is_not():
    config = uvicorn.Config(answer, http=GatewayProtocol, timeout_keep_alive=1, log_level="critical", lifespan="off")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: GatewayProtocol(config, state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    (idle, first), (busy, second) = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for reader, writer in ((idle, first), (busy, second)):
        writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    second.write(b"GET / HTTP/1.1\r\nhost: ")
    async with asyncio.timeout(60):
        assert await idle.read() == b""
    second.write(b"h\r\n\r\n")
    async with asyncio.timeout(60):
        assert (await busy.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    for writer in (first, second):
        writer.close()
    server.close()


@QUICK
@given(
    fields=st.dictionaries(
        st.sampled_from(["tools", "functions", "system", "instructions", "input", "prompt", "stream", "user"]),
        st.sampled_from([None, "text", [{"type": "x", "name": "n"}], [], {"a": [1]}]),
    ),
    messages=st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "a", "tool"]), "content": st.text(max_size=3)})
    ),
    first=st.booleans(),
)  # fmt: skip
def test_the_prints_of_a_request_are_those_of_its_body_whatever_reading_its_view_has_found(fields, messages, first):
    named = {"model": "m", "max_tokens": 5, "messages": messages}
    body = msgspec.json.encode({**named, **fields} if first else {**fields, **named})
    for read in (openai.read_chat, anthropic.read_messages):
        try:
            parts = read(body)[1]
        except FarthingError:
            continue
        assert Prefixes(b"salt").sections(body, parts) == Prefixes(b"salt").sections(body)
