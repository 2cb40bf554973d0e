"""Records of a finished call: ledger entries from usage, and the exchange for the traffic log."""

from typing import Final, Literal

import msgspec

from farthing.core.money import Nusd
from farthing.core.redaction import Redactor
from farthing.core.types import (
    AttemptFact,
    Charge,
    Decision,
    Exchange,
    LedgerEntry,
    PromptSection,
    Request,
    Usage,
)
from farthing.core.units import INPUT_UNITS, OUTPUT_UNITS
from farthing.wire.prefix import BLOCK_BYTES, Prefixes


def tokens_of(usage: Usage) -> tuple[int, int]:
    """(billed input tokens, billed output tokens) over every part and cache state."""
    taken = given = 0
    for part in usage.parts:
        for unit, quantity in part.lines:
            if unit in INPUT_UNITS:
                taken += quantity
            elif unit in OUTPUT_UNITS:
                given += quantity
    return taken, given


def with_stated_difference(usage: Usage, charge: Charge) -> Usage:
    """The usage with an anomaly where the provider's own figure and the price book's differ by more than a percent.

    The provider's figure is what will be billed and stays the charge; the difference says that a price row is wrong.
    """
    if charge.total is None or charge.computed is None:
        return usage
    if abs(charge.total - charge.computed) * 100 <= max(charge.total, charge.computed):
        return usage
    slug = f"stated_cost_differs:{charge.total}!={charge.computed}"
    if slug in usage.anomalies:  # a replay's usage has it already
        return usage
    return msgspec.structs.replace(usage, anomalies=(*usage.anomalies, slug))


def without_raw(usage: Usage) -> Usage:
    """The entry keeps the provider's own words; the traffic log need not repeat them."""
    return msgspec.structs.replace(usage, raw=b"")


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended."""

    outcome: Literal["answered", "refused", "failed", "aborted"]
    status: int
    error: str = ""
    latency_ms: int = 0
    ttft_ms: int | None = None
    answer: bytes | None = None
    """The answer's text as received; kept only when the policy says so."""


Prints = tuple[str, tuple[PromptSection, ...], tuple[str, ...]]
NO_PRINTS: Final[Prints] = ("", (), ())
"""Of a body that nobody logs."""


class Recorder:
    """Makes exchanges under one policy: which text is kept, how it is redacted, how prompts are hashed."""

    def __init__(self, *, text: str, redact: tuple[str, ...], salt: bytes, policy_ref: str) -> None:
        self._text = text
        self._redactor = Redactor(redact)
        self._prefixes = Prefixes(salt)
        self._policy_ref = policy_ref

    @property
    def keeps_text(self) -> bool:
        """Prompts and answers are kept."""
        return self._text != "none"

    def prints(self, request: Request) -> Prints:
        """(digest, sections, blocks) of a request's body as it came."""
        prefixes, body, read = self._prefixes, request.body, request.parts
        known = read[1] if read is not None and read[0] is body else None
        sections, blocks = prefixes.sections(body, known)
        return prefixes.digest(body), sections, blocks

    def exchange(
        self,
        request: Request,
        ending: Ending,
        *,
        sent_body: bytes | None,
        attempts: tuple[AttemptFact, ...],
        entries: tuple[LedgerEntry, ...],
        decisions: tuple[Decision, ...],
        prints: Prints | None = None,
        acts: tuple[tuple[int, int], ...] = (),
    ) -> Exchange:
        """The exchange of one request, refused ones included. ``prints`` are those of its body, where known."""
        received, sections, blocks = prints or self.prints(request)
        untouched = sent_body is None or sent_body is request.body
        amount: int | None = 0
        for entry in entries:
            total = entry.charge.total
            amount = None if amount is None or total is None else amount + total
        keeps = self._text != "none"
        # In two steps: Python calls a function slowly that gets more than fifteen arguments by name.
        exchange = Exchange(
            request_id=request.id,
            received_at_ms=request.received_at_ms,
            scope=request.scope,
            dialect=request.dialect,
            view=request.view,
            outcome=ending.outcome,
            status=ending.status,
            error=ending.error,
            received_digest=received,
            sent_digest=received if untouched else self._prefixes.digest(sent_body or b""),
            blocks=blocks,
            block_bytes=BLOCK_BYTES,
            sections=sections,
            attempts=attempts,
            readings=request.readings,
        )
        return msgspec.structs.replace(
            exchange,
            usage=without_raw(entries[-1].usage) if entries else None,
            amount=None if amount is None else Nusd(amount),
            decisions=decisions,
            policy_ref=self._policy_ref,
            latency_ms=ending.latency_ms,
            ttft_ms=ending.ttft_ms,
            prompt=self._kept(request.body) if keeps else None,
            answer=self._kept(ending.answer) if keeps else None,
            acts=acts,
        )

    def _kept(self, text: bytes | None) -> bytes | None:
        if text is None or self._text == "none":
            return None
        return self._redactor.redact(text) if self._text == "redacted" else text
