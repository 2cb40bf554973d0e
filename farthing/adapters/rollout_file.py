"""Roll-outs in one small JSON file of the installation, replaced whole under a lock."""

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from farthing.core.errors import StoreUnavailable
from farthing.core.rollout import RolloutState

ROLLOUTS_FILE = "rollouts.json"
_STATES = msgspec.json.Decoder(dict[str, RolloutState])


class RolloutFile:
    """The port ``Rollouts`` on a file. A change is read, made and written under an exclusive lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, RolloutState]:
        try:
            return _STATES.decode(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreUnavailable(f"The roll-outs in {self._path} cannot be read: {error}.") from error

    def change(self, route: str, change: Callable[[RolloutState], RolloutState]) -> RolloutState:
        try:
            with self._path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                states = dict(self.read())
                states[route] = change(states.get(route) or RolloutState(route=route))
                draft = self._path.with_suffix(".new")
                with draft.open("wb") as out:
                    out.write(msgspec.json.encode(states, order="sorted"))
                    out.flush()
                    os.fsync(out.fileno())
                draft.replace(self._path)
                return states[route]
        except OSError as error:
            raise StoreUnavailable(f"The roll-outs in {self._path} cannot be written: {error}.") from error
