"""One request on its way to an upstream: holds, tries, retries and fallbacks, and what each of them cost.

Each attempt that may have been billed ends in exactly one ledger entry; every reservation ends in exactly one
settlement, whatever happens in between.
"""

import asyncio
from typing import Literal

import msgspec

from farthing.core.errors import (
    BudgetExceeded,
    OutageAllowanceSpent,
    ProviderFailed,
    StoreFailed,
    Unpriced,
    Untranslatable,
)
from farthing.core.money import Nusd
from farthing.core.types import (
    AttemptFact,
    Bounds,
    Charge,
    Decision,
    Denied,
    Exchange,
    LedgerEntry,
    Request,
    Reservation,
    Target,
    Usage,
    UsagePart,
)
from farthing.engine.act import SQUEEZES_MAX, cap_note, squeezed
from farthing.engine.answering import failure_of, send
from farthing.engine.attempt import Attempt as Attempt
from farthing.engine.attempt import amounts_of, baseline_of, ceiling_charge, entry_of, fact_of, stub_of, tell
from farthing.engine.ceiling import (
    LONG_BODY,
    Ceiling,
    bounds_of,
    ceiling_lines,
    ceiling_of,
    tight_bounds,
    tight_bounds_aside,
    within_request_limits,
)
from farthing.engine.messages import budget_exceeded, error_class, would_refuse
from farthing.engine.plan import Plan
from farthing.engine.reading import likely_prompt
from farthing.engine.record import NO_PRINTS, Ending, Prints, Recorder, with_stated_difference
from farthing.engine.retrying import pause_before
from farthing.engine.route_prefix import note_turn
from farthing.engine.services import Services, Upstream
from farthing.engine.translating import Prepared, prepared
from farthing.engine.unpacking import unpacked
from farthing.ports.books import Settlement
from farthing.ports.provider import HttpReply

Asking = tuple[Upstream, Prepared, bytes, Bounds]
"""(whom, what, the bytes to send, the most that it can be)."""
_BYTES_PER_TOKEN = 4
FREE_ENDPOINTS = ("count_tokens",)
"""Endpoints that providers do not bill: never held, never booked."""


