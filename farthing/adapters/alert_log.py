"""The alert log in SQL that SQLite and PostgreSQL both speak; each brings its own connection and transactions."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from farthing.core.alerts import Alert
from farthing.ports.alerts import AlertRecord, Delivery

_Answer = TypeVar("_Answer")
_encode = msgspec.json.Encoder().encode
_alert = msgspec.json.Decoder(Alert)

_CLAIM = """
    INSERT INTO alert_claims ("key", alert_id, at_ms, lapses_at_ms) VALUES (?, ?, ?, ?) ON CONFLICT ("key") DO UPDATE
    SET alert_id = excluded.alert_id, at_ms = excluded.at_ms, lapses_at_ms = excluded.lapses_at_ms
    WHERE alert_claims.lapses_at_ms <= excluded.at_ms
"""
_IS_TAKEN = 'SELECT 1 FROM alert_claims WHERE "key" = ? AND (lapses_at_ms IS NULL OR lapses_at_ms >= ?)'
_EXTEND = 'UPDATE alert_claims SET lapses_at_ms = ? WHERE "key" = ? AND lapses_at_ms < ?'
_RECORD = "INSERT INTO alerts (id, at_ms, budget, severity, record) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_DELIVER = (
    "INSERT INTO alert_deliveries (alert_id, sink, state, since_ms, due_ms) VALUES (?, ?, 'pending', ?, ?)"
    " ON CONFLICT DO NOTHING"
)
_IS_DUE = "SELECT 1 FROM alert_deliveries WHERE state = 'pending' AND due_ms <= ? AND leased_until_ms <= ? LIMIT 1"
_DUE = """
    SELECT d.alert_id, d.sink, d.tries, d.since_ms, a.record
    FROM alert_deliveries AS d JOIN alerts AS a ON a.id = d.alert_id
    WHERE d.state = 'pending' AND d.due_ms <= ? AND d.leased_until_ms <= ?
    ORDER BY d.due_ms, a.at_ms, d.alert_id LIMIT ?
