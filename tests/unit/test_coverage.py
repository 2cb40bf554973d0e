"""``bench/coverage.py``: traffic of every kind is estimated, and its intervals hold what they should."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("bench_coverage", Path(__file__).parents[2] / "bench" / "coverage.py")
bench = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = bench
_SPEC.loader.exec_module(bench)


@pytest.mark.parametrize("move", bench.MOVES)
def test_intervals_hold_the_truth_of_all_kinds_of_traffic(move):
    """One run in twenty may miss; five of 28 would be chance once in a hundred times, and the seeds are fixed."""
    kinds = {**bench.TRAFFIC, **bench.HELD_OUT}
    found = [bench.run(kind, move, 150, seed) for seed in (1, 2) for kind in kinds.values()]
    found = [one for one in found if one.truth]
    assert len(found) >= 26
    assert sum(one.interval.covers(one.truth, one.guess) for one in found) >= len(found) - 5
    up, down = (sum(getattr(one.interval, side) / one.guess for one in found) for side in ("above", "below"))
    assert up > 1.1 * down


def test_a_share_has_the_interval_that_its_runs_allow():
    low, high = bench.wilson(190, 200)
    assert (low, high) == (pytest.approx(0.910, abs=1e-3), pytest.approx(0.973, abs=1e-3))
    assert bench.wilson(200, 200)[1] == pytest.approx(1.0)
