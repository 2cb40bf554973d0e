"""The watch: once a second it reads the counters that calls have touched, and raises each alert once.

An alert is claimed in the log, together with its deliveries, before anybody is told: whichever worker writes first
owns it, and a crash between the two loses nothing. The hot path feeds it with plain additions.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from farthing.core.alerts import (
    Alert,
    AlertKind,
    Line,
    Pace,
    Severity,
    alert_id,
    alert_key,
    crossed,
    exhausted_at,
    is_muted,
    projected,
    severity_of,
    will_exceed,
)
from farthing.core.errors import StoreFailed
from farthing.core.types import Hold
from farthing.engine.background import outlived
from farthing.engine.levels import Levels, Tally, Who, wanted
from farthing.ports.alerts import AlertLog
from farthing.ports.books import Books
from farthing.ports.clock import Clock

_LOG = logging.getLogger("farthing.alerts")
ROUND_S = 1.0
ROUND_MAX = 2_000
"""Windows of counters read in one round, about; what is beyond comes with the next."""
QUIET_MS = 600_000
"""A storm, or refusals by the minute, that stop for so long and begin again are a new incident."""
KEPT_MS = 86_400_000
"""A claim outlives its window by this, for calls that end late."""
MARK_MS = 10_000
PRUNE_MS = 3_600_000

Due = tuple[Alert, int | None, tuple[str, int, int] | None]
"""(alert, when its claim lapses, what marks it as raised in this window)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is watched of one budget."""

    lines: tuple[Line, ...]
    window: Callable[[int], tuple[int, int | None]]
    """(start, end) of the window at an instant; the end is None where there is none."""
    forecast: bool = True
    by_minute: bool = False
    """Its windows are so short that refusals in one after the other are one incident."""
    reach_ms: int = KEPT_MS
    """How far back a rolling limit looks: a line that was crossed may be crossed again after so long below it."""


@dataclass(frozen=True, slots=True)
class SpeedRule:
    """When spending is too fast, and what then happens. Amounts in nano-USD per minute."""

    limit: int | None = None
    factor: int | None = None
    """Times the usual; None: no such rule."""
    floor: int = 1_000_000_000
    """Slower than this is never too fast by ``factor``."""
    action: Literal["notify", "block"] = "notify"
    cooldown_ms: int = 60_000
    """How long a block lasts after the last moment that was too fast."""


class Watch:
    """Owns the task that raises alerts. ``start`` and ``close`` are called with the gateway's."""

    def __init__(
        self,
        *,
        books: Books,
        log: AlertLog,
        clock: Clock,
        rules: Mapping[str, Rule],
        speed: SpeedRule | None = None,
        sinks_for: Callable[[Alert], Sequence[tuple[str, int]]],
        recent_holds: Callable[[int], Iterable[Hold]] = lambda since_ms: (),
        keep_ms: int = 400 * 86_400_000,
        reads_at_once: bool = True,
    ) -> None:
        """``sinks_for``: to whom an alert goes and when; ``recent_holds``: what calls since then counted on.

        Both may be called from any thread; ``recent_holds`` may block. ``reads_at_once``: a counter that a worker
        meets for the first time is read on the event loop; for books on this machine, never for a remote database.
        """
        self.levels = Levels(rules)
        self.blocked: dict[str, int] = {}
        """Counters that spend too fast → until when their calls are refused."""
        self.raised = 0
        self._books = books
        self._log = log
        self._clock = clock
        self._rules = rules
        self._speed = speed
        self._sinks_for = sinks_for
        self._recent_holds = recent_holds
        self._task: asyncio.Task[None] | None = None
        self._marked_ms = 0
        self._keep_ms = keep_ms
        self._reads_at_once = reads_at_once
        self._pruned_ms = 0

    # -- what calls tell it

    def held(self, holds: Iterable[Hold]) -> None:
        self.levels.held(holds)

    def ended(self, holds: Sequence[Hold], amounts: Sequence[int], who: Who) -> None:
        self.levels.ended(holds, amounts, who, self._clock.now_ms())

    def refused(self, hold: Hold) -> None:
        self.levels.refused(hold)

    def tallies(self, holds: Iterable[Hold]) -> list[tuple[Hold, Tally]]:
        """How far the counters of a call are used; one that this worker meets for the first time is read at once."""
        found: list[tuple[Hold, Tally]] = []
        unknown: list[Tally] = []
        for hold in holds:
            tally = self.levels.find(hold)
            if tally is None:
                continue
            found.append((hold, tally))
            if self._reads_at_once and not tally.known and self.levels.may_read_at_once(tally):
                unknown.append(tally)
        if unknown:
            try:
                balances = self._books.balances(wanted(unknown))
                self.levels.update(unknown, balances, self._clock.now_ms())
            except StoreFailed as error:
                _LOG.debug("counters cannot be read: %s", error)
        return found

    # -- the task

    async def start(self) -> None:
        """Looks at what was booked just before this start, then watches."""
        try:
            seen = await asyncio.to_thread(self._log.seen)
            since = max(seen - 60_000, self._clock.now_ms() - 86_400_000)
            for hold in await asyncio.to_thread(lambda: list(self._recent_holds(since)) if seen else []):
                self.levels.touch(hold)
        except StoreFailed as error:
            _LOG.warning("alerts: what was booked before this start cannot be read: %s", error)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """One last round, so that what has been settled is told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await outlived(self.round(), "the watch over budgets")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            await outlived(self.round(), "the watch over budgets")

    async def round(self) -> None:
        """Reads what was touched, and raises what is due. What cannot be written is tried again with the next."""
        now_ms = self._clock.now_ms()
        self._forget_blocks(now_ms)
        tallies = self.levels.take_touched(ROUND_MAX)
        try:
            if tallies:
                # On a thread: the books may be a database on another host.
                balances = await asyncio.to_thread(self._books.balances, wanted(tallies))
                self.levels.update(tallies, balances, self._clock.now_ms())
            for tally in tallies:
                for alert, lapses_at_ms, tag in self._due(tally, now_ms):
                    if await asyncio.to_thread(claim, self._log, self._sinks_for, alert, lapses_at_ms):
                        self.raised += 1
                    if tag is not None:
                        tally.fired.add(tag)
                tally.refused = 0
            if now_ms - self._marked_ms >= MARK_MS:
                await asyncio.to_thread(self._log.mark_seen, now_ms)
                self._marked_ms = now_ms
            if now_ms - self._pruned_ms >= PRUNE_MS:
                await asyncio.to_thread(self._log.prune, now_ms - self._keep_ms)
                self._pruned_ms = now_ms
        except BaseException:
            for tally in tallies:
                self.levels.touch(tally.hold)
            raise

    def _forget_blocks(self, now_ms: int) -> None:
        for counter in [counter for counter, until in self.blocked.items() if until <= now_ms]:
            del self.blocked[counter]

    # -- what is due

    def _due(self, tally: Tally, now_ms: int) -> list[Due]:
        hold, rule = tally.hold, self._rules[tally.hold.budget]
        booked = tally.stored + tally.older
        found: list[Due] = []
        rolling = bool(hold.also)
        lapses = _by_the_minute(now_ms) + rule.reach_ms if rolling else _after(hold)
        fired = [percent for kind, limit, percent in tally.fired if kind == "threshold" and limit == hold.limit]
        for line in crossed(booked, hold.limit, rule.lines, fired):
            alert = self._alert("threshold", severity_of(line.percent), tally, now_ms, rule, percent=line.percent)
            alert = _with_action(alert, line.action if hold.hard else "")
            # A rolling line stays claimed as long as it is crossed, so it is claimed again and again: no mark.
            found.append((alert, lapses, None if rolling else ("threshold", hold.limit, line.percent)))
        mark = ("forecast", hold.limit, 0)
        if rule.forecast and not rolling and mark not in tally.fired:
            alert = self._alert("forecast", "warning", tally, now_ms, rule)
            if will_exceed(booked, hold.limit, alert.projected):
                found.append((alert, lapses, mark))
        found += self._refusals(tally, now_ms, rule, lapses)
        found += self._too_fast(tally, now_ms, rule)
        return found

    def _refusals(self, tally: Tally, now_ms: int, rule: Rule, lapses: int | None) -> list[Due]:
        hold = tally.hold
        mark = ("exhausted", hold.limit, 0)
        if not tally.refused or not hold.hard or mark in tally.fired:
            return []
        alert = self._alert("exhausted", "critical", tally, now_ms, rule, again=rule.by_minute)
        return [
            (alert, _by_the_minute(now_ms) + QUIET_MS if rule.by_minute else lapses, None if rule.by_minute else mark)
        ]

    def _too_fast(self, tally: Tally, now_ms: int, rule: Rule) -> list[Due]:
        speed, limits = self.levels.speed(tally), self._speed
        if speed is None or limits is None:
            return []
        pace, usual = speed.per_minute(now_ms), speed.usual(now_ms)
        over = limits.limit is not None and pace > limits.limit
        if limits.factor is not None and usual is not None:
            over = over or pace > max(limits.factor * usual, limits.floor)
        if not over:
            return []
        if limits.action == "block" and tally.hold.hard:
            self.blocked[tally.hold.counter] = now_ms + limits.cooldown_ms
        alert = self._alert("velocity", "critical", tally, now_ms, rule, again=True)
        action = limits.action if tally.hold.hard and limits.action != "notify" else ""
        return [(_with_action(alert, action), _by_the_minute(now_ms) + QUIET_MS, None)]

    def _alert(
        self,
        kind: AlertKind,
        severity: Severity,
        tally: Tally,
        now_ms: int,
        rule: Rule,
        *,
        percent: int = 0,
        again: bool = False,
    ) -> Alert:
        """``again``: the key is the counter's, whatever the window, and its incidents differ by time."""
        hold, booked = tally.hold, tally.stored + tally.older
        free = again or bool(hold.also)
        key = alert_key(kind, hold.counter, "" if free else hold.window, hold.unit, hold.limit, percent)
        speed = self.levels.speed(tally)
        starts, ends = rule.window(now_ms)
        # An endless window has no pace, and a call that ends after its window says nothing about the next one's.
        current = not hold.also and ends is not None and hold.resets_at_ms == ends
        pace = Pace(starts_at_ms=starts, ends_at_ms=ends, now_ms=now_ms, used=booked) if current else None
        return Alert(
            id=alert_id(key, now_ms if free else 0),
            key=key,
            kind=kind,
            severity=severity,
            budget=hold.budget,
            counter=hold.counter,
            window=hold.window,
            unit=hold.unit,
            limit=hold.limit,
            used=booked,
            percent=percent,
            hard=hold.hard,
            at_ms=now_ms,
            resets_at_ms=hold.resets_at_ms,
            projected=projected(pace) if pace else None,
            exhausted_at_ms=exhausted_at(pace, hold.limit) if pace else None,
            per_minute=speed.per_minute(now_ms) if speed else None,
            usual_per_minute=speed.usual(now_ms) if speed else None,
            top=(again and tally.recent()) or self.levels.top(tally),
        )


def claim(
    log: AlertLog, sinks_for: Callable[[Alert], Sequence[tuple[str, int]]], alert: Alert, lapses_at_ms: int | None
) -> bool:
    """Puts an alert on record, with its deliveries unless it is muted; True for whoever was first. Blocks."""
    muted = is_muted(alert, log.mutes(now_ms=alert.at_ms))
    return log.claim(alert, () if muted else sinks_for(alert), lapses_at_ms=lapses_at_ms)


def _by_the_minute(now_ms: int) -> int:
    """Rounded up, so that a claim that is extended again and again is written once a minute."""
    return -(-now_ms // 60_000) * 60_000


def _after(hold: Hold) -> int | None:
    return None if hold.resets_at_ms is None else hold.resets_at_ms + KEPT_MS


def _with_action(alert: Alert, action: str) -> Alert:
    return msgspec.structs.replace(alert, action=action) if action and action != "notify" else alert
