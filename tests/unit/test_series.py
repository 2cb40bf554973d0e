"""The anomaly detector and the forecast: few seeds here, the full figures come from ``bench/anomalies.py``."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.forecast import forecast
from farthing.core.series import Detector, detect


def days(seed: int, count: int = 150) -> list[float]:
    """Weekday pattern, 1 % growth a week, 10 % noise, one day in twenty heavy."""
    rng = random.Random(seed)
    weekend, base = rng.uniform(0.4, 0.45), rng.uniform(100, 2000)
    return [
        base * 1.01 ** (day / 7) * (weekend if day % 7 >= 5 else 1.0) * math.exp(rng.gauss(0, 0.1))
        * (rng.uniform(1.1, 1.5) if rng.random() < 0.05 else 1.0)
        for day in range(count)
    ]  # fmt: skip


def alerts(values: list[float], first: int, last: int) -> int:
    return sum(point.kind is not None for point in detect(values)[first:last])


def test_clean_series_alarm_less_than_once_in_90_days():
    assert sum(alerts(days(seed), 60, 150) for seed in range(40)) < 40


def test_a_doubled_day_is_found_on_the_day_even_at_a_weekend():
    found = 0
    for seed in range(40):
        for day in (103, 110 + 2):  # a weekday (103 % 7 = 5 is a Saturday) and a midweek day
            values = days(seed)
            values[day] *= 2
            found += detect(values)[day].kind == "spike"
    assert found >= 76


def test_a_lasting_step_is_found_within_a_week():
    found = 0
    for seed in range(40):
        values = [value * (1.35 if day >= 100 else 1) for day, value in enumerate(days(seed))]
        found += alerts(values, 100, 107) > 0
    assert found >= 36


def test_a_judgement_never_depends_on_the_future():
    values = days(3)
    assert detect(values)[:100] == detect(values[:100])


@given(st.lists(st.floats(0, 1e9), max_size=60), st.sampled_from([1, 7, 24]))
def test_any_series_is_judged_without_error_and_small_change_is_no_alert(values, season):
    points = detect(values, Detector(season=season, impact_min=5.0))
    assert len(points) == len(values)
    assert all(abs(point.excess) >= 5.0 for point in points if point.kind)
    assert all(point.learning for point in points[: 3 * season])


def test_a_dollar_floor_keeps_cents_quiet():
    values = [0.01] * 60 + [0.5]
    assert detect(values, Detector(impact_min=1.0))[-1].kind is None
    assert detect(values, Detector(impact_min=0.1))[-1].kind == "spike"


def test_bad_series_and_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="slot 1 is -1"):
        detect([1.0, -1.0])
    with pytest.raises(ValueError, match="learning must be"):
        detect([1.0], Detector(learning=9))


def test_forecasts_are_close_and_their_band_holds():
    errors, covered = [], 0
    for seed in range(60):
        values = days(seed)
        actual = sum(values[120:150])
        made = forecast(values[:130], booked_days=10, days_left=20)
        errors.append(abs(made.total - actual) / actual)
        covered += made.low <= actual <= made.high
    assert sum(errors) / len(errors) < 0.05
    assert 40 <= covered <= 55  # 80 % of 60 is 48


def test_a_month_that_is_over_is_its_sum():
    made = forecast([10.0] * 30, booked_days=30, days_left=0)
    assert (made.total, made.low, made.high) == (300.0, 300.0, 300.0)


def test_a_forecast_lies_in_its_own_band_though_it_always_erred_to_one_side():
    for steady in ([10.0 + day for day in range(52)], [10 + 0.01 * day * day for day in range(60)]):
        made = forecast(steady, booked_days=21, days_left=9)
        assert made.low <= made.total <= made.high


def test_without_past_there_is_no_band():
    assert forecast([], booked_days=0, days_left=30).method == "none"
    made = forecast([5.0, 7.0], booked_days=2, days_left=2)
    assert (made.method, made.total, made.low) == ("mean", 24.0, None)


@given(st.lists(st.floats(0, 1e9), max_size=80), st.integers(0, 31), st.floats(0.5, 0.95))
def test_a_forecast_never_falls_below_what_is_booked(values, left, coverage):
    booked = min(len(values), 31 - left)
    made = forecast(values, booked_days=booked, days_left=left, coverage=coverage)
    assert made.remaining >= 0
    assert made.low is None or made.booked <= made.low <= made.high


def test_a_call_on_a_day_that_is_otherwise_free_moves_the_forecast_by_about_itself():
    """A team that works on weekdays and once on a Sunday: its profile of Sundays is nothing, and divides nothing."""
    weeks = [[10.0, 11.0, 9.0, 10.0, 10.0, 0.0, 0.0] for _ in range(20)]
    calm = forecast([day for week in weeks for day in week], booked_days=14, days_left=14)
    weeks[-1][6] = 5.0
    odd = forecast([day for week in weeks for day in week], booked_days=14, days_left=14)
    assert calm.total == pytest.approx(200, rel=0.01)
    assert abs(odd.total - calm.total) < 15
    assert odd.error is not None
    assert odd.error < 0.2


def test_what_today_has_cost_beyond_its_share_comes_on_top():
    past = [10.0] * 30
    calm, ran_away = (forecast(past, booked_days=10, days_left=5, today=today) for today in (4.0, 1_000.0))
    assert calm == forecast(past, booked_days=10, days_left=5)
    assert calm.total == pytest.approx(150)
    assert ran_away.total == pytest.approx(100 + 1_000 + 40)
    long = forecast([10.0, 12.0] * 35, booked_days=10, days_left=5, today=1_000.0)
    assert long.low is not None
    assert long.high is not None
    assert 1_110 <= long.low <= long.total <= long.high


def test_days_before_the_first_cost_teach_nothing():
    weeks = [20.0, 21.0, 19.0, 20.0, 22.0, 8.0, 7.0] * 4
    alone = forecast(weeks, booked_days=14, days_left=9)
    for empty in (1, 7, 50):
        assert forecast([0.0] * empty + weeks, booked_days=14, days_left=9) == alone
    assert forecast([0.0] * 40, booked_days=14, days_left=9).total == 0
    assert forecast([0.0] * 3 + [5.0], booked_days=4, days_left=2).total == pytest.approx(15)


def test_one_odd_week_or_a_pause_is_no_trend():
    """A slice of three weeks with a spike, and a month of which half cost nothing: neither explodes."""
    spiked = [1.0] * 22 + [20.0] + [1.0] * 2
    assert forecast(spiked, booked_days=21, days_left=9).remaining < 9 * 3
    paused = [3.0] * 30 + [0.0] * 16 + [3.0] * 29
    assert 9 * 2.5 < forecast(paused, booked_days=21, days_left=9).remaining < 9 * 5
    soaring = [1.2**day for day in range(56)]
    assert forecast(soaring, booked_days=20, days_left=10).remaining < 3 * sum(soaring[-10:])
