"""The one path that every request takes, read top to bottom."""

import asyncio

from farthing.core.errors import BudgetExceeded, FarthingError, ProviderFailed, TimedOut
from farthing.core.types import Request
from farthing.engine.call import FREE_ENDPOINTS, Call
from farthing.engine.deliver import deliver
from farthing.engine.plan import make_plan
from farthing.engine.record import Ending, Recorder
from farthing.engine.services import Services
from farthing.ports.reply import Reply


async def handle(services: Services, recorder: Recorder, request: Request, reply: Reply) -> None:
    """Serves one request: plan, hold, call, meter, price, book, answer.

    Raises a :class:`FarthingError` for the server to put into the caller's dialect; whatever happens, reservations
    are settled and the exchange is logged before this returns.
    """
    call = Call(services, recorder, request)
    task = asyncio.current_task()
    if task is not None:
        services.background.watch(task, services.policy.limits.timeout_ms)
    try:
        call.plan = make_plan(services, request)
        attempt, http = await call.obtain()
        await deliver(call, attempt, http, reply)
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


async def _defect(call: Call) -> None:
    await _release(call, "internal_error")
    await call.finish(Ending(outcome="failed", status=500, error="internal_error", latency_ms=call.elapsed_ms()))


async def _ended_badly(call: Call, error: FarthingError) -> None:
    """Logs a request that got no whole answer; its attempts are settled already."""
    await _release(call, error.code)
    if call.ended:
        return
    refused = not isinstance(error, ProviderFailed)
    answered = error.status if isinstance(error, ProviderFailed) else None
    status = answered if answered is not None and answered >= 400 else error.http_status
    reason = error.budget if isinstance(error, BudgetExceeded) else ""
    await call.finish(
        Ending(
            outcome="refused" if refused else "failed",
            status=status,
            error=f"{error.code}:{reason}" if reason else error.code,
            latency_ms=call.elapsed_ms(),
        )
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
