"""How much of a prompt would be read from the provider's cache, where the log has no answer to it.

A conversation sends its earlier turns again, and a provider that has just seen them charges less for them. Which
calls begin as an earlier one did is in the log: every section of a prompt has a digest. How much of such a beginning
is then read is learned from the calls that were answered, by provider and by how long the beginning is (providers
have a least length, and steps). A call that is estimated reads as much, where a call that was meant for the same
model began so in the minutes before: that one goes where this one does.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from farthing.core.types import Exchange, PromptSection, Usage
from farthing.core.units import INPUT
from farthing.engine.record import tokens_of
from farthing.lab.estimate_moved import ASKED_MAX
from farthing.lab.estimate_seen import size_class

KEPT_MS: Final = 600_000
"""As long as providers keep a prompt that nobody asks for again, unless they are paid for more."""
LEAST: Final = 1_000
"""Bytes of a beginning below which no provider caches it: a token has one at least."""
APART_MS: Final = 30_000
"""Calls that began alike within this are as one."""
KNOWN_MIN: Final = 5
"""Answers to such calls below which nothing is taken to be read."""
CACHE_READ: Final = "input_cache_read"


class Reading(NamedTuple):
    """What is read of one prompt, in tokens."""

    tokens: int = 0
    variance: float = 0.0
    """Of one prompt about that."""
    sample: int = 1
    """Prompts that say so."""


class _Seen(msgspec.Struct):
    """Prompts to one provider that began as an earlier one."""

    count: int = 0
    alike: float = 0.0
    """Tokens of the beginnings."""
    read: float = 0.0
    alike2: float = 0.0
    read2: float = 0.0
    both: float = 0.0


class Reads:
    """Learns from exchanges in the order of the log."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int, _Seen]] = {}
        """By provider, and size class of the beginning."""
        self._providers: dict[str, str] = {}
        """By model, the one that answered last."""
        self._answered: dict[int, int] = {}
        """When a model last answered a prompt that begins so."""
        self._meant: dict[int, list[int]] = {}
        """When calls that were meant for a model began so."""

    def learn(self, exchange: Exchange, model: str) -> None:
        """One call; ``model``: that answered it with a reported usage, empty: none."""
        if exchange.view.body_bytes < LEAST:
            return
        at, usage = exchange.received_at_ms, exchange.usage
        begins = list(beginnings(exchange.sections))
        if model and usage is not None:
            self._learn(model, begins, exchange)
        for key, _ in begins:
            times = self._meant.setdefault(hash((exchange.view.model, key)), [])
            if not times or at - times[-1] >= APART_MS:
                times.append(at)
            if model:
                self._answered[hash((model, key))] = at
        for memo in (self._meant, self._answered):
            if len(memo) > ASKED_MAX:
                memo.clear()

    def _learn(self, model: str, begins: Sequence[tuple[int, int]], exchange: Exchange) -> None:
        provider = self._providers[model] = exchange.attempts[-1].provider
        since, taken = (
            exchange.received_at_ms - KEPT_MS,
            tokens_of(exchange.usage)[0] if exchange.usage is not None else 0,
        )
        for key, size in reversed(begins):
            if self._answered.get(hash((model, key)), since) > since:
                alike, read = taken * size / exchange.view.body_bytes, read_of(exchange.usage)
                seen = self._seen.setdefault(provider, {}).setdefault(size_class(size), _Seen())
                seen.count += 1
                seen.alike += alike
                seen.read += read
                seen.alike2 += alike * alike
                seen.read2 += read * read
                seen.both += alike * read
                return

    def of(self, exchange: Exchange, model: str, taken: int) -> Reading:
        """What ``model`` would read of a prompt of so many tokens."""
        by_size = self._seen.get(self._providers.get(model, ""))
        if exchange.view.body_bytes < LEAST or by_size is None:
            return Reading()
        at, meant = exchange.received_at_ms, exchange.view.model
        for key, size in reversed(list(beginnings(exchange.sections))):
            times = self._meant.get(hash((meant, key)), ())
            place = bisect_left(times, at)
            if place and times[place - 1] > at - KEPT_MS:
                return _reading(by_size, size, taken * size / exchange.view.body_bytes)
        return Reading()

    def held(self, exchange: Exchange, model: str, taken: int, size: int) -> Reading:
        """What ``model`` would read of a prompt of so many tokens, of which its cache holds ``size`` bytes."""
        by_size = self._seen.get(self._providers.get(model, ""))
        if by_size is None or size < LEAST:
            return Reading()
        return _reading(by_size, size, taken * min(1.0, size / exchange.view.body_bytes))


def _reading(by_size: Mapping[int, _Seen], size: int, alike: float) -> Reading:
    """From beginnings of about this size, and of the nearest sizes until they are enough."""
    near = _Seen()
    for place in sorted(by_size, key=lambda one: (abs(one - size_class(size)), one)):
        one = by_size[place]
        for name in near.__struct_fields__:
            setattr(near, name, getattr(near, name) + getattr(one, name))
        if near.count >= KNOWN_MIN:
            break
    if near.count < KNOWN_MIN or not near.alike:
        return Reading()
    rate = near.read / near.alike
    left = near.read2 - 2 * rate * near.both + rate * rate * near.alike2
    return Reading(round(min(rate, 1.0) * alike), max(0.0, left / near.count), near.count)


def beginnings(sections: Sequence[PromptSection]) -> Iterator[tuple[int, int]]:
    """(a number that tells it, bytes) of every beginning of a prompt that a provider may keep, the shortest first."""
    key = size = 0
    for section in sections:
        key = hash((key, section.digest))
        size += section.size
        if size >= LEAST:
            yield key, size


def read_of(usage: Usage | None) -> int:
    """Input tokens that were read from the provider's cache."""
    parts = usage.parts if usage is not None else ()
    return sum([quantity for part in parts for unit, quantity in part.lines if unit == CACHE_READ])


def rereads(usage: Usage, tokens: int) -> Usage:
    """The usage, had so many tokens been read; what is not read is written where something was, or sent plain."""
    if len(usage.parts) != 1:
        return msgspec.structs.replace(usage, source="estimated", stated_pusd=None, raw=b"")
    (part,) = usage.parts
    lines = dict(part.lines)
    writes = [unit for unit in lines if unit.startswith("input_cache_write")]
    more = tokens - lines.get(CACHE_READ, 0)
    if more < 0:
        unit = writes[0] if writes else INPUT
        lines[unit] = lines.get(unit, 0) - more
    left = more
    for unit in (*writes, INPUT):
        less = max(0, min(left, lines.get(unit, 0)))
        lines[unit] = lines.get(unit, 0) - less
        left -= less
    lines[CACHE_READ] = tokens - max(0, left)
    part = msgspec.structs.replace(part, lines=tuple([(unit, many) for unit, many in lines.items() if many]))
    return msgspec.structs.replace(usage, parts=(part,), source="estimated", stated_pusd=None, raw=b"")
