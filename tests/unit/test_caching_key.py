"""The key of an answer: equal for the same question from the same side of every partition, different otherwise."""

import json
import random
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.caching import Routes, controls_of, refusal
from farthing.core.caching_key import Uncacheable, digest_of, fields_of, key_of, partition_of
from farthing.core.errors import BadRequest
from farthing.core.policy_cache import TENANT, CacheRoute
from farthing.core.types import PromptView, Request, Scope, Target
from farthing.wire.anthropic import VIEWS as ANTHROPIC
from farthing.wire.openai import VIEWS as OPENAI

ROUTE = CacheRoute(name="all")
TARGET = Target(provider="openai", price_as="openai", model="gpt-4o")
HELLO: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}


def request(
    body: bytes,
    *,
    scope: Scope | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    endpoint: str = "chat",
) -> Request:
    views = {**OPENAI, **ANTHROPIC}
    return Request(
        id="r",
        received_at_ms=0,
        dialect="anthropic" if endpoint == "messages" else "openai",
        body=body,
        headers=headers,
        view=views[endpoint](body),
        scope=scope or Scope(team="search", key="k1"),
    )


def key(body: dict[str, Any] | bytes, *, route: CacheRoute = ROUTE, target: Target = TARGET, **more: Any) -> str:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = request(data, **more)
    return key_of(partition_of(asked, route, target), fields_of(data, route.ignore))


# -- isolation: 100,000 requests

SYSTEMS = ["", "Be brief.", "Be brief", "You serve tenant A.", "You serve tenant B."]
TOOLS: list[Any] = [None, [], [{"type": "function", "function": {"name": "f"}}],
                    [{"type": "function", "function": {"name": "f", "strict": True}}]]  # fmt: skip
FORMATS: list[Any] = [None, {"type": "json_object"}, {"type": "text"}]
TURNS = [
    ("Hello",),
    ("Hello", "Hi", "Hello"),
    ("Hel", "lo"),
    ("Hello", "Hi"),
    ("He\u0301llo",),
    ("H\u00e9llo",),
    ("1",),
]


def picture(address: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": address}}]}]}


PARAMS: list[dict[str, Any]] = [{}, {"temperature": 0}, {"temperature": 0.5}, {"seed": 1}, {"seed": 2**64},
                                {"seed": 2**64 + 1}, {"top_p": 1}, {"tomorrow": {"x": [1, 1.0]}},
                                {"tomorrow": {"x": [1.0, 1]}}, {"max_tokens": 5}, {"user": "u"}]  # fmt: skip
SCOPES = [
    Scope(org=org, team=team, customer=customer, user=user, key=key)
    for org, team, customer, user, key in product(["", "o"], ["", "t"], ["", "c1", "c2"], ["", "u"], ["k1", "k2"])
]
MODELS = ["gpt-4o", "gpt-4o-mini"]
HEADERS = [(), ((b"openai-organization", b"o1"),), ((b"x-unheard-of", b"1"),)]


def spelled(value: Any, dice: random.Random) -> str:
    """The same JSON value, written in one of many ways."""
    if isinstance(value, dict):
        names = list(value)
        dice.shuffle(names)
        gap = dice.choice(["", " ", "\n "])
        return "{" + ",".join(f"{gap}{spelled(name, dice)}{gap}:{spelled(value[name], dice)}" for name in names) + "}"
    if isinstance(value, list):
        return "[" + f"{dice.choice(['', ' '])},".join(spelled(item, dice) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=dice.random() < 0.5)
    if isinstance(value, float) and "e" not in repr(value) and dice.random() < 0.3:
        return repr(value) + "0"
    return json.dumps(value)


def test_no_key_crosses_a_partition_in_100_000_requests() -> None:
    dice = random.Random(7)
    owner: dict[str, Any] = {}
    keys: dict[Any, str] = {}
    for _ in range(100_000):
        scope, system, tools, form, turns, params, model, headers = (
            dice.choice(pool) for pool in (SCOPES, SYSTEMS, TOOLS, FORMATS, TURNS, PARAMS, MODELS, HEADERS)
        )
        roles = ["user", "assistant"]
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]
        body: dict[str, Any] = {"model": model, "messages": messages, **params}
        if tools is not None:
            body["tools"] = tools
        if form is not None:
            body["response_format"] = form
        identity = (scope, json.dumps({**body, **plain_floats(body)}, sort_keys=True), headers)
        if dice.random() < 0.5:
            body["stream"] = dice.random() < 0.5
        text = (
            spelled(body, dice).encode() if dice.random() < 0.1 else json.dumps(body, separators=(",", ":")).encode()
        )
        asked = Request(
            id="r", received_at_ms=0, dialect="openai", body=text, headers=headers,
            view=PromptView(endpoint="chat", model=model), scope=scope,
        )  # fmt: skip
        target = Target(provider="openai", price_as="openai", model=model)
        found = key_of(partition_of(asked, ROUTE, target), fields_of(text))
        assert owner.setdefault(found, identity) == identity, "two questions under one key"
        assert keys.setdefault(identity, found) == found, "one question under two keys"
    assert len(keys) == len(owner) > 40_000


