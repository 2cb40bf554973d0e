"""The referee: the provider's invoice against the ledger, line by line. Pure; it trusts neither side.

An invoiced call is found in the ledger by the provider's own id or, where the answer carried none (embeddings, lost
connections), by the call's id that went to both sides. Where the provider reported its usage, every token class must
agree in quantity and in nano-dollars. What rests on anything less stands apart and is never part of "exact".
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from farthing.core.money import format_usd
from farthing.core.types import LedgerEntry

CALL_TAG: Final = "call"

Group = Literal["partial", "estimated", "ceiling"]
GROUPS: Final[tuple[tuple[Group, str], ...]] = (
    ("partial", "streams cut short, counted up to the cut"),
    ("estimated", "complete answers without usage, counted by Farthing"),
    ("ceiling", "calls whose outcome nobody told, booked at their ceiling"),
)


Caller = tuple[str, str, str]
"""Team, feature and user."""


class InvoiceCharge(msgspec.Struct, frozen=True):
    """One token class of an invoiced call."""

    unit: str
    quantity: int
    amount_nusd: int


class InvoicedCall(msgspec.Struct, frozen=True):
    """One line of the provider's invoice, as it came over the wire."""

    id: str
    at: int
    model: str
    amount_nusd: int
    charges: tuple[InvoiceCharge, ...]
    request: str = ""
    """The caller's id of the call (``x-sim-request``)."""
    fault: str = ""


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of one kind that do not rest on the provider's own final usage."""

    group: Group
    entries: int = 0
    ledger_nusd: int = 0
    invoice_nusd: int = 0
    unbilled: int = 0
    """Entries among them that the provider never invoiced."""

    @property
    def difference_nusd(self) -> int:
        """Ledger minus invoice."""
        return self.ledger_nusd - self.invoice_nusd


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison found; ``mismatches`` is empty when the ledger may be believed."""

    invoiced: int
    entries: int
    exact: int
    exact_ledger_nusd: int
    exact_invoice_nusd: int
    apart: tuple[Apart, ...]
    mismatches: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Nothing is missing, nothing is too much, and every exact line is exact."""
        return not self.mismatches


def compare(invoice: Sequence[InvoicedCall], entries: Sequence[LedgerEntry], more: Iterable[str] = ()) -> Verdict:
    """The verdict on a ledger; ``more`` are mismatches found elsewhere (budgets, open holds)."""
    court = _Court()
    court.match(invoice, entries)
    return court.verdict(len(invoice), len(entries), tuple(more))


def misattributed(entries: Iterable[LedgerEntry], callers: Mapping[str, Caller]) -> tuple[str, ...]:
    """Mismatches of whom the ledger booked a call on; ``callers`` is who made it, by the call's id."""
    found = []
    for entry in entries:
        scope = entry.scope
        booked = (scope.team, scope.feature, scope.user)
        caller = callers.get(_call_of(entry))
        if booked != caller:
            known = "/".join(caller) if caller else "nobody"
            found.append(f"booked on {'/'.join(booked)}, called by {known}: {_entry(entry)}")
    return tuple(found)


def parse_invoice(text: bytes) -> tuple[InvoicedCall, ...]:
    """The lines of ``GET /sim/invoice``. Raises ``ValueError`` when its own total does not add up."""
    lines = [line for line in text.splitlines() if line]
    calls = tuple(msgspec.json.decode(line, type=InvoicedCall) for line in lines[:-1])
    total = msgspec.json.decode(lines[-1])["total"]
    if total != {"lines": len(calls), "amount_nusd": sum(call.amount_nusd for call in calls)}:
        raise ValueError("the invoice's lines do not add up to its total")
    return calls


