"""What a page is built from: the question (state, person, moment) and the sources it may read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from farthing.config import Settings
from farthing.core.price_book import PriceBook
from farthing.core.rollout import RolloutState
from farthing.insight.slices import ListPrice
from farthing.insight.table import Row
from farthing.ports.alerts import AlertLog
from farthing.ports.audit import AuditLog
from farthing.ports.books import Balance, Keys, Ledger, Newest
from farthing.ports.experiments import Experiments
from farthing.ports.incidents import IncidentMarks
from farthing.ports.outcomes import Outcomes
from farthing.server.pages.blocks import Page
from farthing.server.pages.reading import ScopedLedger
from farthing.server.pages.replays import Replays
from farthing.server.pages.state import State, Where
from farthing.server.pages.studies import Studies
from farthing.server.tables.routing import RouteFacts

Role = Literal["admin", "analyst", "team"]
EVERYBODY: tuple[Role, ...] = ("admin", "analyst", "team")
OFFICE: tuple[Role, ...] = ("admin", "analyst")
ADMIN: tuple[Role, ...] = ("admin",)


class Counters(Protocol):
    """The part of the books that shows counters."""

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]: ...


class Practice(IncidentMarks, Outcomes, AuditLog, Experiments, Protocol):
    """Marks on incidents, outcomes, the audit log and experiments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The ports that pages read, filled in by ``bootstrap``. All calls block."""

    settings: Callable[[], Settings]
    """As the file says now."""
    reports: Callable[[], Ledger]
    """What reports read."""
    ledger: Callable[[], Ledger]
    newest: Newest
    counters: Callable[[], Counters]
    alerts: Callable[[], AlertLog]
    practice: Callable[[], Practice]
    keys: Callable[[], Keys]
    book: Callable[[], PriceBook]
    list_price: ListPrice
    check: Callable[[str, str], Settings]
    """The settings of a configuration's text, named by its source. Raises ``ConfigError``."""
    ready: Callable[[], list[str]]
    """Why the gateway should get no traffic now."""
    secret: Callable[[], bytes]
    """Signs sessions; the same for every worker."""
    now_ms: Callable[[], int]
    studies: Studies
    """Long questions, each in a process of its own."""
    routes: Callable[[], tuple[RouteFacts, ...]]
    rollouts: Callable[[], Mapping[str, RolloutState]]
    """By route."""
    replays: Replays


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Who looks."""

    name: str
    role: Role
    team: str = ""
    signed_in: bool = True
    """False: sign-in is off, on loopback."""

    @property
    def scope(self) -> Where:
        """What binds all that this person reads."""
        return (("team", self.team),) if self.role == "team" else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One look at one page."""

    state: State
    person: Person
    now_ms: int
    ledger: ScopedLedger
    sources: Sources
    path: Mapping[str, str]
    """Parts of the address: ``{"id": …}``."""
    form: str = "html"
    """How the page is answered: ``html``, ``json`` or ``csv``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One page of the dashboard."""

    name: str
    """Its address and its key in the API."""
    title: str
    group: str
    """Where it stands in the menu; "" keeps it out."""
    build: Callable[[Ask], Page]
    roles: tuple[Role, ...] = OFFICE
    path: str = ""
    """Another address than its name; may have parts in braces."""

    @property
    def address(self) -> str:
        """Where it is served."""
        return self.path or f"/{self.name}"


def links(rows: Sequence[Row], make: Callable[[Row], str]) -> tuple[str, ...]:
    """The address of each row."""
    return tuple(make(row) for row in rows)
