"""``python bench/cache_http.py``: CPU time of an answer from the exact cache, over HTTP, everything on.

One gateway on core 0, the load and the fake provider on core 1. In one run: a hit, a miss that is stored, and a call
that no cache route matches; keys, four budgets, strict durability and the traffic log are on in all of them. The
figure is user and system time of the gateway's process tree by request served. While it is measured, a fixed piece of
Python runs beside it on the same core (``calibrate.py``): its CPU time says how quick the machine was then, and gives
the second figure, what the request would have taken at the reference's speed. ``--stat`` adds instructions by
``perf stat`` where the kernel allows it.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import calibrate
import contenders as who
import measure

HERE = pathlib.Path(__file__).parent
ROUTE = '\n[[cache]]\nname = "bench"\nmodels = ["gpt-4o-mini"]\n'
CASES = {
    "hit": (ROUTE, "0", False),
    "hit, streamed": (ROUTE, "0", True),
    "miss, stored": (ROUTE, "1", False),
    "no cache": ("", "0", False),
}
"""Name -> (added to the settings, every request a new question, streamed)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--stat", action="store_true", help="instructions by perf stat")
    options = parser.parse_args()
    upstream = measure.build_upstream()
    with tempfile.TemporaryDirectory(prefix="farthing-bench-") as name:
        folder = pathlib.Path(name)
        port = measure.free_port()
        with measure.Running("upstream", [upstream, str(port), "0"], core=measure.LOAD_CORE, port=port):
            for case in [options.only] if options.only else CASES:
                print(_case(case, folder, port, options), flush=True)


def _case(case: str, folder: pathlib.Path, upstream: int, options: argparse.Namespace) -> str:
    more, fresh, streamed = CASES[case]
    home = folder / re.sub(r"\W+", "-", case)
    home.mkdir()
    port = measure.free_port()
    contender = next(one for one in who.GATEWAYS if one.name == "farthing")
    started = contender.prepare(home, port, upstream)
    with (home / "farthing.toml").open("a", encoding="utf-8") as file:
        file.write(more)
    body = home / "body.json"
    text = (HERE / "body.json").read_text(encoding="utf-8").strip()
    body.write_text(text[:-1] + ',"stream":true}' if streamed else text, encoding="utf-8")
    load = measure.Load("whole", options.connections, options.seconds, body, started.key)
    os.environ |= {"BENCH_FRESH": fresh, "BENCH_LUA": str(HERE / "wrk.lua")}
    running = measure.Running("cache", started.command, core=measure.GATEWAY_CORE, port=port, env=dict(started.env))
    with running as pid:
        _wrk(port, load, 1)
        samples = [_sample(pid, port, load) for _ in range(options.runs)]
        figures = measure.median(samples)
        stat = _instructions(pid, port, load) if options.stat else ""
    failed = f"  {figures['failed']:.0f} FAILED" if figures["failed"] else ""
    return (
        f"{case:>14}  {figures['cpu_us']:>7.1f} CPU-µs/request  calibration {figures['piece_ms']:>5.2f} ms: "
        f"{figures['at_reference_us']:>6.1f} at {calibrate.REFERENCE_MS} ms  {figures['per_second']:>6.0f}/s  "
        f"p50 {figures['p50_us'] / 1000:.2f} ms{stat}{failed}"
    )


def _wrk(port: int, load: measure.Load, seconds: int) -> dict[str, int]:
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "60s"]
    command += ["-s", str(HERE / "cache.lua"), f"http://127.0.0.1:{port}"]
    env = {**os.environ, "BENCH_BODY": str(load.body), "BENCH_KEY": load.key}
    done = subprocess.run(
        measure.pinned(measure.LOAD_CORE, command), env=env, capture_output=True, text=True, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("JSON"))
    return dict(json.loads(line[4:]))


def _sample(pid: int, port: int, load: measure.Load) -> dict[str, float]:
    time.sleep(measure.SETTLE_S)
    beside = calibrate.Calibration(measure.GATEWAY_CORE, load.seconds - 0.5)
    before = measure.cpu_us(pid)
    counts = _wrk(port, load, load.seconds)
    used = measure.cpu_us(pid) - before
    served = max(1, counts["requests"])
    piece_ms = beside.ms()
    return {
        **counts,
        "cpu_us": used / served,
        "per_second": served * 1e6 / counts["duration_us"],
        "piece_ms": piece_ms,
        "at_reference_us": used / served * calibrate.REFERENCE_MS / piece_ms,
    }


def _instructions(pid: int, port: int, load: measure.Load) -> str:
    command = ["perf", "stat", "-x", ",", "-e", "instructions:u", "-p", str(pid), "--", "sleep", "3"]
    watching = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    counts = _wrk(port, load, 3)
    _, text = watching.communicate()
    number = text.split(",", 1)[0]
    return f"  {int(number) / counts['requests'] / 1000:.0f}k instructions" if number.isdigit() else "  (no perf)"


if __name__ == "__main__":
    main()
