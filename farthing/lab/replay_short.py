"""The shortest way of a replay: calls of which only sums are wanted and nothing is asked that is not known.

It says of such a call what the short way says (see ``replay_kernel``), in fewer steps and with no record of its
state but what its end needs. Whatever it has not met before, or does not know, it leaves to the short way untouched:
a kind of calls, a partition of a cache, a choice of a route, a call that may be answered from a cache, or is refused
for more reasons than one.
"""

from collections.abc import Callable
from typing import Final

from farthing.core.errors import Throttled
from farthing.core.types import Exchange, Scope
from farthing.engine.pipeline import bad_ending
from farthing.engine.services import Services
from farthing.engine.trials import Logged as Arms
from farthing.lab.replay_acts import ReplayActions
from farthing.lab.replay_books import Account, ReplayBooks, Rows
from farthing.lab.replay_hop import Hop
from farthing.lab.replay_kernel import Kernel, exceeded
from farthing.lab.replay_outcome import Fidelity, differs
from farthing.lab.replay_plain import Adds, Shape
from farthing.lab.replay_provider import Provider, within
from farthing.lab.replay_recall import Recalls
from farthing.lab.replay_routes import seen_of
from farthing.lab.replay_shape import Shapes, kind_of
from farthing.lab.replay_time import VirtualLoop

_EXACT: Final[Fidelity] = "exact"
_REPRICED: Final[Fidelity] = "repriced"
_ESTIMATED: Final[Fidelity] = "estimated"
_UNKNOWN: Final[Fidelity] = "unknown"


def fits(services: Services) -> bool:
    """Some calls of a policy can go this way."""
    trial, routing = services.trials.running, services.routing
    timed = routing is not None and routing.times
    return (trial is None or isinstance(trial, Arms)) and not timed and not services.request_limits