class _Court:
    """One hearing."""

    def __init__(self) -> None:
        self._mismatches: list[str] = []
        self._exact: list[tuple[int, int]] = []
        self._apart: dict[Group, Apart] = {group: Apart(group=group) for group, _ in GROUPS}

    def match(self, invoice: Sequence[InvoicedCall], entries: Sequence[LedgerEntry]) -> None:
        """Pairs every line with its entry and judges each pair."""
        invoiced = {call.id for call in invoice}
        by_id: dict[str, LedgerEntry] = {}
        others: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
        seen: set[str] = set()
        for entry in sorted(entries, key=lambda entry: (entry.request_id, entry.attempt)):
            upstream_id = entry.usage.upstream_id
            if entry.id in seen:
                self._object(f"the ledger has {_entry(entry)} twice")
            elif upstream_id in by_id:
                self._object(f"the ledger booked {upstream_id} twice: {_entry(by_id[upstream_id])}, {_entry(entry)}")
            elif upstream_id in invoiced:
                by_id[upstream_id] = entry
            else:
                others[_call_of(entry)].append(entry)
            seen.add(entry.id)
        lines: set[str] = set()
        for call in sorted(invoice, key=lambda call: (call.at, call.id)):
            if call.id in lines:
                self._object(f"the invoice has {call.id} twice")
                continue
            lines.add(call.id)
            found = by_id.pop(call.id, None)
            if found is None and call.request and others[call.request]:
                found = others[call.request].pop(0)
            if found is None:
                self._object(f"not in the ledger: {_line(call)}")
            else:
                self._judge(call, found)
        for entry in [*by_id.values(), *(entry for rest in others.values() for entry in rest)]:
            self._judge_unbilled(entry)

    def verdict(self, invoiced: int, entries: int, more: tuple[str, ...]) -> Verdict:
        """What was found."""
        return Verdict(
            invoiced=invoiced,
            entries=entries,
            exact=len(self._exact),
            exact_ledger_nusd=sum(ours for ours, _ in self._exact),
            exact_invoice_nusd=sum(theirs for _, theirs in self._exact),
            apart=tuple(self._apart[group] for group, _ in GROUPS),
            mismatches=(*self._mismatches, *more),
        )

    def _judge(self, call: InvoicedCall, entry: LedgerEntry) -> None:
        amount = entry.charge.total
        if amount is None:
            self._object(f"without a price: {_entry(entry)} ({entry.charge.reason}); {_line(call)}")
            return
        group = _group(entry)
        if group is not None:
            self._set_apart(group, amount, call.amount_nusd)
            if group == "ceiling" and amount < call.amount_nusd:
                self._object(f"above its ceiling: {_line(call)} is more than {_entry(entry)}")
            return
        self._exact.append((amount, call.amount_nusd))
        ours, theirs = _ledger_classes(entry), _invoice_classes(call)
        if ours != theirs or amount != call.amount_nusd:
            self._object(f"differs: {_line(call)} against {_entry(entry)}: {_difference(ours, theirs)}")

    def _judge_unbilled(self, entry: LedgerEntry) -> None:
        group = _group(entry)
        if group is None:
            self._object(f"not on the invoice: {_entry(entry)}, although it claims the provider's own usage")
            return
        if group != "ceiling":
            self._object(f"not on the invoice: {_entry(entry)}, although the provider answered")
            return
        self._set_apart(group, entry.charge.total or 0, None)

    def _set_apart(self, group: Group, ours: int, theirs: int | None) -> None:
        sums = self._apart[group]
        self._apart[group] = msgspec.structs.replace(
            sums,
            entries=sums.entries + 1,
            ledger_nusd=sums.ledger_nusd + ours,
            invoice_nusd=sums.invoice_nusd + (theirs or 0),
            unbilled=sums.unbilled + (theirs is None),
        )

    def _object(self, what: str) -> None:
        self._mismatches.append(what)


def _group(entry: LedgerEntry) -> Group | None:
    """Where the entry stands apart; None: it claims to be exact."""
    if entry.usage.source == "reported":
        return None
    if entry.fidelity == "unknown":
        return "ceiling"
    return "partial" if entry.usage.source == "partial" else "estimated"


def _call_of(entry: LedgerEntry) -> str:
    return dict(entry.scope.tags).get(CALL_TAG, "")


def _class(unit: str) -> str:
    """The invoice's name of a ledger unit: caches without ``input_``, one class for OpenAI's cache writes."""
    plain = unit.removeprefix("input_").removeprefix("output_")
    return "cache_write" if plain == "cache_write_30m" else plain


def _ledger_classes(entry: LedgerEntry) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for line in entry.charge.lines:
        if line.quantity:
            name = _class(line.unit)
            quantity, amount = found.get(name, (0, 0))
            found[name] = (quantity + line.quantity, amount + (line.amount or 0))
    return found


def _invoice_classes(call: InvoicedCall) -> dict[str, tuple[int, int]]:
    return {charge.unit: (charge.quantity, charge.amount_nusd) for charge in call.charges}


def _difference(ours: dict[str, tuple[int, int]], theirs: dict[str, tuple[int, int]]) -> str:
    parts = []
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            (our_count, our_amount), (their_count, their_amount) = ours.get(name, (0, 0)), theirs.get(name, (0, 0))
            parts.append(
                f"{name} {our_count:,} tokens ${format_usd(our_amount)} in the ledger, "
                f"{their_count:,} tokens ${format_usd(their_amount)} on the invoice"
            )
    return "; ".join(parts) or "the totals differ although every token class agrees"


def _line(call: InvoicedCall) -> str:
    fault = f", fault {call.fault}" if call.fault else ""
    return (
        f"invoice {call.id} ({call.model}, call {call.request or 'unknown'}{fault}) ${format_usd(call.amount_nusd)}"
    )


def _entry(entry: LedgerEntry) -> str:
    total = entry.charge.total
    amount = "no known price" if total is None else f"${format_usd(total)}"
    return f"entry {entry.id} ({entry.model}, call {_call_of(entry) or 'unknown'}, {entry.usage.source}) {amount}"
