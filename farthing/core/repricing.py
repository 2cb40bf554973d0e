"""Re-rating the past: what an entry costs under another price book, and the adjustment that brings it there.

The ledger is never rewritten. An entry's *effective* amount is its own charge plus its corrections; re-rating
compares that with a new charge of the same usage and states the difference as one more entry. What was not computed
from usage and prices (the provider's own figure, a bill already reconciled, a ceiling booked for an unknown outcome)
stays.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from farthing.core.money import Nusd, Pusd
from farthing.core.pricing_names import is_snapshot_of
from farthing.core.types import Charge, ChargeLine, Decision, LedgerEntry, Target, Usage

Kept = Literal["", "stated", "billed", "reversed", "not_metered"]
"""Why an entry is not re-rated; empty: it is.

``stated``: the provider itself said what the call cost. ``billed``: reconciled with the provider's bill.
``reversed``: taken back. ``not_metered``: its amount does not rest on usage (a ceiling of an unknown outcome).
"""

STAGE: Final = "reprice"
BILLED_STAGE: Final = "reconcile"
WAS_UNPRICED: Final = "was_unpriced"
"""Reason of the adjustment that gives an entry its first known price."""

_CEILINGS: Final = frozenset({"ceiling", "worker_lost"})

_LineKey = tuple[str, Pusd | None, tuple[tuple[str, int], ...], str, str]


class Rerated(msgspec.Struct, frozen=True, kw_only=True):
    """One entry beside what another book makes of it."""

    entry: LedgerEntry
    corrections: tuple[LedgerEntry, ...]
    before: Nusd | None
    """The effective amount; None: unpriced."""
    charge: Charge
    """Under the other book; the entry's own where it is kept."""
    kept: Kept = ""

    @property
    def after(self) -> Nusd | None:
        """The amount under the other book; None: that book has no price."""
        return self.before if self.kept else self.charge.total

    @property
    def difference(self) -> Nusd:
        """What an adjustment has to add. A known price is never taken away: then there is nothing to add."""
        if self.after is None:
            return Nusd(0)
        return Nusd(self.after - (self.before or 0))

    @property
    def newly_priced(self) -> bool:
        """The entry had no known price and now has one."""
        return self.before is None and self.after is not None

    @property
    def newly_unpriced(self) -> bool:
        """The entry has a known price and the other book has none."""
        return self.before is not None and self.after is None


def effective(entry: LedgerEntry, corrections: Iterable[LedgerEntry]) -> Nusd | None:
    """The entry's charge plus its corrections; None while no price is known."""
    known = [one.charge.total for one in (entry, *corrections) if one.charge.total is not None]
    return Nusd(sum(known)) if known else None


def kept_reason(entry: LedgerEntry, corrections: Iterable[LedgerEntry]) -> Kept:
    """Why this entry must stay as it is, if it must."""
    for correction in corrections:
        if correction.kind == "reversal":
            return "reversed"
        if any(decision.stage == BILLED_STAGE for decision in correction.decisions):
            return "billed"
    if entry.usage.stated_pusd is not None:
        return "stated"
    if not entry.usage.parts or entry.charge.reason in _CEILINGS:
        return "not_metered"
    return ""


def target_of(entry: LedgerEntry, configured: Sequence[Target]) -> Target:
    """The target the entry was rated for.

    ``configured`` are the targets to which today's configuration routes the same request: they carry the region and
    the price-book name of a deployment, which entries do not.
    """
    plain = Target(provider=entry.provider, price_as=entry.price_as, model=entry.model)
    able = [target for target in configured if target.provider == entry.provider]
    named = [target for target in able if is_snapshot_of(entry.model, target.model)]
    found = next(iter(named or able), plain)
    return msgspec.structs.replace(found, price_as=entry.price_as)


