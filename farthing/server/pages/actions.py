"""What pages can change: each action with who may do it. Forms come here by POST, with their session's token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from farthing.server.pages.ask import ADMIN, OFFICE, Ask, Role
from farthing.server.pages.blocks import Page
from farthing.server.pages.views import (
    admin,
    anomalies,
    anomaly_rule,
    budgets,
    experiments,
    opportunities,
    reconcile,
    replay,
    unit,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that can be done."""

    path: str
    roles: tuple[Role, ...]
    act: Callable[[Ask, Mapping[str, str]], Page | str]
    """Does it; where to go next, or a page to show at once (a secret that is shown once)."""
    view: str = ""
    """The page that ``act`` may answer with."""
    uploads: bool = False
    """Its form sends a file, whose text stands under the field's name."""


ACTIONS: tuple[Action, ...] = (
    Action(path="/opportunities/apply", roles=ADMIN, act=opportunities.apply),
    Action(path="/opportunities/undo", roles=ADMIN, act=opportunities.undo),
    Action(path="/reconcile/upload", roles=OFFICE, act=reconcile.upload, uploads=True),
    Action(path="/reconcile/delete", roles=OFFICE, act=reconcile.delete),
    Action(path="/replay/start", roles=OFFICE, act=replay.start),
    Action(path="/replay/cancel", roles=OFFICE, act=replay.cancel),
    Action(path="/replay/delete", roles=OFFICE, act=replay.delete),
    Action(path="/anomalies/acknowledge", roles=OFFICE, act=anomalies.acknowledge),
    Action(path="/anomalies/expect", roles=OFFICE, act=anomalies.expect),
    Action(path="/anomalies/forget", roles=OFFICE, act=anomalies.forget),
    Action(path="/anomalies/rule/save", roles=ADMIN, act=anomaly_rule.save),
    Action(path="/alerts/acknowledge", roles=OFFICE, act=anomalies.acknowledge_alert),
    Action(path="/unit/outcomes", roles=OFFICE, act=unit.upload, view="unit", uploads=True),
    Action(path="/experiments/start", roles=ADMIN, act=experiments.start),
    Action(path="/experiments/stop", roles=ADMIN, act=experiments.stop),
    Action(path="/budgets/create", roles=ADMIN, act=budgets.create),
    Action(path="/admin/keys/create", roles=ADMIN, act=admin.create_key, view="admin"),
    Action(path="/admin/keys/revoke", roles=ADMIN, act=admin.revoke_key),
)
