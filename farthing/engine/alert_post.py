"""The post: takes deliveries that are due from the alert log and brings them to their sinks, until they arrive.

Any worker may deliver; a lease keeps two from delivering the same. A sink that is down gets its alerts once it is up.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from farthing.core.alerts import Alert, QuietHours, Severity, at_least, deliver_at, retry_at
from farthing.engine.background import outlived
from farthing.ports.alerts import AlertLog, AlertSink, Delivery, SinkFailed
from farthing.ports.clock import Clock

_LOG = logging.getLogger("farthing.alerts")
ROUND_S = 1.0
SEND_S = 20.0
LEASE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Way:
    """A sink and what goes to it."""

    sink: AlertSink
    least: Severity = "info"
    budgets: tuple[str, ...] = ()
    """Patterns of budgets' names; empty: all."""


class AlertPost:
    """Owns the task that delivers. ``start`` and ``close`` are called with the gateway's."""

    def __init__(
        self,
        *,
        log: AlertLog,
        ways: Mapping[str, Way],
        clock: Clock,
        quiet: QuietHours | None = None,
        give_up_after_ms: int = 86_400_000,
    ) -> None:
        self.sent = 0
        self.failed = 0
        """Tries that failed."""
        self.given_up = 0
        self.pending = 0
        """Deliveries that wait, over all workers, as of the last round."""
        self._log = log
        self._ways = ways
        self._clock = clock
        self._quiet = quiet
        self._give_up_after_ms = give_up_after_ms
        self._task: asyncio.Task[None] | None = None

    def sinks_for(self, alert: Alert) -> tuple[tuple[str, int], ...]:
        """(sink, when it may be told) for an alert."""
        due_ms = deliver_at(alert.severity, alert.at_ms, self._quiet)
        return tuple(
            (name, due_ms)
            for name, way in self._ways.items()
            if at_least(alert.severity, way.least)
            and (not way.budgets or any(fnmatchcase(alert.budget, pattern) for pattern in way.budgets))
        )

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """One last round for what was raised last; what does not arrive now does after the next start."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        try:
            async with asyncio.timeout(5):
                await outlived(self.round(), "the post of alerts")
        except TimeoutError:
            _LOG.warning("alerts: some are delivered after the next start")
        for way in self._ways.values():
            await way.sink.close()

    async def _run(self) -> None:
        while True:
            await outlived(self.round(), "the post of alerts")
            await asyncio.sleep(ROUND_S)

    async def round(self) -> None:
        """Delivers everything that is due, sinks beside one another, one sink's alerts in their order."""
        now_ms = self._clock.now_ms()
        by_sink: dict[str, list[Delivery]] = {}
        for delivery in await asyncio.to_thread(self._log.due, now_ms=now_ms, lease_ms=LEASE_MS):
            by_sink.setdefault(delivery.sink, []).append(delivery)
        await asyncio.gather(*(self._to_sink(deliveries) for deliveries in by_sink.values()))
        self.pending = await asyncio.to_thread(self._log.pending)

    async def _to_sink(self, deliveries: list[Delivery]) -> None:
        """A sink that fails once is not bothered with the rest: they wait as long as the first."""
        end = asyncio.get_running_loop().time() + LEASE_MS / 1000 - SEND_S
        why = ""
        for delivery in deliveries:
            if asyncio.get_running_loop().time() > end:
                return  # the lease may end while the next is sent; whoever comes next takes the rest
            why = why or await self._send(delivery)
            now_ms = self._clock.now_ms()
            if not why:
                self.sent += 1
                await asyncio.to_thread(self._log.sent, delivery, now_ms=now_ms)
                continue
            self.failed += 1
            again = retry_at(now_ms, delivery.tries + 1, delivery.since_ms, give_up_after_ms=self._give_up_after_ms)
            if again is None:
                self.given_up += 1
                _LOG.error("alert %s did not reach '%s' and is given up: %s", delivery.alert.id, delivery.sink, why)
            await asyncio.to_thread(self._log.failed, delivery, why, retry_at_ms=again)

    async def _send(self, delivery: Delivery) -> str:
        """Why it did not arrive; empty: it did."""
        way = self._ways.get(delivery.sink)
        if way is None:
            return "no sink of this name is configured any more"
        why = ""

        async def send() -> None:
            nonlocal why
            try:
                async with asyncio.timeout(SEND_S):
                    await way.sink.send(delivery.alert)
            except TimeoutError:
                why = f"no answer within {SEND_S:.0f} s"
            except SinkFailed as error:
                why = str(error) or "it failed"

        defect = await outlived(send(), f"the sink '{delivery.sink}'", trace=False)
        why = f"a defect ({defect})" if defect else why
        if why:
            _LOG.warning("alert %s did not reach '%s' yet: %s", delivery.alert.id, delivery.sink, why)
        return why
