"""What may be answered from a cache and what may be kept in one: pure decisions over routes, requests and headers."""

from fnmatch import fnmatchcase
from typing import Final

import msgspec

from farthing.core.caching_key import Fields
from farthing.core.dimensions import scope_value
from farthing.core.errors import BadRequest
from farthing.core.policy_cache import CACHED_ENDPOINTS, CacheRoute
from farthing.core.types import Endpoint, PromptView, Request

_MEMO_MAX: Final = 10_000
_TEMPERATURE_DEFAULT: Final = 1.0
_SECONDS_MAX: Final = 10**9
WORDS: Final = ("bypass", "refresh", "exact", "no-store", "no-cache", "only-if-cached", "max-age=<seconds>")
"""What callers may say in ``x-farthing-cache``; every word only narrows what the policy allows."""


class Controls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one caller asks of the cache."""

    reads: bool = True
    writes: bool = True
    similar: bool = True
    """Answers to similar questions are welcome."""
    only_cached: bool = False
    age_ms_max: int | None = None


AS_USUAL: Final = Controls()


class Routes:
    """The cache routes of one policy. Look-ups by model and endpoint are memoised; the memo is bounded."""

    def __init__(self, routes: tuple[CacheRoute, ...]) -> None:
        self._routes = routes
        self._memo: dict[tuple[str, Endpoint], tuple[CacheRoute, ...]] = {}

    def find(self, request: Request) -> CacheRoute | None:
        """The first route that matches; None: never cached."""
        view = request.view
        found = self._memo.get((view.model, view.endpoint))
        if found is None:
            found = self._able(view)
        for route in found:
            if not route.match or all(scope_value(request.scope, name) == value for name, value in route.match):
                return route if route.use else None
        return None

    def _able(self, view: PromptView) -> tuple[CacheRoute, ...]:
        able = tuple(route for route in self._routes if _serves(route, view))
        if len(self._memo) >= _MEMO_MAX:
            self._memo.clear()
        self._memo[(view.model, view.endpoint)] = able
        return able


def _serves(route: CacheRoute, view: PromptView) -> bool:
    if view.endpoint not in CACHED_ENDPOINTS or (route.endpoints and view.endpoint not in route.endpoints):
        return False
    return not route.models or any(fnmatchcase(view.model, pattern) for pattern in route.models)


def controls_of(headers: tuple[tuple[bytes, bytes], ...]) -> Controls:
    """What the caller's headers ask. Raises :class:`BadRequest` for a word of ``x-farthing-cache`` nobody knows."""
    said = [(name, value) for name, value in headers if name in (b"cache-control", b"pragma", b"x-farthing-cache")]
    if not said:
        return AS_USUAL
    reads = writes = similar = True
    only = False
    age: int | None = None
    for name, value in said:
        own = name == b"x-farthing-cache"
        for raw in value.decode("latin-1").split(","):
            word, _, amount = raw.strip().lower().partition("=")
            if word in ("no-cache", "refresh") or (own and word == "bypass"):
                reads = False
            if word == "no-store" or (own and word == "bypass"):
                writes = False
            if own and word == "exact":
                similar = False
            if word == "only-if-cached":
                only = True
            if word == "max-age":
                age = _least(age, amount)
            elif own and word and word not in WORDS:
                raise BadRequest(
                    f"The header x-farthing-cache says '{raw.strip()[:40]}'.", hint=f"Known: {', '.join(WORDS)}."
                )
    return Controls(reads=reads, writes=writes, similar=similar, only_cached=only, age_ms_max=age)


def words_of(headers: tuple[tuple[bytes, bytes], ...]) -> str:
    """What the caller asked of the cache as words of ``x-farthing-cache``, for the traffic log."""
    found: list[str] = []
    for name, value in headers:
        own = name == b"x-farthing-cache"
        if own or name in (b"cache-control", b"pragma"):
            words = [word.strip().lower() for word in value.decode("latin-1").split(",")]
            known = ("no-cache", "refresh", "no-store", "only-if-cached")
            found += [one for one in words if own or one in known or one.startswith("max-age=")]
    return ",".join(found)


def _least(age: int | None, amount: str) -> int:
    """The stricter of two ages; an age that cannot be read allows none."""
    text = amount.strip().strip('"')
    value = min(int(text), _SECONDS_MAX) * 1000 if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return value if age is None else min(age, value)


def refusal(route: CacheRoute, view: PromptView, fields: Fields) -> str:
    """Why this request is never answered from the cache on this route, as a slug; empty: it may be."""
    if view.endpoint == "embeddings":
        return ""  # the same text has the same vector
    temperature = _TEMPERATURE_DEFAULT if view.temperature is None else view.temperature
    if temperature > route.temperature_max:
        return "temperature"
    if view.choices > route.choices_max:
        return "choices"
    if not fields:  # its text is not known
        return "external" if view.unbounded and not route.external else ""
    if not route.seeded and fields.get("seed") is not None:
        return "seed"
    if not route.external and (view.unbounded or _refers_outside(fields)):
        return "external"
    if not route.tools and _follows_tool(fields):
        return "tool_turn"
    if _is_sound(fields):
        return "modality"
    return ""


def _items(fields: Fields) -> list[Fields]:
    """The turns of any dialect."""
    for name in ("messages", "input"):
        found = fields.get(name)
        if isinstance(found, list):
            return [item for item in found if isinstance(item, dict)]
    return []


def _blocks(item: Fields) -> list[Fields]:
    content = item.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _follows_tool(fields: Fields) -> bool:
    for item in _items(fields):
        if item.get("role") in ("tool", "function") or str(item.get("type", "")).endswith("_output"):
            return True
        if any(str(block.get("type", "")).endswith("tool_result") for block in _blocks(item)):
            return True
    return False


def _refers_outside(fields: Fields) -> bool:
    """A picture or document by its address: what is there may change."""
    return any(_address(block) for item in _items(fields) for block in _blocks(item))


def _address(block: Fields) -> bool:
    for name in ("image_url", "source", "file"):
        inner = block.get(name)
        address = inner.get("url") if isinstance(inner, dict) else inner
        if isinstance(address, str) and not address.startswith("data:"):
            return True
    return False


def _is_sound(fields: Fields) -> bool:
    wanted = fields.get("modalities")
    return isinstance(wanted, list) and wanted != ["text"]


def worth(clock: float, *, cost: int | None, uses: int, size: int) -> float:
    """What keeping an answer is worth: nano-dollars it is likely to save per byte, on top of the cache's age.

    Greedy-Dual-Size-Frequency: ``clock`` is the worth of what was evicted last, so that answers that once were
    popular grow old. Answers of unknown or no price count as one nano-dollar.
    """
    gain = cost if cost is not None and cost > 1 else 1
    return clock + gain * (uses if uses > 1 else 1) / (size if size > 1 else 1)


def first_worth(clock: float, cost: int | None, size: int) -> float:
    """The same of an answer that nobody has used again."""
    return clock + (cost if cost is not None and cost > 1 else 1) / (size if size > 1 else 1)
