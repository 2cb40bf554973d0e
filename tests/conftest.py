"""Settings of every test: no test is judged by the clock of a busy machine; files that take long begin first."""

import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

# Nothing here leaves the loopback; without this, every client and gateway reads the authorities of the whole world.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "golden" / "nobodys-authority.pem")

settings.register_profile("farthing", deadline=None)
settings.load_profile("farthing")

LONG: Final = (
    "e2e/test_pages.py", "conformance/test_postgres.py", "e2e/test_pages_lab.py", "e2e/test_fuzz.py",
    "arch/test_structure.py", "conformance/test_valkey.py", "conformance/test_books.py", "e2e/test_pages_access.py",
    "e2e/test_scale_out.py",
    "e2e/test_experiments.py", "unit/test_replay_parts.py", "e2e/test_alerts.py", "e2e/test_pages_practice.py",
    "conformance/test_reports.py", "e2e/test_demo.py", "e2e/test_reconcile.py", "e2e/test_replay.py",
    "e2e/test_crash.py", "unit/test_analytics.py", "routing/test_learned.py", "e2e/test_incident_alerts.py",
    "levers/test_levers.py", "e2e/test_cache.py", "e2e/test_batches.py", "unit/test_caching_key.py",
    "unit/test_estimate.py", "unit/test_capacity.py", "e2e/test_orphans.py",
)  # fmt: skip
"""Files are given to processes whole: one of minutes that began last would keep everybody waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(LONG)))
