"""One call's bill: booked exactly once, whatever becomes of the connection."""

from farthing.sim.account import Account
from farthing.sim.admission import Ticket
from farthing.sim.invoice import InvoiceLine, Tokens, rate, served_tier


class Call:
    """A call that has reached the model. Raw counts are tokens of the card's base encoding."""

    def __init__(
        self,
        account: Account,
        ticket: Ticket,
        prompt: Tokens,
        *,
        id: str,
        wanted_tier: str = "default",
        geo: str = "",
        images: int = 0,
        raw: int = 0,
        raw_reasoning: int = 0,
        capped_at: int = 0,
    ) -> None:
        self.id = id
        self.tier = served_tier(ticket.card, wanted_tier, prompt.prompt)
        self.raw = raw
        self.line: InvoiceLine | None = None
        self._account = account
        self._ticket = ticket
        self._prompt = prompt
        self._geo = geo
        self._images = images
        self._raw_reasoning = raw_reasoning
        self._capped_at = capped_at

    def tokens(self, raw: int | None = None) -> Tokens:
        """Token classes once ``raw`` tokens were generated (all of them by default)."""
        raw = self.raw if raw is None else raw
        card = self._ticket.card
        # An answer cut by its cap has exactly the cap's length, whatever the tokenizer's factor rounds to.
        total = self._capped_at if self._capped_at and raw == self.raw else card.tokens(raw)
        reasoning = min(total, card.tokens(min(raw, self._raw_reasoning)))
        prompt = self._prompt
        return Tokens(
            input=prompt.input,
            cache_read=prompt.cache_read,
            cache_write=prompt.cache_write,
            cache_write_5m=prompt.cache_write_5m,
            cache_write_1h=prompt.cache_write_1h,
            output=total - reasoning,
            reasoning=reasoning,
        )

    def bill(self, raw: int | None = None, *, delivered: bool) -> None:
        """Book the call; later calls do nothing."""
        if self.line is not None:
            return
        ticket = self._ticket
        tokens = self.tokens(raw)
        charges = rate(ticket.card, self.tier, tokens, self._geo)
        self.line = InvoiceLine(
            id=self.id,
            at=ticket.at,
            provider=ticket.vendor,
            endpoint=ticket.endpoint,
            key=ticket.key,
            model=ticket.card.served,
            model_requested=ticket.requested,
            tier=self.tier,
            geo=self._geo,
            tokens=tokens,
            images=self._images,
            charges=charges,
            amount_nusd=sum(charge.amount_nusd for charge in charges),
            stream=ticket.stream,
            complete=raw is None or raw == self.raw,
            delivered=delivered,
            fault=ticket.fault.text if ticket.fault else "",
            request=ticket.directives.get("request", ""),
            long_context=bool(ticket.card.long_from) and tokens.prompt > ticket.card.long_from,
        )
        self._account.invoice.add(self.line)