class Short:
    """Decides those calls of one replay."""

    def __init__(self, loop: VirtualLoop, services: Services, provider: Provider, kernel: Kernel, sums: Adds) -> None:
        assert isinstance(services.books, ReplayBooks)
        self._loop = loop
        self._policy_ref = services.policy_ref
        self._kernel = kernel
        self._books = services.books
        self._sums = sums
        self._shapes: Shapes = kernel.shapes
        self._kinds = kernel.shapes.kinds
        self._seat_of: Callable[[Scope], object] = kernel.seat_of
        self._acts: ReplayActions | None = kernel.acts
        self._recalls: Recalls | None = kernel.recalls
        self._edits = services.levers is not None
        self._remember = provider.remember_answer
        self._warmth = provider.warmth
        self._unanswered = sums.unanswered
        self._throttled = bad_ending(Throttled(""), 0).error
        self._exceeded = bad_ending(exceeded(""), 0).error
        kernel.due[self.end] = "end"

    def begin(self, exchange: Exchange) -> bool:
        """Serves a call from this instant on; False: it goes another way, and nothing has been done."""
        try:
            (fact,), ((_, asks), (_, ends)) = exchange.attempts, exchange.acts
        except ValueError:  # more tries than one, or another number of acts
            return False
        usage = exchange.usage
        if exchange.decisions or exchange.readings or exchange.error or exchange.prompt is not None:
            return False
        if usage is None or usage.source != "reported" or not asks >= 0 > ends:
            return False
        if fact.error or fact.lever or not fact.entry_id or not 200 <= fact.status < 300:
            return False
        shape = self._shape(exchange)
        if shape is None:
            return False
        at_ms = exchange.received_at_ms
        account = shape.seats.get(self._seat_of(exchange.scope))
        if account is None or not account.from_ms <= at_ms < account.until_ms:
            account = self._kernel.account(exchange, shape)
        hop = self._hop(exchange, shape, account)
        if hop is None:
            return False
        if self._books.fits(account, hop.amounts, account.edges or self._edges(account)):
            self._send(hop)
            return True
        return self._near(hop)

    def _edges(self, account: Account) -> Rows:
        """Within these, calls that count there go and that is all."""
        edges = account.edges = account.limits if self._acts is None else self._acts.edges(account)
        return edges

    def _shape(self, exchange: Exchange) -> Shape | None:
        """What its kind is known to be asked of whom; None: it is not known, or it is nothing for this way."""
        try:
            kind = self._kinds[kind_of(exchange.dialect, exchange.view)]
        except KeyError:
            return None
        shape = kind.one
        if shape is None:
            if kind.route is None or exchange.policy_ref == self._policy_ref:
                return None
            tokens, tag = seen_of(exchange)
            found = kind.chosen.get((tokens < kind.route.length_tokens, tag))
            if found is None:
                return None
            shape = found[0]
        return shape if shape is not None and shape.lane is not None and shape.tariff is not None else None

    def _hop(self, exchange: Exchange, shape: Shape, account: Account) -> Hop | None:
        """A call that no cache can answer, with what it would hold; None: that takes more to say."""
        unread: bool | None = False
        if self._edits and exchange.policy_ref != self._policy_ref:
            unread = shape.blind
        lane, recalls = shape.lane, self._recalls
        assert lane is not None
        amounts = lane.need(exchange.view.body_bytes, exchange.received_at_ms)
        if amounts is None or unread is None:
            return None
        hop = Hop(exchange, shape, account, amounts, self._loop.now_ms(), 0, unread)
        return hop if recalls is None or recalls.misses(hop) else None

    def _near(self, hop: Hop) -> bool:
        """A call with which some counter would pass an edge."""
        acts, account = self._acts, hop.account
        if acts is not None:
            if acts.reached(account):
                return self._slowed(acts, hop)
            if self._books.fits(account, hop.amounts):
                self._send(hop)
                return True
        return self._full(hop)

    def _slowed(self, acts: ReplayActions, hop: Hop) -> bool:
        """A call that has reached thresholds."""
        exchange, shape = hop.exchange, hop.shape
        acts.begin()
        said = acts.slow(hop.account, exchange.received_at_ms)
        if said.way == "wait":
            self._refused(exchange, self._throttled, hop.started_ms, False)
            return True
        moved: Shape | None = None
        if said.way == "go":
            moved = shape if said.degrades is None else self._shapes.moved(shape, said.degrades.to, exchange)
        if moved is not None and moved.lane is not None and moved.tariff is not None:
            other = hop if moved is shape else self._hop(exchange, moved, self._kernel.account(exchange, moved))
            if other is not None:
                if self._books.fits(other.account, other.amounts):
                    self._send(other)
                    return True
                if self._full(other):
                    return True
        acts.take_back()
        return False

    def _full(self, hop: Hop) -> bool:
        """What does not fit is refused, if that is all; False: more can be tried."""
        if not hop.account.alone or self._kernel.squeezes or hop.exchange.sections:
            return False
        self._refused(hop.exchange, self._exceeded, hop.started_ms, hop.unread)
        return True

    def _send(self, hop: Hop) -> None:
        """To its provider, which answers as it did; or to another one, the short way."""
        exchange, target, recalls = hop.exchange, hop.shape.target, self._recalls
        fact, view = exchange.attempts[0], exchange.view
        took = fact.latency_ms
        elsewhere = fact.model != target.model or fact.provider != target.provider
        if elsewhere or exchange.blocks or (view.stream and fact.ttft_ms is not None and fact.ttft_ms > took):
            fly = hop.fly()
            self._kernel.send(fly if recalls is None else recalls.hand_over(fly))
            return
        if recalls is not None and hop.route is not None:
            recalls.leads(hop, hop.route)
        hop.ends_ms = ends_ms = fact.started_at_ms + took
        self._loop.act(ends_ms, -exchange.acts[1][1], self.end, hop)

    def end(self, hop: Hop) -> None:
        """Its answer is whole: priced, booked, told."""
        exchange, shape, ended_ms = hop.exchange, hop.shape, hop.ends_ms
        if ended_ms <= hop.started_ms:  # it was over before it began: nobody waited for that instant
            ended_ms = max(hop.started_ms, self._loop.now_ms())
        usage, tariff, cap = exchange.usage, shape.tariff, shape.cap
        assert usage is not None
        assert tariff is not None
        at_ms, fidelity = exchange.received_at_ms, _EXACT
        rated = tariff.rate(usage, at_ms)
        if cap is not None and (rated is None or rated[2] > cap):
            view = exchange.view
            cut = within(usage, cap, before=view.output_tokens_max, choices=view.choices)
            if cut is not usage:
                usage, fidelity = cut, _ESTIMATED
                rated = tariff.rate(usage, at_ms)
        if rated is None:  # it takes the whole price book to say
            fly = hop.sent()
            self._kernel.end(fly if self._recalls is None else self._recalls.hand_over(fly))
            return
        total, taken, given = rated
        if hop.unread:
            fidelity = _UNKNOWN
        elif fidelity is _EXACT and total != exchange.amount and differs(exchange, total):
            fidelity = _REPRICED
        latency_ms = ended_ms - at_ms
        model = usage.model or shape.target.model
        self._sums.answered(exchange, model, total, fidelity, latency_ms if latency_ms > 0 else 0, False)
        self._books.spend(hop.account, hop.amounts, (total, taken + given, taken, given))
        if hop.route is not None and self._recalls is not None:
            self._recalls.keep(hop, hop.route, usage, total, ended_ms)
        self._kernel.served += 1
        fact = exchange.attempts[0]
        self._remember(fact.entry_id, fact.model, exchange.usage or usage, fact.latency_ms)

    def _refused(self, exchange: Exchange, error: str, now_ms: int, unread: bool) -> None:
        latency_ms = now_ms - exchange.received_at_ms
        self._kernel.served += 1
        self._unanswered(
            exchange, "refused", error, latency_ms if latency_ms > 0 else 0, fidelity=_UNKNOWN if unread else _EXACT
        )
        fact, usage = exchange.attempts[0], exchange.usage
        assert usage is not None
        self._remember(fact.entry_id, fact.model, usage, fact.latency_ms)
        if exchange.blocks:
            self._warmth.unsent(exchange)
