"""Rows of settlements that repeat an earlier one but for id, time and age: made from its rows, not from records.

The records still come with each settlement, and are what every other store books. That the short way makes the same
rows is looked at once for each that is repeated; where it does not, for whatever reason, it is never taken.
"""

from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from farthing.adapters.sqlite_inserts import Inserts, ShapedRow, exchange_to_sqlite
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_to_row
from farthing.core.types import Decision, Exchange, LedgerEntry
from farthing.ports.books import AGE, Alike, Settlement

_MARK: Final = "[age]"
_BEGINNING: Final = b'{"request_id":"","received_at_ms":0,'

_QUESTION: Final = ("team", "user", "key", "baseline_nusd", "feature", "customer", "session")
_OWN: Final = ("id", "request_id", "received_at_ms", "booked_at_ms", *_QUESTION, "tags", "decisions")
_SHARED: Final = tuple([name for name in ENTRY_COLUMNS if name not in _OWN])
"""Mostly equal for all that is alike, whatever the question was."""
_HITS: Final = Inserts("INSERT INTO entries", _SHARED, _OWN, {}, {"tags": "nullif({}, '')"})

Text = TypeVar("Text", str, bytes)

_encode = msgspec.json.Encoder().encode


class Mould:
    """What the rows of settlements that are alike have in common."""

    __slots__ = ("_decisions", "_exchange", "_facts", "_middle", "_place", "_rest", "_shared")

    def __init__(self, entry: LedgerEntry, exchange: Exchange) -> None:
        """Raises ``ValueError`` where the age stands in no single place."""
        decisions = _marked(entry.decisions)
        names = [name for name, _ in decisions[-1].evidence]
        self._place = len(decisions) - 1, names.index(AGE)
        cells = dict(zip(ENTRY_COLUMNS, entry_to_row(replace(entry, decisions=decisions)), strict=True))
        self._shared = tuple([_bound(cells[name]) for name in _SHARED])
        self._middle = (*[cells[name] for name in _QUESTION], cells["tags"] or "")
        self._decisions = _in_two(str(cells["decisions"]), _MARK)
        bare = replace(exchange, request_id="", received_at_ms=0, decisions=decisions)
        inserts, shared, facts = exchange_to_sqlite(bare)
        self._exchange = inserts, shared
        self._facts = facts[2:-1]
        body = _encode(bare)
        if not body.startswith(_BEGINNING):
            raise ValueError("the exchange's fields have another order")
        self._rest = _in_two(body.removeprefix(_BEGINNING), _MARK.encode())

    def rows(self, entry: LedgerEntry, exchange: Exchange) -> tuple[ShapedRow, ShapedRow]:
        """The rows of records that are alike."""
        last, place = self._place
        age = entry.decisions[last].evidence[place][1]
        said, more = self._decisions
        rest, end = self._rest
        request_id, at_ms = exchange.request_id, exchange.received_at_ms
        body = b'{"request_id":"%b","received_at_ms":%d,%b%b%b' % (
            request_id.encode(), at_ms, rest, age.encode(), end,
        )  # fmt: skip
        own = (entry.id, request_id, at_ms, entry.booked_at_ms, *self._middle, f"{said}{age}{more}")
        facts = (request_id, at_ms, *self._facts, bytearray(body))
        return (_HITS, self._shared, own), (*self._exchange, facts)

    def gives(self, entry: LedgerEntry, exchange: Exchange) -> bool:
        """The rows say what the records say."""
        (_, shared, own), logged = self.rows(entry, exchange)
        cells = dict(zip((*_SHARED, *_OWN), (*shared, *own), strict=True))
        row = tuple([(cells[name] or None) if name == "tags" else cells[name] for name in ENTRY_COLUMNS])
        return row == entry_to_row(entry) and logged == exchange_to_sqlite(exchange)


def rows_alike(settlement: Settlement, alike: Alike) -> tuple[ShapedRow, ShapedRow] | None:
    """The rows of the settlement's entry and exchange; None: they must be made from the records."""
    mould = alike.made
    (entry,), exchange = settlement.entries, settlement.exchange
    if exchange is None:
        return None
    if mould is None:
        alike.made = mould = _mould(entry, exchange)
    return mould.rows(entry, exchange) if isinstance(mould, Mould) else None


def _marked(decisions: tuple[Decision, ...]) -> tuple[Decision, ...]:
    """The decisions with a mark where the last one says the age. Raises ``ValueError`` where it says none."""
    *others, last = decisions
    evidence = tuple([(name, _MARK if name == AGE else value) for name, value in last.evidence])
    if evidence == last.evidence:
        raise ValueError("no age is said")
    return (*others, replace(last, evidence=evidence))


def _mould(entry: LedgerEntry, exchange: Exchange) -> object:
    """The mould of these records; something else where it does not give back their own rows."""
    try:
        mould = Mould(entry, exchange)
    except ValueError:
        return False
    return mould if mould.gives(entry, exchange) else False


def _bound(cell: object) -> object:
    """The cell of a type that ``sqlite3`` binds at once."""
    return int(cell) if isinstance(cell, bool) else cell


def _in_two(text: Text, mark: Text) -> tuple[Text, Text]:
    parts = text.split(mark)
    if len(parts) != 2:
        raise ValueError("the age's mark is not the only one")
    return parts[0], parts[1]
