"""Settings of every test: no test is judged by the clock of a busy machine; files that take long begin first."""

from typing import Final

import pytest
from hypothesis import settings

settings.register_profile("farthing", deadline=None)
settings.load_profile("farthing")

LONG: Final = (
    "e2e/test_pages.py", "conformance/test_postgres.py", "e2e/test_fuzz.py", "conformance/test_valkey.py",
    "arch/test_structure.py",
    "unit/test_replay_parts.py", "e2e/test_pages_access.py", "e2e/test_pages_lab.py", "e2e/test_experiments.py",
    "conformance/test_books.py", "e2e/test_demo.py", "e2e/test_alerts.py",
)  # fmt: skip
"""Files are given to processes whole: one of minutes that began last would keep everybody waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(LONG)))
