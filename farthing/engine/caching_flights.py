"""Single flight: of equal calls at the same time one asks the provider, the others wait for its answer."""

import asyncio

from farthing.ports.cache import StoredAnswer


class Flight:
    """One call that others may wait for."""

    def __init__(self) -> None:
        self.left = False
        """The leader's caller hung up: where no answer came of it, another one leads, and the rest wait on."""
        self._landed: asyncio.Future[StoredAnswer | None] = asyncio.get_running_loop().create_future()

    async def answer(self) -> StoredAnswer | None:
        """The leader's answer; None when it failed or may not be shared: go on yourself, unless it ``left``."""
        return await asyncio.shield(self._landed)

    def land(self, answer: StoredAnswer | None) -> None:
        """Tells everyone who waits; later tellings change nothing."""
        if not self._landed.done():
            self._landed.set_result(answer)


class Flights:
    """The flights of this process, by key."""

    def __init__(self) -> None:
        self._open: dict[str, Flight] = {}

    def find(self, key: str) -> Flight | None:
        """The flight that is under way for this key."""
        return self._open.get(key)

    def begin(self, key: str) -> Flight:
        """Makes the caller the leader of its key."""
        flight = self._open[key] = Flight()
        return flight

    def end(self, key: str, flight: Flight) -> None:
        """The leader is done, however it ended."""
        flight.land(None)
        if self._open.get(key) is flight:
            del self._open[key]
