"""The one path that every request takes, read top to bottom."""

import asyncio
from collections.abc import Awaitable, Callable

from farthing.core.errors import BudgetExceeded, FarthingError, ProviderFailed, TimedOut
from farthing.core.types import Request
from farthing.engine.act import apply_thresholds
from farthing.engine.call import FREE_ENDPOINTS, Call
from farthing.engine.deliver import deliver
from farthing.engine.messages import refusal
from farthing.engine.plan import Plan, make_plan
from farthing.engine.record import Ending, Recorder
from farthing.engine.services import Services
from farthing.engine.trials import Trial
from farthing.ports.reply import Reply

Ask = Callable[[Call, Reply], Awaitable[None]]
"""Gets an answer for a call and gives it to the caller."""


async def handle(services: Services, recorder: Recorder, request: Request, reply: Reply) -> None:
    """Serves one request: plan, hold, call, meter, price, book, answer.

    Raises a :class:`FarthingError` for the server to put into the caller's dialect; whatever happens, reservations
    are settled and the exchange is logged before this returns.
    """
    call = Call(services, recorder, request)
    task = asyncio.current_task(services.background.loop)
    if task is not None:
        services.background.watch(task, services.policy.limits.timeout_ms)
    try:
        if services.trials.running is not None:
            services = _on_trial(call, services.trials.running)
        call.plan = make_plan(services, request)
        if services.routing is not None and (call.plan.classifier or call.plan.unembedded):
            call.plan = await services.routing.serving.informed(call)
        if services.actions is not None and services.actions.before and request.view.endpoint not in FREE_ENDPOINTS:
            call.plan = apply_thresholds(services, services.actions, request, call.plan)
        ask = _ask_of(services, call.plan)
        if services.caching is not None:
            await services.caching.serve(call, reply, ask)
        elif ask is ask_provider:  # the same without a coroutine in between
            attempt, http = await call.obtain()
            await deliver(call, attempt, http, reply)
        else:
            await ask(call, reply)
    except FarthingError as error:
        await _ended_badly(call, error)
        raise
    except asyncio.CancelledError:
        late = task is not None and services.background.expired(task)
        await _cancelled(call, "deadline" if late else "shutdown")
        if late:
            raise TimedOut(f"The request took longer than {services.policy.limits.timeout_ms} ms.") from None
        raise
    finally:
        if task is not None:
            services.background.forget(task)
        if not call.ended:  # a defect: the caller gets an internal error, the books must not keep a hold
            await asyncio.shield(_defect(call))


async def ask_provider(call: Call, reply: Reply) -> None:
    """Calls the plan's targets until one answers, and gives the answer to the caller."""
    attempt, http = await call.obtain()
    await deliver(call, attempt, http, reply)


def _on_trial(call: Call, trial: Trial) -> Services:
    """The services for a call while an experiment runs; its arm is noted first. Raises :class:`NotCached`."""
    assigned = trial.arm(call.request)
    if assigned is not None:
        call.decisions.append(assigned.note())
        call.services = call.services.trials.enter(call.services, call.request, assigned)
    return call.services


def _ask_of(services: Services, plan: Plan) -> Ask:
    """How the plan's models are asked: straight, or as a route says."""
    if services.routing is None or (plan.cascade is None and plan.shadow is None):
        return ask_provider
    return services.routing.serving.ask


async def ask_aside(call: Call, reply: Reply) -> None:
    """The same for a lever's own sake: what goes wrong is settled and concerns nobody else."""
    try:
        await ask_provider(call, reply)
    except FarthingError as error:
        await _ended_badly(call, error)
    except asyncio.CancelledError:
        await _cancelled(call, "shutdown")
        raise


async def _defect(call: Call) -> None:
    await _release(call, "internal_error")
    await call.finish(Ending(outcome="failed", status=500, error="internal_error", latency_ms=call.elapsed_ms()))


async def _ended_badly(call: Call, error: FarthingError) -> None:
    """Logs a request that got no whole answer; its attempts are settled already."""
    await _release(call, error.code)
    if call.ended:
        return
    if isinstance(error, BudgetExceeded):
        call.decisions.append(refusal(error))
    await call.finish(bad_ending(error, call.elapsed_ms()))


def bad_ending(error: FarthingError, latency_ms: int) -> Ending:
    """How a request ends that got no whole answer."""
    refused = not isinstance(error, ProviderFailed)
    answered = error.status if isinstance(error, ProviderFailed) else None
    status = answered if answered is not None and answered >= 400 else error.http_status
    reason = error.budget if isinstance(error, BudgetExceeded) else ""
    return Ending(
        outcome="refused" if refused else "failed",
        status=status,
        error=f"{error.code}:{reason}" if reason else error.code,
        latency_ms=latency_ms,
    )


async def _cancelled(call: Call, why: str) -> None:
    """Settles what a cancelled request had in flight, although the task itself is being torn down."""
    await asyncio.shield(_release(call, why))
    if not call.ended:
        await call.finish(Ending(outcome="failed", status=504, error=why, latency_ms=call.elapsed_ms()))


async def _release(call: Call, why: str) -> None:
    """An attempt that something interrupted may have been billed; it ends like any other unknown outcome."""
    attempt = call.current
    if attempt is None or attempt.settled:
        return
    if attempt.sent and call.request.view.endpoint not in FREE_ENDPOINTS:
        await call.book_unknown(attempt, why)
    else:
        await call.settle(attempt, ())
