"""The policy of the caches: which calls may be answered from one, for how long, and at what risk. Pure data.

Routes are read in order and the first that matches a request decides; a request that none matches is never cached.
"""

from typing import Final, Literal

import msgspec

from farthing.core.types import Endpoint

TENANT: Final = ("org", "team", "project", "customer", "user", "key")
"""What divides callers from one another unless a route says otherwise: no answer crosses any of these."""

CACHED_ENDPOINTS: Final[tuple[Endpoint, ...]] = ("chat", "completions", "embeddings", "responses", "messages")

IGNORABLE: Final = (
    "user",
    "safety_identifier",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
)
"""Top-level fields of a body that name the caller or the billing and not the question; a route may leave them out of
the key. Every other field always counts."""

GuardName = Literal["number", "unit", "date", "name", "negation", "antonym", "code", "order"]
GUARDS: Final[tuple[GuardName, ...]] = ("number", "unit", "date", "name", "negation", "antonym", "code", "order")


class SemanticRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the answer to a *similar* question may be served."""

    mode: Literal["off", "shadow", "on"] = "off"
    """``shadow`` decides and reports, and serves nothing."""
    risk: float | None = None
    """δ: the share of served answers that may be wrong, 0 to 0.5. One of ``risk`` and ``threshold`` is given; with
    neither, ``risk`` is 0.01."""
    threshold: float | None = None
    """Serve above this cosine and report the error it has."""
    guards: tuple[GuardName, ...] = GUARDS
    """Lexical differences that refuse a similar question whatever its score."""
    turns: Literal["last", "first_only"] = "last"
    """``last``: the last user turn may differ, everything before it must be equal. ``first_only``: only
    conversations of one turn are compared."""
    neighbours: int = 8
    """Candidates looked at."""
    prompt_chars_max: int = 8_000
    """Longer questions are not embedded."""
    shadow_share: float = 0.05
    """Share of hits that are answered by the provider as well, to measure what was served."""
    judge: str = ""
    """Model that says whether two answers mean the same; empty: answers are compared by themselves."""
    judge_share: float = 1.0
    """Share of near misses that are judged."""
    overhead_usd_per_day: int | None = None
    """Nano-USD that embeddings, shadows and judge calls of this route may cost a day; None: no limit of their own."""

    @property
    def delta(self) -> float | None:
        """The risk that decides, six digits; None while a fixed threshold decides."""
        if self.threshold is not None:
            return None
        return 0.01 if self.risk is None else round(self.risk, 6)


class CacheRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calls that may be answered from the cache, ``[[cache]]``."""

    name: str
    models: tuple[str, ...] = ()
    """Model name patterns (``*`` and ``?``); empty: all."""
    endpoints: tuple[Endpoint, ...] = ()
    """Empty: every endpoint that can be cached."""
    match: tuple[tuple[str, str], ...] = ()
    """Dimensions of the caller that must be equal: scope dimensions and ``tag:<name>``."""
    use: bool = True
    """False: what matches is never cached; stands before wider routes."""
    exact: bool = True
    ttl_ms: int = 3_600_000
    """Absolute age at which an answer is forgotten; being served does not prolong it."""
    partition: tuple[str, ...] = TENANT
    """Dimensions of the caller (``tag:<name>`` too) that no answer crosses."""
    ignore: tuple[str, ...] = ()
    """Body fields of ``IGNORABLE`` left out of the key."""
    temperature_max: float = 2.0
    """Calls that ask for a higher temperature are not cached; calls that name none count as 1, the providers' own."""
    seeded: bool = True
    """Calls with a ``seed`` are cached (under that seed)."""
    choices_max: int = 1
    """Calls that ask for more answers are samples, and are not cached."""
    tools: bool = False
    """Answers that call tools, and turns that follow a tool's result, are stored too."""
    external: bool = False
    """Prompts that refer to content elsewhere (URLs, file ids, earlier responses, hosted tools) are cached too."""
    bytes_max: int = 1024 * 1024
    """Larger answers are not stored."""
    tags: tuple[str, ...] = ()
    """Labels on every answer stored by this route, to forget them by."""
    single_flight: bool = True
    """Equal calls at the same time share one upstream call."""
    semantic: SemanticRules = SemanticRules()
