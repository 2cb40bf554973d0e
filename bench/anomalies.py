"""Anomalies and forecast over many synthetic series, and on the hourly cost of a real trace.

Series: 150 days, weekend 0.40 to 0.45 of a weekday, 1 % growth a week, 10 % noise, one day in twenty heavier by up to
half. Rates are printed beside a plain rule of the field (three sigma over 28 days), on the same series.
Usage: python bench/anomalies.py [--seeds 500] [--trace azure_llm_trace_2023_conv.csv]
"""

import argparse
import csv
import datetime
import math
import pathlib
import random
from statistics import fmean, pstdev

from farthing.core.forecast import forecast
from farthing.core.series import Detector, detect

DAYS, MONTH = 150, 30
INPUT_USD, OUTPUT_USD = 2.5e-6, 10e-6
"""gpt-4o list prices, as in the import guide."""


def series(seed: int) -> list[float]:
    """One series of daily dollars; its first day is a random weekday."""
    rng = random.Random(seed)
    weekend, base, first = rng.uniform(0.4, 0.45), rng.uniform(100, 2000), rng.randrange(7)
    return [
        base
        * 1.01 ** (day / 7)
        * (weekend if (day + first) % 7 >= 5 else 1.0)
        * math.exp(rng.gauss(0, 0.1))
        * (rng.uniform(1.1, 1.5) if rng.random() < 0.05 else 1.0)
        for day in range(DAYS)
    ]


def weekend_day(seed: int, at_least: int) -> int:
    rng = random.Random(seed)
    rng.uniform(0.4, 0.45), rng.uniform(100, 2000)
    first = rng.randrange(7)
    return next(day for day in range(at_least, at_least + 7) if (day + first) % 7 >= 5)


def ours(values: list[float]) -> list[bool]:
    return [point.kind is not None for point in detect(values)]


def three_sigma(values: list[float]) -> list[bool]:
    """Mean and three standard deviations of the last 28 days."""
    return [
        day >= 28 and values[day] > fmean(values[day - 28 : day]) + 3 * pstdev(values[day - 28 : day])
        for day in range(len(values))
    ]


def scaled(values: list[float], first: int, factor, last: int | None = None) -> list[float]:
    """Values of the days ``first`` to ``last`` times ``factor(days since first)``."""
    last = DAYS if last is None else last
    return [value * factor(day - first) if first <= day < last else value for day, value in enumerate(values)]


def rates(judge, seeds: int) -> dict[str, float]:
    """False alerts per 90 clean days, and shares caught."""
    found: dict[str, float] = {}

    def add(name: str, value: float) -> None:
        found[name] = found.get(name, 0.0) + value / seeds

    for seed in range(seeds):
        values = series(seed)
        day = random.Random(-seed - 1).randrange(90, 135)
        add("false alerts / 90 d", sum(judge(values)[60:150]))
        for factor in (1.6, 2, 3):
            add(f"x{factor} day", judge(scaled(values, day, lambda _, f=factor: f, day + 1))[day])
        weekend = weekend_day(seed, day)
        add("x2 weekend", judge(scaled(values, weekend, lambda _: 2.0, weekend + 1))[weekend])
        add("+35 % step, 7 d", any(judge(scaled(values, day, lambda _: 1.35))[day : day + 7]))
        add("+3 %/d leak, 14 d", any(judge(scaled(values, day, lambda n: 1.03 ** (n + 1)))[day : day + 14]))
    return found


def forecasts(seeds: int) -> None:
    print(f"\n{'forecast on day':<24}{'MAPE':>8}{'80 % band covers':>20}{'run-rate MAPE':>16}")
    for day in (3, 7, 10, 15, 20, 25):
        errors, plain, covered = [], [], 0
        for seed in range(seeds):
            values = series(seed)
            start = DAYS - MONTH
            actual = math.fsum(values[start:])
            made = forecast(values[: start + day], booked_days=day, days_left=MONTH - day)
            errors.append(abs(made.total - actual) / actual)
            plain.append(abs(made.booked * MONTH / day - actual) / actual)
            covered += made.low is not None and made.high is not None and made.low <= actual <= made.high
        print(f"{day:<24}{fmean(errors):>8.1%}{covered / seeds:>20.1%}{fmean(plain):>16.1%}")


def trace(path: pathlib.Path) -> None:
    """What the detector says of the real trace by hour, priced as gpt-4o."""
    hours: dict[datetime.datetime, float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            at = datetime.datetime.fromisoformat(row["TIMESTAMP"][:19]).replace(minute=0, second=0)
            cost = int(row["ContextTokens"]) * INPUT_USD + int(row["GeneratedTokens"]) * OUTPUT_USD
            hours[at] = hours.get(at, 0.0) + cost
    first, last = min(hours), max(hours)
    count = int((last - first).total_seconds() // 3600) + 1
    values = [hours.get(first + datetime.timedelta(hours=n), 0.0) for n in range(count)]
    points = detect(values, Detector(season=168))
    print(f"\n{path.name}: {count} hours from {first} to {last}, ${sum(values):.2f}")
    print("  " + "  ".join(f"{(first + datetime.timedelta(hours=n)):%Hh} ${v:.2f}" for n, v in enumerate(values)))
    said = [point for point in points if point.kind]
    learning = sum(point.learning for point in points)
    print(
        f"  alerts: {len(said)}; learning: {learning} of {count} hours (three weeks are needed for hours of the week)"
    )
    steps = minute_series(path, 1)
    found = [
        point for point in detect(steps, Detector(season=1, depth=24, learning=12, impact_min=0.5)) if point.kind
    ]
    print(f"  by the minute, without a season: {len(steps)} slots, {len(found)} alerts")
    for point in found:
        print(f"    minute {point.index}: ${point.value:.2f}, expected ${point.expected:.2f}, {point.kind}")


def minute_series(path: pathlib.Path, minutes: int) -> list[float]:
    slots: dict[int, float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    start = datetime.datetime.fromisoformat(rows[0]["TIMESTAMP"][:19])
    for row in rows:
        slot = int((datetime.datetime.fromisoformat(row["TIMESTAMP"][:19]) - start).total_seconds() // (60 * minutes))
        cost = int(row["ContextTokens"]) * INPUT_USD + int(row["GeneratedTokens"]) * OUTPUT_USD
        slots[slot] = slots.get(slot, 0.0) + cost
    return [slots.get(n, 0.0) for n in range(max(slots))]  # the last slot is not whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--trace", type=pathlib.Path, default=None)
    options = parser.parse_args()
    mine, plain = rates(ours, options.seeds), rates(three_sigma, options.seeds)
    print(f"{options.seeds} series{'':<14}{'Farthing':>10}{'3 sigma, 28 d':>16}")
    for name in mine:
        form = "{:.2f}" if name.startswith("false") else "{:.1%}"
        print(f"{name:<24}{form.format(mine[name]):>10}{form.format(plain[name]):>16}")
    forecasts(options.seeds)
    if options.trace:
        trace(options.trace)


if __name__ == "__main__":
    main()