def plain_floats(body: dict[str, Any]) -> dict[str, Any]:
    """Parameters that are numbers by their meaning: 0 and 0.0 ask the same."""
    return {name: float(body[name]) for name in ("temperature", "top_p") if name in body}


# -- the body


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"model":"m","messages":[],"a":1,"b":2}', b'{ "b": 2, "a":1, "messages": [], "model":"m"}', True),
        (b'{"model":"m","messages":[],"temperature":1}', b'{"model":"m","messages":[],"temperature":1.0}', True),
        (b'{"model":"m","messages":[],"temperature":0.7}', b'{"model":"m","messages":[],"temperature":7e-1}', True),
        (b'{"model":"m","messages":[],"x":1}', b'{"model":"m","messages":[],"x":1.0}', False),
        (b'{"model":"m","messages":[],"x":"\\u00e9"}', '{"model":"m","messages":[],"x":"\u00e9"}'.encode(), True),
        ('{"model":"m","messages":[],"x":"e\u0301"}'.encode(),
         '{"model":"m","messages":[],"x":"\u00e9"}'.encode(), False),
        (b'{"model":"m","messages":[],"x":null}', b'{"model":"m","messages":[]}', False),
        (b'{"model":"m","messages":[],"x":true}', b'{"model":"m","messages":[],"x":1}', False),
        (b'{"model":"m","messages":[],"x":"1"}', b'{"model":"m","messages":[],"x":1}', False),
        (b'{"model":"m","messages":[],"x":[1,2]}', b'{"model":"m","messages":[],"x":[2,1]}', False),
        (b'{"model":"m","messages":[],"x":18446744073709551617}',
         b'{"model":"m","messages":[],"x":18446744073709551618}', False),
        (b'{"model":"m","messages":[],"x":-0.0}', b'{"model":"m","messages":[],"x":0.0}', False),
        (b'{"model":"m","messages":[],"stream":true}', b'{"model":"m","messages":[],"stream":false}', True),
        (b'{"model":"m","messages":[],"stream_options":{"include_usage":true}}',
         b'{"model":"m","messages":[]}', True),
        (b'{"model":"m","messages":[],"x":{"stream":true}}', b'{"model":"m","messages":[],"x":{}}', False),
        (b'{"model":"m","messages":[],"x":"a\\u0000b"}', b'{"model":"m","messages":[],"x":"ab"}', False),
    ],
)  # fmt: skip
def test_the_same_value_is_the_same_key_however_it_is_written(one: bytes, other: bytes, same: bool) -> None:
    assert (key(one) == key(other)) == same


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"model":"m","model":"n","messages":[]}', "duplicate_name"),
        (b'{"model":"m","messages":[{"role":"user","content":"good","content":"bad"}]}', "duplicate_name"),
        (b'{"model":"m","messages":[],"\\u0061":1,"a":2}', "duplicate_name"),
        (b'{"model":"m","messages":[],"x":0.1000000000000000055511151231257827}', "number_precision"),
        (b'{"model":"m","messages":[],"x":1e400}', "unreadable"),
        (b'{"model":"m","messages":[],"x":1e-999}', "number_precision"),
        (b'{"model":"m","messages":[],"x":"\\ud800"}', "unreadable"),
        (b"[1]", "unreadable"),
        (b'{"model":"m","messages":' + b"[" * 5000 + b"]" * 5000 + b"}", "unreadable"),
    ],
)
def test_a_body_without_a_single_meaning_has_no_key(body: bytes, why: str) -> None:
    with pytest.raises(Uncacheable, match=why):
        fields_of(body)


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def _kinds(value: Any) -> Any:
    """Python holds 1 == 1.0 == True; JSON does not."""
    if isinstance(value, dict):
        return ("d", sorted((name, _kinds(item)) for name, item in value.items()))
    if isinstance(value, list):
        return ("l", [_kinds(item) for item in value])
    return (type(value).__name__, repr(value))


