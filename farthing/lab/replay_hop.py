"""A call on the shortest way of a replay, between its arrival and its end; a record, because many are made."""

import msgspec

from farthing.core.caching import AS_USUAL
from farthing.core.policy_cache import CacheRoute
from farthing.core.types import Exchange, Usage
from farthing.engine.caching import stored_answer
from farthing.engine.caching_flights import Flight
from farthing.lab.replay_books import Account, Amounts
from farthing.lab.replay_cache import Awaited
from farthing.lab.replay_plain import Asked, Fly, Shape
from farthing.lab.replay_provider import within
from farthing.ports.cache import StoredAnswer


class Kept(msgspec.Struct):
    """What a cache keeps of an answer: as little as can be, because it is kept for long and hardly ever wanted."""

    exchange: Exchange
    shape: Shape
    route: CacheRoute
    partition: str
    key: str
    body: bytes
    usage: Usage
    charge: int
    started_ms: int
    ended_ms: int

    def __call__(self) -> StoredAnswer:
        """The answer as it is kept: made when somebody wants it."""
        asked = Asked(self.exchange, self.route, self.shape.target, self.key, self.partition, AS_USUAL, None)
        return stored_answer(
            asked,
            self.body,
            usage=self.usage,
            charge=self.charge,
            entry_id=f"{self.exchange.request_id}-1",
            at_ms=self.ended_ms,
            latency_ms=self.ended_ms - self.started_ms,
        )


class Hop(msgspec.Struct):
    """One call on its way."""

    exchange: Exchange
    shape: Shape
    account: Account
    amounts: Amounts
    started_ms: int
    ends_ms: int
    """When its answer is whole; before ``started_ms``: the loop's clock says when."""
    unread: bool
    route: CacheRoute | None = None
    """The cache that had no answer to it; None: none was asked."""
    partition: str = ""
    key: str = ""
    """What it asked."""
    waited: Awaited | None = None
    """Who asks the same waits for this."""

    def flight(self) -> Flight:
        """What others wait for."""
        found = self.waited
        if found is None:
            found = self.waited = Awaited()
        return found

    def asked(self, flight: Flight | None) -> Asked:
        """What its cache was asked."""
        assert self.route is not None
        return Asked(self.exchange, self.route, self.shape.target, self.key, self.partition, AS_USUAL, flight)

    def fly(self) -> Fly:
        """The same for the short way."""
        fly = Fly(self.exchange, None, self.started_ms)
        fly.shape = self.shape
        fly.account = self.account
        fly.amounts = self.amounts
        fly.acts = 1
        fly.unread = self.unread
        if self.route is not None:
            fly.asked = self.asked(self.flight() if self.route.single_flight else None)
        return fly

    def sent(self) -> Fly:
        """The same, on its way to the provider that answered it."""
        fly, usage, cap, view = self.fly(), self.exchange.usage, self.shape.cap, self.exchange.view
        assert usage is not None
        fly.usage = usage
        if cap is not None:
            fly.usage = within(usage, cap, before=view.output_tokens_max, choices=view.choices)
            fly.was_cut = fly.usage is not usage
        return fly
