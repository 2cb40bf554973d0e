"""Month-end forecast of a cost series, with a band that its own back-test has calibrated. Pure arithmetic on floats.

Level and trend are robust (median weekday profile, Theil–Sen slope, damped); the band is conformal: the errors that
the same method would have made on the series' own past, at the same number of days left, are its width. A forecast
without enough past says so instead of drawing a band.
"""

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Final

import msgspec

SEASON: Final = 7
LEVEL_DAYS: Final = 21
"""Days whose mean sets the level; whole weeks."""
TREND_DAYS: Final = 56
TREND_WEEKS_MIN: Final = 4
"""Weekly means needed before they are a trend; three are moved by any one of them."""
TREND_MAX: Final = math.log(1.25) / SEASON
"""The steepest trend that is carried on: a quarter more, or its inverse, a week."""
DAMPING: Final = 0.98
"""Part of the trend that lasts to the next day."""
PROFILE_WEEKS: Final = 8
RARE: Final = 0.05
"""Weekdays below this part of the mean day have no share of the level: dividing by it would blow up what is rare."""
BACKTEST_MIN: Final = 20
"""Past forecasts needed before a band is drawn."""
BACKTEST_MAX: Final = 120


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of a period: what is booked and what is expected for its remaining days."""

    booked: float
    remaining: float
    low: float | None
    """Lower edge of the band for the whole period; None while there is too little past."""
    high: float | None
    coverage: float
    """The share of past forecasts that bands of this width would have covered, by design."""
    backtests: int
    """Past forecasts that the band rests on."""
    error: float | None
    """Mean absolute relative error of those past forecasts for the whole period; None without any."""
    method: str
    """``profile+trend``, ``mean`` (less than two weeks of past) or ``none`` (no past at all)."""

    @property
    def total(self) -> float:
        """The expected sum of the period."""
        return self.booked + self.remaining


def forecast(
    past: Sequence[float], *, booked_days: int, days_left: int, coverage: float = 0.8, today: float = 0.0
) -> Forecast:
    """What the current period will sum to.

    ``past`` holds whole days in order, the last ``booked_days`` of them inside the period; a day in progress is the
    first of the ``days_left``, and ``today`` what it has cost so far. Days before the first cost teach nothing.
    ``coverage`` is the share of outcomes that the band shall hold. Raises ``ValueError``.
    """
    _check(past, booked_days, days_left, coverage)
    booked = math.fsum(past[len(past) - booked_days :])
    past = past[next((at for at, value in enumerate(past) if value), len(past)) :]
    booked_days = min(booked_days, len(past))
    remaining, method = _expect(past, days_left)
    # What today has cost beyond its share is spent: it comes on top of what the other days will cost.
    spent = max(0.0, today - math.fsum(expect_days(past, min(1, days_left)))) if days_left else 0.0
    errors = _backtest(past, booked_days, days_left) if days_left else []
    low = high = None
    if not days_left:
        low = high = booked
    elif len(errors) >= BACKTEST_MIN:
        lower, upper = _band([rest for rest, _ in errors], coverage)
        least = booked + (today if days_left else 0.0)
        low = max(least, booked + spent + remaining * math.exp(lower))
        high = max(least, booked + spent + remaining * math.exp(upper))
    return Forecast(
        booked=booked,
        remaining=remaining + spent,
        low=low,
        high=high,
        coverage=coverage,
        backtests=len(errors),
        error=fmean(abs(whole) for _, whole in errors) if errors else None,
        method=method,
    )


def expect_days(past: Sequence[float], days: int) -> list[float]:
    """The expected value of each of the next ``days`` days."""
    if len(past) < 2 * SEASON:
        mean = fmean(past) if past else 0.0
        return [mean] * days
    profile = _profile(past)
    flat = [_flat(value, profile[at % SEASON]) for at, value in enumerate(past)]
    slope = _slope(flat[-TREND_DAYS:])
    start = max(0, len(past) - LEVEL_DAYS)
    # The level is a mean, not a median: rare heavy days are part of what will be paid. Each day is first carried
    # along the trend to the last one.
    level = fmean(
        flat[at] * math.exp(slope * (len(past) - 1 - at))
        for at in range(start, len(past))
        if profile[at % SEASON] >= RARE
    )
    found, grown, step = [], 0.0, slope
    for at in range(len(past), len(past) + days):
        step *= DAMPING
        grown += step
        share = profile[at % SEASON]
        found.append(level * math.exp(grown) * share if share >= RARE else _seldom(past, at))
    return found


def _flat(value: float, share: float) -> float:
    return value / share if share >= RARE else 0.0


def _seldom(past: Sequence[float], at: int) -> float:
    """What the weekday of ``at`` cost on average in the weeks of the profile, where it mostly costs nothing."""
    seen = past[max(0, len(past) - PROFILE_WEEKS * SEASON) :]
    first = len(past) - len(seen)
    return fmean(value for place, value in enumerate(seen, first) if place % SEASON == at % SEASON)


def _expect(past: Sequence[float], days: int) -> tuple[float, str]:
    method = "none" if not past else "mean" if len(past) < 2 * SEASON else "profile+trend"
    return math.fsum(expect_days(past, days)), method


def _profile(past: Sequence[float]) -> list[float]:
    """Seven multipliers with mean 1, by position modulo 7: the median share of each weekday in its own week."""
    end = len(past)
    weeks = min(PROFILE_WEEKS, end // SEASON)
    shares: list[list[float]] = [[] for _ in range(SEASON)]
    for week in range(weeks):
        first = end - (week + 1) * SEASON
        mean = math.fsum(past[first : first + SEASON]) / SEASON
        if mean > 0:
            for at in range(first, first + SEASON):
                shares[at % SEASON].append(past[at] / mean)
    middles = [median(found) if found else 1.0 for found in shares]
    total = math.fsum(middles)
    if total <= 0:
        return [1.0] * SEASON
    return [middle * SEASON / total for middle in middles]


def _slope(flat: Sequence[float]) -> float:
    """Theil–Sen slope of the weekly log means, per day; weekly means make it quick and quiet."""
    means = []
    for last in range(len(flat), SEASON - 1, -SEASON):
        mean = math.fsum(flat[last - SEASON : last]) / SEASON
        if mean > 0:
            means.append(math.log(mean))
    means.reverse()
    if len(means) < TREND_WEEKS_MIN:
        return 0.0
    slopes = [(means[b] - means[a]) / (b - a) for a in range(len(means)) for b in range(a + 1, len(means))]
    return max(-TREND_MAX, min(TREND_MAX, median(slopes) / SEASON))


def _backtest(past: Sequence[float], booked_days: int, days_left: int) -> list[tuple[float, float]]:
    """(log error of the remaining days, relative error of the whole period) of past forecasts, newest first."""
    errors = []
    for origin in range(len(past) - days_left, 3 * SEASON - 1, -1):
        actual = math.fsum(past[origin : origin + days_left])
        expected, _ = _expect(past[:origin], days_left)
        if actual > 0 and expected > 0:
            before = math.fsum(past[max(0, origin - booked_days) : origin])
            errors.append((math.log(actual / expected), (expected - actual) / (before + actual)))
        if len(errors) >= BACKTEST_MAX:
            break
    return errors


def _band(errors: Sequence[float], coverage: float) -> tuple[float, float]:
    """Conformal quantiles of the past errors: the outer tenths are cut off for a coverage of 0.8.

    The rank is raised by the finite-sample factor (n + 1) / n. Past forecasts overlap, so n is smaller than it looks;
    ``bench/anomalies.py`` prints the coverage that comes out over many series.
    """
    ranked = sorted(errors)
    share = min(1.0, coverage * (1 + 1 / len(ranked)))
    # A method whose errors all had one sign is off by them; its forecast still belongs to its own band.
    return min(0.0, _quantile(ranked, (1 - share) / 2)), max(0.0, _quantile(ranked, (1 + share) / 2))


def _quantile(ranked: Sequence[float], share: float) -> float:
    place = min(max(share, 0.0), 1.0) * (len(ranked) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (place - low)


def _check(past: Sequence[float], booked_days: int, days_left: int, coverage: float) -> None:
    problems = []
    if not 0 <= booked_days <= len(past):
        problems.append(f"booked_days must be 0 to {len(past)}, not {booked_days}")
    if days_left < 0:
        problems.append(f"days_left must be at least 0, not {days_left}")
    if not 0 < coverage < 1:
        problems.append(f"coverage must be between 0 and 1, not {coverage}")
    problems += [f"day {at} is {value}" for at, value in enumerate(past) if not math.isfinite(value) or value < 0][:5]
    if problems:
        raise ValueError("; ".join(problems))
