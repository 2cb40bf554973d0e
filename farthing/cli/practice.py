"""What the commands of the practice share: the records beside the ledger, list prices, who is asking."""

import getpass
from typing import Protocol, cast

from farthing.cli.context import App
from farthing.config import Settings
from farthing.core.types import Target, Usage, UsagePart
from farthing.core.units import INPUT, OUTPUT
from farthing.insight.slices import ListPrice
from farthing.ports.audit import AuditLog
from farthing.ports.books import Ledger
from farthing.ports.incidents import IncidentMarks
from farthing.ports.outcomes import Outcomes


class Practice(IncidentMarks, Outcomes, AuditLog, Protocol):
    """Marks on incidents, outcomes and the audit log."""


class PracticeStores(Protocol):
    """What these commands need of ``farthing.bootstrap`` beyond the common stores."""

    def open_practice(self, settings: Settings) -> Practice: ...

    def open_reports(self, settings: Settings, source: str) -> Ledger: ...


def stores_of(app: App) -> PracticeStores:
    """The stores of this run of the command line."""
    return cast("PracticeStores", app.stores)


def me() -> str:
    """The user of this machine; "" where there is none (containers)."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def list_price(app: App) -> ListPrice:
    """List prices by this installation's price book; providers bill under the names that settings give them."""
    book = app.stores.price_book(app.settings)
    billed = {one.name: one.price_as or one.name for one in app.settings.providers}

    def price(provider: str, model: str, tokens: tuple[int, int], at_ms: int) -> int | None:
        lines = tuple((unit, count) for unit, count in ((INPUT, tokens[0]), (OUTPUT, tokens[1])) if count > 0)
        if not lines:
            return 0
        target = Target(provider=provider, price_as=billed.get(provider, provider), model=model)
        usage = Usage(parts=(UsagePart(lines=lines),), source="reported", model=model)
        return book.charge(usage, target, at_ms=at_ms).total

    return price
