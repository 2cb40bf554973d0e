"""What pages that follow ask for: a tag of the newest call that somebody sees, cheap enough to be asked every few
seconds by every open page."""

import hashlib
from typing import Final

from farthing.core.types import LedgerQuery
from farthing.server.pages.ask import Ask

LOOK_BACK_MS: Final = 120_000
"""How far back the newest is looked for: pages ask every few seconds, and some stores read all of that time."""


def newest_tag(ask: Ask) -> str:
    """Changes when a call is booked, refused or has failed, within the address's filters and the person's scope."""
    query = LedgerQuery(since_ms=ask.now_ms - LOOK_BACK_MS, where=ask.state.where)
    entries, _ = ask.ledger.newest_entries(query, before="", limit=1)
    unbooked, _ = ask.ledger.newest_unbooked(query, before="", limit=1)
    names = [*(one.id for one in entries), "|", *(one.request_id for one in unbooked)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]
