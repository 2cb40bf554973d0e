"""Marks on incidents, outcomes and the audit log, in SQL that SQLite and PostgreSQL both speak.

Each store brings its own connection and transactions.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from farthing.adapters.alert_log import Run
from farthing.adapters.experiment_log import SqlExperiments
from farthing.core.errors import Conflict
from farthing.core.series import Detector
from farthing.ports.audit import Changed
from farthing.ports.incidents import ExpectedDays, Mark
from farthing.ports.outcomes import Outcome

_Answer = TypeVar("_Answer")
_rule = msgspec.json.Decoder(Detector)

_MARK: Final = 'INSERT INTO incident_marks (incident, "by", at_ms, note) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING'
_EXPECT: Final = (
    'INSERT INTO expected_days (id, "first", "last", slice, why, "by", at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)'
    " ON CONFLICT DO NOTHING"
)
_RULE: Final = (
    "INSERT INTO anomaly_rules (grain, record) VALUES (?, ?)"
    " ON CONFLICT (grain) DO UPDATE SET record = excluded.record"
)
_OUTCOME: Final = (
    "INSERT INTO outcomes (id, kind, at_ms, session, request_id, value_nusd, success) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_OUTCOMES: Final = "SELECT id, kind, at_ms, session, request_id, value_nusd, success FROM outcomes"
_CHANGED: Final = (
    'INSERT INTO changes_made (at_ms, subject, name, "before", "after", "by", detail) VALUES (?, ?, ?, ?, ?, ?, ?)'
)
_CHANGES: Final = 'SELECT seq, at_ms, subject, name, "before", "after", "by", detail FROM changes_made'
_LAST: Final = 'SELECT "after" FROM changes_made WHERE subject = ? AND name = ? ORDER BY seq DESC LIMIT 1'


class SqlPractice(SqlExperiments):
    """``IncidentMarks``, ``Outcomes``, ``AuditLog`` and ``Experiments`` in one; a store implements ``_do``."""

    def _do(self, act: Callable[[Run], _Answer], *, writes: bool) -> _Answer:
        """Runs an act, in one transaction if it writes. Raises ``StoreUnavailable``."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def acknowledge(self, mark: Mark) -> None:
        self._change(_MARK, (mark.incident, mark.by, mark.at_ms, mark.note))

    def marks(self) -> dict[str, Mark]:
        rows = self._rows('SELECT incident, "by", at_ms, note FROM incident_marks')
        found = (Mark(incident=_text(r[0]), by=_text(r[1]), at_ms=_int(r[2]), note=_text(r[3])) for r in rows)
        return {mark.incident: mark for mark in found}

    def expect(self, days: ExpectedDays) -> None:
        self._change(_EXPECT, (days.id, days.first, days.last, days.slice, days.why, days.by, days.at_ms))

    def forget_expected(self, id: str) -> bool:
        return self._change("DELETE FROM expected_days WHERE id = ?", (id,)) > 0

    def expected(self) -> tuple[ExpectedDays, ...]:
        rows = self._rows(
            'SELECT id, "first", "last", slice, why, "by", at_ms FROM expected_days ORDER BY "first", id'
        )
        return tuple(
            ExpectedDays(
                id=_text(r[0]), first=_text(r[1]), last=_text(r[2]), slice=_text(r[3]), why=_text(r[4]),
                by=_text(r[5]), at_ms=_int(r[6]),
            )
            for r in rows
        )  # fmt: skip

    def save_rule(self, grain: str, rule: Detector) -> None:
        self._change(_RULE, (grain, msgspec.json.encode(rule).decode()))

    def rule(self, grain: str) -> Detector | None:
        rows = self._rows("SELECT record FROM anomaly_rules WHERE grain = ?", (grain,))
        return _rule.decode(_text(rows[0][0])) if rows else None

    def add(self, outcomes: Iterable[Outcome]) -> tuple[int, int]:
        def act(run: Run) -> tuple[int, int]:
            new = seen = 0
            for one in outcomes:
                if run(_OUTCOME, _outcome_row(one)).rowcount == 1:
                    new += 1
                    continue
                seen += 1
                (row,) = run(f"{_OUTCOMES} WHERE id = ?", (one.id,)).fetchall()
                if msgspec.structs.replace(_outcome(row), at_ms=one.at_ms) != one:  # the first time stays
                    raise Conflict(
                        f"The outcome {one.id[:100]} was reported before with other content.",
                        hint="An outcome is reported once; give a changed one an id of its own.",
                    )
            return new, seen

        return self._do(act, writes=True)

    def all(self, *, kind: str = "", since_ms: int = 0, until_ms: int | None = None) -> tuple[Outcome, ...]:
        where, values = "at_ms >= ?", [since_ms]
        named: list[object] = [*values]
        if until_ms is not None:
            where += " AND at_ms < ?"
            named.append(until_ms)
        if kind:
            where += " AND kind = ?"
            named.append(kind)
        return tuple(_outcome(row) for row in self._rows(f"{_OUTCOMES} WHERE {where} ORDER BY at_ms, id", named))

    def kinds(self) -> tuple[tuple[str, int], ...]:
        rows = self._rows("SELECT kind, count(*) FROM outcomes GROUP BY kind ORDER BY kind")
        return tuple((_text(kind), _int(count)) for kind, count in rows)

    def record(self, changed: Changed) -> None:
        self._change(_CHANGED, _changed_row(changed))

    def note(self, changed: Changed) -> bool:
        def act(run: Run) -> bool:
            rows = run(_LAST, (changed.subject, changed.name)).fetchall()
            before = _text(rows[0][0]) if rows else ""
            if rows and before == changed.after:
                return False
            run(_CHANGED, _changed_row(msgspec.structs.replace(changed, before=before)))
            return True

        last = self._rows(_LAST, (changed.subject, changed.name))
        if last and _text(last[0][0]) == changed.after:
            return False  # the usual answer, without a write
        return self._do(act, writes=True)

    def changes(self, *, limit: int = 100, subject: str = "", since_ms: int = 0) -> tuple[Changed, ...]:
        where = " AND subject = ?" if subject else ""
        values = (since_ms, *([subject] if subject else []), limit)
        rows = self._rows(f"{_CHANGES} WHERE at_ms >= ?{where} ORDER BY seq DESC LIMIT ?", values)
        return tuple(
            Changed(
                seq=_int(r[0]), at_ms=_int(r[1]), subject=_text(r[2]), name=_text(r[3]), before=_text(r[4]),
                after=_text(r[5]), by=_text(r[6]), detail=_text(r[7]),
            )
            for r in rows
        )  # fmt: skip

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        return self._do(lambda run: run(statement, values).fetchall(), writes=False)

    def _change(self, statement: str, values: Sequence[object]) -> int:
        return self._do(lambda run: run(statement, values).rowcount, writes=True)


def insert_change(run: Run, changed: Changed) -> None:
    """Puts a change on the audit log within an act of somebody else."""
    run(_CHANGED, _changed_row(changed))


def _outcome_row(one: Outcome) -> tuple[object, ...]:
    return (one.id, one.kind, one.at_ms, one.session, one.request_id, one.value_nusd, int(one.success))


def _outcome(row: Sequence[object]) -> Outcome:
    return Outcome(
        id=_text(row[0]),
        kind=_text(row[1]),
        at_ms=_int(row[2]),
        session=_text(row[3]),
        request_id=_text(row[4]),
        value_nusd=None if row[5] is None else _int(row[5]),
        success=bool(_int(row[6])),
    )


def _changed_row(one: Changed) -> tuple[object, ...]:
    return (one.at_ms, one.subject, one.name, one.before, one.after, one.by, one.detail)


def _text(value: object) -> str:
    return str(value)


def _int(value: object) -> int:
    return int(str(value))