def rerated(entry: LedgerEntry, corrections: tuple[LedgerEntry, ...], charge: Charge) -> Rerated:
    """The entry beside its new charge."""
    return Rerated(
        entry=entry,
        corrections=corrections,
        before=effective(entry, corrections),
        charge=charge,
        kept=kept_reason(entry, corrections),
    )


def adjustment(found: Rerated, *, now_ms: int) -> LedgerEntry | None:
    """The entry that makes the effective amount equal to the new charge; None when nothing changes.

    Its id follows from the entry, the state it was in and the new charge, so booking it twice books it once. It has
    no usage, because nothing more was used, and its lines take back the old ones and add the new ones.
    """
    if found.kept or found.after is None or (found.difference == 0 and not found.newly_priced):
        return None
    charge = Charge(
        lines=(*(_negated(line) for line in effective_lines(found)), *found.charge.lines),
        total=found.difference,
        state="priced" if found.difference else found.charge.state,
        reason=WAS_UNPRICED if found.newly_priced else "repriced",
        price_ref=found.charge.price_ref,
    )
    evidence = (
        ("before_nusd", "unpriced" if found.before is None else str(found.before)),
        ("after_nusd", str(found.after)),
        ("from_book", found.entry.charge.price_ref),
        ("to_book", found.charge.price_ref),
    )
    decision = Decision(stage=STAGE, action="adjust", reason="repriced", evidence=evidence)
    identity = ("reprice", found.charge.price_ref, str(found.after))
    return correction(found.entry, found.corrections, charge, decision, identity, now_ms=now_ms)


def correction(
    entry: LedgerEntry,
    corrections: Sequence[LedgerEntry],
    charge: Charge,
    decision: Decision,
    identity: tuple[str, ...],
    *,
    now_ms: int,
) -> LedgerEntry:
    """An adjustment of ``entry`` by ``charge``: same call, same scope, same instant, no usage of its own."""
    state = (entry.id, *identity, str(len(corrections)))
    return msgspec.structs.replace(
        entry,
        id="adj-" + hashlib.sha256("\n".join(state).encode()).hexdigest()[:32],
        kind="adjustment",
        corrects=entry.id,
        booked_at_ms=now_ms,
        usage=Usage(
            source=entry.usage.source,
            model=entry.usage.model,
            service_tier=entry.usage.service_tier,
            facets=entry.usage.facets,
        ),
        charge=charge,
        baseline=_baseline(entry, charge),
        fidelity="repriced",
        decisions=(decision,),
        error="",
        ceiling=None,
        ttft_ms=None,
        latency_ms=0,
    )


def _baseline(entry: LedgerEntry, charge: Charge) -> Nusd | None:
    """Where nothing was saved, re-rating saves nothing either; otherwise the baseline stays as it was booked."""
    if entry.charge.total is None:
        return entry.baseline if entry.baseline is not None else charge.total
    return charge.total if entry.baseline == entry.charge.total else None


def effective_lines(found: Rerated) -> tuple[ChargeLine, ...]:
    """What the entry's lines and those of its corrections come to, priced lines only."""
    net: dict[_LineKey, tuple[int, int]] = {}
    for one in (found.entry, *found.corrections):
        for line in one.charge.lines if one.charge.total is not None else ():
            if line.amount is None or line.price is None:
                continue
            key = (line.unit, line.price, line.multipliers, line.row, line.model)
            quantity, amount = net.get(key, (0, 0))
            net[key] = (quantity + line.quantity, amount + line.amount)
    return tuple(
        ChargeLine(
            unit=key[0],
            price=key[1],
            multipliers=key[2],
            row=key[3],
            model=key[4],
            quantity=quantity,
            amount=Nusd(amount),
        )
        for key, (quantity, amount) in net.items()
        if quantity or amount
    )


def _negated(line: ChargeLine) -> ChargeLine:
    amount = None if line.amount is None else Nusd(-line.amount)
    return msgspec.structs.replace(line, quantity=-line.quantity, amount=amount)
