"""Sending the day: every planned call through real HTTP, at its moment, as a client of the gateway would."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import httpx
import msgspec

from farthing.demo.company import AGENT, OUTAGE_MODEL
from farthing.demo.plan import DAY, Order, Plan, PlannedCall
from farthing.demo.site import Site

CONNECTIONS: Final = 32
PATIENCE_S: Final = 45.0
LEAVES_AFTER_S: Final = 0.3
"""When a caller who will not wait hangs up, after its request has left; the answer takes longer than this."""
_EVENTS_READ: Final = 2
_encode = msgspec.json.Encoder().encode


class Traffic:
    """The callers' side of the day. ``outcomes`` counts how calls ended, as the callers saw it."""

    def __init__(self, site: Site, plan: Plan, step: Callable[[], None]) -> None:
        """``step`` is called after each call."""
        self._site = site
        self._plan = plan
        self._step = step
        self._gate = asyncio.Semaphore(CONNECTIONS)
        self.outcomes: Counter[str] = Counter()
        self.free = 0
        """Calls that were answered and that no provider bills."""

    async def run(self) -> None:
        """Sends everything and waits for every answer."""
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with (
            httpx.AsyncClient(limits=limits, timeout=PATIENCE_S, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._loop(client))
            exposed: set[asyncio.Task[None]] = set()
            events: list[Order | PlannedCall] = [*self._plan.orders, *self._plan.calls]
            for event in sorted(events, key=lambda event: event.at_ms):
                await self._until(event.at_ms)
                if isinstance(event, Order):
                    # Whoever meets the outage meets all of it, however slow this machine is.
                    await asyncio.gather(*exposed)
                    await self._order(client, event)
                elif event.feature is not AGENT:
                    await self._gate.acquire()
                    task = tasks.create_task(self._one(client, event))
                    if event.feature.model == OUTAGE_MODEL:
                        exposed.add(task)
                        task.add_done_callback(exposed.discard)

    async def _until(self, at_ms: int) -> None:
        """Waits for a moment of the plan; the plan's 24 hours are stretched over the demo's day."""
        clock = self._site.clock
        wait = clock.wait_s(clock.starts_at_ms + at_ms * clock.span_ms // DAY)
        if wait > 0:
            await asyncio.sleep(wait)

    async def _order(self, client: httpx.AsyncClient, order: Order) -> None:
        answer = await client.post(f"{self._site.provider_url}/sim/faults", content=order.body)
        answer.raise_for_status()

    async def _loop(self, client: httpx.AsyncClient) -> None:
        """The buggy agent: it waits for each answer, and asks again whatever it says."""
        for call in self._plan.calls:
            if call.feature is AGENT:
                await self._until(call.at_ms)
                await self._gate.acquire()
                await self._one(client, call)

    async def _one(self, client: httpx.AsyncClient, call: PlannedCall) -> None:
        try:
            self.outcomes[await self._send(client, call)] += 1
        except httpx.TransportError:
            # A broken answer reaches the caller as a broken connection, which is what the plan wants of some.
            self.outcomes["broken off by the provider"] += 1
        finally:
            self._gate.release()
            self._step()

    async def _send(self, client: httpx.AsyncClient, call: PlannedCall) -> str:
        if call.hang_up == "answer":
            return await self._leave_waiting(client, call)
        request = client.build_request(
            "POST", self._site.url + call.ask.path, content=_encode(call.ask.body), headers=self._headers(call)
        )
        if not call.ask.stream:
            answer = await client.send(request)
            return self._outcome(call, answer.status_code, answer.content)
        answer = await client.send(request, stream=True)
        try:
            if answer.status_code >= 400:
                return self._outcome(call, answer.status_code, await answer.aread())
            seen = 0
            async for chunk in answer.aiter_raw():
                seen += chunk.count(b"\n\n")
                if call.hang_up == "stream" and seen >= _EVENTS_READ:
                    return "hung up by the caller"
            return "answered"
        finally:
            await answer.aclose()

    async def _leave_waiting(self, client: httpx.AsyncClient, call: PlannedCall) -> str:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as patience:

                async def sent(event: str, info: object) -> None:
                    if event == "http11.send_request_body.complete":
                        patience.reschedule(loop.time() + LEAVES_AFTER_S)

                answer = await client.post(
                    self._site.url + call.ask.path,
                    content=_encode(call.ask.body),
                    headers=self._headers(call),
                    extensions={"trace": sent},
                )
        except TimeoutError:
            return "hung up by the caller"
        return self._outcome(call, answer.status_code, answer.content)

    def _outcome(self, call: PlannedCall, status: int, body: bytes) -> str:
        if status < 400:
            self.free += call.feature.recipe == "length"
            return "answered"
        if b"budget_exceeded" in body:
            return "refused by a budget"
        return f"failed with {status}"

    def _headers(self, call: PlannedCall) -> dict[str, str]:
        secret = self._site.secrets[call.feature.key]
        headers = {
            "content-type": "application/json",
            "x-farthing-feature": call.feature.name,
            "x-farthing-user": call.user,
            "x-farthing-tags": f"call={call.id}",
            "x-sim-request": call.id,
            "x-sim-nonce": call.id,
        }
        if call.ask.dialect == "anthropic":
            headers |= {"x-api-key": secret, "anthropic-version": "2023-06-01"}
        else:
            headers["authorization"] = f"Bearer {secret}"
        if call.fault:
            headers["x-sim-fault"] = call.fault
        return headers
