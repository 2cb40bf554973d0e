"""Alerts and thresholds of one gateway, put together: the watch, the post, and what thresholds do to calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from farthing.config.settings import AlertSettings
from farthing.core.alerts import Alert, QuietHours
from farthing.core.budget import Budgets
from farthing.core.policy import Policy
from farthing.engine.actions import Actions
from farthing.engine.alert_post import AlertPost, Way
from farthing.engine.patrol import Patrol
from farthing.engine.watch import SpeedRule, Watch, claim
from farthing.engine.watch_rules import recent_holds, rules_of
from farthing.ports.alerts import AlertLog, AlertSink
from farthing.ports.books import Books, Ledger
from farthing.ports.clock import Clock

_DAY_MS = 86_400_000


def is_wanted(settings: AlertSettings, policy: Policy) -> bool:
    """Somebody wants to know of incidents or budgets, or some threshold acts."""
    rolls_out = any(route.rollout is not None for route in policy.routes) and bool(settings.sinks)
    return watches_calls(settings, policy) or tells_incidents(settings) or rolls_out


def tells_incidents(settings: AlertSettings) -> bool:
    """Incidents are looked for: there is somebody to tell."""
    return settings.incidents and bool(settings.sinks)


def watches_calls(settings: AlertSettings, policy: Policy) -> bool:
    """Something depends on what calls count on budgets; otherwise calls pay nothing for any of this."""
    watched = any(budget.per != "request" for budget in policy.budgets)
    fast = settings.velocity is not None or settings.velocity_factor is not None
    return watched and (bool(settings.sinks) or fast or any(budget.thresholds for budget in policy.budgets))


@dataclass(frozen=True, slots=True)
class Alerting:
    """Started and stopped with the gateway; stopped before the books are closed."""

    watch: Watch
    post: AlertPost
    actions: Actions | None
    log: AlertLog
    patrol: Patrol | None = None
    watched: Watch | None = None
    """The watch, where calls are to tell it of themselves."""

    async def start(self) -> None:
        await self.watch.start()
        self.post.start()
        if self.patrol is not None:
            self.patrol.start()

    async def stop(self) -> None:
        if self.patrol is not None:
            await self.patrol.close()
        await self.watch.close()
        await self.post.close()
        self.log.close()

    def tell(self, alert: Alert) -> bool:
        """Puts an alert of another part on record and on its way; True for whoever was first. Blocks."""
        return claim(self.log, self.post.sinks_for, alert, None)

    def gauges(self) -> dict[str, float]:
        """For ``/metrics``."""
        return {
            "alerts_raised": self.watch.raised + (self.patrol.raised if self.patrol is not None else 0),
            "alerts_sent": self.post.sent,
            "alerts_failed_tries": self.post.failed,
            "alerts_given_up": self.post.given_up,
            "alerts_pending": self.post.pending,
        }


def make_alerting(
    settings: AlertSettings,
    policy: Policy,
    *,
    budgets: Budgets,
    books: Books,
    ledger: Ledger,
    log: AlertLog,
    sinks: Mapping[str, AlertSink],
    clock: Clock,
    workers: int,
    reads_at_once: bool = True,
    incidents: Callable[[int, Sequence[Alert]], Sequence[Alert]] | None = None,
) -> Alerting:
    """What ``[alerts]``, ``[[alert_sinks]]`` and thresholds of budgets ask for; ``reads_at_once``: see ``Watch``,
    ``incidents``: see ``Patrol``."""
    ways = {one.name: Way(sinks[one.name], one.severity, one.budgets) for one in settings.sinks}
    post = AlertPost(
        log=log, ways=ways, clock=clock, quiet=quiet_of(settings), give_up_after_ms=settings.give_up_after_ms
    )
    speed = None
    if settings.velocity is not None or settings.velocity_factor is not None:
        speed = SpeedRule(
            limit=settings.velocity,
            factor=settings.velocity_factor,
            floor=settings.velocity_floor,
            action=settings.velocity_action,
            cooldown_ms=settings.velocity_cooldown_ms,
        )
    watch = Watch(
        books=books,
        log=log,
        clock=clock,
        rules=rules_of(policy.budgets, settings.thresholds, forecast=settings.forecast),
        speed=speed,
        sinks_for=post.sinks_for,
        recent_holds=recent_holds(ledger, budgets),
        reads_at_once=reads_at_once,
        keep_ms=settings.retention_days * _DAY_MS,
    )
    blocks = speed is not None and speed.action == "block"
    thresholds = {budget.name: budget.thresholds for budget in policy.budgets if budget.thresholds}
    acts = blocks or any(rule.action != "notify" for rules in thresholds.values() for rule in rules)
    actions = Actions(watch, thresholds, workers=workers, blocks=blocks) if acts else None
    patrol = None
    if incidents is not None and tells_incidents(settings):
        patrol = Patrol(look=incidents, log=log, clock=clock, sinks_for=post.sinks_for)
    watched = watch if watches_calls(settings, policy) else None
    return Alerting(watch=watch, post=post, actions=actions, log=log, patrol=patrol, watched=watched)


def quiet_of(settings: AlertSettings) -> QuietHours | None:
    """The quiet hours, if any."""
    if settings.quiet_hours is None:
        return None
    starts, ends = settings.quiet_hours
    return QuietHours(starts=starts, ends=ends, timezone=settings.quiet_timezone, passes=settings.quiet_passes)
