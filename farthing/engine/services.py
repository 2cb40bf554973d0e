"""Everything a request needs, gathered once at start-up; the gateway and the lab differ only in what is in here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Literal

from farthing.core.budget import Budgets
from farthing.core.policy import Policy
from farthing.core.routing import Routes
from farthing.core.types import ProviderDialect
from farthing.engine.actions import Actions
from farthing.engine.background import Background
from farthing.engine.trials import Trials
from farthing.engine.watch import Watch
from farthing.ports.books import Books
from farthing.ports.clock import Clock
from farthing.ports.prices import Prices
from farthing.ports.provider import Codec, Timeouts, Transport
from farthing.ports.reply import Telemetry
from farthing.ports.tokens import Tokenizer, UsageListener

if TYPE_CHECKING:
    from farthing.engine.caching import Caching
    from farthing.engine.levers import Levers
    from farthing.engine.routing import Routing


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider ready to be called."""

    codec: Codec
    transport: Transport
    include_usage: bool = True
    speaks: ProviderDialect | Literal[""] = ""
    """The API it speaks; calls of another one are translated. Empty: whatever its callers speak."""


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
    routing: "Routing | None" = None
    """Sends calls to other models than the asked-for one; None: the policy has no routes."""
    request_limits: bool = field(default=True)
    """Some budget limits single requests; when none does, the hot path does not look for them."""
    watch: Watch | None = None
    """Told of holds and settlements when somebody wants to know; None: nobody does."""
    actions: Actions | None = None
    """What budgets' thresholds do to calls; None: nothing."""
    usage_listener: UsageListener | None = None
    """Told what providers bill for prompts, to count better; None: nobody learns."""
    caching: "Caching | None" = None
    """Answers from caches; None: the policy caches nothing."""
    levers: "Levers | None" = None
    """Edit what leaves; None: the policy has none."""
    trials: Trials = field(default_factory=Trials)
    """The experiment that runs, if one does."""
    logs: bool = field(default=True)
    """Requests are written to the traffic log; False: nothing is worked out for it."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    acts: Iterator[int] = field(default_factory=lambda: count(1))
    """Numbers this process's acts on the books, for replay."""
    steady: Clock | None = None
    """By which holds end: it runs on when somebody sets the wall clock. None: the wall clock."""

    def hold_ms(self) -> int:
        """Now, for the books: were the wall clock set forward, calls in flight would lose their holds."""
        return (self.steady or self.clock).now_ms()
