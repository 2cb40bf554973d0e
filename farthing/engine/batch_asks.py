"""The requests of a batch, read before anything is sent: who serves them, what each can cost, and all that is wrong.

Each is judged as a call of its own would be: its model must be allowed and served, policy's caps are set, limits on
single calls hold. What differs is the price, and that nobody routes, caches or retries it.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec

from farthing.core.errors import BadRequest, FarthingError
from farthing.core.types import Bounds, Dialect, Endpoint, PromptView, Request, Scope, Target
from farthing.engine.ceiling import bounds_of, tight_bounds, within_request_limits
from farthing.engine.plan import body_for, plan_for
from farthing.engine.services import Services
from farthing.ports.batches import Ask
from farthing.wire import anthropic, body, openai
from farthing.wire.usage.batches import BATCH_TIER

LINES_MAX: Final[dict[Dialect, int]] = {"openai": 50_000, "anthropic": 100_000}
"""As many as the providers take."""
PROBLEMS_SHOWN: Final = 50
ENDPOINTS: Final[dict[str, Endpoint]] = dict(openai.PATHS)
"""The endpoints of OpenAI's batches, by their ``url``."""
_VIEWS: Final[dict[str, Callable[[bytes], PromptView]]] = {**openai.VIEWS, **anthropic.VIEWS}


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Request(msgspec.Struct):
    custom_id: str
    params: msgspec.Raw


class _Requests(msgspec.Struct):
    requests: list[msgspec.Raw]


_LINE: Final = msgspec.json.Decoder(_Line)
_REQUEST: Final = msgspec.json.Decoder(_Request)
_REQUESTS: Final = msgspec.json.Decoder(_Requests)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who brings a batch."""

    owner: str
    """The id of the key; empty: a gateway without keys."""
    scope: Scope
    may: Callable[[str], None]
    """Raises ``Forbidden`` for models that the key may not use."""


@dataclass(slots=True)
class Taken:
    """The requests of a batch as they will be sent."""

    endpoint: Endpoint
    asks: list[Ask] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    """Lines or requests, edited where policy says so."""

    @property
    def provider(self) -> str:
        """Who serves all of them."""
        return self.asks[0].provider


@dataclass(slots=True)
class _Reading:
    """What was found so far."""

    what: str
    most: int
    taken: Taken
    problems: list[str] = field(default_factory=list)
    wrong: int = 0
    count: int = 0
    seen: set[str] = field(default_factory=set)

    def problem(self, place: int, text: str) -> None:
        self.wrong += 1
        if len(self.problems) < PROBLEMS_SHOWN:
            self.problems.append(f"{self.what} {place}: {text}")

    def checked(self) -> Taken:
        """All of it, or :class:`BadRequest` with everything that is wrong."""
        providers = sorted({ask.provider for ask in self.taken.asks})
        if len(providers) > 1:
            self.wrong += 1
            self.problems.append(f"its models belong to more than one provider: {', '.join(providers)}")
        if not self.count:
            raise BadRequest("The batch has no requests.", hint="Send at least one.")
        if self.count > self.most:
            raise BadRequest(f"The batch has {self.count:,} requests; at most {self.most:,} are taken.")
        if self.wrong:
            more = f" | and {self.wrong - len(self.problems)} more" if self.wrong > len(self.problems) else ""
            raise BadRequest(
                f"{self.wrong} of {self.count} requests cannot be taken: {' | '.join(self.problems)}{more}.",
                hint="Nothing was sent.",
            )
        return self.taken


def read_lines(services: Services, caller: Caller, data: bytes, able: Collection[str], now_ms: int) -> Taken:
    """OpenAI's file: one request a line. ``able``: providers with a batch API. Raises :class:`BadRequest`."""
    reading = _Reading("line", LINES_MAX["openai"], Taken(endpoint="chat"))
    url = ""
    for place, raw in _lines(data):
        reading.count += 1
        try:
            line = body.decode(_LINE, raw)
            faults = _once(reading, line.custom_id)
            if line.method.upper() != "POST" or line.url not in ENDPOINTS:
                faults.append(f"'{line.method[:8]} {line.url[:80]}' is none of POST {', '.join(ENDPOINTS)}")
                raise BadRequest("; ".join(faults))
            if line.url != (url := url or line.url):
                faults.append(f"its url is {line.url}, that of earlier lines {url}; a file has one")
            reading.taken.endpoint = endpoint = ENDPOINTS[line.url]
            said = bytes(line.body)
            with _all_told(faults):
                ask, sent = ask_of(services, caller, "openai", endpoint, line.custom_id, said, able, now_ms)
        except FarthingError as error:
            reading.problem(place, str(error).rstrip("."))
            continue
        reading.taken.asks.append(ask)
        reading.taken.parts.append(raw if sent is said else body.set_value(raw, "body", sent))
    return reading.checked()


