"""What a replay predicts is what then happens: traffic live under two policies, the first one's log under the second.

More runs: ``bench/prediction.py``, whose traffic this uses.
"""

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "bench_prediction", Path(__file__).parents[2] / "bench" / "prediction.py"
)
bench = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench)


@pytest.mark.parametrize("name", sorted(bench.EXACT))
def test_where_nothing_is_estimated_the_predicted_bill_is_the_invoice(name):
    error, _, _ = bench.run(bench.EXACT[name], 5, 120)
    assert abs(error) < 0.01


def test_what_a_cache_answered_takes_as_long_as_that_answer_did_when_it_is_sent_after_all():
    """Else what is kept of it would expire at another moment, and the next call would be answered by the cache."""
    assert bench.run(bench.EXACT["cache lives shorter"], 150_000, 230)[0] == 0


@pytest.mark.parametrize("name", sorted(bench.ESTIMATED))
def test_where_something_is_estimated_the_interval_covers_the_invoice(name):
    runs = [bench.run(bench.ESTIMATED[name], seed, 150) for seed in range(4)]
    assert sum(covers for _, covers, _ in runs) >= 3
    assert all(0 < half < 0.5 for _, _, half in runs)
