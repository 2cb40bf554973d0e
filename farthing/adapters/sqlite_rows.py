"""Records to rows and back: the one place that knows the columns of the SQLite tables."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Final

import msgspec
from msgspec.structs import astuple

from farthing.adapters.ledger_query import token_sums
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.money import Nusd
from farthing.core.types import (
    Charge,
    ChargeLine,
    Decision,
    Exchange,
    Hold,
    LedgerEntry,
    Reservation,
    Scope,
    Usage,
)

Row = tuple[object, ...]

ENTRY_COLUMNS: Final = (
    "id", "request_id", "attempt", "kind", "corrects", "received_at_ms", "booked_at_ms",
    "org", "team", "project", "user", "feature", "customer", "session", "key", "tags",
    "dialect", "endpoint", "provider", "price_as", "model_requested", "model", "service_tier", "source",
    "state", "reason", "amount_nusd", "computed_nusd", "baseline_nusd", "ceiling_nusd", "fidelity",
    "price_book", "policy", "stream", "status", "error", "client_gone", "ttft_ms", "latency_ms",
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "lines", "usage", "decisions",
)  # fmt: skip
EXCHANGE_COLUMNS: Final = (
    "request_id", "received_at_ms", "outcome", "status", "error", "latency_ms", "amount_nusd", "body",
)  # fmt: skip
RESERVATION_COLUMNS: Final = (
    "id", "worker", "request_id", "ceiling_nusd", "reserved_at_ms", "expires_at_ms", "holds", "stub",
)  # fmt: skip

HOLD_COLUMNS: Final = Hold.__struct_fields__
"""Holds are stored as JSON arrays in this order; the views of the schema rely on it."""

_SAME_NAMES: Final = tuple(name for name in LedgerEntry.__struct_fields__ if name in ENTRY_COLUMNS)

WORKER_LOST: Final = "worker_lost"
"""Error of entries booked for calls whose worker process died."""

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1

_encode = msgspec.json.Encoder().encode
_lines = msgspec.json.Decoder(tuple[ChargeLine, ...])
_usage = msgspec.json.Decoder(Usage)
_decisions = msgspec.json.Decoder(tuple[Decision, ...])
_tags = msgspec.json.Decoder(dict[str, str])
_exchange = msgspec.json.Decoder(Exchange)
_holds = msgspec.json.Decoder(list[list[object]])


def quoted(columns: Iterable[str]) -> str:
    """Column names for SQL; some of them (``user``, ``key``) are keywords elsewhere."""
    return ", ".join(f'"{name}"' for name in columns)


def entry_to_row(entry: LedgerEntry) -> Row:
    """The entry in the order of ``ENTRY_COLUMNS``. Raises ``ValueError`` for amounts that int64 cannot hold."""
    tags = entry.scope.tags
    return entry_cells(
        entry,
        tags=_encode(dict(tags)).decode() if tags else None,
        lines=_encode(entry.charge.lines).decode(),
        usage=_encode(entry.usage).decode(),
        decisions=_encode(entry.decisions).decode() if entry.decisions else "[]",
    )


def entry_cells(entry: LedgerEntry, *, tags: object, lines: object, usage: object, decisions: object) -> Row:
    """The row of an entry, with what is JSON there as the caller has it."""
    scope, used, charge = entry.scope, entry.usage, entry.charge
    return (
        entry.id, entry.request_id, entry.attempt, entry.kind, entry.corrects,
        entry.received_at_ms, entry.booked_at_ms,
        scope.org, scope.team, scope.project, scope.user, scope.feature, scope.customer, scope.session, scope.key,
        tags,
        entry.dialect, entry.endpoint, entry.provider, entry.price_as, entry.model_requested, entry.model,
        used.service_tier, used.source, charge.state, charge.reason,
        _int64(charge.total), _int64(charge.computed), _int64(entry.baseline), _int64(entry.ceiling),
        entry.fidelity, charge.price_ref, entry.policy_ref, entry.stream, entry.status, entry.error,
        entry.client_gone, entry.ttft_ms, entry.latency_ms, *token_sums(entry),
        lines, usage, decisions,
    )  # fmt: skip


def entry_from_row(row: Sequence[object]) -> LedgerEntry:
    """The entry of a row selected with ``ENTRY_COLUMNS``."""
    cell = dict(zip(ENTRY_COLUMNS, row, strict=True))
    tags = _tags.decode(str(cell["tags"])) if cell["tags"] is not None else {}
    return msgspec.convert(
        {name: cell[name] for name in _SAME_NAMES}
        | {
            "scope": {name: cell[name] for name in SCOPE_DIMENSIONS} | {"tags": tuple(tags.items())},
            "usage": _usage.decode(str(cell["usage"])),
            "charge": {
                "lines": _lines.decode(str(cell["lines"])),
                "total": cell["amount_nusd"],
                "state": cell["state"],
                "reason": cell["reason"],
                "price_ref": cell["price_book"],
                "computed": cell["computed_nusd"],
            },
            "baseline": cell["baseline_nusd"],
            "ceiling": cell["ceiling_nusd"],
            "policy_ref": cell["policy"],
            "decisions": _decisions.decode(str(cell["decisions"])),
            "stream": bool(cell["stream"]),
            "client_gone": bool(cell["client_gone"]),
        },
        type=LedgerEntry,
    )


def exchange_to_row(exchange: Exchange) -> Row:
    """The exchange in the order of ``EXCHANGE_COLUMNS``."""
    return (*exchange_cells(exchange), _encode(exchange))


def exchange_cells(exchange: Exchange) -> Row:
    """All of its row but the body."""
    return (
        exchange.request_id,
        exchange.received_at_ms,
        exchange.outcome,
        exchange.status,
        exchange.error,
        exchange.latency_ms,
        _int64(exchange.amount),
    )


def exchange_from_body(body: bytes) -> Exchange:
    """The exchange of a ``body`` column."""
    return _exchange.decode(body)


class Stub(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What is known of an entry before its call is made; positional, because every call in flight writes one."""

    attempt: int
    received_at_ms: int
    scope: tuple[str | tuple[tuple[str, str], ...], ...]
    """The fields of a ``Scope``, in order."""
    dialect: str
    endpoint: str
    provider: str
    price_as: str
    model_requested: str
    model: str
    baseline: Nusd | None = None
    policy_ref: str = ""
    decisions: tuple[Decision, ...] = ()
    stream: bool = False


