"""What the dashboard's long questions run, in a process of their own."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from farthing.adapters import store_opening
from farthing.bootstrap.opening import provider_reports
from farthing.bootstrap.pricing import price_book
from farthing.config import Settings
from farthing.core.dimensions import scope_value
from farthing.core.errors import BadRequest
from farthing.core.types import Exchange
from farthing.insight.billed import compared
from farthing.insight.gathering import Gathered, gather, overlapping
from farthing.lab.checkup import checkup
from farthing.lab.optimize_all import examined
from farthing.lab.rates import BookRates, price_of
from farthing.lab.route_use import used
from farthing.ports.books import Ledger
from farthing.server.pages.replays import Replays
from farthing.server.pages.studies import (
    AskBill,
    AskCheckup,
    AskOpportunities,
    AskProof,
    AskRoutes,
    Question,
    Studies,
)


def studies(settings: Settings, env: Mapping[str, str], now_ms: Callable[[], int]) -> Studies:
    """The dashboard's long questions about this installation."""
    return Studies(partial(answered, settings, dict(env)), now_ms)


def replays(settings: Settings) -> Replays:
    """The dashboard's replays: the command on this installation's home and configuration."""
    command = [sys.executable, "-m", "farthing", "--home", settings.home]
    if settings.source and Path(settings.source).is_file():
        command += ["--config", str(Path(settings.source).resolve())]
    return Replays(settings.home, command)


def answered(settings: Settings, env: Mapping[str, str], question: Question, now_ms: int) -> object:
    """The answer. Raises ``FarthingError``."""
    ledger = store_opening.open_ledger(settings, env)
    prices = price_book(settings)
    if isinstance(question, AskBill):
        return _bill(settings, ledger, question)
    if isinstance(question, AskProof):
        return _proof(settings, env, ledger, question, now_ms)
    if isinstance(question, AskRoutes):
        return used(_within(ledger, question))
    rates = BookRates(prices.book, settings.providers, now_ms)
    exchanges = _within(ledger, question)
    if isinstance(question, AskOpportunities):
        return examined(exchanges, rates, price_of(prices, settings.providers), now_ms=question.until_ms or now_ms)
    return checkup(exchanges, rates, now_ms=question.until_ms or now_ms)


def _within(ledger: Ledger, question: AskOpportunities | AskCheckup | AskRoutes) -> Iterator[Exchange]:
    """The traffic log of the question's period and scope, and nothing else of it."""
    until_ms = question.until_ms
    for exchange in ledger.exchanges(since_ms=question.since_ms):
        inside = until_ms is None or exchange.received_at_ms < until_ms
        if inside and all(scope_value(exchange.scope, name) == value for name, value in question.where):
            yield exchange


def _bill(settings: Settings, ledger: Ledger, question: AskBill) -> object:
    raw = provider_reports(settings).from_files(
        question.kind,
        (Path(question.file),),
        since_ms=question.since_ms,
        until_ms=question.until_ms,
        columns=dict(question.columns),
    )
    if not raw.usage and not raw.costs:
        raise BadRequest("The bill has nothing in this period.", hint="Choose the period that it is about.")
    return compared(
        raw,
        ledger,
        price_book(settings).book,
        question.kind,
        since_ms=question.since_ms,
        until_ms=question.until_ms,
        where=question.where,
    ).found


def _proof(settings: Settings, env: Mapping[str, str], ledger: Ledger, question: AskProof, now_ms: int) -> Gathered:
    until_ms = now_ms if question.until_ms is None else question.until_ms
    with contextlib.closing(store_opening.open_practice(settings, env)) as register:
        known = register.experiments()
        if question.experiment:
            chosen = tuple(one for one in known if one.name == question.experiment)
        else:
            chosen = overlapping(known, question.since_ms, until_ms)
        return gather(
            ledger,
            price_book(settings),
            chosen,
            lambda first_ms, last_ms: register.all(since_ms=first_ms, until_ms=last_ms),
            since_ms=question.since_ms,
            until_ms=until_ms,
            where=question.where,
        )
