"""What every lever has in common: which calls it is for, what it may know, and what it declares of itself.

A lever edits a request's body before it leaves. It is data plus one pure function ``apply(lever, body, facts)`` that
gives back the same object when it changes nothing, changes nothing when it is applied again, and never adds to what
the call may cost but for what it declares.
"""

from typing import Literal

import msgspec

from farthing.core.types import Endpoint

Prefix = Literal["kept", "own_form", "broken"]
"""What a lever does to the part of the prompt that providers cache. ``kept``: no byte of it moves. ``own_form``: the
prompt has another form, but always the same one, so that turn after turn shares it as before. ``broken``: now and
then it begins anew, which the lever weighs against what it saves."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What levers know of a call beyond its body."""

    form: Endpoint
    """The dialect of the body."""
    cache_min_tokens: int = 1_024
    """Shorter prefixes are not cached by this model."""
    read_bp: int = 10_000
    """Price of a token that the provider's prompt cache holds, in basis points of plain input; 10,000: no cache."""
    write_bp: int = 10_000
    """Price of a token that is written to it."""
    seen: frozenset[str] = frozenset()
    """Names of prefixes (see ``cache_breakpoints.points``) that were sent to this model while a cache would live."""

    summary_read_bp: int = 10_000
    """Price of a token that the model which summarises reads, in basis points of plain input of the model called."""
    summary_write_bp: int = 40_000
    """Price of a token that it writes."""
    summaries: dict[str, str] = {}
    """Summaries that were made, by the digest of what they summarise (see ``history_summary.wanted``)."""


class Lever(msgspec.Struct, frozen=True, kw_only=True):
    """The calls a lever is for, ``[[levers]]``."""

    name: str = ""
    """Stands in decisions; empty: its kind."""
    models: tuple[str, ...] = ()
    """Name patterns (``*`` and ``?``) of the model that is called; empty: all."""
    match: tuple[tuple[str, str], ...] = ()
    """Dimensions of the caller that must be equal: scope dimensions and ``tag:<name>``."""


BYTES_PER_TOKEN = 4
"""By which levers take tokens for bytes; prices are never computed from it."""
