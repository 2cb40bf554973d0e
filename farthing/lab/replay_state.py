"""Where a replay stands, as a record on disk: from it an interrupted replay goes on as if nothing had been.

A stand is taken between two calls while none is on its way through the pipeline, whose tasks cannot be written down;
calls on the short way can.
"""

from typing import Final, Literal

import msgspec

from farthing.core.budget import Key
from farthing.core.errors import ConfigError
from farthing.core.types import Bounds, Decision, Exchange, Target, Usage
from farthing.lab.compare import Told
from farthing.lab.replay_acts import Turnstiles
from farthing.lab.replay_books import Amounts, Levels
from farthing.lab.replay_consumed import Known
from farthing.lab.replay_recall import Cached
from farthing.lab.replay_warmth import Uses

VERSION: Final = 6


class Flying(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call on the short way whose answer is on its way."""

    exchange: Exchange
    due: Literal["first", "end"]
    """What it waits for: the first byte of its answer, or the last."""
    when: float
    """The loop's time of that."""
    started_ms: int
    ttft_ms: int | None = None
    target: Target
    bounds: Bounds
    amounts: Amounts
    """What is held for it, in each unit."""
    decisions: tuple[Decision, ...] = ()
    usage: Usage
    was_cut: bool = False
    guess: str | None = None
    """The model whose consumption was estimated; empty: taken from the answer that a cache gave. None: logged."""
    held: int | None = None
    """Bytes of its beginning that the provider's cache holds, where that is not as it was in the log."""
    kept: bool = False
    """The answer is the log's: only what it reads from the provider's cache was estimated."""
    missed: bool = False
    """A cache has missed it."""
    leads: bool = False
    """Others that ask the same would wait for its answer."""


class Stand(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replay stands."""

    version: int = VERSION
    key: str
    """Names the replay: policy, prices, period, log."""
    read: int
    """Exchanges read from the log, up to and with the one named ``last``."""
    last: str
    waiting: tuple[Exchange, ...]
    """Those that were read and have not begun."""
    begun: int
    plain: int
    start_ms: int
    now: float
    counters: tuple[tuple[Key, int], ...]
    levels: Levels
    flying: tuple[Flying, ...]
    remembered: tuple[Known, ...]
    warmth: tuple[tuple[str, str, Uses], ...]
    cached: Cached | None
    turnstiles: Turnstiles
    told: Told


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stand)


def encoded(stand: Stand) -> bytes:
    """The record as bytes."""
    return _encoder.encode(stand)


def decoded(data: bytes, *, source: str) -> Stand:
    """The record again. Raises ``ConfigError`` for a file of something else or of another release."""
    try:
        stand = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ConfigError([f"it is not the state of a replay: {error}; remove it"], source=source) from error
    if stand.version != VERSION:
        raise ConfigError([f"it is of another release (version {stand.version}); remove it"], source=source)
    return stand
