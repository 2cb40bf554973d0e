"""Receipts: one request or entry opened up, so that anyone can redo the arithmetic by hand."""

from collections.abc import Sequence
from typing import Final

import msgspec

from farthing.core.money import BASIS, PUSD_PER_NUSD, format_usd, round_half_even
from farthing.core.repricing import effective
from farthing.core.types import Charge, ChargeLine, Decision, Exchange, LedgerEntry, Scope, Usage
from farthing.core.units import TOKEN_UNITS
from farthing.insight.moments import iso, shown
from farthing.insight.render import printable, usd

_SOURCE_MEANS: Final = {
    "reported": "the provider's own final usage",
    "partial": "a stream that ended early: what the provider had said, and what arrived counted by Farthing",
    "estimated": "counted by Farthing, because the provider said nothing",
    "missing": "the answer was complete but carried no usage",
}
_HALF_SAID: Final = "counted by Farthing where the provider did not say it; what it said stands under raw"


def price_text(price: int, unit: str) -> str:
    """Pico-USD per unit as exact dollars: ``$2.50 / 1M`` for tokens, ``$0.01 each`` for the rest."""
    per_million = unit in TOKEN_UNITS
    digits = 6 if per_million else 12
    whole, fraction = divmod(price, 10**digits)
    shown_digits = f"{fraction:0{digits}d}".rstrip("0").ljust(2, "0")
    return f"${whole:,}.{shown_digits}{' / 1M' if per_million else ' each'}"


def as_text(entries: Sequence[LedgerEntry], exchange: Exchange | None) -> str:
    """The receipt for people."""
    lines: list[str] = []
    if exchange is not None:
        lines += _exchange_lines(exchange)
    corrected = _corrections(entries)
    for entry in entries:
        lines += ["", *_entry_lines(entry)] if lines else _entry_lines(entry)
        lines += _effective_lines(entry, corrected.get(entry.id, ()))
    if not entries:
        lines += ["", "Nothing was billed: the ledger holds no entry for this request."]
    if len(entries) > 1:
        lines += ["", f"Together: {_sum_text(entries)} in {len(entries)} entries"]
    return "\n".join(printable(line) for line in lines)


