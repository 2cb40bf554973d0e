"""Who is calling: from the key, the headers and the body's own ``user`` and ``metadata`` to a scope."""

import hashlib
import re
from fnmatch import fnmatchcase

import msgspec

from farthing.core.errors import BadRequest, Forbidden, Unauthorized
from farthing.core.types import KeyRecord, PromptView, Scope
from farthing.ports.books import Keys
from farthing.ports.clock import Clock
from farthing.server.head import Head
from farthing.server.head import secret_of as secret_of

_PREFIX = b"x-farthing-"
_DIMENSIONS = ("org", "team", "project", "user", "feature", "customer", "session")
_VALUE_MAX = 128
_TAGS_MAX = 16
_REFRESH_MS = 1_000
SCOPES_MAX = 8_192
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_OPEN = KeyRecord(
    id="",
    name="open",
    hash="",
    hint="",
    scope=Scope(),
    refine=("org", "team", "project", "user", "feature", "customer", "session", "tags"),
    created_at_ms=0,
)
"""What a caller may do while no key exists: the gateway then serves loopback only."""


class Doorman:
    """Checks keys against the ledger's key table, re-read at most once a second and at once for unknown keys."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._by_hash: dict[str, KeyRecord] = {}
        self._by_secret: dict[bytes, KeyRecord] = {}
        """Secrets that were hashed since the table was read, so that each is hashed once in that time."""
        self._read_at_ms = -_REFRESH_MS
        self._refresh(clock.now_ms())

    @property
    def is_open(self) -> bool:
        """No key exists yet."""
        return not self._by_hash

    def key(self, secret: bytes | None) -> KeyRecord:
        """The caller's key. Raises :class:`Unauthorized`."""
        now_ms = self._clock.now_ms()
        if now_ms - self._read_at_ms >= _REFRESH_MS:
            self._refresh(now_ms)
        if not self._by_hash:
            return _OPEN
        if not secret:
            raise Unauthorized(
                "No API key was given.",
                hint="Send a Farthing key as 'Authorization: Bearer fk-…' or 'x-api-key: fk-…'.",
            )
        record = self._by_secret.get(secret) or self._look_up(secret)
        if record is None:
            raise Unauthorized(
                f"The API key ending in '…{_tail(secret)}' is not known here.",
                hint="Create one with 'farthing key create'; a provider's own key does not work here.",
            )
        if record.revoked_at_ms is not None:
            raise Unauthorized(f"The API key '{record.name}' ({record.id}) was revoked.", hint="Use another key.")
        if record.expires_at_ms is not None and now_ms >= record.expires_at_ms:
            raise Unauthorized(f"The API key '{record.name}' ({record.id}) has expired.", hint="Use another key.")
        return record

    def _look_up(self, secret: bytes) -> KeyRecord | None:
        digest = hashlib.sha256(secret).hexdigest()
        record = self._by_hash.get(digest)
        if record is None:
            return self._keys.find(digest)
        self._by_secret[secret] = record
        return record

    def _refresh(self, now_ms: int) -> None:
        """Reads the table again. A key that has not changed stays the same object, for what is remembered of it."""
        known = self._by_hash
        self._by_secret = {}
        self._by_hash = {}
        for record in self._keys.all():
            before = known.get(record.hash)
            self._by_hash[record.hash] = before if before == record and before is not None else record
        self._read_at_ms = now_ms


def _tail(secret: bytes) -> str:
    return secret[-4:].decode("ascii", "replace") if len(secret) > 12 else ""


def check_model(record: KeyRecord, model: str) -> None:
    """Raises :class:`Forbidden` when the key is limited to other models."""
    if record.models and not any(fnmatchcase(model, pattern) for pattern in record.models):
        raise Forbidden(
            f"The key '{record.name}' may not use the model '{model[:200]}'.",
            hint=f"It may use: {', '.join(record.models)}.",
            param="model",
        )


class Scopes:
    """The scopes of late, by what decides them: callers say the same of themselves call after call."""

    def __init__(self, most: int = SCOPES_MAX) -> None:
        self._most = most
        self._memo: dict[tuple[str, str, tuple[tuple[bytes, bytes], ...]], tuple[KeyRecord, Scope]] = {}

    def of(self, record: KeyRecord, head: Head, view: PromptView) -> Scope:
        """``scope_of`` the same. Raises what it raises."""
        if view.metadata:
            return scope_of(record, head.listed, view)
        place = (record.id, view.user, head.says)
        found = self._memo.get(place)
        if found is not None and found[0] is record:
            return found[1]
        scope = scope_of(record, head.listed, view)
        if len(self._memo) >= self._most:
            self._memo.clear()
        self._memo[place] = (record, scope)
        return scope