@settings(max_examples=300, deadline=None)
@given(JSON, JSON, st.integers())
def test_keys_are_equal_exactly_for_equal_json(one: Any, other: Any, seed: int) -> None:
    dice = random.Random(seed)
    first = key(spelled({**HELLO, "x": one}, dice).encode())
    assert first == key({**HELLO, "x": one})
    assert (first == key({**HELLO, "x": other})) == (_kinds(one) == _kinds(other))


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_no_two_lists_of_parts_run_together(one: list[bytes], other: list[bytes]) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)


# -- what lies outside the body


@pytest.mark.parametrize("name", TENANT)
def test_every_tenant_dimension_divides(name: str) -> None:
    assert key(HELLO, scope=Scope(**{name: "a"})) != key(HELLO, scope=Scope(**{name: "b"}))
    assert key(HELLO, scope=Scope(**{name: "a"})) != key(HELLO, scope=Scope())


def test_values_do_not_slide_from_one_dimension_to_the_next() -> None:
    scopes = [Scope(org="ab"), Scope(org="a", team="b"), Scope(team="ab"), Scope(org="a", team="", project="b")]
    assert len({key(HELLO, scope=scope) for scope in scopes}) == 4


def test_a_route_may_share_more_but_only_what_it_names() -> None:
    team = CacheRoute(name="team", partition=("team",))
    assert key(HELLO, route=team, scope=Scope(team="a", user="u", key="k")) == key(
        HELLO, route=team, scope=Scope(team="a", user="v", key="l")
    )
    assert key(HELLO, route=team, scope=Scope(team="a", key="k")) != key(
        HELLO, route=team, scope=Scope(team="b", key="k")
    )
    assert key(HELLO, route=team) != key(HELLO), "another partition is another cache"


def test_a_tag_can_divide() -> None:
    route = CacheRoute(name="locale", partition=("tag:locale",))
    keys = {
        key(HELLO, route=route, scope=Scope(key="k", tags=tags))
        for tags in ((), (("locale", "de"),), (("locale", "en"),))
    }
    assert len(keys) == 3


def test_callers_with_their_own_credentials_are_apart() -> None:
    open_scope = Scope()
    one = key(HELLO, scope=open_scope, headers=((b"authorization", b"Bearer sk-one"),))
    assert one != key(HELLO, scope=open_scope, headers=((b"authorization", b"Bearer sk-two"),))
    assert one != key(HELLO, scope=open_scope)


def test_headers_that_a_provider_may_act_on_count_and_others_do_not() -> None:
    plain = key(HELLO)
    for name in (b"openai-beta", b"openai-organization", b"anthropic-beta", b"x-anything-else"):
        assert key(HELLO, headers=((name, b"1"),)) != plain, name
    for name in (
        b"user-agent",
        b"x-stainless-lang",
        b"traceparent",
        b"x-request-id",
        b"cache-control",
        b"x-farthing-tags",
    ):
        assert key(HELLO, headers=((name, b"1"),)) == plain, name
    two = ((b"openai-beta", b"a"), (b"x-b", b"c"))
    assert key(HELLO, headers=two) == key(HELLO, headers=two[::-1])
    assert key(HELLO, headers=((b"openai-beta", b"ax-bc"),)) != key(HELLO, headers=two)


def test_the_upstream_counts() -> None:
    other = Target(provider="azure", price_as="azure", model="gpt-4o")
    assert key(HELLO) != key(HELLO, target=other)
    said = {**HELLO, "max_tokens": 5}
    assert key(said) != key(said, endpoint="messages")


