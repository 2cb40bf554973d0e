"""Where the roll-outs of routes are remembered."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from farthing.core.rollout import RolloutState
from farthing.core.rollout_fold import Note
from farthing.ports.audit import Changed

Fold = Callable[[Mapping[str, RolloutState], Sequence[Note]], tuple[Mapping[str, RolloutState], Sequence[Changed]]]
"""(states, notes in the order they came) → (states that changed, what goes on the audit log)."""


class Rollouts(Protocol):
    """The state of every route's roll-out, shared by all workers. Blocking; any thread. Raises ``StoreUnavailable``.

    * A note that was added is folded once, whatever dies in between; states, notes taken and audit log are one act.
    * At any time at most one worker owns the roll-outs; who dies loses them when its lease ends.
    """

    def read(self) -> Mapping[str, RolloutState]:
        """States by route name, as they are now."""
        ...

    def saw(self, notes: Sequence[Note]) -> None:
        """Remembers what was seen, for whoever folds."""
        ...

    def waiting(self) -> bool:
        """Notes wait to be folded."""
        ...

    def fold(self, change: Fold) -> Mapping[str, RolloutState]:
        """Replaces states by what the notes make of them; all states afterwards."""
        ...

    def change(
        self,
        route: str,
        change: Callable[[RolloutState], RolloutState],
        audit: Callable[[RolloutState], Changed],
    ) -> RolloutState:
        """Replaces one state by ``change`` of it and puts ``audit`` of it on the audit log, in one act."""
        ...

    def own(self, owner: str, *, now_ms: int, until_ms: int) -> bool:
        """Takes or renews the lease; False: somebody else has it."""
        ...

    def disown(self, owner: str) -> None:
        """Gives the lease back."""
        ...

    def close(self) -> None: ...
