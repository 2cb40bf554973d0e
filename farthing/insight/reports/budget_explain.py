"""One request and its budgets: which limits applied, what it needed, what was booked, and why it was refused."""

from collections.abc import Iterable
from typing import Final

import msgspec

from farthing.core.budget import Budgets, Need, amounts_of, spent
from farthing.core.policy import Budget, Threshold
from farthing.core.types import Exchange, Hold, LedgerEntry, Scope
from farthing.insight.moments import shown
from farthing.insight.table import Column, Money, Row, Table, Value
from farthing.ports.books import Balance

COLUMNS: Final = (
    Column(name="budget", title="budget"),
    Column(name="counter", title="counter"),
    Column(name="window", title="window"),
    Column(name="unit", title="unit"),
    Column(name="limit", title="limit then", kind="quantity"),
    Column(name="needed", title="needed", kind="quantity"),
    Column(name="booked", title="booked", kind="quantity"),
    Column(name="left", title="left now", kind="quantity"),
    Column(name="verdict", title="verdict"),
)


_DOES: Final = {
    "degrade": "calls go to {to} if it is cheaper (needed, above, is the asked-for model's)",
    "cap": "answers are cut to what is left",
    "queue": "calls that can wait are left to a batch",
    "throttle": "{per_minute} calls a minute pass",
    "block": "calls are refused",
}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was made (with its records) or that might be (with its need)."""

    request_id: str = ""
    scope: Scope
    provider: str = ""
    model: str = ""
    at_ms: int
    need: Need | None = None
    unpriced: str = ""
    """What the policy does with a model without a known price: ``refuse``, ``ceiling``, ``allow``; "": it has one."""
    capped_by: str = ""
    """What caps the output of such a request; "": nothing does."""
    entries: tuple[LedgerEntry, ...] = ()
    exchange: Exchange | None = None


class Applying(msgspec.Struct, frozen=True, kw_only=True):
    """The limits on a request: holds on counters, and budgets that bind single calls."""

    holds: tuple[Hold, ...]
    single: tuple[Budget, ...]
    needed: Need | None
    thresholds: tuple[tuple[str, Threshold], ...] = ()
    """(budget, what it does from some share of its limit on), notices left out."""


def asked_of(entries: tuple[LedgerEntry, ...], exchange: Exchange | None) -> Asked:
    """A request as the ledger and the traffic log have it; one of them must."""
    first = entries[0] if entries else None
    attempt = exchange.attempts[0] if exchange is not None and exchange.attempts else None
    record = exchange if exchange is not None else first
    assert record is not None
    provider = first.provider if first else attempt.provider if attempt else ""
    model = attempt.model if attempt else exchange.view.model if exchange else first.model_requested if first else ""
    return Asked(
        request_id=record.request_id,
        scope=record.scope,
        provider=provider,
        model=model,
        at_ms=record.received_at_ms,
        entries=entries,
        exchange=exchange,
    )


def applying(budgets: Budgets, asked: Asked) -> Applying:
    """The limits that the policy of now puts on a request at its time."""
    need = asked.need or _most(asked.entries)
    plain = need or Need(usd=0, input_tokens=0, output_tokens=0)
    holds = budgets.holds(asked.scope, provider=asked.provider, model=asked.model, need=plain, at_ms=asked.at_ms)
    binding = budgets.binding(asked.scope, provider=asked.provider, model=asked.model)
    single = tuple(budget for budget, counter in binding if not counter)
    acting = tuple((one.name, does) for one, _ in binding for does in one.thresholds if does.action != "notify")
    return Applying(holds=holds, single=single, needed=need, thresholds=acting)


def wanted(found: Applying) -> list[tuple[str, str]]:
    """The (counter, window) pairs whose balances :func:`build` needs."""
    return list(dict.fromkeys((hold.counter, window) for hold in found.holds for window in (hold.window, *hold.also)))


def build(asked: Asked, found: Applying, balances: Iterable[Balance]) -> Table:
    """One row a limit, and the story of the request in the notes."""
    used: dict[tuple[str, str, str], int] = {}
    for one in balances:
        used[(one.counter, one.window, one.unit)] = one.posted + one.held
    booked = _booked(found.holds, asked.entries)
    rows = [_hold_row(asked, found, place, hold, used, booked) for place, hold in enumerate(found.holds)]
    for budget in found.single:
        rows += [_single_row(asked, budget, unit, limit) for unit, limit in budget.limits]
    title = f"Budgets of request {asked.request_id}" if asked.request_id else "Budgets of such a request"
    notes = (*_notes(asked, found), *(_reached(found, used) if asked.need is not None else ()))
    return Table(title=title, columns=COLUMNS, rows=tuple(rows), notes=notes)


def _reached(found: Applying, used: dict[tuple[str, str, str], int]) -> Iterable[str]:
    """What thresholds that are reached would do to such a request."""
    for hold in found.holds:
        share = _taken(hold, used) * 100 // hold.limit if hold.limit > 0 else 100
        for budget, does in found.thresholds:
            if budget == hold.budget and share >= does.percent:
                told = _DOES[does.action].format(to=does.to, per_minute=does.per_minute)
                yield f"{budget} is at {share} % of its {hold.unit}; from {does.percent} % on, {told}."


def _hold_row(
    asked: Asked,
    found: Applying,
    place: int,
    hold: Hold,
    used: dict[tuple[str, str, str], int],
    booked: tuple[int, ...],
) -> Row:
    left = hold.limit - _taken(hold, used)
    needed = hold.amount if found.needed is not None and not _unknown(found.needed, hold.unit) else None
    verdict = ""
    if asked.need is not None:
        verdict = "fits" if needed is None or needed <= left else "would be refused" if hold.hard else "passes (soft)"
        if needed is None:
            refused = "would be refused: no known price" if hold.hard else "passes (soft): no known price"
            verdict = {"refuse": refused, "allow": "passes: no known price"}.get(asked.unpriced, "unknown: say --usd")
    elif not asked.entries:
        verdict = "refused by it" if hold.budget == _refuser(asked) else "not held"
    return (
        hold.budget,
        hold.counter,
        hold.window,
        hold.unit,
        _in(hold.unit, hold.limit),
        None if needed is None else _in(hold.unit, needed),
        _in(hold.unit, booked[place]) if asked.entries else None,
        _in(hold.unit, left),
        verdict or "held and booked",
    )


def _taken(hold: Hold, used: dict[tuple[str, str, str], int]) -> int:
    return sum(used.get((hold.counter, window, hold.unit), 0) for window in (hold.window, *hold.also))


def _single_row(asked: Asked, budget: Budget, unit: str, limit: int) -> Row:
    needed = dict(amounts_of(asked.need)).get(unit) if asked.need is not None else None  # type: ignore[call-overload]
    verdict = "" if needed is None else "fits" if needed <= limit else "would be refused"
    if unit == "usd" and asked.need is not None and asked.need.usd is None:
        needed, verdict = (
            None,
            "would be refused: no known price" if asked.unpriced == "refuse" else "unknown: say --usd",
        )
    if asked.need is None and not asked.entries and budget.name == _refuser(asked):
        verdict = "refused by it"
    shown_need = None if needed is None else _in(unit, needed)
    return (budget.name, "", "request", unit, _in(unit, limit), shown_need, None, None, verdict)


def _notes(asked: Asked, found: Applying) -> Iterable[str]:
    if asked.request_id:
        yield f"Received {shown(asked.at_ms)} UTC; limits are those of the policy of now at that time."
    exchange = asked.exchange
    if exchange is not None:
        yield f"Outcome: {exchange.outcome}, status {exchange.status}" + (
            f", {exchange.error}" * bool(exchange.error)
        )
        for one in exchange.decisions:
            if one.stage == "budget":
                said = "; ".join(f"{name}: {value}" for name, value in one.evidence)
                yield f"{one.reason} ({one.action}): {said}"
    if asked.unpriced == "ceiling":
        yield f"The price of '{asked.model}' is unknown: needed is at the [unpriced] rates."
    if asked.capped_by:
        yield f"The output of such a request is capped by {asked.capped_by}."
    if not found.holds and not found.single:
        yield "No budget applies."
    if asked.entries and len({entry.attempt for entry in asked.entries}) > 1:
        yield "Needed is the largest ceiling of its tries; booked is their sum."


def _refuser(asked: Asked) -> str:
    """The budget that refused, as the traffic log has it: ``budget_exceeded:<name>``."""
    return asked.exchange.error.partition(":")[2] if asked.exchange is not None else ""


def _most(entries: tuple[LedgerEntry, ...]) -> Need | None:
    """What was held at most, as far as the ledger keeps it: the ceiling in dollars."""
    ceilings = [entry.ceiling for entry in entries if entry.ceiling is not None]
    return Need(usd=max(ceilings), input_tokens=-1, output_tokens=-1) if ceilings else None


def _unknown(need: Need, unit: str) -> bool:
    return (need.usd is None and unit == "usd") or (need.input_tokens < 0 and unit.endswith("tokens"))


def _booked(holds: tuple[Hold, ...], entries: tuple[LedgerEntry, ...]) -> tuple[int, ...]:
    units = [line for entry in entries for part in entry.usage.parts for line in part.lines]
    given = sum(count for unit, count in units if unit.startswith("output"))
    taken = sum(count for unit, count in units if unit.startswith("input"))
    usd = sum(entry.charge.total or 0 for entry in entries)
    return spent(holds, usd=usd, input_tokens=taken, output_tokens=given)


def _in(unit: str, value: int) -> Value:
    return Money(value) if unit == "usd" else value
