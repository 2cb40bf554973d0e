"""The shelf of batches in SQL that SQLite and PostgreSQL both speak; each brings its connection and transactions."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast
from uuid import uuid4

import msgspec

from farthing.adapters.alert_log import Run
from farthing.core.types import Dialect, Endpoint
from farthing.ports.batches import Batch, BatchFile, BatchState, DeferredCall, DeferredState, Group, Share

_Answer = TypeVar("_Answer")
_Row = Sequence[object]
_claim = msgspec.json.Decoder(tuple[Group, Share])
_encode = msgspec.json.Encoder().encode

_FILE: Final = "id, provider, owner, purpose, created_ms, shown, batch"
_BATCH: Final = "id, upstream_id, provider, dialect, owner, kind, state, created_ms, shown"
_CALL: Final = "id, owner, provider, dialect, endpoint, created_ms, body, claim, state, batch, status, answer, model"
_BEGIN: Final = f"INSERT INTO batches ({_BATCH}, manifest, due_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SENT: Final = (
    "UPDATE batches SET state = 'open', upstream_id = ?, shown = ?, due_ms = ? WHERE id = ? AND state = 'sending'"
)
_CLAIM: Final = (
    "UPDATE batches SET holder = ?, leased_until_ms = ? WHERE id = ? AND state = 'open'"
    " AND (leased_until_ms <= ? OR holder = ?)"
)
_DUE: Final = (
    "SELECT id FROM batches WHERE state = 'open' AND due_ms <= ? AND leased_until_ms <= ? ORDER BY due_ms, id LIMIT ?"
)
_LEAVE: Final = "UPDATE batches SET leased_until_ms = 0, due_ms = ? WHERE id = ? AND holder = ?"
_END: Final = "UPDATE batches SET state = 'ended' WHERE id = ? AND holder = ? AND state = 'open'"
_DEFER: Final = f"INSERT INTO deferred_calls ({_CALL}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READY: Final = (
    "SELECT provider, dialect, endpoint, model, count(*), min(created_ms) FROM deferred_calls WHERE state = 'queued'"
    " GROUP BY provider, dialect, endpoint, model ORDER BY 6, 1, 4"
)
_TAKE: Final = (
    "UPDATE deferred_calls SET state = 'sent', batch = ? WHERE state = 'queued' AND id IN (SELECT id FROM"
    " deferred_calls WHERE state = 'queued' AND provider = ? AND dialect = ? AND endpoint = ? AND model = ?"
    " ORDER BY created_ms, id LIMIT ?)"
)
_TAKEN: Final = f"SELECT {_CALL} FROM deferred_calls WHERE batch = ? AND state = 'sent' ORDER BY created_ms, id"
_ANSWER: Final = (
    "UPDATE deferred_calls SET state = ?, status = ?, answer = ?, body = ? WHERE id = ? AND state = 'sent'"
)
_PRUNE_CALLS: Final = "DELETE FROM deferred_calls WHERE state NOT IN ('queued', 'sent') AND created_ms < ?"
_PUT_BACK: Final = "UPDATE deferred_calls SET state = 'queued', batch = '' WHERE batch = ? AND state = 'sent'"
_CANCEL: Final = (
    "UPDATE deferred_calls SET state = 'cancelled', body = ? WHERE owner = ? AND id = ? AND state = 'queued'"
)


class SqlBatches:
    """``BatchShelf``; a store implements ``_do``."""

    def _do(self, act: Callable[[Run], _Answer], *, writes: bool) -> _Answer:
        """Runs an act, in one transaction if it writes. Raises ``StoreUnavailable``."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    # -- files

    def add_file(self, file: BatchFile, asks: bytes = b"") -> None:
        statement = f"INSERT INTO batch_files ({_FILE}, asks) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        self._change(statement, (*(getattr(file, name) for name in _FILE.split(", ")), asks))

    def file(self, owner: str, id: str) -> BatchFile | None:
        rows = self._rows(f"SELECT {_FILE} FROM batch_files WHERE owner = ? AND id = ?", (owner, id))
        return _file(rows[0]) if rows else None

    def asks(self, file_id: str) -> bytes:
        rows = self._rows("SELECT asks FROM batch_files WHERE id = ?", (file_id,))
        return _bytes(rows[0][0]) if rows else b""

    def files(self, owner: str) -> tuple[BatchFile, ...]:
        order = "ORDER BY created_ms DESC, id DESC"
        return tuple(map(_file, self._rows(f"SELECT {_FILE} FROM batch_files WHERE owner = ? {order}", (owner,))))

    def forget_file(self, id: str) -> None:
        self._change("DELETE FROM batch_files WHERE id = ?", (id,))

    # -- batches

    def begin(self, batch: Batch, manifest: bytes) -> None:
        self._change(_BEGIN, (*_cells(batch), manifest, 0))

    def sent(self, id: str, upstream_id: str, shown: bytes, *, due_ms: int) -> None:
        self._change(_SENT, (upstream_id, shown, due_ms, id))

    def settled(self, id: str, state: BatchState) -> None:
        self._change("UPDATE batches SET state = ? WHERE id = ? AND state = 'sending'", (state, id))

    def batch(self, owner: str, upstream_id: str) -> Batch | None:
        where = "owner = ? AND upstream_id = ? AND upstream_id <> '' AND hidden = 0 AND kind = 'caller'"
        rows = self._rows(f"SELECT {_BATCH} FROM batches WHERE {where}", (owner, upstream_id))
        return _batch(rows[0]) if rows else None

    def batches(self, owner: str, dialect: Dialect) -> tuple[Batch, ...]:
        where = "owner = ? AND dialect = ? AND upstream_id <> '' AND hidden = 0 AND kind = 'caller'"
        rows = self._rows(
            f"SELECT {_BATCH} FROM batches WHERE {where} ORDER BY created_ms DESC, id DESC", (owner, dialect)
        )
        return tuple(map(_batch, rows))

    def latest(self, limit: int) -> tuple[Batch, ...]:
        rows = self._rows(f"SELECT {_BATCH} FROM batches ORDER BY created_ms DESC, id DESC LIMIT ?", (limit,))
        return tuple(map(_batch, rows))

    def by_id(self, id: str) -> Batch | None:
        rows = self._rows(f"SELECT {_BATCH} FROM batches WHERE id = ?", (id,))
        return _batch(rows[0]) if rows else None

    def manifest(self, id: str) -> bytes:
        rows = self._rows("SELECT manifest FROM batches WHERE id = ?", (id,))
        return _bytes(rows[0][0]) if rows else b""

    def saw(self, id: str, shown: bytes) -> None:
        self._change("UPDATE batches SET shown = ? WHERE id = ?", (shown, id))

    def forget(self, id: str) -> None:
        self._change("UPDATE batches SET hidden = 1 WHERE id = ?", (id,))

    def claim(self, id: str, holder: str, *, now_ms: int, lease_ms: int) -> bool:
        return self._change(_CLAIM, (holder, now_ms + lease_ms, id, now_ms, holder)) == 1

    def due(self, holder: str, *, now_ms: int, lease_ms: int, most: int) -> tuple[Batch, ...]:
        found = [str(row[0]) for row in self._rows(_DUE, (now_ms, now_ms, most))]
        mine = [id for id in found if self.claim(id, holder, now_ms=now_ms, lease_ms=lease_ms)]
        return tuple(batch for batch in map(self.by_id, mine) if batch is not None)

    def leave(self, id: str, holder: str, *, due_ms: int) -> None:
        self._change(_LEAVE, (due_ms, id, holder))

    def end(self, id: str, holder: str) -> bool:
        return self._change(_END, (id, holder)) == 1

    def stuck(self, *, before_ms: int) -> tuple[Batch, ...]:
        rows = self._rows(
            f"SELECT {_BATCH} FROM batches WHERE state = 'sending' AND created_ms < ? ORDER BY id", (before_ms,)
        )
        return tuple(map(_batch, rows))

    # -- deferred calls

    def defer(self, call: DeferredCall) -> None:
        other = {"claim": _encode((call.group, call.share)), "model": call.group.target.model}
        cells = tuple(other[name] if name in other else getattr(call, name) for name in _CALL.split(", "))
        self._change(_DEFER, cells)

    def deferred(self, owner: str, id: str) -> DeferredCall | None:
        rows = self._rows(f"SELECT {_CALL} FROM deferred_calls WHERE owner = ? AND id = ?", (owner, id))
        return _call(rows[0]) if rows else None

    def gather(
        self, manifest_of: Callable[[tuple[DeferredCall, ...]], bytes], *, now_ms: int, size: int, age_ms: int
    ) -> tuple[Batch, tuple[DeferredCall, ...]] | None:
        ready = [
            (str(provider), cast(Dialect, dialect), endpoint, model)
            for provider, dialect, endpoint, model, count, oldest in self._rows(_READY)
            if _int(count) >= size or _int(oldest) <= now_ms - age_ms
        ]
        if not ready:
            return None
        provider, dialect, endpoint, model = ready[0]
        batch = Batch(
            id=f"fb_{uuid4().hex}", provider=provider, dialect=dialect, owner="", kind="queue", created_ms=now_ms
        )

        def act(run: Run) -> tuple[DeferredCall, ...]:
            run(_TAKE, (batch.id, provider, dialect, endpoint, model, size))
            calls = tuple(map(_call, run(_TAKEN, (batch.id,)).fetchall()))
            if calls:
                run(_BEGIN, (*_cells(batch), manifest_of(calls), 0))
            return calls

        calls = self._do(act, writes=True)
        return (batch, calls) if calls else None

    def put_back(self, batch: str) -> None:
        self._change(_PUT_BACK, (batch,))

    def answer(self, id: str, state: DeferredState, status: int, answer: bytes) -> bool:
        return self._change(_ANSWER, (state, status, answer, b"", id)) == 1

    def cancel(self, owner: str, id: str) -> bool:
        return self._change(_CANCEL, (b"", owner, id)) == 1

    def prune(self, before_ms: int) -> int:
        def act(run: Run) -> int:
            gone = run("DELETE FROM batches WHERE state <> 'open' AND created_ms < ?", (before_ms,)).rowcount
            gone += run(_PRUNE_CALLS, (before_ms,)).rowcount
            return gone + run("DELETE FROM batch_files WHERE created_ms < ?", (before_ms,)).rowcount

        return self._do(act, writes=True)

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        return self._do(lambda run: run(statement, values).fetchall(), writes=False)

    def _change(self, statement: str, values: Sequence[object]) -> int:
        return self._do(lambda run: run(statement, values).rowcount, writes=True)


