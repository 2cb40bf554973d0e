"""The key of an answer: one digest of the canonical request and of everything that divides callers.

Two requests have the same key only if they are the same question: same model, parameters, messages, tools and answer
format, from the same side of every partition. Names and values are hashed with their lengths in front, so that no
concatenation of one request's parts can be mistaken for another's.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

import msgspec

from farthing.core.dimensions import scope_value
from farthing.core.policy_cache import CacheRoute
from farthing.core.types import Request, Target

DIGEST_BYTES: Final = 32
_KEY: Final = b"farthing-cache-1"
_STREAMING: Final = ("stream", "stream_options")
"""How an answer is delivered, not what it says: either form is made from the stored one."""
_FLOATS: Final = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty")
"""Parameters for which 1 and 1.0 mean the same; anywhere else they are kept apart, as a prompt would."""
_EXACT_MAX: Final = 2**53

_decode = msgspec.json.Decoder().decode
_plain = msgspec.json.Encoder().encode
_sorted = msgspec.json.Encoder(order="sorted").encode

Fields = dict[str, object]

_NOISE: Final = frozenset(
    {
        b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"authorization", b"api-key",
        b"x-api-key", b"baggage", b"cache-control", b"connection", b"content-length", b"content-type", b"cookie",
        b"date", b"dnt", b"expect", b"forwarded", b"host", b"idempotency-key", b"if-none-match", b"keep-alive",
        b"newrelic", b"origin", b"pragma", b"priority", b"proxy-authorization", b"proxy-connection", b"referer",
        b"sentry-trace", b"te", b"traceparent", b"tracestate", b"trailer", b"transfer-encoding", b"upgrade",
        b"user-agent", b"via", b"x-correlation-id", b"x-real-ip", b"x-request-id",
    }
)  # fmt: skip
_NOISE_PREFIXES: Final = (
    b"x-stainless-", b"x-farthing-", b"x-forwarded-", b"x-b3-", b"x-datadog-", b"x-amzn-", b"x-cloud-trace-",
    b"x-envoy-", b"cf-", b"sec-", b"x-client-request-",
)  # fmt: skip
"""Headers that say who asks, how and on what trace. Every other header may change the answer and is in the key."""


class Uncacheable(ValueError):
    """A body that has no single meaning, so that no key can be made of it; the message is the slug."""


def fields_of(body: bytes, ignore: tuple[str, ...] = ()) -> Fields:
    """The body as canonical JSON values, without what only concerns delivery or what the route ignores.

    Raises :class:`Uncacheable` for duplicate names, numbers that no double holds exactly, and whatever is no object.
    """
    try:
        fields = _decode(body)
        if _plain(fields) != body:  # the common case is compact JSON that comes back byte for byte
            _check(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
        raise Uncacheable("unreadable") from error
    if not isinstance(fields, dict):
        raise Uncacheable("unreadable")
    for name in (*_STREAMING, *ignore):
        fields.pop(name, None)
    for name in _FLOATS:
        value = fields.get(name)
        if type(value) is int and abs(value) <= _EXACT_MAX:
            fields[name] = float(value)
    return fields


def canonical(fields: Fields) -> bytes:
    """The fields as JSON with sorted names and one spelling of every value."""
    return _sorted(fields)


def digest_of(parts: Iterable[bytes]) -> str:
    """Hex digest of parts in order; each is hashed with its length in front."""
    packed = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])
    return hashlib.blake2b(packed, digest_size=DIGEST_BYTES, person=_KEY).hexdigest()


def partition_of(request: Request, route: CacheRoute, target: Target) -> str:
    """Hex digest of what lies outside the body: the tenant, the API, the upstream and headers it may act on."""
    scope = request.scope
    values = tuple([scope_value(scope, name) for name in route.partition])
    headers = telling_headers(request)
    place = (request.dialect, request.view.endpoint, target.provider, target.model, target.deployment, target.region)
    return _partition(place, route.partition, values, tuple(sorted(headers)) if headers else ())


@lru_cache(maxsize=4_096)
def _partition(
    place: tuple[str, ...],
    names: tuple[str, ...],
    values: tuple[str, ...],
    headers: tuple[tuple[bytes, bytes], ...],
) -> str:
    """Kept for those that call again: a digest of a dozen parts takes longer than all the rest of a look-up."""
    parts = [one.encode() for one in place]
    for name, value in zip(names, values, strict=True):
        parts += (name.encode(), value.encode("utf-8", "surrogatepass"))
    parts.append(b"headers")
    for pair in headers:
        parts += pair
    return digest_of(parts)


def telling_headers(request: Request) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that a provider may act on; without a Farthing key also whose credentials these are."""
    found = tuple([pair for pair in request.headers if _matters(pair[0])])
    return found if request.scope.key else (*found, *_credentials(request))


def key_of(partition: str, fields: Fields) -> str:
    """The exact cache's key."""
    return digest_of((b"exact", partition.encode(), canonical(fields)))


@lru_cache(maxsize=1_024)
def _matters(name: bytes) -> bool:
    return name not in _NOISE and not name.startswith(_NOISE_PREFIXES)


def deciding(headers: Sequence[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that anything about a call may depend on, but for its credential and its trace."""
    return tuple([pair for pair in headers if _decides(pair[0])])


@lru_cache(maxsize=1_024)
def _decides(name: bytes) -> bool:
    return _matters(name) or name.startswith(b"x-farthing-") or name in (b"cache-control", b"pragma")


def _credentials(request: Request) -> list[tuple[bytes, bytes]]:
    """Without Farthing keys, callers may bring a provider's key of their own: it is whose call it is."""
    return [
        (b"credential", hashlib.blake2b(value, digest_size=16).digest())
        for name, value in request.headers
        if name in (b"authorization", b"x-api-key", b"api-key")
    ]


def _check(body: bytes) -> None:
    """Raises :class:`Uncacheable` where two readers could understand the same bytes differently."""
    try:
        json.loads(body.decode(), object_pairs_hook=_once, parse_float=_exact, parse_constant=_no_number)
    except Uncacheable:
        raise
    except (ValueError, RecursionError) as error:
        raise Uncacheable("unreadable") from error


def _once(pairs: list[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise Uncacheable("duplicate_name")


def _exact(text: str) -> float:
    value = float(text)
    try:
        if Decimal(text) == Decimal(repr(value)):
            return value
    except InvalidOperation:
        pass
    raise Uncacheable("number_precision")


def _no_number(text: str) -> float:
    raise Uncacheable("unreadable")
