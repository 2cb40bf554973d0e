"""Where the roll-outs of routes are remembered."""

from collections.abc import Callable, Mapping
from typing import Protocol

from farthing.core.rollout import RolloutState


class Rollouts(Protocol):
    """The state of every route's roll-out, shared by the workers of one installation."""

    def read(self) -> Mapping[str, RolloutState]:
        """States by route name, as they are now."""
        ...

    def change(self, route: str, change: Callable[[RolloutState], RolloutState]) -> RolloutState:
        """Replaces one state by ``change`` of it, in one act; a route without a state begins in shadow.

        Raises :class:`StoreUnavailable` when it cannot be written.
        """
        ...