def _file(row: _Row) -> BatchFile:
    return BatchFile(
        id=str(row[0]),
        provider=str(row[1]),
        owner=str(row[2]),
        purpose=str(row[3]),
        created_ms=_int(row[4]),
        shown=_bytes(row[5]),
        batch=str(row[6]),
    )


def _cells(batch: Batch) -> tuple[object, ...]:
    return tuple(getattr(batch, name) for name in _BATCH.split(", "))


def _batch(row: _Row) -> Batch:
    return Batch(
        id=str(row[0]),
        upstream_id=str(row[1]),
        provider=str(row[2]),
        dialect=cast(Dialect, row[3]),
        owner=str(row[4]),
        kind="queue" if row[5] == "queue" else "caller",
        state=cast(BatchState, row[6]),
        created_ms=_int(row[7]),
        shown=_bytes(row[8]),
    )


def _call(row: _Row) -> DeferredCall:
    group, share = _claim.decode(_bytes(row[7]))
    return DeferredCall(
        id=str(row[0]),
        owner=str(row[1]),
        provider=str(row[2]),
        dialect=cast(Dialect, row[3]),
        endpoint=cast(Endpoint, row[4]),
        created_ms=_int(row[5]),
        body=_bytes(row[6]),
        group=group,
        share=share,
        state=cast(DeferredState, row[8]),
        batch=str(row[9]),
        status=_int(row[10]),
        answer=_bytes(row[11]),
    )


def _int(value: object) -> int:
    return int(str(value))


def _bytes(value: object) -> bytes:
    return bytes(cast(bytes, value))
