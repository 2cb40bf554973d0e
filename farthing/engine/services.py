"""Everything a request needs, gathered once at start-up; the gateway and the lab differ only in what is in here."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from farthing.core.budget import Budgets
from farthing.core.policy import Policy
from farthing.core.routing import Routes
from farthing.engine.background import Background
from farthing.ports.books import Books
from farthing.ports.clock import Clock
from farthing.ports.prices import Prices
from farthing.ports.provider import Codec, Timeouts, Transport
from farthing.ports.reply import Telemetry
from farthing.ports.tokens import Tokenizer


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider ready to be called."""

    codec: Codec
    transport: Transport
    include_usage: bool = True


@dataclass(frozen=True, slots=True)
class Services:
    """The ports and the policy. A request keeps the snapshot it started with."""

    policy: Policy
    routes: Routes
    upstreams: Mapping[str, Upstream]
    prices: Prices
    budgets: Budgets
    books: Books
    clock: Clock
    tokens: Tokenizer
    telemetry: Telemetry
    background: Background
    salt: bytes
    """Keys the digests of the traffic log; one per installation, never logged."""
    policy_ref: str = field(default="")
    request_limits: bool = field(default=True)
    """Some budget limits single requests; when none does, the hot path does not look for them."""
    timeouts: Timeouts = field(default_factory=Timeouts)
