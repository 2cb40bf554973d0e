"""The cache doctor over an installation's own traffic log: misses by cause, and the time to live that pays."""

from collections.abc import Iterable, Iterator

import msgspec

from farthing.core.types import Exchange
from farthing.lab.doctor import Doctor, Report, summarise
from farthing.lab.doctor_marks import Place, Places
from farthing.lab.doctor_ttl import Kept, TtlAdvice
from farthing.lab.rates import BookRates
from farthing.lab.replay_log import in_order

MONTH_DAYS = 30


class Checkup(msgspec.Struct, frozen=True, kw_only=True):
    """A log examined."""

    report: Report
    kept: tuple[Kept, ...]
    """What each time to live would save; empty where no prompt needs marks."""
    places: tuple[Place, ...]
    """Where marks belong, feature by feature."""
    days: float
    """The time that the log covers, an hour at least: a minute's traffic says nothing about a month."""

    def per_month(self, nusd: int) -> int:
        """An amount of the log as that of 30 days like these."""
        return round(nusd * MONTH_DAYS / self.days)


def checkup(exchanges: Iterable[Exchange], rates: BookRates, *, now_ms: int) -> Checkup:
    """Examines the log, in whatever order it comes."""
    first: int | None = None

    def noted() -> Iterator[Exchange]:
        nonlocal first
        for exchange in exchanges:
            first = exchange.received_at_ms if first is None else min(first, exchange.received_at_ms)
            yield exchange

    doctor = Doctor(rates, rates.rule, marks_needed=rates.needs_marks)
    advice = TtlAdvice(rates, rates.needs_marks)
    places = Places(rates)
    report = summarise(doctor.examine(places.watch(advice.watch(in_order(noted())))))
    days = max(1 / 24, (now_ms - (now_ms if first is None else first)) / 86_400_000)
    return Checkup(report=report, kept=advice.kept(), places=places.found(), days=days)