def read_requests(services: Services, caller: Caller, data: bytes, able: Collection[str], now_ms: int) -> Taken:
    """Anthropic's body: a list of requests. Raises :class:`BadRequest`."""
    asked = body.decode(_REQUESTS, data).requests
    reading = _Reading("request", LINES_MAX["anthropic"], Taken(endpoint="messages"))
    for place, one in enumerate(asked):
        reading.count += 1
        raw = bytes(one)
        try:
            request = body.decode(_REQUEST, raw)
            said = bytes(request.params)
            with _all_told(_once(reading, request.custom_id)):
                ask, sent = ask_of(services, caller, "anthropic", "messages", request.custom_id, said, able, now_ms)
        except FarthingError as error:
            reading.problem(place, str(error).rstrip("."))
            continue
        reading.taken.asks.append(ask)
        reading.taken.parts.append(raw if sent is said else body.set_value(raw, "params", sent))
    return reading.checked()


def ask_of(
    services: Services,
    caller: Caller,
    dialect: Dialect,
    endpoint: Endpoint,
    custom_id: str,
    said: bytes,
    able: Collection[str],
    now_ms: int,
) -> tuple[Ask, bytes]:
    """One request and the bytes to send; the very same bytes where nothing is edited. Raises ``FarthingError``."""
    view = _VIEWS[endpoint](said)
    with _all_told(["'stream' is true; answers of a batch do not stream"] if view.stream else []):
        if not view.model or len(view.model) > 256 or not view.model.isprintable():
            raise BadRequest("'model' must be a printable name of 1 to 256 characters.", param="model")
        caller.may(view.model)
    request = Request(
        id=custom_id, received_at_ms=now_ms, dialect=dialect, body=said, view=view, scope=caller.scope, readings={}
    )
    plan = plan_for(services, request, view.model)
    target = plan.targets[0]
    upstream = services.upstreams[target.provider]
    if target.provider not in able or upstream.speaks not in ("", dialect):
        raise BadRequest(
            f"'{view.model[:80]}' is served by '{target.provider}', which has no batch API for this caller.",
            hint="Batches go to providers of kind openai and anthropic that have a key of their own.",
            param="model",
        )
    bounds = msgspec.structs.replace(bounds_of(services, request, target, upstream, plan), service_tier=BATCH_TIER)
    bounds = tight_bounds(services, request, target, bounds)
    _, bounds = within_request_limits(services, request, target, bounds)
    sent, _ = body_for(plan, request, target, upstream)
    return _ask(custom_id, view.model, target, bounds), sent


def bounds_again(ask: Ask) -> Bounds:
    """What the request can consume at most."""
    return Bounds(
        input_tokens=ask.input_tokens,
        output_tokens=ask.output_tokens,
        choices=ask.choices,
        images=ask.images,
        unbounded=ask.unbounded,
        cache_write=ask.cache_write,
        cache_ttl_long=ask.cache_ttl_long,
        service_tier=BATCH_TIER,
        hosted_tools=ask.hosted_tools,
        facets=ask.facets,
    )


def _ask(custom_id: str, model: str, target: Target, bounds: Bounds) -> Ask:
    return Ask(
        custom_id,
        model,
        target.provider,
        target.model,
        bounds.input_tokens,
        bounds.output_tokens,
        bounds.choices,
        bounds.images,
        bounds.unbounded,
        bounds.cache_write,
        bounds.cache_ttl_long,
        bounds.hosted_tools,
        bounds.facets,
    )


def _once(reading: _Reading, custom_id: str) -> list[str]:
    """What is wrong with a name."""
    if not custom_id or len(custom_id) > 512:
        return ["'custom_id' must have 1 to 512 characters"]
    if custom_id in reading.seen:
        return [f"custom_id '{custom_id[:80]}' came before; each must be unique"]
    reading.seen.add(custom_id)
    return []


@contextmanager
def _all_told(faults: list[str]) -> Iterator[None]:
    """Raises the faults known so far together with the one that is found within, or alone."""
    try:
        yield
    except FarthingError as error:
        if not faults:
            raise
        faults = [*faults, str(error).rstrip(".")]
    if faults:
        raise BadRequest("; ".join(faults))


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    for place, raw in enumerate(data.split(b"\n"), 1):
        if raw.strip():
            yield place, raw.strip()
