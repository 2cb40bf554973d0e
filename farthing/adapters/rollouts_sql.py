"""Roll-outs of routes in SQL that SQLite and PostgreSQL both speak, beside the ledger and its audit log."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from farthing.adapters.alert_log import Run
from farthing.adapters.practice_log import SqlPractice, insert_change
from farthing.core.rollout import RolloutState
from farthing.core.rollout_fold import Note
from farthing.ports.audit import Changed
from farthing.ports.rollouts import Fold

_state = msgspec.json.Decoder(RolloutState, strict=False)
_note: Final[msgspec.json.Decoder[Note]] = msgspec.json.Decoder(Note)
_SAVE: Final = (
    "INSERT INTO route_states (route, record) VALUES (?, ?)"
    " ON CONFLICT (route) DO UPDATE SET record = excluded.record"
)
_OWN: Final = (
    "INSERT INTO route_owner (one, owner, until_ms) VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE"
    " SET owner = excluded.owner, until_ms = excluded.until_ms"
    " WHERE route_owner.owner = excluded.owner OR route_owner.until_ms < ?"
)
_NOTES_MAX: Final = 2_000


class SqlRollouts(SqlPractice):
    """The port ``Rollouts``; a store implements ``_do``."""

    def read(self) -> Mapping[str, RolloutState]:
        return self._do(_states, writes=False)

    def saw(self, notes: Sequence[Note]) -> None:
        def act(run: Run) -> None:
            for note in notes:
                run("INSERT INTO route_notes (record) VALUES (?)", (msgspec.json.encode(note).decode(),))

        self._do(act, writes=True)

    def waiting(self) -> bool:
        return bool(self._rows("SELECT 1 FROM route_notes LIMIT 1"))

    def fold(self, change: Fold) -> Mapping[str, RolloutState]:
        def act(run: Run) -> Mapping[str, RolloutState]:
            rows = run(f"SELECT seq, record FROM route_notes ORDER BY seq LIMIT {_NOTES_MAX}").fetchall()
            states = dict(_states(run))
            changed, audit = change(states, [_note.decode(str(row[1])) for row in rows])
            for route, state in changed.items():
                if states.get(route) != state:
                    run(_SAVE, (route, msgspec.json.encode(state).decode()))
            for row in rows:  # one by one: a note with a smaller number may come to light after these
                run("DELETE FROM route_notes WHERE seq = ?", (row[0],))
            for one in audit:
                insert_change(run, one)
            return {**states, **changed}

        return self._do(act, writes=True)

    def change(
        self,
        route: str,
        change: Callable[[RolloutState], RolloutState],
        audit: Callable[[RolloutState], Changed],
    ) -> RolloutState:
        def act(run: Run) -> RolloutState:
            before = _states(run).get(route) or RolloutState(route=route)
            after = change(before)
            run(_SAVE, (route, msgspec.json.encode(after).decode()))
            insert_change(run, audit(before))
            return after

        return self._do(act, writes=True)

    def own(self, owner: str, *, now_ms: int, until_ms: int) -> bool:
        return self._do(lambda run: run(_OWN, (owner, until_ms, now_ms)).rowcount == 1, writes=True)

    def disown(self, owner: str) -> None:
        self._do(lambda run: run("DELETE FROM route_owner WHERE owner = ?", (owner,)).rowcount, writes=True)


def _states(run: Run) -> Mapping[str, RolloutState]:
    rows = run("SELECT route, record FROM route_states ORDER BY route").fetchall()
    return {str(route): _state.decode(str(record)) for route, record in rows}
