"""Token counts that learn: OpenAI's encodings stay exact, every other model is calibrated from billed usage."""

import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters.tokenizers import BpeTokenizer, exact_encoding, family_factors
from farthing.core.token_calibration import (
    SETTLED_AFTER,
    Calibration,
    fresh,
    observed,
    predicted,
    sizes_of,
    upper,
)
from farthing.ports.tokens import TokenCount

_LOG = logging.getLogger("farthing.tokens")
CALIBRATION_FILE: Final = "token_calibration.json"
_EVERY_FIRST: Final = 200
_THEN_ONE_IN: Final = 20
"""Once settled, so many answers are let pass for one that is learned from: counting costs CPU."""
_WAITING_MAX: Final = 100
_KEEP_EVERY: Final = 25
_MODELS_MAX: Final = 1_000
_BODY_MAX: Final = 512 * 1024
_NEVER: Final = -1

Strings = Callable[[bytes], list[str]]


class CalibratedTokenizer:
    """``Tokenizer`` and ``UsageListener``; a thread of its own learns, and keeps what it learned in one file."""

    def __init__(self, path: Path | None, strings_of: Strings) -> None:
        """``path`` None: nothing is kept. ``strings_of`` gives the strings of a request body that are counted."""
        self._base = BpeTokenizer()
        self._path = path
        self._strings_of = strings_of
        self._states: dict[str, Calibration] = _read(path) if path is not None else {}
        self._heard: dict[str, int] = {}
        self._waiting: queue.Queue[tuple[bytes, str, int] | None] = queue.Queue(_WAITING_MAX)
        self._thread: threading.Thread | None = None
        self._unkept = 0

    @property
    def states(self) -> dict[str, Calibration]:
        """What is known, by model."""
        return dict(self._states)

    def count(self, text: bytes, *, model: str) -> TokenCount:
        """By the learned weights once there are enough answers, else as the family's factor says."""
        counted = self._base.count(text, model=model)
        state = self._states.get(model)
        if counted.error == 0.0 or state is None or state.answers < SETTLED_AFTER:
            return counted
        decoded = text.decode("utf-8", "replace")
        sizes = sizes_of(decoded, known=self._base.known(decoded), strings=0)
        return TokenCount(
            tokens=max(1, round(predicted(state, sizes))),
            bound=upper(state, sizes, counted.bound),
            method=f"calibrated on {state.answers} answers",
            error=state.error,
        )

    def heard(self, body: bytes, *, model: str, billed: int) -> None:
        """Queues one answer's usage, or lets it pass."""
        number = self._heard.get(model, 0)
        if number == 0 and (exact_encoding(model) or len(self._heard) >= _MODELS_MAX):
            number = _NEVER
        if number == _NEVER:
            self._heard[model] = number
            return
        self._heard[model] = number + 1
        if (number >= _EVERY_FIRST and number % _THEN_ONE_IN) or len(body) > _BODY_MAX:
            return
        try:
            self._waiting.put_nowait((body, model, billed))
        except queue.Full:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="farthing-tokens", daemon=True)
            self._thread.start()

    def learn(self, body: bytes, *, model: str, billed: int) -> None:
        """One answer, at once; for the thread and for tests."""
        try:
            strings = self._strings_of(body)
        except (msgspec.DecodeError, RecursionError):
            return
        text = "\n".join(strings)
        sizes = sizes_of(text, known=self._base.known(text), strings=len(strings))
        state = self._states.get(model) or fresh(family_factors(model)[0] / 100)
        self._states[model] = observed(state, sizes, billed)
        self._unkept += 1
        if self._unkept >= _KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        """Writes what was learned; a disk that fails costs only what was learned since."""
        self._unkept = 0
        if self._path is None:
            return
        staged = self._path.with_suffix(f".{os.getpid()}")
        try:
            staged.write_bytes(msgspec.json.encode(self._states))
            staged.replace(self._path)
        except OSError as error:
            _LOG.warning("token calibration could not be kept: %s", error)

    def close(self) -> None:
        """Learns what waits and keeps it."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout=5)
            self._thread = None
        if self._unkept:
            self.keep()

    def _work(self) -> None:
        while (one := self._waiting.get()) is not None:
            body, model, billed = one
            try:
                self.learn(body, model=model, billed=billed)
            except Exception:  # noqa: BLE001 - the thread must outlive a body it cannot read
                _LOG.exception("an answer's usage could not be learned from")


def _read(path: Path) -> dict[str, Calibration]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Calibration])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        _LOG.warning("token calibration in %s is not used: %s", path, error)
        return {}