"""
_SENT = "UPDATE alert_deliveries SET state = 'sent', due_ms = ?, why = '' WHERE alert_id = ? AND sink = ?"
_FAILED = (
    "UPDATE alert_deliveries SET state = ?, due_ms = coalesce(?, due_ms), leased_until_ms = 0, tries = tries + 1,"
    " why = ? WHERE alert_id = ? AND sink = ? AND state = 'pending'"
)
_MUTE = "INSERT INTO alert_mutes VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET until_ms = excluded.until_ms"
_SEEN = (
    "INSERT INTO alert_seen (id, at_ms) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at_ms = excluded.at_ms"
    " WHERE alert_seen.at_ms < excluded.at_ms"
)


class Answer(Protocol):
    """What a statement answers."""

    @property
    def rowcount(self) -> int: ...

    def fetchall(self) -> list[tuple[object, ...]]: ...


class Run(Protocol):
    """Runs one statement with ``?`` for its values."""

    def __call__(self, statement: str, values: Sequence[object] = ()) -> Answer: ...


class SqlAlerts:
    """``AlertLog``; a store implements ``_do``."""

    lock_rows = ""
    """What keeps two transactions from leasing the same deliveries, where transactions do not exclude one another."""

    def _do(self, act: Callable[[Run], _Answer], *, writes: bool) -> _Answer:
        """Runs an act, in one transaction if it writes. Raises ``StoreUnavailable``."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def claim(self, alert: Alert, sinks: Sequence[tuple[str, int]], *, lapses_at_ms: int | None = None) -> bool:
        if self._rows(_IS_TAKEN, (alert.key, lapses_at_ms or 0)):
            return False  # the usual answer of all workers but one, without a write

        def act(run: Run) -> bool:
            if run(_CLAIM, (alert.key, alert.id, alert.at_ms, lapses_at_ms)).rowcount != 1:
                if lapses_at_ms is not None:
                    run(_EXTEND, (lapses_at_ms, alert.key, lapses_at_ms))
                return False
            run(_RECORD, (alert.id, alert.at_ms, alert.budget, alert.severity, _encode(alert).decode()))
            for sink, due_ms in sinks:
                run(_DELIVER, (alert.id, sink, due_ms, due_ms))
            return True

        return self._do(act, writes=True)

    def turn(self, name: str, *, now_ms: int, until_ms: int) -> bool:
        key = f"turn|{name}"
        if self._rows('SELECT 1 FROM alert_claims WHERE "key" = ? AND lapses_at_ms > ?', (key, now_ms)):
            return False  # without a write
        return self._do(lambda run: run(_CLAIM, (key, "", now_ms, until_ms)).rowcount == 1, writes=True)

    def due(self, *, now_ms: int, lease_ms: int, most: int = 100) -> tuple[Delivery, ...]:
        if not self._rows(_IS_DUE, (now_ms, now_ms)):
            return ()

        def act(run: Run) -> tuple[Delivery, ...]:
            found = []
            for alert_id, sink, tries, since_ms, record in run(
                _DUE + self.lock_rows, (now_ms, now_ms, most)
            ).fetchall():
                run(
                    "UPDATE alert_deliveries SET leased_until_ms = ? WHERE alert_id = ? AND sink = ?",
                    (now_ms + lease_ms, alert_id, sink),
                )
                alert = _alert.decode(str(record))
                found.append(Delivery(alert=alert, sink=str(sink), tries=_int(tries), since_ms=_int(since_ms)))
            return tuple(found)

        return self._do(act, writes=True)

    def sent(self, delivery: Delivery, *, now_ms: int) -> None:
        self._change(_SENT, (now_ms, delivery.alert.id, delivery.sink))

    def failed(self, delivery: Delivery, why: str, *, retry_at_ms: int | None) -> None:
        state = "failed" if retry_at_ms is None else "pending"
        self._change(_FAILED, (state, retry_at_ms, why[:300], delivery.alert.id, delivery.sink))

    def pending(self) -> int:
        return _int(self._rows("SELECT count(*) FROM alert_deliveries WHERE state = 'pending'")[0][0])

    def records(self, *, limit: int = 50, open_only: bool = False) -> tuple[AlertRecord, ...]:
        where = "WHERE acknowledged_at_ms IS NULL" if open_only else ""
        columns = "id, record, acknowledged_at_ms, acknowledged_by"
        rows = self._rows(f"SELECT {columns} FROM alerts {where} ORDER BY at_ms DESC, id LIMIT ?", (limit,))
        states = "SELECT sink, state FROM alert_deliveries WHERE alert_id = ? ORDER BY sink"
        return tuple(
            AlertRecord(
                alert=_alert.decode(str(record)),
                acknowledged_at_ms=None if at_ms is None else _int(at_ms),
                acknowledged_by=str(by),
                deliveries=tuple((str(sink), str(state)) for sink, state in self._rows(states, (alert_id,))),
            )
            for alert_id, record, at_ms, by in rows
        )

    def acknowledge(self, alert_id: str, *, by: str, at_ms: int) -> bool:
        def act(run: Run) -> bool:
            if not run("SELECT 1 FROM alerts WHERE id = ?", (alert_id,)).fetchall():
                return False
            run(
                "UPDATE alerts SET acknowledged_at_ms = ?, acknowledged_by = ?"
                " WHERE id = ? AND acknowledged_at_ms IS NULL",
                (at_ms, by, alert_id),
            )
            run("UPDATE alert_deliveries SET state = 'dropped' WHERE alert_id = ? AND state = 'pending'", (alert_id,))
            return True

        return self._do(act, writes=True)

    def mute(self, name: str, *, until_ms: int) -> None:
        self._change(_MUTE, (name, until_ms))

    def mutes(self, *, now_ms: int) -> tuple[tuple[str, int], ...]:
        rows = self._rows("SELECT name, until_ms FROM alert_mutes WHERE until_ms > ? ORDER BY name", (now_ms,))
        return tuple((str(name), _int(until)) for name, until in rows)

    def seen(self) -> int:
        rows = self._rows("SELECT at_ms FROM alert_seen")
        return _int(rows[0][0]) if rows else 0

    def mark_seen(self, at_ms: int) -> None:
        self._change(_SEEN, (at_ms,))

    def prune(self, before_ms: int) -> int:
        def act(run: Run) -> int:
            run("DELETE FROM alert_mutes WHERE until_ms < ?", (before_ms,))
            run("DELETE FROM alert_claims WHERE lapses_at_ms < ?", (before_ms,))
            run(
                "DELETE FROM alert_deliveries WHERE alert_id IN (SELECT id FROM alerts WHERE at_ms < ?)", (before_ms,)
            )
            return run("DELETE FROM alerts WHERE at_ms < ?", (before_ms,)).rowcount

        return self._do(act, writes=True)

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        return self._do(lambda run: run(statement, values).fetchall(), writes=False)

    def _change(self, statement: str, values: Sequence[object]) -> None:
        self._do(lambda run: run(statement, values).rowcount, writes=True)


def _int(value: object) -> int:
    return int(str(value))