def test_ignored_fields_are_left_out_and_nothing_else() -> None:
    route = CacheRoute(name="all", ignore=("user", "metadata"))
    assert key(HELLO, route=route) == key({**HELLO, "user": "u", "metadata": {"a": "b"}}, route=route)
    assert key(HELLO, route=route) != key({**HELLO, "prompt_cache_key": "x"}, route=route)
    nested = {**HELLO, "tools": [{"user": "u"}]}
    assert key(nested, route=route) != key({**HELLO, "tools": [{}]}, route=route)


# -- rules


@pytest.mark.parametrize(
    ("changes", "more", "why"),
    [
        ({}, {}, ""),
        ({"temperature_max": 0.5}, {}, "temperature"),
        ({"temperature_max": 0.5}, {"temperature": 0.5}, ""),
        ({"temperature_max": 0.5}, {"temperature": 0.6}, "temperature"),
        ({}, {"n": 2}, "choices"),
        ({"choices_max": 2}, {"n": 2}, ""),
        ({}, {"seed": 1}, ""),
        ({"seeded": False}, {"seed": 1}, "seed"),
        ({"seeded": False}, {"seed": None}, ""),
        ({}, {"modalities": ["text", "audio"]}, "modality"),
        ({}, {"messages": [{"role": "tool", "content": "x"}]}, "tool_turn"),
        ({"tools": True}, {"messages": [{"role": "tool", "content": "x"}]}, ""),
        ({}, picture("https://x/y.png"), "external"),
        ({}, picture("data:image/png;base64,AA"), ""),
        ({"external": True}, picture("https://x"), ""),
        ({}, {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]}, "tool_turn"),
    ],
)  # fmt: skip
def test_rules_say_what_is_never_cached(changes: dict[str, Any], more: dict[str, Any], why: str) -> None:
    body = json.dumps({**HELLO, **more}).encode()
    route = CacheRoute(name="all", **changes)
    assert refusal(route, request(body).view, fields_of(body)) == why


def test_the_first_route_that_matches_decides() -> None:
    routes = Routes(
        (
            CacheRoute(name="off", match=(("feature", "secret"),), use=False),
            CacheRoute(name="mini", models=("*-mini",), endpoints=("chat",)),
            CacheRoute(name="tagged", match=(("tag:env", "prod"),)),
        )
    )

    def found(model: str, scope: Scope) -> str | None:
        asked = request(json.dumps({**HELLO, "model": model}).encode(), scope=scope)
        route = routes.find(asked)
        return route.name if route else None

    assert found("gpt-4o-mini", Scope()) == "mini"
    assert found("gpt-4o-mini", Scope(feature="secret")) is None
    assert found("gpt-4o", Scope()) is None
    assert found("gpt-4o", Scope(tags=(("env", "prod"),))) == "tagged"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (b"x-farthing-cache", b"bypass", (False, False, True, False, None)),
        (b"x-farthing-cache", b"refresh", (False, True, True, False, None)),
        (b"x-farthing-cache", b"exact, max-age=10", (True, True, False, False, 10_000)),
        (b"cache-control", b"no-store", (True, False, True, False, None)),
        (b"cache-control", b"No-Cache", (False, True, True, False, None)),
        (b"pragma", b"no-cache", (False, True, True, False, None)),
        (b"cache-control", b"max-age=60, only-if-cached", (True, True, True, True, 60_000)),
        (b"cache-control", b"max-age=junk", (True, True, True, False, 0)),
        (b"cache-control", b"public, max-stale=100, x=y", (True, True, True, False, None)),
        (b"user-agent", b"no-store", (True, True, True, False, None)),
    ],
)
def test_controls_only_narrow(name: bytes, value: bytes, said: tuple[Any, ...]) -> None:
    found = controls_of(((name, value),))
    assert (found.reads, found.writes, found.similar, found.only_cached, found.age_ms_max) == said


def test_the_stricter_of_two_wishes_holds() -> None:
    found = controls_of(((b"cache-control", b"max-age=60"), (b"x-farthing-cache", b"max-age=5")))
    assert found.age_ms_max == 5_000
    with pytest.raises(BadRequest, match="bypass"):
        controls_of(((b"x-farthing-cache", b"always"),))
