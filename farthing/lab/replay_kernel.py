"""The short way of a replay: a call whose course is plain is decided without a task of its own.

It asks what the pipeline asks, of the same functions, in the same order and at the same instants: plan, thresholds,
bounds, ceiling, holds, prices, what budgets count, the entry. It leaves out what only live traffic needs: tasks,
bodies, headers, stubs, streams. A call of another course (retries, failures, hang-ups, translations, kept text) is
the pipeline's. Both work on the same books in the same virtual time, so each call may go either way.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import attrgetter
from typing import Final, Literal

from msgspec.structs import replace as replace_fields

from farthing.core.caching import AS_USUAL
from farthing.core.errors import BudgetExceeded, FarthingError, Throttled
from farthing.core.types import Bounds, Denied, Exchange, Scope, Usage
from farthing.engine.act import SQUEEZES_MAX, apply_thresholds, cap_note, squeezed
from farthing.engine.attempt import counted
from farthing.engine.ceiling import bounds_of, need_of, tight_bounds, within_request_limits
from farthing.engine.levers import Levers
from farthing.engine.messages import budget_exceeded, refusal, would_refuse
from farthing.engine.pipeline import bad_ending
from farthing.engine.plan import Plan
from farthing.engine.record import with_stated_difference
from farthing.engine.services import Services
from farthing.engine.trials import Logged as Arms
from farthing.lab.replay_acts import ReplayActions, Turnstiles
from farthing.lab.replay_books import Account, ReplayBooks, amounts_of
from farthing.lab.replay_cache import ReplayCaching
from farthing.lab.replay_flying import written
from farthing.lab.replay_hop import Hop
from farthing.lab.replay_log import Logged, asks_at, cap_of, end_of
from farthing.lab.replay_plain import NO_USAGE, Ends, Fly, Shape, bounds_within, is_plain
from farthing.lab.replay_provider import Flight, Provider, ended, within
from farthing.lab.replay_recall import Cached, Recalls
from farthing.lab.replay_routes import LoggedRouting
from farthing.lab.replay_shape import Shapes
from farthing.lab.replay_state import Flying
from farthing.lab.replay_time import VirtualLoop

_SEATS_MAX: Final = 50_000


def unfit(services: Services) -> str:
    """Why no call of a policy can go the short way; empty: those of a plain course can."""
    for found, why in (
        (not isinstance(services.routing, LoggedRouting | None), "the routes are not a replay's"),
        (services.levers is not None and services.levers.summaries is not None, "levers ask models"),
        (not isinstance(services.caching, ReplayCaching | None), "caches find similar questions"),
        (not isinstance(services.actions, ReplayActions | None), "the thresholds are not a replay's"),
        (services.watch is not None or services.usage_listener is not None, "somebody watches the calls"),
        (not isinstance(services.books, ReplayBooks), "the books are not a replay's"),
    ):
        if found:
            return why
    return ""


class Kernel:
    """Decides the plain calls of one replay."""

    def __init__(self, loop: VirtualLoop, services: Services, provider: Provider, ends: Ends) -> None:
        assert isinstance(services.books, ReplayBooks)
        self.served = 0
        """Calls that went this way."""
        self.due: dict[object, Literal["first", "end"]] = {self._first: "first", self.end: "end"}
        """What calls wait for, by what is called then."""
        self._loop = loop
        self._services = services
        self._books = services.books
        self._provider = provider
        self._ends = ends
        self._adds = ends.adds
        self.acts: ReplayActions | None = None
        if isinstance(services.actions, ReplayActions) and services.actions.before:
            self.acts = services.actions
        self.squeezes = services.actions is not None and bool(services.actions.clamps)
        """Answers may be cut to what is left."""
        self._exceeded = bad_ending(exceeded(""), 0)
        self._pools = services.routing.pools if services.routing is not None and services.routing.times else None
        self._trial = services.trials.running
        self._reads = isinstance(self._trial, Arms)
        """Arms are those that were noted: a call without readings has none."""
        self.shapes = Shapes(services, provider, lanes=ends.adds)
        reads = services.budgets.reads
        self.seat_of: Callable[[Scope], object] = attrgetter(*reads) if reads else lambda scope: None
        matches = any(lever.match for lever in services.policy.levers)
        self._sees = services.levers is not None and matches
        """Whether a lever is for a call depends on who calls."""
        self.recalls: Recalls | None = None
        if isinstance(services.caching, ReplayCaching):
            self.recalls = Recalls(services.caching, services.policy.cache, noted=not ends.adds)

    def begin(self, exchange: Exchange, one: Logged | None = None) -> bool:
        """Serves a call from this instant on; False: it needs the pipeline, and nothing has been done.

        ``one``: the same with the ledger's entries, where they are at hand.
        """
        if not is_plain(exchange, one):
            return False
        fly = Fly(exchange, one, self._loop.now_ms())
        trial = self._trial
        if trial is not None and (exchange.readings or not self._reads) and trial.arm(fly.request) is not None:
            return False
        try:
            shape = self.shapes.find(fly)
            if shape is not None and self.acts is not None:
                shape = self._acted(self.acts, shape, fly)
            if shape is None:
                return False
            fly.shape = shape
            if self.recalls is not None:
                way, answer = self.recalls.look(fly, fly.started_ms)
                if way == "pipeline":
                    if self.acts is not None:
                        self.acts.take_back()
                    return False
                if answer is not None:
                    self._ends.recalled(fly, answer, fly.started_ms)
                    self._over(fly)
                    return True
        except FarthingError as error:
            self._refuse(fly, error)
            return True
        if fly.asked is None:
            self._open(fly)
        elif exchange.decisions or not exchange.acts:
            at_ms, number = asks_at(exchange)
            self._loop.act(at_ms, number, self._missed, fly)
        else:  # it begins with its first question to the books: that is now
            self._set_off(fly)
        return True

    def _acted(self, acts: ReplayActions, shape: Shape, fly: Fly) -> Shape | None:
        """What thresholds make of a plan; None: it is translated. Raises what they refuse with."""
        acts.begin()
        fly.account = self.account(fly.exchange, shape)
        if not acts.reached(fly.account):
            return shape
        if self._ends.adds:
            said = acts.slow(fly.account, fly.exchange.received_at_ms)
            if said.way == "wait":
                raise Throttled("")
            if said.way == "go":
                if said.degrades is None:
                    return shape
                found = self.shapes.switched(shape, said.degrades.to, fly)
                if found is not None:
                    fly.account = fly.account if found is shape else None
                    return found
                acts.take_back()
        fly.account = None
        plan = apply_thresholds(self._services, acts, fly.request, shape.plan)
        if plan is shape.plan:
            return shape
        found = self.shapes.degraded(shape, plan, fly)
        if found is None:
            acts.take_back()
        return found

    def _missed(self, fly: Fly) -> None:
        """A cache had no answer when it was asked."""
        fly.started_ms = self._loop.now_ms()
        self._set_off(fly)

    def _set_off(self, fly: Fly) -> None:
        """To the provider, where the caller does not forbid it."""
        recalls, asked = self.recalls, fly.asked
        assert recalls is not None
        assert asked is not None
        if recalls.noted or asked.controls is not AS_USUAL:
            try:
                recalls.missed(fly)
            except FarthingError as error:
                self._refuse(fly, error)
                return
        self._open(fly)

    def _open(self, fly: Fly) -> None:
        """Its ceiling is asked of the books when the log says so."""
        shape, levers, exchange = fly.shape, self._services.levers, fly.exchange
        if levers is not None and not fly.unread and exchange.policy_ref != self._services.policy_ref:
            fly.unread = self._is_blind(levers, fly)
        if not self._adds:
            fly.decisions = (*fly.decisions, *fly.planned) if fly.decisions else fly.planned
            if shape.ask.notes:
                noted = list(fly.decisions)
                shape.ask.note(noted)
                fly.decisions = tuple(noted)
        lane = shape.lane
        need = None if lane is None else lane.need(exchange.view.body_bytes, exchange.received_at_ms)
        if need is not None:
            if fly.account is None:
                fly.account = self.account(exchange, shape)
            fly.amounts = need
            acts = exchange.acts
            if not acts or acts[0][1] < 0 or exchange.decisions:
                self._ask(fly)
            else:  # it begins with its first question to the books: that is now
                fly.acts = 1
                self._take(fly)
            return
        try:
            sent = shape.edited or fly.request
            self._measure(fly, bounds_of(self._services, sent, shape.target, shape.upstream, shape.ask.plan))
        except FarthingError as error:
            self._refuse(fly, error)
            return
        self._ask(fly)

    def _is_blind(self, levers: Levers, fly: Fly) -> bool:
        """Levers would have to read what the log does not keep."""
        shape = fly.shape
        if self._sees or fly.exchange.readings:
            return levers.is_blind(fly.request, shape.target)
        if shape.blind is None:
            shape.blind = levers.is_blind(fly.request, shape.target)
        return shape.blind

    def account(self, exchange: Exchange, shape: Shape) -> Account:
        """Where a call counts."""
        at_ms, seat = exchange.received_at_ms, self.seat_of(exchange.scope)
        found = shape.seats.get(seat)
        if found is None or not found.from_ms <= at_ms < found.until_ms:
            target = shape.target
            places = self._services.budgets.places(
                exchange.scope, provider=target.provider, model=target.model, at_ms=at_ms
            )
            if len(shape.seats) >= _SEATS_MAX:
                shape.seats.clear()
            found = shape.seats[seat] = self._books.account(places)
        return found

    # -- written down

    def flying(self) -> tuple[Flying, ...] | None:
        """The calls on their way, in the order in which they are due; None: one of them cannot be written down."""
        due, found = self.due, []
        for when, callback, what in self._loop.timers():
            fly = what.sent() if isinstance(what, Hop) else what
            if callback not in due or not isinstance(fly, Fly) or fly.one is not None:
                return None
            found.append(written(fly, bounds_within(self._services, fly), due[callback], when))
        return tuple(found)

    def fly_on(self, flying: Iterable[Flying]) -> None:
        """Takes up the calls that were on their way, on a loop whose clock stands where it stood."""
        for one in flying:
            fly = self._read(one)
            self._loop.later(one.when, self._first if one.due == "first" else self.end, fly)

    def cached(self) -> Cached | None:
        """What the cache holds; None: there is none."""
        return None if self.recalls is None else self.recalls.cached()

    def turnstiles(self) -> Turnstiles:
        """Which calls went lately on counters that are slowed down."""
        return () if self.acts is None else self.acts.state()

    def restore(self, cached: Cached | None, turnstiles: Turnstiles, served: int) -> None:
        """Fills cache and turnstiles, and counts on."""
        self.served = served
        if self.acts is not None:
            self.acts.restore(turnstiles)
        if self.recalls is not None and cached is not None:
            self.recalls.restore(cached)

    def _read(self, one: Flying) -> Fly:
        fly = Fly(one.exchange, None, one.started_ms)
        shape = self.shapes.find(fly)
        assert shape is not None
        fly.shape = shape
        if shape.target != one.target:
            fly.shape = replace(shape, target=one.target, lane=None, seats={})
        fly.bounds = one.bounds
        fly.account = self.account(fly.exchange, fly.shape)
        fly.amounts = one.amounts
        fly.decisions, fly.ttft_ms = one.decisions, one.ttft_ms
        fly.usage, fly.was_cut = one.usage, one.was_cut
        if one.guess is not None:
            guesses = {1: one.guess} if one.guess else {}
            known = replace_fields(fly.logged, held=one.held, kept=one.kept, stated=fly.shape.cap)
            fact = fly.exchange.attempts[0] if one.kept else None
            fly.flight = Flight(logged=known, tries=1, usage=one.usage, fact=fact, estimated=True, guesses=guesses)
        if one.missed and self.recalls is not None:
            self.recalls.again(fly, leads=one.leads)
        return fly

    def _at(self, when: float, callback: Callable[[Fly], None], fly: Fly) -> None:
        """Goes on at a loop time; at once when it has passed."""
        if when > self._loop.time():
            self._loop.later(when, callback, fly)
        else:
            callback(fly)

    def _ask(self, fly: Fly) -> None:
        """Goes to the books, when the log says that it did so for as many times."""
        acts, place = fly.exchange.acts, fly.acts
        fly.acts = place + 1
        if place >= len(acts) or acts[place][1] < 0:  # the log has no such question: it is asked at once
            self._take(fly)
            return
        at_ms, number = acts[place]
        loop = self._loop
        when = loop.at(fly.exchange.received_at_ms + at_ms, abs(number))
        if when > loop.time():
            loop.later(when, self._take, fly)
        else:
            self._take(fly)

    # -- what it may cost

    def _measure(self, fly: Fly, bounds: Bounds) -> None:
        """What is held for the call within these bounds. Raises ``BudgetExceeded``, ``Unpriced``."""
        if not self._services.request_limits:
            self._hold(fly, bounds)
            return
        counting = (self._services, fly.request, fly.shape.target, bounds)
        _, bounds = within_request_limits(*counting, sent=fly.shape.edited or fly.request)
        self._hold(fly, bounds)

    def _hold(self, fly: Fly, bounds: Bounds) -> None:
        services, request, target = self._services, fly.request, fly.shape.target
        need = need_of(services, request, target, bounds)[1]
        fly.bounds = bounds
        fly.account = self.account(fly.exchange, fly.shape)
        fly.amounts = amounts_of(need)

    # -- its course

    def _take(self, fly: Fly) -> None:
        account = fly.account
        assert account is not None
        if not self._books.fits(account, fly.amounts):
            if account.alone and fly.bounds is None and self._adds and not self._more(fly):
                self._turned_away(fly)
                return
            denied, over = self._books.take_all(fly.exchange.request_id, account, fly.amounts)
            if denied is not None:
                self._denied(fly, denied)
                return
            if over:
                fly.decisions = (*fly.decisions, *map(would_refuse, over))
        if fly.denied is not None:
            output = bounds_within(self._services, fly).output_tokens
            fly.decisions = (*fly.decisions, cap_note(fly.denied, output))
        self.send(fly)

    def _more(self, fly: Fly) -> bool:
        """There is more to try with a call that does not fit: its prompt can be counted, or its answer may be cut."""
        exchange = fly.exchange
        counts = bool(exchange.sections) and exchange.usage is not None
        return counts or self.squeezes or bool(exchange.readings)

    def _turned_away(self, fly: Fly) -> None:
        """It does not fit, nothing else can be tried, and nobody reads why."""
        exchange = fly.exchange
        self._ends.uncounted(fly, self._exceeded, max(0, self._loop.now_ms() - exchange.received_at_ms))
        self._over(fly)

    def _denied(self, fly: Fly, denied: Denied) -> None:
        """It does not fit: once more with the prompt really counted, then with less of an answer, then never."""
        services, request, shape = self._services, fly.request, fly.shape
        bounds = bounds_within(services, fly)
        if not fly.tight:
            fly.tight = True
            tight = tight_bounds(services, shape.edited or request, shape.target, bounds)
            if tight is not bounds:
                self._hold(fly, tight)
                self._ask(fly)
                return
        if fly.squeezes < SQUEEZES_MAX:
            fly.squeezes += 1
            found = squeezed(services, request, shape.plan, shape.target, bounds, denied)
            if found is not None:
                self._squeeze(fly, denied, found[0], found[1])
                return
        if self._ends.adds:  # nobody reads why
            self._refuse(fly, exceeded(denied.hold.budget or denied.hold.counter))
        else:
            self._refuse(fly, budget_exceeded(denied, fly.started_ms))

    def _squeeze(self, fly: Fly, denied: Denied, plan: Plan, bounds: Bounds) -> None:
        shape = self.shapes.shaped(plan, fly)
        assert shape is not None  # it was not translated before
        fly.shape, fly.denied = shape, denied
        self._hold(fly, bounds)
        self._ask(fly)

    def _refuse(self, fly: Fly, error: FarthingError) -> None:
        if isinstance(error, BudgetExceeded) and not self._ends.adds:
            fly.decisions = (*fly.decisions, refusal(error))
        latency_ms = max(0, self._loop.now_ms() - fly.exchange.received_at_ms)
        self._ends.unanswered(fly, bad_ending(error, latency_ms))
        self._over(fly)

    def send(self, fly: Fly) -> None:
        """From the instant at which it left to the first byte of its answer."""
        exchange, target, loop = fly.exchange, fly.shape.target, self._loop
        fact = exchange.attempts[0] if exchange.attempts else None
        if fact is None or fact.provider != target.provider or fact.model != target.model:
            fly.flight = Flight(logged=fly.logged)
            self._provider.begin(fly.flight, target, fly.shape.body)
            fly.usage = fly.flight.usage or fly.usage
            if exchange.blocks:
                self._provider.unsent(fly.flight)
            self._await_end(fly)
            return
        usage = exchange.usage if fly.one is None else fly.one.usages.get(fact.attempt) or fly.one.usage
        fly.usage = usage or fly.usage
        if exchange.blocks and usage is not None:
            fly.flight = self._provider.reread_of(exchange, fact, usage, fly.one)
            if fly.flight is not None:
                fly.usage = usage = fly.flight.usage or usage
        cap = fly.shape.cap
        if cap is not None:
            fly.usage = within(fly.usage, cap, before=cap_of(exchange), choices=exchange.view.choices)
            fly.was_cut = fly.usage is not usage
        order, took = end_of(exchange), fact.latency_ms
        first = fact.ttft_ms if exchange.view.stream else None
        if first is None or (order and self._adds and first <= took):  # nobody asks when it began
            loop.act(fact.started_at_ms + took, order, self.end, fly)
        else:
            loop.act(fact.started_at_ms + first, 0, self._first, fly)

    def _first(self, fly: Fly) -> None:
        fly.ttft_ms = max(0, self._loop.now_ms() - fly.started_ms)
        self._await_end(fly)

    def _await_end(self, fly: Fly) -> None:
        if fly.flight is not None:
            self._at(ended(self._loop, fly.flight), self.end, fly)
            return
        exchange = fly.exchange
        fact = exchange.attempts[0]
        self._loop.act(fact.started_at_ms + fact.latency_ms, end_of(exchange), self.end, fly)

    def end(self, fly: Fly) -> None:
        """Its answer is whole: priced, booked, told."""
        services, exchange, usage, shape = self._services, fly.exchange, fly.usage, fly.shape
        ended_ms = self._loop.now_ms()
        if ended_ms < fly.started_ms:
            ended_ms = fly.started_ms
        if not exchange.view.stream:
            fly.ttft_ms = ended_ms - fly.started_ms
            if usage.source != "reported":
                usage = self._filled(fly, usage)
        target, tariff, at_ms = shape.target, shape.tariff, exchange.received_at_ms
        rated = tariff.rate(usage, at_ms) if tariff is not None else None
        if rated is not None and tariff is not None:
            total: int | None = rated[0]
            if fly.flight is None:
                self._ends.summed(fly, usage, total, ended_ms)
            else:
                self._ends.guessed(fly, fly.flight, usage, rated[0], tariff.input_nusd(usage, at_ms), ended_ms)
        else:
            charge = services.prices.charge(usage, target, at_ms=at_ms)
            total = charge.total
            if charge.computed is not None:
                usage = with_stated_difference(usage, charge)
            self._ends.answered(fly, usage, charge, ended_ms)
            rated = counted(services, usage, charge.total)
        if self._pools is not None:
            self._pools.heard(target.model, fly.started_ms, ended_ms)
        usd, taken, given = rated
        account = fly.account
        assert account is not None
        self._books.spend(account, fly.amounts, (usd, taken + given, taken, given))
        if fly.asked is not None and self.recalls is not None:
            self.recalls.learn(fly, usage, total, ended_ms)
        self._over(fly)

    def _filled(self, fly: Fly, usage: Usage) -> Usage:
        flight = fly.flight or Flight(logged=fly.logged, usage=usage)
        return self._ends.filled(fly, usage, self._provider.answers(flight)[0])

    def _over(self, fly: Fly) -> None:
        """What its answer consumed may stand for that of a request which a cache answered with it."""
        self.served += 1
        if fly.asked is not None and self.recalls is not None:
            self.recalls.end(fly)
        exchange = fly.exchange
        if exchange.blocks and fly.usage is NO_USAGE:
            self._provider.warmth.unsent(exchange)
        if fly.one is not None:
            self._provider.remember(fly.one)
            return
        attempts, usage = exchange.attempts, exchange.usage
        if attempts and usage is not None:
            fact = attempts[0]
            self._provider.remember_answer(fact.entry_id, fact.model, usage, fact.latency_ms)


def exceeded(budget: str) -> BudgetExceeded:
    """Where nobody reads how much is left."""
    return BudgetExceeded("", budget=budget, left="", limit="", resets_at_ms=None)
