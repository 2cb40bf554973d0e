"""``python bench/calibrate.py SECONDS``: CPU time of a fixed piece of Python, again and again, as one line of JSON.

Run on the core of what is measured, while it is measured: machines are not equally quick at all times, and this says
how quick one was then. The piece does what a gateway does: dictionaries, small objects, JSON, hashing, bytes.
"""

import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

REFERENCE_MS = 5.5
"""CPU time of a piece on the machine of the published figures, when it is quick."""
_PAUSE_S = 0.15
_TURNS = 330


def piece() -> int:
    """The work; the same instructions each time."""
    seen: dict[str, int] = {}
    message = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "word " * 60}], "n": 1}
    for turn in range(_TURNS):
        data = json.dumps({**message, "turn": turn}).encode()
        fields = json.loads(data)
        digest = hashlib.sha256(data).hexdigest()
        for name, value in sorted(fields.items()):
            seen[f"{name}:{digest[:2]}"] = seen.get(name, 0) + len(str(value))
        rows = [(turn, number, str(number)) for number in range(20)]
        seen[digest] = len(b"".join([b"%d:%d" % (one, two) for one, two, _ in rows]))
    return len(seen)


def main() -> None:
    os.nice(5)  # what is measured goes first
    end = time.monotonic() + float(sys.argv[1])
    taken = []
    piece()
    while time.monotonic() < end or not taken:
        began = time.process_time()
        piece()
        taken.append((time.process_time() - began) * 1e3)
        time.sleep(_PAUSE_S)
    print(json.dumps({"ms": statistics.median(taken), "pieces": len(taken)}))


class Calibration:
    """Runs beside what is measured; ``ms`` afterwards is the CPU time of a piece."""

    def __init__(self, core: str, seconds: float) -> None:
        command = ["taskset", "-c", core, sys.executable, str(pathlib.Path(__file__)), str(seconds)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def ms(self) -> float:
        """Waits for its end."""
        out, _ = self._process.communicate()
        return float(json.loads(out)["ms"])


if __name__ == "__main__":
    main()
