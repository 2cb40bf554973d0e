"""The pages, in the order of the menu: one file each."""

from farthing.server.pages.ask import View
from farthing.server.pages.views import (
    admin,
    allocation,
    anomalies,
    budgets,
    calculator,
    explore,
    overview,
    prices,
    requests,
    savings,
    sessions,
)

VIEWS: tuple[View, ...] = (
    overview.VIEW,
    explore.VIEW,
    requests.VIEW,
    requests.ONE,
    sessions.VIEW,
    budgets.VIEW,
    anomalies.VIEW,
    allocation.VIEW,
    savings.VIEW,
    calculator.VIEW,
    prices.VIEW,
    admin.VIEW,
)
