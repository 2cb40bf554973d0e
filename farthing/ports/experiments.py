"""Where experiments are registered, for all workers of an installation."""

from typing import Protocol

from farthing.core.experiment import Experiment


class Experiments(Protocol):
    """Kept beside the ledger; blocking. Designs never change, and at most one experiment runs at a time."""

    def begin(self, experiment: Experiment, *, now_ms: int) -> None:
        """Registers an experiment. One that is past its planned end makes room.

        Raises ``Conflict`` while another one runs, and for a name that was used before.
        """
        ...

    def end(self, name: str, *, at_ms: int) -> bool:
        """Stops an experiment; False: there is none of that name that runs."""
        ...

    def experiments(self) -> tuple[Experiment, ...]:
        """All of them, the last begun first."""
        ...

    def running(self) -> Experiment | None:
        """The one that was begun and not stopped; its planned end may be past."""
        ...

    def close(self) -> None: ...
