"""From key, headers and body to a scope: callers refine what their key allows, never more."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.errors import BadRequest, Forbidden, Unauthorized
from farthing.core.types import KeyRecord, PromptView, Scope
from farthing.server.auth import Doorman, check_model, scope_of, secret_of
from farthing.testing.fakes import VirtualClock

DIMENSIONS = ("org", "team", "project", "user", "feature", "customer", "session")


def record(**fields):
    given_fields = {
        "id": "key_1",
        "name": "search",
        "hash": "h",
        "hint": "abcd",
        "scope": Scope(),
        "created_at_ms": 1,
    }
    return KeyRecord(**{**given_fields, **fields})


def view(**fields):
    return PromptView(endpoint="chat", model="gpt-4o", **fields)


class Keys:
    """A fake of our ``Keys`` port."""

    def __init__(self, *records):
        self.records = list(records)

    def find(self, secret_hash):
        return next((one for one in self.records if one.hash == secret_hash), None)

    def all(self):
        return tuple(self.records)


def hashed(secret):
    return hashlib.sha256(secret).hexdigest()


def test_without_any_key_everybody_may_call_and_say_who_they_are():
    made = Doorman(Keys(), VirtualClock())
    assert made.is_open
    key = made.key(None)
    scope = scope_of(key, [(b"x-farthing-team", b"search"), (b"x-farthing-tags", b"a=b")], view(user="ada"))
    assert (scope.team, scope.user, scope.key, scope.tags) == ("search", "ada", "", (("a", "b"),))


def test_revoked_expired_unknown_and_missing_keys_are_refused():
    clock = VirtualClock(1_000_000)
    keys = Keys(
        record(hash=hashed(b"good")),
        record(hash=hashed(b"gone"), revoked_at_ms=5),
        record(hash=hashed(b"late"), expires_at_ms=1_000_000),
        record(hash=hashed(b"soon"), expires_at_ms=1_000_001),
    )
    made = Doorman(keys, clock)
    assert made.key(b"good").name == "search"
    assert made.key(b"soon").name == "search"
    for secret, words in ((b"gone", "revoked"), (b"late", "expired"), (b"who", "not known"), (b"", "No API key"),
                          (None, "No API key")):  # fmt: skip
        with pytest.raises(Unauthorized, match=words):
            made.key(secret)
    clock.advance(1)
    with pytest.raises(Unauthorized, match="expired"):
        made.key(b"soon")


def test_a_revocation_is_noticed_within_a_second():
    clock = VirtualClock()
    keys = Keys(record(hash=hashed(b"good")))
    made = Doorman(keys, clock)
    made.key(b"good")
    keys.records[0] = record(hash=hashed(b"good"), revoked_at_ms=2)
    clock.advance(1_000)
    with pytest.raises(Unauthorized, match="revoked"):
        made.key(b"good")


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"x-api-key", b" abc ")], b"abc"),
        ([(b"api-key", b"abc")], b"abc"),
        ([(b"cookie", b"abc")], None),
        ([], None),
    ],
)
def test_the_secret_is_found_where_clients_put_it(headers, secret):
    assert secret_of(headers) == secret


def test_models_are_limited_by_pattern():
    check_model(record(), "anything")
    check_model(record(models=("gpt-4o-*", "o3")), "gpt-4o-mini")
    with pytest.raises(Forbidden, match=r"may not use the model 'gpt-4o'.*gpt-4o-\*"):
        check_model(record(models=("gpt-4o-*",)), "gpt-4o")


@settings(max_examples=200, deadline=None)
@given(
    refine=st.sets(st.sampled_from([*DIMENSIONS, "tags"])),
    fixed=st.dictionaries(st.sampled_from(DIMENSIONS), st.sampled_from(["a", "b"])),
    own=st.dictionaries(st.sampled_from(["env", "tier"]), st.sampled_from(["1", "2"])),
    said=st.dictionaries(st.sampled_from(DIMENSIONS), st.sampled_from(["a", "b", "c"])),
    tags=st.dictionaries(st.sampled_from(["env", "tier", "x"]), st.sampled_from(["1", "2"])),
    metadata=st.dictionaries(
        st.sampled_from([*DIMENSIONS, "farthing_team", "env", "x"]), st.sampled_from(["a", "1"])
    ),
    user=st.sampled_from(["", "ada"]),
)
def test_no_caller_leaves_the_scope_of_its_key(refine, fixed, own, said, tags, metadata, user):
    base = Scope(key="key_1", tags=tuple(sorted(own.items())), **fixed)
    key = record(scope=base, refine=tuple(refine))
    headers = [(f"x-farthing-{name}".encode(), value.encode()) for name, value in said.items()]
    if tags:
        headers.append((b"x-farthing-tags", ",".join(f"{name}={value}" for name, value in tags.items()).encode()))
    allowed = all(value == getattr(base, name) or name in refine for name, value in said.items())
    allowed &= not tags or ("tags" in refine and all(own.get(name, value) == value for name, value in tags.items()))
    asked = view(user=user, metadata=tuple(sorted(metadata.items())))
    if not allowed:
        with pytest.raises(Forbidden):
            scope_of(key, headers, asked)
        return
    scope = scope_of(key, headers, asked)
    assert scope.key == "key_1"
    for name in DIMENSIONS:
        if name not in refine:
            assert getattr(scope, name) == getattr(base, name)
        elif name in said:
            assert getattr(scope, name) == said[name]
    found = dict(scope.tags)
    assert list(found) == sorted(found)
    assert own.items() <= found.items()
    assert tags.items() <= found.items()
    if "tags" not in refine:
        assert found == own


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"user", b"\xff"),
        (b"user", "a\u2028b".encode()),
        (b"team", b"x" * 129),
        (b"tags", b"a"),
        (b"tags", b"=b"),
        (b"tags", b"a" * 65 + b"=b"),
        (b"tags", b"a=" + b"b" * 129),
        (b"tags", b"\xff=b"),
        (b"tags", ",".join(f"t{number}=1" for number in range(17)).encode()),
    ],
)
def test_what_cannot_be_kept_is_a_bad_request_that_names_the_header(name, value):
    key = record(refine=("user", "team", "tags"))
    with pytest.raises(BadRequest, match=f"x-farthing-{name.decode()}"):
        scope_of(key, [(b"x-farthing-" + name, value)], view())
