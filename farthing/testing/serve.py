"""``python -m farthing.testing.serve HOME PORT``: the gateway with a clock that a test may move.

The file that ``FARTHING_TEST_CLOCK`` names holds one number, 8 bytes, little-endian: milliseconds to add to the
machine's clock. All workers look at it each time they ask what time it is. ``server.workers`` must be 2 or more.
"""

import mmap
import os
import struct
import sys
from pathlib import Path

import msgspec

from farthing import bootstrap
from farthing.adapters.system import SystemClock
from farthing.ports.clock import Clock

CLOCK_ENV = "FARTHING_TEST_CLOCK"


class ShiftedClock:
    """A ``Clock``: the machine's, plus what the file says."""

    def __init__(self, path: Path) -> None:
        self._system = SystemClock()
        with path.open("rb") as file:
            self._offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

    def now_ms(self) -> int:
        (offset,) = struct.unpack_from("<q", self._offset)
        return self._system.now_ms() + int(offset)


def factory() -> object:
    """The application of one worker process."""
    clock: Clock = ShiftedClock(Path(os.environ[CLOCK_ENV]))
    return bootstrap.factory(clock)


def main(home: str, port: str) -> None:
    """Serves until it is told to stop."""
    settings = bootstrap.load_settings(home=home)
    server = msgspec.structs.replace(settings.server, port=int(port))
    bootstrap.serve(msgspec.structs.replace(settings, server=server), "farthing.testing.serve:factory")


if __name__ == "__main__":
    main(*sys.argv[1:])