def scope_of(record: KeyRecord, headers: list[tuple[bytes, bytes]], view: PromptView) -> Scope:
    """The key's scope, refined by headers and by the body's ``user`` and ``metadata`` where the key allows.

    A header that the key does not allow is refused; metadata that it does not allow is the application's own and
    left alone. Raises :class:`Forbidden`, :class:`BadRequest`.
    """
    base = record.scope
    changes: dict[str, str] = {}
    tags = dict(base.tags)
    traced: re.Match[bytes] | None = None
    if record.id and not base.key:
        changes["key"] = record.id
    if view.user and "user" in record.refine:
        changes["user"] = view.user[:_VALUE_MAX]
    if view.metadata:
        _from_metadata(record, view, changes, tags)
    for name, value in headers:
        if name.startswith(_PREFIX):
            _from_header(record, name[len(_PREFIX) :], value, changes, tags)
        elif name == b"traceparent" and "tags" in record.refine:
            traced = _TRACEPARENT.fullmatch(value)
    if traced is not None:
        _from_trace(traced, tags)
    if not changes and len(tags) == len(base.tags):
        return base
    return msgspec.structs.replace(base, tags=tuple(sorted(tags.items())), **changes)


def _from_trace(traced: re.Match[bytes], tags: dict[str, str]) -> None:
    """W3C trace context: the trace, and the caller's span within it, unless tags of those names say otherwise."""
    for name, value in (("trace", traced[1]), ("span", traced[2])):
        if len(tags) < _TAGS_MAX and value.strip(b"0"):
            tags.setdefault(name, value.decode("ascii"))


def _from_metadata(record: KeyRecord, view: PromptView, changes: dict[str, str], tags: dict[str, str]) -> None:
    for name, value in view.metadata:
        plain = name.removeprefix("farthing_")
        if plain in _DIMENSIONS:
            if plain in record.refine:
                changes[plain] = value[:_VALUE_MAX]
        elif "tags" in record.refine and len(tags) < _TAGS_MAX:
            tags.setdefault(name, value[:_VALUE_MAX])


def _from_header(record: KeyRecord, name: bytes, raw: bytes, changes: dict[str, str], tags: dict[str, str]) -> None:
    dimension = name.decode("ascii", "replace")
    if dimension == "tags":
        _may(record, "tags", "")
        given = _tags(raw)
        _keeps_own_tags(record, given)
        tags.update(given)
    elif dimension in _DIMENSIONS:
        value = _text(raw, dimension)
        if value != getattr(record.scope, dimension):
            _may(record, dimension, value)
        changes[dimension] = value


def _may(record: KeyRecord, dimension: str, value: str) -> None:
    if dimension not in record.refine:
        raise Forbidden(
            f"The key '{record.name}' may not set x-farthing-{dimension}" + (f" to '{value}'." if value else "."),
            hint=f"Leave the header out, or create a key with '--refine {dimension}'.",
        )


def _keeps_own_tags(record: KeyRecord, given: dict[str, str]) -> None:
    """The key's own tags may decide a budget: callers add others, they do not change these."""
    for name, value in record.scope.tags:
        if given.get(name, value) != value:
            raise Forbidden(
                f"The key '{record.name}' may not set the tag '{name}' to '{given[name]}': for it, it is '{value}'.",
                hint="Leave the tag out of x-farthing-tags.",
            )


def _text(raw: bytes, dimension: str) -> str:
    try:
        value = raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadRequest(f"The header x-farthing-{dimension} is not valid UTF-8.") from None
    if len(value) > _VALUE_MAX or not value.isprintable():
        raise BadRequest(
            f"The header x-farthing-{dimension} must be at most {_VALUE_MAX} printable characters; "
            f"it has {len(value)}."
        )
    return value


def _tags(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _text_of_tags(raw).split(","):
        name, equals, value = part.strip().partition("=")
        if not part.strip():
            continue
        if not equals or not name.strip() or len(name) > 64 or len(value) > _VALUE_MAX:
            raise BadRequest(
                f"The header x-farthing-tags has '{part.strip()[:80]}'; write 'name=value,name=value' "
                f"with names up to 64 and values up to {_VALUE_MAX} characters."
            )
        found[name.strip()] = value.strip()
    if len(found) > _TAGS_MAX:
        raise BadRequest(f"The header x-farthing-tags has {len(found)} tags; at most {_TAGS_MAX} are kept.")
    return found


def _text_of_tags(raw: bytes) -> str:
    try:
        value = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("The header x-farthing-tags is not valid UTF-8.") from None
    if not value.isprintable():
        raise BadRequest("The header x-farthing-tags has unprintable characters.")
    return value
