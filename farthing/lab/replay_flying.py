"""A call on the short way as a record on disk."""

from typing import Literal

from farthing.core.types import Bounds
from farthing.lab.replay_plain import Fly
from farthing.lab.replay_state import Flying


def written(fly: Fly, bounds: Bounds, due: Literal["first", "end"], when: float) -> Flying:
    """``when``: the loop's time of what it waits for."""
    return Flying(
        exchange=fly.exchange,
        due=due,
        when=when,
        started_ms=fly.started_ms,
        ttft_ms=fly.ttft_ms,
        target=fly.shape.target,
        bounds=bounds,
        amounts=fly.amounts,
        decisions=fly.decisions,
        usage=fly.usage,
        was_cut=fly.was_cut,
        guess=None if fly.flight is None else fly.flight.guesses.get(1, ""),
        held=None if fly.flight is None else fly.flight.logged.held,
        kept=fly.flight is not None and fly.flight.logged.kept,
        missed=fly.asked is not None,
        leads=fly.asked is not None and fly.asked.flight is not None,
    )
