"""What is watched of a policy's budgets: their own thresholds, or the installation's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from farthing.core.alerts import Line
from farthing.core.budget import Budgets, Need
from farthing.core.budget_windows import Windows, windows_of
from farthing.core.policy import Budget
from farthing.core.types import Hold
from farthing.engine.watch import Rule
from farthing.ports.books import Ledger

_SHORT: Final = ("minute", "session")
"""Windows that come and go too often to tell of each half of them: only thresholds that they name themselves."""
_RECENT_MAX: Final = 50_000
_NOTHING: Final = Need(usd=0, input_tokens=0, output_tokens=0)


def rules_of(budgets: Iterable[Budget], percents: Sequence[int], *, forecast: bool) -> dict[str, Rule]:
    """By the budget's name; ``percents`` are for budgets without thresholds of their own."""
    found: dict[str, Rule] = {}
    for budget in budgets:
        windows = windows_of(budget)
        if windows is not None:
            found[budget.name] = Rule(
                lines=_lines(budget, percents),
                window=_bounds(windows),
                forecast=forecast and budget.per not in _SHORT,
                by_minute=budget.per == "minute",
                reach_ms=budget.length_ms or 86_400_000,
            )
    return found


def recent_holds(ledger: Ledger, budgets: Budgets) -> Callable[[int], Iterator[Hold]]:
    """What calls booked since an instant counted on, each counter once: what a worker that died may not have told."""

    def holds(since_ms: int) -> Iterator[Hold]:
        known: set[tuple[str, str, str]] = set()
        for count, entry in enumerate(ledger.entries(since_ms=since_ms)):
            if count >= _RECENT_MAX:
                return
            for model in {entry.model, entry.model_requested}:  # the name that was sent is one of them, mostly
                for hold in budgets.holds(
                    entry.scope, provider=entry.provider, model=model, need=_NOTHING, at_ms=entry.received_at_ms
                ):
                    key = (hold.counter, hold.window, hold.unit)
                    if key not in known:
                        known.add(key)
                        yield hold

    return holds


def _lines(budget: Budget, percents: Sequence[int]) -> tuple[Line, ...]:
    if budget.thresholds:
        best: dict[int, str] = {}
        for threshold in budget.thresholds:
            if best.get(threshold.percent, "notify") == "notify":
                best[threshold.percent] = threshold.action
        return tuple(Line(percent=percent, action=action) for percent, action in sorted(best.items()))
    if budget.per in _SHORT:
        return ()
    return tuple(Line(percent=percent) for percent in sorted(percents))


def _bounds(windows: Windows) -> Callable[[int], tuple[int, int | None]]:
    def bounds(at_ms: int) -> tuple[int, int | None]:
        window = windows.window(at_ms)
        return window.starts_at_ms, window.ends_at_ms

    return bounds