class Call:
    """The state of one request while it is served."""

    plan: Plan
    """Set once the targets are known."""

    def __init__(self, services: Services, recorder: Recorder, request: Request) -> None:
        self.services = services
        self.request = request
        self.decisions: list[Decision] = []
        self.entries: list[LedgerEntry] = []
        self.facts: list[AttemptFact] = []
        self.acts: list[tuple[int, int]] = []
        """What was asked of the books and told them (see ``Exchange.acts``)."""
        self.current: Attempt | None = None
        self.kept_back = 0
        """Answers of the same operation that are read and not booked yet; later attempts are numbered after them."""
        self.ended = False
        """The exchange has been handed over; nothing more may be said about this request."""
        self.lever = ""
        """The lever that makes this call for its own sake; its entries have no baseline and it logs no exchange."""
        self._not_before_ms = 0
        """The end of the last try and its pause: a clock that was set back does not make the next one earlier."""
        self._recorder = recorder
        self._sent_body: bytes | None = None
        self._unread = 0  # input tokens that the asked-for model would have read from its prompt cache besides

    @property
    def keeps_text(self) -> bool:
        """The policy wants answers in the traffic log."""
        return self._recorder.keeps_text

    def elapsed_ms(self) -> int:
        """Time since the request came in."""
        return max(0, self.services.clock.now_ms() - self.request.received_at_ms)

    def end(self, attempt: Attempt) -> int:
        """The instant at which the attempt was over; the first to ask decides it."""
        if attempt.ended_ms < 0:
            attempt.ended_ms = self._not_before_ms = max(self.services.clock.now_ms(), attempt.started_ms)
        return attempt.ended_ms

    async def obtain(self) -> tuple[Attempt, HttpReply]:
        """The first upstream answer that may be given to the caller.

        Raises the last failure when every target and try has failed, :class:`BudgetExceeded` when nothing fits. A
        fallback that a budget refuses is passed over: it does not hide what went wrong before it.
        """
        self.decisions.extend(self.plan.decisions)
        failure: ProviderFailed | None = None
        for order, target in enumerate(self.plan.targets):
            if order and failure is not None and not self._falls_back(failure):
                break
            if order:
                self.note("fallback", "switch", "provider_failed", (("to", f"{target.provider}/{target.model}"),))
            try:
                return await self._try_target(target)
            except ProviderFailed as error:
                failure = error
            except (BudgetExceeded, Unpriced, Untranslatable) as refusal:
                if failure is None:
                    raise
                self.note("fallback", "skip", refusal.code, (("model", f"{target.provider}/{target.model}"),))
        if failure is None:
            raise ProviderFailed("No upstream was tried.", sent=False)
        raise failure

    async def _try_target(self, target: Target) -> tuple[Attempt, HttpReply]:
        services = self.services
        retries, free = services.policy.retries, self.request.view.endpoint in FREE_ENDPOINTS
        for turn in range(1, retries.attempts_max + 1):
            if self.plan.levers is not None and self.plan.levers.summaries is not None and not self.lever:
                await self.plan.levers.ahead(self, target)
            asking = self._asking(target)
            sent, bounds = asking[1].request, asking[3]
            counted: tuple[Ceiling, Bounds] | None = None
            if services.request_limits and not free and len(sent.body) >= LONG_BODY:
                counting = (services, self.request, target, bounds)
                counted = await asyncio.to_thread(within_request_limits, *counting, sent=sent)
            attempt = self._open(target, asking, counted)
            denied = None if free else await self._hold(attempt, attempt.started_ms)
            if denied is not None:
                await self._hold_less(attempt, denied, attempt.started_ms)
            try:
                reply = unpacked(await send(services, attempt))
                if reply.status < 300:  # a redirect is no answer, and nobody bills one
                    return attempt, reply
                raise await failure_of(services, attempt, reply)
            except ProviderFailed as error:
                await self._close_failed(attempt, error)
                pause_ms = pause_before(
                    self.services.policy.retries, error, turn, f"{self.request.id}:{len(self.facts)}"
                )
                if pause_ms is None:
                    raise
                self.note("retry", "again", error.code, (("after_ms", str(pause_ms)),))
                self._not_before_ms += pause_ms
                await asyncio.sleep(pause_ms / 1000)
        raise AssertionError("a failed last try raises")

    def _asking(self, target: Target) -> Asking:
        """What the next try asks of whom, and what that can be."""
        services, request = self.services, self.request
        upstream = services.upstreams[target.provider]
        ask, body = prepared(self.plan, request, target, upstream)
        if ask.translation is not None or ask.notes:
            ask.note(self.decisions)
        return upstream, ask, body, bounds_of(services, ask.request, target, upstream, ask.plan)

    def _open(self, target: Target, asking: Asking, counted: tuple[Ceiling, Bounds] | None) -> Attempt:
        """The next try; nothing is held for it yet. Raises :class:`BudgetExceeded`, :class:`Unpriced`."""
        services, request = self.services, self.request
        upstream, ask, body, bounds = asking
        if request.view.endpoint in FREE_ENDPOINTS:
            ceiling = Ceiling(amount=Nusd(0), input_tokens=0, output_tokens=0, holds=())
        elif counted is not None:
            ceiling, bounds = counted
        elif services.request_limits:
            ceiling, bounds = within_request_limits(services, request, target, bounds, sent=ask.request)
        else:
            ceiling = ceiling_of(services, request, target, bounds)
        now_ms = max(services.clock.now_ms(), self._not_before_ms)
        number = len(self.facts) + self.kept_back + 1
        attempt = Attempt(
            id=f"{request.id}-{number}",
            number=number,
            target=target,
            upstream=upstream,
            body=body,
            ask=ask,
            bounds=bounds,
            ceiling=ceiling,
            started_ms=now_ms,
        )
        self.current = attempt
        self._sent_body = body
        return attempt

    async def _hold_less(self, attempt: Attempt, denied: Denied, now_ms: int) -> None:
        """Holds what may fit where the first ceiling did not. Raises :class:`BudgetExceeded`."""
        clock = self.services.clock
        tight = await tight_bounds_aside(self.services, attempt.ask.request, attempt.target, attempt.bounds)
        if tight is not attempt.bounds:
            attempt.bounds = tight
            attempt.ceiling = ceiling_of(self.services, self.request, attempt.target, tight)
            again = await self._hold(attempt, clock.now_ms())
            if again is None:
                return
            denied = again
        for _ in range(SQUEEZES_MAX):
            if not self._squeeze(attempt, denied):
                break
            again = await self._hold(attempt, clock.now_ms())
            if again is None:
                self.decisions.append(cap_note(denied, attempt.bounds.output_tokens))
                return
            denied = again
        attempt.settled = True
        if self.services.watch is not None:
            self.services.watch.refused(denied.hold)
        raise budget_exceeded(denied, now_ms)

    def _squeeze(self, attempt: Attempt, denied: Denied) -> bool:
        """Cuts the answer to what is left where the budget's thresholds say so; False: it is refused."""
        found = squeezed(self.services, self.request, self.plan, attempt.target, attempt.bounds, denied)
        if found is None:
            return False
        self.plan, attempt.bounds, attempt.ceiling = found
        attempt.ask, attempt.body = prepared(self.plan, self.request, attempt.target, attempt.upstream)
        self._sent_body = attempt.body
        return True

    async def _hold(self, attempt: Attempt, at_ms: int) -> Denied | None:
        now_ms = self.services.hold_ms()
        reservation = Reservation(
            id=attempt.id,
            request_id=self.request.id,
            holds=attempt.ceiling.holds,
            ceiling=attempt.ceiling.amount,
            expires_at_ms=now_ms + self.services.policy.reservation_ttl_ms,
        )
        attempt.stub = stub_of(self.services, self.request, attempt, tuple(self.decisions))
        self._act(at_ms)
        try:
            result = await self.services.books.reserve(reservation, now_ms=now_ms, stub=attempt.stub)
        except StoreFailed as error:
            self.services.telemetry.store_failed(error.code)
            if self.services.policy.on_store_failure == "refuse" or isinstance(error, OutageAllowanceSpent):
                raise
            return None  # served without a hold, as the policy says; its entry waits for the store
        if isinstance(result, Denied):
            return result
        attempt.reservation = reservation
        self.decisions.extend(map(would_refuse, result.over))
        if self.services.watch is not None:
            self.services.watch.held(reservation.holds)
        return None

    async def _close_failed(self, attempt: Attempt, error: ProviderFailed) -> None:
        """Ends a failed try: free when the provider refused it, booked when it may have been billed."""
        self.services.telemetry.attempt_failed(attempt.target.provider, error.code)
        billable = error.sent and error.status is None and self.request.view.endpoint not in FREE_ENDPOINTS
        if billable:
            await self.book_unknown(attempt, error.code)
            return
        asked = getattr(error, "retry_after_ms", None)
        self._fact(attempt, status=error.status or 0, error=error.code, retry_after_ms=asked)
        await self.settle(attempt, ())

    def _falls_back(self, error: ProviderFailed) -> bool:
        if self.plan.strong:
            return True  # the choice was the route's own: the strong model serves, whatever the failure was
        rule = self.services.routes.fallback_for(self.request.view.model)
        kind = error_class(error)
        return rule is not None and kind in rule.on

    # -- booking ------------------------------------------------------------------------------------------------

    async def book(
        self, attempt: Attempt, usage: Usage, ending: Ending, *, error: str = "", gone: bool = False
    ) -> None:
        """Prices and books what the answering attempt consumed, and ends the request."""
        charge = self.services.prices.charge(usage, attempt.target, at_ms=self.request.received_at_ms)
        if charge.computed is not None:
            usage = with_stated_difference(usage, charge)
        if self.services.routing is not None and self.plan.talk and not self.lever:
            self._unread = note_turn(self, self.services.routing.prefixes, attempt, usage)
        entry = self._entry(attempt, usage, charge, status=ending.status, error=error, gone=gone)
        self._fact(attempt, status=ending.status, error=error, entry_id=entry.id, usage=usage)
        settlement = self._settlement(attempt, (entry,), ending)
        if settlement is not None:
            await self._store(settlement)
        if self.services.usage_listener is not None:
            tell(self.services.usage_listener, attempt, usage)

    async def book_unknown(self, attempt: Attempt, error: str, *, gone: bool = False, status: int = 0) -> None:
        """Books an attempt whose outcome nobody knows, as the policy says: its ceiling or the likely cost.

        ``status`` is that of an answer which began and was never whole.
        """
        self.end(attempt)
        if self.services.policy.on_unknown_outcome == "ceiling":
            usage = Usage(source="estimated", parts=(UsagePart(lines=ceiling_lines(attempt.ceiling)),))
            charge = ceiling_charge(self.services, attempt)
        else:
            usage = Usage(source="estimated", parts=(UsagePart(lines=self.likely_lines(attempt, b"")),))
            charge = self.services.prices.charge(usage, attempt.target, at_ms=self.request.received_at_ms)
        entry = self._entry(attempt, usage, charge, status=0, error=error, fidelity="unknown", gone=gone)
        self._fact(attempt, status=status, error=error, entry_id=entry.id)
        await self.settle(attempt, (entry,))

    def tokens_for(self, text_bytes: int) -> int:
        """Output tokens that so many bytes of answer text likely were, at four bytes a token, rounded up."""
        return -(-text_bytes // _BYTES_PER_TOKEN)

    def likely_lines(self, attempt: Attempt, answer: bytes) -> tuple[tuple[str, int], ...]:
        """Counted tokens of the prompt and of the answer's text so far."""
        tight = tight_bounds(self.services, attempt.ask.request, attempt.target, attempt.bounds)
        most = tight.input_tokens
        prompt = likely_prompt(self.services.tokens, attempt.ask.request, attempt.target)
        if self.request.view.endpoint == "embeddings":
            answer = b""  # vectors are not billed output
        output = self.services.tokens.count(answer, model=attempt.target.model).tokens if answer else 0
        lines = (("input", min(prompt, most)), ("output", output))
        return tuple(line for line in lines if line[1])

    def _entry(
        self,
        attempt: Attempt,
        usage: Usage,
        charge: Charge,
        *,
        status: int = 200,
        error: str = "",
        gone: bool = False,
        fidelity: Literal["exact", "estimated", "unknown"] = "exact",
    ) -> LedgerEntry:
        self.end(attempt)
        return entry_of(
            attempt,
            attempt.stub or stub_of(self.services, self.request, attempt, tuple(self.decisions)),
            usage,
            msgspec.structs.replace(charge, reason=f"lever:{self.lever}") if self.lever else charge,
            baseline=Nusd(0) if self.lever else self._baseline(attempt, usage, charge),
            decisions=tuple(self.decisions),
            status=status,
            error=error,
            gone=gone,
            fidelity=fidelity,
        )

    def _baseline(self, attempt: Attempt, usage: Usage, charge: Charge) -> Nusd | None:
        """The asked-for model's cost of the same usage; the charge itself unless a fallback changed the model."""
        asked = self.plan.asked or self.plan.targets[0]
        at_ms = self.request.received_at_ms
        prices = self.services.prices
        return baseline_of(prices, attempt, usage, charge, asked=asked, at_ms=at_ms, unread=self._unread)

    async def finish(self, ending: Ending) -> None:
        """Ends a request whose attempts are all settled: it was refused, failed, or was free."""
        self.ended = True
        if self.lever:
            return
        exchange = self._told(ending)
        if exchange is not None:
            self.services.background.log(exchange)

    async def answered_free(self, attempt: Attempt, ending: Ending) -> None:
        """Ends a request that no provider bills."""
        attempt.settled = True
        self._fact(attempt, status=ending.status, error="")
        await self.finish(ending)

    async def settle(
        self, attempt: Attempt, entries: tuple[LedgerEntry, ...], *, ending: Ending | None = None
    ) -> None:
        """Ends the attempt's reservation and books its entries, with the exchange when the request ends too."""
        settlement = self._settlement(attempt, entries, ending)
        if settlement is not None:
            await self._store(settlement)

    def _settlement(
        self, attempt: Attempt, entries: tuple[LedgerEntry, ...], ending: Ending | None
    ) -> Settlement | None:
        """What the books are told of an attempt that is over; None: nothing was held and nothing happened."""
        attempt.settled = True
        self.entries.extend(entries)
        amounts: tuple[int, ...] = ()
        if attempt.reservation is not None:
            amounts = amounts_of(self.services, attempt.reservation.holds, entries)
            if self.services.watch is not None:
                who = (self.request.scope.key, self.request.scope.feature, attempt.target.model)
                self.services.watch.ended(attempt.reservation.holds, amounts, who)
        elif not entries and ending is None:
            return None
        self._act(self.end(attempt), -1)
        exchange: Exchange | None = None
        if self.lever:
            self.ended = ending is not None
            for entry in entries:
                self.services.telemetry.spent(entry)
        elif ending is not None:
            self.ended = True
            exchange = self._told(ending)
        return Settlement(reservation=attempt.reservation, amounts=amounts, entries=entries, exchange=exchange)

    async def book_whole(self, entry: LedgerEntry, ending: Ending, prints: Prints | None = None) -> None:
        """Books an entry without any attempt of this request, and ends it: a cache has answered."""
        self.entries.append(entry)
        exchange = self._told(ending, prints)
        self.ended = True
        await self._store(Settlement(reservation=None, entries=(entry,), exchange=exchange))

    def for_lever(self, lever: str, act: str) -> "Call":
        """The same call once more, for a lever's own sake: what it costs is booked to the lever."""
        call = Call(self.services, self._recorder, self.request)
        call.plan, call.lever = self.plan, lever
        call.note(lever, act, "lever_cost", ())
        return call

    def aside(self, request: Request, lever: str) -> "Call":
        """Another request, for a lever's own sake: what it costs is booked to the lever."""
        call = Call(self.services, self._recorder, request)
        call.lever = lever
        return call

    async def _store(self, settlement: Settlement) -> None:
        services = self.services
        try:
            await services.books.settle(settlement, now_ms=services.hold_ms())
        except StoreFailed as error:
            services.telemetry.store_failed(error.code)
            if settlement.entries or settlement.reservation:
                services.background.book_later(settlement)
            if services.policy.on_store_failure == "refuse":
                raise

    @property
    def prints(self) -> Prints:
        """What the traffic log keeps of the request's body, for whoever keeps it for the next one like it."""
        return self._recorder.prints(self.request) if self.services.logs else NO_PRINTS

    def _told(self, ending: Ending, prints: Prints | None = None) -> Exchange | None:
        """Tells how the request ended; the exchange to be logged, if it is."""
        services = self.services
        if not services.logs:
            provider = self.facts[-1].provider if self.facts else ""
            services.telemetry.ended(self.request.view, provider, ending, self.entries)
            return None
        exchange = self.exchange(ending, prints)
        services.telemetry.exchange(exchange, tuple(self.entries))
        return exchange

    def exchange(self, ending: Ending, prints: Prints | None = None) -> Exchange:
        """The request's exchange as it stands now."""
        return self._recorder.exchange(
            self.request,
            ending,
            sent_body=self._sent_body,
            attempts=tuple(self.facts),
            entries=tuple(self.entries),
            decisions=tuple(self.decisions),
            prints=prints,
            acts=tuple(self.acts),
        )

    def _act(self, at_ms: int, sign: int = 1) -> None:
        if self.services.logs:
            self.acts.append((at_ms - self.request.received_at_ms, sign * next(self.services.acts)))

    def _fact(
        self,
        attempt: Attempt,
        *,
        status: int,
        error: str,
        entry_id: str = "",
        retry_after_ms: int | None = None,
        usage: Usage | None = None,
    ) -> None:
        ended_ms = self.end(attempt)
        if entry_id and self.services.routing is not None and self.services.routing.times:
            self.services.routing.pools.heard(attempt.target.model, attempt.started_ms, ended_ms)
        fact = fact_of(
            attempt, status=status, error=error, entry_id=entry_id, retry_after_ms=retry_after_ms, lever=self.lever,
            usage=usage,
        )  # fmt: skip
        self.facts.append(fact)

    def note(self, stage: str, action: str, reason: str, evidence: tuple[tuple[str, str], ...]) -> None:
        """Adds a decision; those made before an attempt ends stand in its entry."""
        self.decisions.append(Decision(stage=stage, action=action, reason=reason, evidence=evidence))