def as_json(entries: Sequence[LedgerEntry], exchange: Exchange | None) -> bytes:
    """The receipt for programs: the records as they are kept, with dollars as exact strings beside nano-USD."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "exchange": None if exchange is None else _plain_exchange(exchange),
                "entries": [_plain_entry(entry) | _plain_effective(entry, entries) for entry in entries],
            }
        ),
        indent=2,
    )


def _corrections(entries: Sequence[LedgerEntry]) -> dict[str, tuple[LedgerEntry, ...]]:
    """Charge id → everything booked later to correct it, corrections of corrections included."""
    roots: dict[str, str] = {}
    found: dict[str, tuple[LedgerEntry, ...]] = {}
    for entry in entries:
        if entry.kind != "charge":
            root = roots.setdefault(entry.id, roots.get(entry.corrects, entry.corrects))
            found[root] = (*found.get(root, ()), entry)
    return found


def _effective_lines(entry: LedgerEntry, corrections: Sequence[LedgerEntry]) -> list[str]:
    """What the entry comes to with its corrections; nothing where there are none."""
    if not corrections:
        return []
    total = effective(entry, corrections)
    count = f"{len(corrections)} correction{'s' if len(corrections) > 1 else ''}"
    return [f"  effective {'unpriced' if total is None else usd(total)} with {count}, below"]


def _plain_effective(entry: LedgerEntry, entries: Sequence[LedgerEntry]) -> dict[str, object]:
    corrections = _corrections(entries).get(entry.id, ())
    if entry.kind != "charge":
        return {}
    total = effective(entry, corrections)
    return {
        "corrected_by": [one.id for one in corrections],
        "effective_usd": None if total is None else format_usd(total),
        "effective_nusd": total,
    }


def _exchange_lines(exchange: Exchange) -> list[str]:
    view = exchange.view
    head = f"Request {exchange.request_id}   {shown(exchange.received_at_ms)} UTC   {exchange.outcome}"
    lines = [
        f"{head} ({exchange.status}{f', {exchange.error}' if exchange.error else ''})",
        f"  asked    {view.model} over the {exchange.dialect} API, {view.endpoint}"
        f"{', streamed' if view.stream else ''}, {view.body_bytes:,} bytes",
        f"  scope    {_scope_text(exchange.scope)}",
    ]
    for fact in exchange.attempts:
        outcome = f"{fact.status}{f' {fact.error}' if fact.error else ''}, {fact.latency_ms:,} ms"
        billed = f"entry {fact.entry_id}" if fact.entry_id else "not billed"
        lines.append(f"  attempt  {fact.attempt}: {fact.provider} / {fact.model} → {outcome}; {billed}")
    return lines + _decision_lines(exchange.decisions)


def _entry_lines(entry: LedgerEntry) -> list[str]:
    corrected = f" of {entry.corrects}" if entry.corrects else ""
    lines = [
        f"Entry {entry.id}   {entry.kind}{corrected}, attempt {entry.attempt} of request {entry.request_id}",
        f"  received {shown(entry.received_at_ms)} UTC   booked {shown(entry.booked_at_ms)} UTC",
        f"  model    {entry.model} at {entry.provider}"
        + (f" (asked for: {entry.model_requested})" if entry.model_requested != entry.model else ""),
        f"  scope    {_scope_text(entry.scope)}",
        f"  usage    {entry.usage.source}: {_source_means(entry.usage)}",
    ]
    if entry.usage.raw:
        lines.append(f"  raw      {entry.usage.raw.decode(errors='replace')}")
    lines += [f"  warning  the provider's numbers disagree: {anomaly}" for anomaly in entry.usage.anomalies]
    lines += ["", *[f"    {text}" for text in _charge_lines(entry.charge)], ""]
    lines += _after_lines(entry)
    return lines + _decision_lines(entry.decisions)


def _source_means(usage: Usage) -> str:
    return _HALF_SAID if usage.source == "estimated" and usage.raw else _SOURCE_MEANS[usage.source]


def _after_lines(entry: LedgerEntry) -> list[str]:
    charge = entry.charge
    lines = []
    second = dict(entry.usage.facets).get("byok_upstream_pusd", "")
    if second.isdecimal():
        bill = usd(round_half_even(int(second), PUSD_PER_NUSD))
        lines.append(f"  besides  {bill} billed by the upstream provider on the caller's own key: in no total here")
    if charge.price_ref:
        lines.append(f"  prices   book {charge.price_ref}, as valid at {shown(entry.received_at_ms)} UTC")
    if entry.baseline is not None and charge.total is not None:
        saved = entry.baseline - charge.total
        lines.append(f"  baseline {usd(entry.baseline)} without optimisation, saved {usd(saved)} ({entry.fidelity})")
    if entry.ceiling is not None:
        lines.append(f"  ceiling  {usd(entry.ceiling)} was the most it could cost when it was admitted")
    if entry.policy_ref:
        lines.append(f"  policy   {entry.policy_ref}")
    if entry.error:
        lines.append(f"  error    {entry.error} (status {entry.status}); billed all the same")
    if entry.client_gone:
        lines.append("  caller   hung up before the end")
    return lines


def _charge_lines(charge: Charge) -> list[str]:
    """Each line as the multiplication it is, then the total."""
    lines = [_line_text(line) for line in charge.lines]
    if charge.total is None:
        lines.append(f"unpriced: {charge.reason or 'no price is known'}; this entry is in no total")
    elif charge.state == "free":
        lines.append(f"total {usd(charge.total)} (free: {charge.reason or 'nothing is billed'})")
    else:
        lines.append(f"total {usd(charge.total)}")
    if charge.computed is not None:
        lines.append(f"the provider's own figure; the price book gives {usd(charge.computed)}")
    return lines


def _line_text(line: ChargeLine) -> str:
    model = f" [{line.model}]" if line.model else ""
    if line.price is None and line.amount:
        return f"{line.unit}{model}  {usd(line.amount)}{f'   {line.row}' if line.row else ''}"
    if line.price is None:
        return f"{line.unit}{model}  {line.quantity:,} × unknown price"
    factors = "".join(f" × {_factor(basis)} ({why})" for why, basis in line.multipliers)
    row = f"   {line.row}" if line.row else ""
    amount = "unknown" if line.amount is None else usd(line.amount)
    return f"{line.unit}{model}  {line.quantity:,} × {price_text(line.price, line.unit)}{factors} = {amount}{row}"


def _factor(basis: int) -> str:
    """Basis points as the multiplier: 11_000 is 1.1."""
    whole, fraction = divmod(round_half_even(basis * 10_000, BASIS), 10_000)
    return f"{whole}.{fraction:04d}".rstrip("0").rstrip(".")


def _decision_lines(decisions: Sequence[Decision]) -> list[str]:
    lines = []
    for decision in decisions:
        evidence = ", ".join(f"{name} {value}" for name, value in decision.evidence)
        saved = f", saved {usd(decision.saved)}" if decision.saved else ""
        because = f" ({evidence})" if evidence else ""
        lines.append(f"  decided  {decision.stage}: {decision.action}, {decision.reason}{because}{saved}")
    return lines


def _scope_text(scope: Scope) -> str:
    said = [
        f"{name}={value}" for name, value in msgspec.structs.asdict(scope).items() if isinstance(value, str) and value
    ]
    return ", ".join(said + [f"tag:{name}={value}" for name, value in scope.tags]) or "(not said)"


def _sum_text(entries: Sequence[LedgerEntry]) -> str:
    known = [entry.charge.total for entry in entries if entry.charge.total is not None]
    corrected = _corrections(entries)
    charges = [entry for entry in entries if entry.kind == "charge"]
    missing = sum(effective(entry, corrected.get(entry.id, ())) is None for entry in charges)
    return usd(sum(known)) + (f" and {missing} without a known price" if missing else "")


def _plain_usage(usage: Usage) -> dict[str, object]:
    plain = dict(msgspec.to_builtins(usage))
    plain["raw"] = usage.raw.decode(errors="replace")
    return plain


def _plain_entry(entry: LedgerEntry) -> dict[str, object]:
    plain = dict(msgspec.to_builtins(entry))
    total = entry.charge.total
    return plain | {
        "usage": _plain_usage(entry.usage),
        "received_at": iso(entry.received_at_ms),
        "kind": entry.kind,
        "source": entry.usage.source,
        "state": entry.charge.state,
        "reason": entry.charge.reason,
        "total_usd": None if total is None else format_usd(total),
        "total_nusd": total,
        "baseline_usd": None if entry.baseline is None else format_usd(entry.baseline),
        "baseline_nusd": entry.baseline,
    }


def _plain_exchange(exchange: Exchange) -> dict[str, object]:
    """Without prompt and answer: a receipt is about money."""
    bare = msgspec.structs.replace(exchange, prompt=None, answer=None)
    plain = {name: value for name, value in msgspec.to_builtins(bare).items() if name not in ("prompt", "answer")}
    return plain | {
        "usage": None if exchange.usage is None else _plain_usage(exchange.usage),
        "received_at": iso(exchange.received_at_ms),
        "amount_usd": None if exchange.amount is None else format_usd(exchange.amount),
        "amount_nusd": exchange.amount,
    }
