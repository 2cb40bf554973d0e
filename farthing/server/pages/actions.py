"""What pages can change: each action with who may do it. Forms come here by POST, with their session's token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from farthing.server.pages.ask import ADMIN, OFFICE, Ask, Role
from farthing.server.pages.blocks import Page
from farthing.server.pages.views import admin, anomalies, budgets


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that can be done."""

    path: str
    roles: tuple[Role, ...]
    act: Callable[[Ask, Mapping[str, str]], Page | str]
    """Does it; where to go next, or a page to show at once (a secret that is shown once)."""
    view: str = ""
    """The page that ``act`` may answer with."""


ACTIONS: tuple[Action, ...] = (
    Action(path="/anomalies/acknowledge", roles=OFFICE, act=anomalies.acknowledge),
    Action(path="/alerts/acknowledge", roles=OFFICE, act=anomalies.acknowledge_alert),
    Action(path="/budgets/create", roles=ADMIN, act=budgets.create),
    Action(path="/admin/keys/create", roles=ADMIN, act=admin.create_key, view="admin"),
    Action(path="/admin/keys/revoke", roles=ADMIN, act=admin.revoke_key),
)
