"""The register of experiments, in SQL that SQLite and PostgreSQL both speak."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from farthing.adapters.alert_log import Run
from farthing.core.errors import Conflict
from farthing.core.experiment import Experiment

_Answer = TypeVar("_Answer")
_record = msgspec.json.Decoder(Experiment)

_BEGIN: Final = (
    "INSERT INTO experiments (name, record, starts_ms, ends_ms, stopped_ms, running) VALUES (?, ?, ?, ?, NULL, 1)"
    " ON CONFLICT DO NOTHING"
)
_LAPSED: Final = (
    "UPDATE experiments SET running = NULL, stopped_ms = ends_ms WHERE running = 1 AND ends_ms IS NOT NULL"
    " AND ends_ms <= ?"
)
_END: Final = "UPDATE experiments SET running = NULL, stopped_ms = ? WHERE name = ? AND running = 1"
_ALL: Final = "SELECT record, stopped_ms FROM experiments"


class SqlExperiments:
    """The port ``Experiments``; a store implements ``_do``."""

    def _do(self, act: Callable[[Run], _Answer], *, writes: bool) -> _Answer:
        """Runs an act, in one transaction if it writes. Raises ``StoreUnavailable``."""
        raise NotImplementedError

    def begin(self, experiment: Experiment, *, now_ms: int) -> None:
        row = (experiment.name, msgspec.json.encode(experiment).decode(), experiment.starts_ms, experiment.ends_ms)

        def act(run: Run) -> None:
            run(_LAPSED, (now_ms,))
            if run(_BEGIN, row).rowcount == 1:
                return
            known = run(f"{_ALL} WHERE name = ?", (experiment.name,)).fetchall()
            if known:
                raise Conflict(
                    f"There was an experiment '{experiment.name}' already.",
                    hint="Give every experiment a name of its own: its calls are told by it.",
                )
            other = run("SELECT name FROM experiments WHERE running = 1").fetchall()
            raise Conflict(
                f"The experiment '{other[0][0] if other else '?'}' is running, and one runs at a time.",
                hint="Stop it first with 'farthing experiment stop', or wait for its end.",
            )

        self._do(act, writes=True)

    def end(self, name: str, *, at_ms: int) -> bool:
        return self._do(lambda run: run(_END, (at_ms, name)).rowcount, writes=True) == 1

    def experiments(self) -> tuple[Experiment, ...]:
        rows = self._do(lambda run: run(f"{_ALL} ORDER BY starts_ms DESC, name").fetchall(), writes=False)
        return tuple(_experiment(row) for row in rows)

    def running(self) -> Experiment | None:
        rows = self._do(lambda run: run(f"{_ALL} WHERE running = 1").fetchall(), writes=False)
        return _experiment(rows[0]) if rows else None


def _experiment(row: Sequence[object]) -> Experiment:
    stopped = None if row[1] is None else int(str(row[1]))
    return msgspec.structs.replace(_record.decode(str(row[0])), stopped_ms=stopped)