_stub = msgspec.json.Decoder(Stub)
_rest_of_stub = attrgetter(*Stub.__struct_fields__[3:])
"""What follows the scope; an entry has the same names."""


def held_record(reservation: Reservation, *, worker: str, now_ms: int, stub: LedgerEntry | None) -> Row:
    """The reservation in the order of ``RESERVATION_COLUMNS``, holds and stub not encoded yet.

    Every call in flight has one; few are ever written as rows (:func:`record_to_row`).
    """
    return (
        reservation.id,
        worker,
        reservation.request_id,
        _int64(reservation.ceiling),
        now_ms,
        reservation.expires_at_ms,
        [astuple(hold) for hold in reservation.holds],
        None if stub is None else (stub.attempt, stub.received_at_ms, astuple(stub.scope), *_rest_of_stub(stub)),
    )


def record_to_row(record: Row) -> Row:
    """A ``held_record`` as a row of ``RESERVATION_COLUMNS``; a row stays as it is."""
    *cells, holds, stub = record
    if isinstance(holds, str):
        return record
    return (*cells, _encode(holds).decode(), None if stub is None else _encode(stub).decode())


def reservation_from_row(row: Sequence[object]) -> Reservation:
    """The reservation of a row selected with ``RESERVATION_COLUMNS``."""
    cell = dict(zip(RESERVATION_COLUMNS, row, strict=True))
    return msgspec.convert(
        {
            "id": cell["id"],
            "request_id": cell["request_id"],
            # Rows of earlier releases end before the newest fields of a hold.
            "holds": [dict(zip(HOLD_COLUMNS, hold, strict=False)) for hold in _holds.decode(str(cell["holds"]))],
            "ceiling": cell["ceiling_nusd"],
            "expires_at_ms": cell["expires_at_ms"],
        },
        type=Reservation,
    )


def lost_entry(row: Sequence[object], *, now_ms: int) -> LedgerEntry:
    """The entry for a reservation whose worker died: its ceiling, as the most that the call can have cost."""
    cell = dict(zip(RESERVATION_COLUMNS, row, strict=True))
    reservation = reservation_from_row(row)
    received_at_ms = msgspec.convert(cell["reserved_at_ms"], type=int)
    known = _stub.decode(str(cell["stub"])) if cell["stub"] is not None else _nothing_known(received_at_ms)
    return LedgerEntry(
        id=reservation.id,
        request_id=reservation.request_id,
        booked_at_ms=now_ms,
        usage=Usage(source="estimated"),
        charge=_charge(reservation.ceiling, quantity=1),
        fidelity="unknown",
        ceiling=reservation.ceiling,
        status=0,
        error=WORKER_LOST,
        scope=msgspec.convert(dict(zip(Scope.__struct_fields__, known.scope, strict=True)), type=Scope),
        **{name: getattr(known, name) for name in Stub.__struct_fields__ if name != "scope"},
    )


def lost_reversal(lost: LedgerEntry, *, now_ms: int) -> LedgerEntry:
    """Takes a ``lost_entry`` back when its call turns out to have been settled after all."""
    total = None if lost.charge.total is None else Nusd(-lost.charge.total)
    return msgspec.structs.replace(
        lost,
        id=f"{lost.id}:reversal",
        kind="reversal",
        corrects=lost.id,
        booked_at_ms=now_ms,
        charge=_charge(total, quantity=-1),
        baseline=None if lost.baseline is None else Nusd(-lost.baseline),
        error="",
    )


def _charge(total: Nusd | None, *, quantity: int) -> Charge:
    if total is None:
        return Charge(reason=WORKER_LOST)
    line = ChargeLine(unit="request", quantity=quantity, price=None, amount=total, row="ceiling")
    return Charge(lines=(line,), total=total, state="priced", reason=WORKER_LOST)


def _nothing_known(received_at_ms: int) -> Stub:
    return Stub(
        attempt=1,
        received_at_ms=received_at_ms,
        scope=astuple(Scope()),
        dialect="",
        endpoint="",
        provider="",
        price_as="",
        model_requested="",
        model="",
    )


def _int64(amount: int | None) -> int | None:
    if amount is not None and not INT64_MIN <= amount <= INT64_MAX:
        raise too_much(amount)
    return amount


def too_much(amount: int) -> ValueError:
    """The error for an amount that int64 cannot hold."""
    return ValueError(f"{amount} nano-USD is more than the ledger can hold (about 9.2 billion USD per amount)")
